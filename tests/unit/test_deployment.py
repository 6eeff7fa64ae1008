"""Images, compose file and pinned versions fit the code. No engine for containers is needed, and none is tried."""

import json
import re
import shutil
import subprocess
import sys
import tomllib
from configparser import ConfigParser
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from setuptools import find_packages

from service.foundation.secret_files import SUFFIX
from service.foundation.settings import Settings
from tests.compose_stack import load

ROOT = Path(__file__).parents[2]
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())
DOCKERFILE = (ROOT / "Dockerfile").read_text()
COMPOSE_FILES = ("docker-compose.yml", "docker-compose.gpu.yml")
TARGETS = ("api", "worker")
TOOLS = str(Path(sys.executable).parent)


def compose(name: str = "docker-compose.yml") -> dict[str, Any]:
    return load(name)


def modules_of(service: dict[str, Any]) -> list[str]:
    command = service.get("command", [])
    return [command[index + 1] for index, word in enumerate(command) if word == "-m"]


def test_every_module_that_is_started_exists() -> None:
    started = [module for service in compose()["services"].values() for module in modules_of(service)]
    started += re.findall(r'"-m", "([\w.]+)"', DOCKERFILE)
    started += re.findall(r"--app ([\w.]+)", (ROOT / "docker-compose.yml").read_text())
    assert {"api.main", "workers.main", "workers.sweeper", "service.adapters.migrate"} <= set(started)
    assert [module for module in started if find_spec(module) is None] == []


@pytest.mark.parametrize("name", [*COMPOSE_FILES, "Dockerfile"])
def test_every_setting_that_is_made_exists(name: str) -> None:
    known = {f"HEADROOM_{field.upper()}{end}" for field in Settings.model_fields for end in ("", SUFFIX)}
    known |= {"HEADROOM_KEY"}  # of the command line
    assert set(re.findall(r"HEADROOM_[A-Z_]+", (ROOT / name).read_text())) - known == set()


@pytest.mark.parametrize("name", COMPOSE_FILES)
def test_the_compose_files_keep_to_the_compose_specification(name: str) -> None:
    pytest.importorskip("compose_spec").PyCompose.from_json(json.dumps(compose(name))).to_spec()


def test_a_misspelt_key_would_be_noticed() -> None:
    compose_spec = pytest.importorskip("compose_spec")
    misspelt = compose()
    misspelt["services"]["api"]["helthcheck"] = {}
    with pytest.raises(ValueError, match="helthcheck"):
        compose_spec.PyCompose.from_json(json.dumps(misspelt)).to_spec()


@pytest.mark.skipif(shutil.which("hadolint", path=TOOLS) is None, reason="hadolint has no wheel for this machine")
def test_the_dockerfile_passes_hadolint() -> None:
    linted = subprocess.run([shutil.which("hadolint", path=TOOLS) or "", ROOT / "Dockerfile"], capture_output=True)
    assert linted.stdout.decode() == ""


def test_the_settings_of_every_service_are_valid(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("s3cret")
    for service in compose()["services"].values():
        environment = {name: value for name, value in service.get("environment", {}).items() if "HEADROOM_" in name}
        with monkeypatch.context() as context:
            for name, value in environment.items():
                context.setenv(name, str(tmp_path / "secret") if name.endswith(SUFFIX) else str(value))
            assert environment == {} or "headroom:s3cret@postgres" in Settings().database


def test_secrets_are_files_that_are_declared_mounted_and_made(tmp_path: Path) -> None:
    """No environment holds one, and every path names a secret of its service."""
    loaded = compose()
    for name, service in loaded["services"].items():
        named = re.findall(r"/run/secrets/(\w+)", json.dumps(service))
        assert set(named) <= set(service.get("secrets", [])) <= set(loaded["secrets"]), name
        plain = [key for key in service.get("environment", {}) if re.search(r"(PASSWORD|TOKEN|SECRET)$", key)]
        assert plain == [], name
    script = ["sh", str(ROOT / "deploy/make-secrets.sh")]
    subprocess.run(script, cwd=tmp_path, check=True)
    made = {path.name: path.read_text() for path in (tmp_path / "secrets").iterdir()}
    assert {f"./secrets/{name}" for name in made} == {secret["file"] for secret in loaded["secrets"].values()}
    assert (tmp_path / "secrets").stat().st_mode & 0o077 == 0
    subprocess.run(script, cwd=tmp_path, check=True)
    assert {path.name: path.read_text() for path in (tmp_path / "secrets").iterdir()} == made


def test_the_object_store_knows_the_key_that_its_clients_have(tmp_path: Path) -> None:
    subprocess.run(["sh", str(ROOT / "deploy/make-secrets.sh")], cwd=tmp_path, check=True)
    (identity,) = json.loads((tmp_path / "secrets/s3_identities").read_text())["identities"]
    client = ConfigParser()
    client.read(tmp_path / "secrets/aws_credentials")
    key = {"accessKey": client["default"]["aws_access_key_id"], "secretKey": client["default"]["aws_secret_access_key"]}
    assert identity["credentials"] == [key]
    assert len(key["secretKey"]) == 48


def test_every_service_has_a_health_check_and_no_rights_that_it_does_not_need() -> None:
    for name, service in compose()["services"].items():
        assert "healthcheck" in service or service["restart"] == "no", name
        assert service["read_only"], name
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name


def test_every_file_that_is_mounted_exists() -> None:
    mounts = [volume.split(":")[0] for service in compose()["services"].values() for volume in service["volumes"]]
    assert [mount for mount in mounts if mount.startswith("./") and not (ROOT / mount).exists()] == []


def test_containers_are_given_longer_to_stop_than_they_drain() -> None:
    for name, service in compose()["services"].items():
        drain = float(service.get("environment", {}).get("HEADROOM_DRAIN_SECONDS", 0))
        grace = float(service.get("stop_grace_period", "10s").removesuffix("s"))
        assert drain + 10 <= grace, name


def test_services_depend_on_services_and_share_one_data_volume() -> None:
    services, volumes = compose()["services"], compose()["volumes"]
    ours = {name for name, service in services.items() if modules_of(service)}
    assert ours == {"api", "worker", "sweeper", "migrate"}  # beside `bucket`, which runs a line of its own
    for name, service in services.items():
        assert set(service.get("depends_on", {})) <= set(services), name
        assert {volume.split(":")[0] for volume in service["volumes"] if volume[0].isalpha()} <= set(volumes), name
    assert all("data:/data" in services[name]["volumes"] for name in ours)
    assert set(compose("docker-compose.gpu.yml")["services"]) <= set(services)


def test_the_open_port_is_on_loopback_only() -> None:
    published = [port for service in compose()["services"].values() for port in service.get("ports", [])]
    assert [port for port in published if not port.startswith("127.0.0.1:")] == []


def test_the_broker_keeps_what_it_was_given() -> None:
    command = " ".join(compose()["services"]["redis"]["command"])
    assert "--appendonly yes" in command
    assert "--maxmemory-policy noeviction" in command


def test_every_target_is_built_and_none_runs_as_root() -> None:
    built = {service["build"]["target"] for service in compose()["services"].values() if "build" in service}
    assert built == set(TARGETS)
    for target in TARGETS:
        assert f"FROM runtime AS {target}\n" in DOCKERFILE
    assert "\nUSER 10001:10001\n" in DOCKERFILE.split(" AS runtime\n")[1].split("\nFROM ")[0]


def test_what_runs_on_the_api_image_loads_no_torch() -> None:
    services = compose()["services"].values()
    on_api = [service for service in services if service.get("build", {}).get("target") == "api"]
    modules = ", ".join(module for service in on_api for module in modules_of(service))
    script = f"import sys, {modules}; sys.exit(str({{'torch', 'transformers', 'numpy'}} & set(sys.modules) or ''))"
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True)
    assert done.stderr.strip() == ""


def test_the_build_context_holds_what_an_installation_reads() -> None:
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    passed = {line[1:] for line in lines if line.startswith("!")}
    packages = {pattern.removesuffix("*") for pattern in PROJECT["tool"]["setuptools"]["packages"]["find"]["include"]}
    assert "*" in lines
    assert passed == packages | {"pyproject.toml", "constraints.txt", "README.md", "LICENSE"}
    assert [name for name in passed if not (ROOT / name).exists()] == []


def test_every_folder_of_modules_is_a_package_that_is_installed() -> None:
    roots = ("api", "service", "workers", "headroom")
    folders = {path.parent.relative_to(ROOT) for root in roots for path in (ROOT / root).rglob("*.py")}
    installed = find_packages(str(ROOT), include=PROJECT["tool"]["setuptools"]["packages"]["find"]["include"])
    assert {str(folder).replace("/", ".") for folder in folders} == set(installed)


def pins() -> dict[str, str]:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pinned = [line for line in lines if line and not line.startswith("#")]
    assert [line for line in pinned if not re.fullmatch(r"[A-Za-z0-9._-]+==[A-Za-z0-9.]+", line)] == []
    return {canonicalize_name(name): version for name, version in (line.split("==") for line in pinned)}


def test_every_direct_dependency_is_pinned_to_a_version_that_it_allows() -> None:
    project = PROJECT["project"]
    texts = [*project["dependencies"], *(text for extra in project["optional-dependencies"].values() for text in extra)]
    wanted = [Requirement(text) for text in texts]
    pinned = pins()
    for requirement in wanted:
        name = canonicalize_name(requirement.name)
        if name != canonicalize_name(project["name"]):
            assert requirement.specifier.contains(pinned[name]), str(requirement)


def test_torch_is_the_same_release_everywhere() -> None:
    wanted = f"torch=={pins()['torch']}"
    for name in ("pyproject.toml", "Makefile", "Dockerfile"):
        assert set(re.findall(r"torch==[\w.]+", (ROOT / name).read_text())) == {wanted}, name
