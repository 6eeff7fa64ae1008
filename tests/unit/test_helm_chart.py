"""The Helm chart, rendered by Helm's own library, is what Kubernetes, the settings and the processes expect."""

import json
import re
import shlex
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import yaml

from service.foundation.secret_files import SUFFIX
from service.foundation.settings import Settings

helm = pytest.importorskip("helm_python", reason="Helm's library has no wheel for this machine")
kubernetes_validate = pytest.importorskip("kubernetes_validate")

ROOT = Path(__file__).parents[2]
CHART = ROOT / "deploy/helm/headroom"
KUBERNETES = ("1.27", "1.36")  # the oldest that the chart allows, and a present one
LEAST: dict[str, Any] = {
    "database": {"url": "postgresql://headroom@postgres:5432/headroom"},
    "storage": {"url": "s3://headroom/prod"},
}
MOST: dict[str, Any] = {
    "image": {"tag": "1.2.3", "pullSecrets": [{"name": "registry"}]},
    "secret": {"hubToken": "hub-token", "awsCredentials": "aws-credentials"},
    "database": LEAST["database"],
    "data": {"existingClaim": "files", "modelsClaim": "models"},
    "settings": {"HEADROOM_MAX_ATTEMPTS": "5", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector:4318"},
    "api": {"replicas": 1, "nodeSelector": {"pool": "web"}},
    "worker": {"gpu": {"count": 0}, "runtimeClassName": "nvidia", "tolerations": [{"operator": "Exists"}]},
    "ingress": {
        "enabled": True,
        "className": "nginx",
        "host": "headroom.example.org",
        "tlsSecret": "tls",
        "annotations": {"nginx.ingress.kubernetes.io/proxy-body-size": "256m"},
    },
    "autoscaling": {"enabled": True, "prometheus": "http://prometheus:9090"},
    "serviceMonitor": {"enabled": True},
    "networkPolicy": {
        "apiFrom": [{"namespaceSelector": {}}],
        "egress": [{"to": [{"ipBlock": {"cidr": "10.0.0.0/8"}}]}],
    },
}
OF_OTHERS = {"keda.sh/v1alpha1", "monitoring.coreos.com/v1"}  # whose schemas no package has


def render(values: dict[str, Any], release: str = "demo") -> list[dict[str, Any]]:
    with helm.Chart.load(str(CHART)) as chart:
        files = chart.render(values, name=release, namespace="prod")
    texts = [text for name, text in files.items() if not name.endswith(".txt")]
    return [document for text in texts for document in yaml.safe_load_all(text) if document]


def of_kind(documents: list[dict[str, Any]], *kinds: str) -> dict[str, dict[str, Any]]:
    return {document["metadata"]["name"]: document for document in documents if document["kind"] in kinds}


def pods(documents: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """The pod of each workload, by its component."""
    return {
        name.rpartition("-")[2]: workload["spec"]["template"]["spec"]
        for name, workload in of_kind(documents, "Deployment", "Job").items()
    }


def variables(pod: dict[str, Any]) -> dict[str, str]:
    return {item["name"]: item["value"] for item in pod["containers"][0]["env"]}


@pytest.mark.parametrize("values", [LEAST, MOST], ids=["least", "most"])
@pytest.mark.parametrize("version", KUBERNETES)
def test_what_is_rendered_is_what_kubernetes_takes(values: dict[str, Any], version: str) -> None:
    for document in render(values):
        if document["apiVersion"] not in OF_OTHERS:
            kubernetes_validate.validate(document, version, strict=True)


def test_the_command_of_the_operators_page_works() -> None:
    """As far as the cluster: its values are taken, and the names that the other commands use are made."""
    page = (ROOT / "docs/operations.md").read_text()
    (command,) = re.findall(r"^helm install (.*)$", page, re.MULTILINE)
    release, chart, *options = shlex.split(command)
    assert ROOT / chart == CHART
    assert options[::2] == ["--set"] * (len(options) // 2)
    values = helm.parse_set_string(",".join(options[1::2]))
    documents = render(values, release)
    assert {"headroom-api", "headroom-worker"} <= of_kind(documents, "Deployment").keys()
    assert "headroom" in of_kind(documents, "Service")
    created = set(re.findall(r"--from-literal=([\w-]+)=", page))
    assert {item["key"] for item in pods(documents)["api"]["volumes"][2]["secret"]["items"]} == created


def test_the_chart_has_no_fault_that_helm_finds() -> None:
    found = helm.lint(str(CHART))
    assert found["errors"] == []
    assert [message["error"] for message in found["messages"] if message["severity"] > 1] == []


@pytest.mark.parametrize("values", [LEAST, MOST], ids=["least", "most"])
def test_every_setting_exists_and_the_settings_of_every_pod_are_valid(
    values: dict[str, Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    known = {f"HEADROOM_{field.upper()}{end}" for field in Settings.model_fields for end in ("", SUFFIX)}
    contents = {"database-password": "s3cret", "broker-url": "redis://:s3cret@redis:6379/0", "hub-token": "s3cret"}
    for name, content in contents.items():
        (tmp_path / name).write_text(content)
    for pod in pods(render(values)).values():
        ours = {name: value for name, value in variables(pod).items() if name.startswith("HEADROOM_")}
        assert set(ours) <= known
        with monkeypatch.context() as context:
            for name, value in ours.items():
                context.setenv(name, value.replace("/run/secrets/headroom", str(tmp_path)))
            settings = Settings()
        assert settings.database == "postgresql://headroom:s3cret@postgres:5432/headroom"
        assert settings.broker_url == contents["broker-url"]
        assert settings.auth == "keys"


@pytest.mark.parametrize("values", [LEAST, MOST], ids=["least", "most"])
def test_secrets_are_files_of_the_named_secret_and_never_values(values: dict[str, Any]) -> None:
    for pod in pods(render(values)).values():
        (volume,) = [volume for volume in pod["volumes"] if "secret" in volume]
        mounted = {item["path"] for item in volume["secret"]["items"]}
        prefix = "/run/secrets/headroom/"
        named = {value.removeprefix(prefix) for value in variables(pod).values() if value.startswith(prefix)}
        assert named == mounted
        assert not {"HEADROOM_DATABASE_PASSWORD", "HEADROOM_BROKER_URL", "HEADROOM_HUB_TOKEN"} & variables(pod).keys()


@pytest.mark.parametrize("values", [LEAST, MOST], ids=["least", "most"])
def test_no_pod_has_rights_that_it_does_not_need(values: dict[str, Any]) -> None:
    documents = render(values)
    for pod in pods(documents).values():
        assert pod["automountServiceAccountToken"] is False
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert str(pod["securityContext"]["runAsUser"]) in (ROOT / "Dockerfile").read_text().split("USER ")[1]
        (container,) = pod["containers"]
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        assert {"/data", "/tmp"} <= {mount["mountPath"] for mount in container["volumeMounts"]}
    policies = of_kind(documents, "NetworkPolicy")
    guarded = [policy["spec"]["podSelector"]["matchLabels"] for policy in policies.values()]
    labels = [
        workload["spec"]["template"]["metadata"]["labels"]
        for workload in of_kind(documents, "Deployment", "Job").values()
    ]
    assert all(any(rule.items() <= label.items() for rule in guarded) for label in labels)
    assert [name for name, policy in policies.items() if policy["spec"]["ingress"]] == ["demo-headroom-api"]


def test_every_process_that_is_started_exists_and_stops_within_its_time() -> None:
    found = pods(render(LEAST))
    modules = {name: pod["containers"][0]["command"][2] for name, pod in found.items()}
    assert modules == {
        "api": "api.main",
        "worker": "workers.main",
        "sweeper": "workers.sweeper",
        "migrate": "service.adapters.migrate",
    }
    assert all(find_spec(module) for module in modules.values())
    for name, margin in (("api", 15), ("worker", 20)):
        drain = float(variables(found[name])["HEADROOM_DRAIN_SECONDS"])
        assert found[name]["terminationGracePeriodSeconds"] >= drain + margin


def test_a_worker_gets_one_gpu_or_none() -> None:
    gpu, cpu = pods(render(LEAST))["worker"], pods(render(MOST))["worker"]
    assert gpu["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == 1
    assert variables(gpu)["HEADROOM_DEVICE"] == "cuda"
    assert "nvidia.com/gpu" not in cpu["containers"][0]["resources"]["limits"]
    assert variables(cpu)["HEADROOM_DEVICE"] == "cpu"


def test_files_are_in_the_bucket_or_on_a_claim_that_all_share() -> None:
    for values, kind in ((LEAST, "emptyDir"), (MOST, "persistentVolumeClaim")):
        for pod in pods(render(values)).values():
            assert [kind in volume for volume in pod["volumes"] if volume["name"] == "data"] == [True]


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"storage": LEAST["storage"]}, "database.url"),
        ({"database": LEAST["database"]}, "storage.url"),
        (LEAST | {"ingress": {"enabled": True}}, "ingress.host"),
        (LEAST | {"autoscaling": {"enabled": True}}, "autoscaling.prometheus"),
        (LEAST | {"workers": {"replicas": 2}}, "workers"),
        (LEAST | {"worker": {"gpu": {"count": 2}}}, "count"),
        (LEAST | {"settings": {"PATH": "/bin"}}, "PATH"),
    ],
)
def test_values_that_cannot_work_are_refused_by_name(values: dict[str, Any], told: str) -> None:
    with pytest.raises(helm.HelmError, match=told):
        render(values)


def test_the_autoscaler_asks_for_metrics_that_exist_and_leaves_the_number_of_workers_alone() -> None:
    documents = render(MOST)
    (scaled,) = of_kind(documents, "ScaledObject").values()
    query = scaled["spec"]["triggers"][0]["metadata"]["query"]
    exported = set(re.findall(r'"(headroom_\w+)"', (ROOT / "api/live/metrics.py").read_text()))
    assert set(re.findall(r"headroom_\w+", query)) == {"headroom_queue_depth", "headroom_jobs"}
    assert set(re.findall(r"headroom_\w+", query)) <= exported
    deployments = of_kind(documents, "Deployment")
    assert scaled["spec"]["scaleTargetRef"]["name"] in deployments
    assert "replicas" not in deployments["demo-headroom-worker"]["spec"]


def test_probes_ask_what_is_answered(tmp_path: Path) -> None:
    from fastapi.testclient import TestClient

    from api.main import build_app

    (container,) = pods(render(LEAST))["api"]["containers"]
    client = TestClient(build_app(Settings(data_dir=tmp_path)), base_url="http://localhost")
    for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
        assert client.get(container[probe]["httpGet"]["path"]).status_code in (200, 503)
    assert [port["name"] for port in container["ports"]] == [container["readinessProbe"]["httpGet"]["port"]]


def test_the_schema_of_the_values_knows_every_value() -> None:
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    schema = json.loads((CHART / "values.schema.json").read_text())
    assert set(values) == set(schema["properties"]) - {"global"}
    for name, section in values.items():
        known = schema["properties"][name].get("properties")
        assert known is None or set(section) == set(known), name
