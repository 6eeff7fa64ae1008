"""Images, compose file and pinned versions fit the code. No engine for containers is needed, and none is tried."""

import re
import subprocess
import sys
import tomllib
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from service.settings import Settings

ROOT = Path(__file__).parents[2]
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())
DOCKERFILE = (ROOT / "Dockerfile").read_text()
COMPOSE_FILES = ("docker-compose.yml", "docker-compose.gpu.yml")
TARGETS = ("api", "worker")


def compose(name: str = "docker-compose.yml") -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load((ROOT / name).read_text())
    return loaded


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
    known = {f"HEADROOM_{field.upper()}" for field in Settings.model_fields}
    assert set(re.findall(r"HEADROOM_[A-Z_]+", (ROOT / name).read_text())) - known == set()


def test_the_settings_of_every_service_are_valid(monkeypatch: pytest.MonkeyPatch) -> None:
    for service in compose()["services"].values():
        environment = {name: value for name, value in service.get("environment", {}).items() if "HEADROOM_" in name}
        with monkeypatch.context() as context:
            for name, value in environment.items():
                context.setenv(name, re.sub(r"\$\{.*\}", "", str(value)))
            assert environment == {} or Settings().data_dir == Path("/data")


def test_services_depend_on_services_and_share_one_data_volume() -> None:
    services, volumes = compose()["services"], compose()["volumes"]
    ours = {name for name, service in services.items() if modules_of(service)}
    assert ours == {"api", "worker", "sweeper", "migrate"}
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
    assert "\nUSER headroom\n" in DOCKERFILE.split(" AS runtime\n")[1].split("\nFROM ")[0]


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
    packages = {name.split(".")[0] for name in PROJECT["tool"]["setuptools"]["packages"]}
    assert "*" in lines
    assert passed == packages | {"pyproject.toml", "constraints.txt", "README.md", "LICENSE"}
    assert [name for name in passed if not (ROOT / name).exists()] == []


def test_every_package_is_listed_for_installation() -> None:
    roots = ("api", "service", "workers", "headroom")
    found = {path.parent for root in roots for path in (ROOT / root).rglob("*.py")}
    listed = set(PROJECT["tool"]["setuptools"]["packages"])
    assert {str(path.relative_to(ROOT)).replace("/", ".") for path in found} == listed


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
