"""What Grafana draws and Prometheus watches exists in the code, and says what to do."""

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from service.foundation.settings import Settings

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "deploy/monitoring"
needs_promtool = pytest.mark.skipif(shutil.which("promtool") is None, reason="no promtool (Debian: prometheus)")
SUFFIXES = ("_total", "_bucket", "_count", "_sum")


def exported() -> set[str]:
    named = re.findall(r'"(headroom_\w+)"', (ROOT / "api/live/metrics.py").read_text())
    assert len(named) > 10
    return set(named)


def asked(expressions: list[str]) -> set[str]:
    names = {name for text in expressions for name in re.findall(r"headroom_\w+", text)}
    return {next((name.removesuffix(end) for end in SUFFIXES if name.endswith(end)), name) for name in names}


def panels() -> list[dict[str, Any]]:
    loaded: dict[str, Any] = json.loads((FOLDER / "grafana-dashboard.json").read_text())
    found: list[dict[str, Any]] = loaded["panels"]
    return found


def rules() -> list[dict[str, Any]]:
    loaded: dict[str, Any] = yaml.safe_load((FOLDER / "alerts.yml").read_text())
    return [rule for group in loaded["groups"] for rule in group["rules"]]


def test_the_dashboard_draws_every_metric_and_no_other() -> None:
    drawn = asked([target["expr"] for panel in panels() for target in panel["targets"]])
    assert drawn == exported()


def test_alerts_ask_for_metrics_that_exist_and_say_what_to_do() -> None:
    assert asked([rule["expr"] for rule in rules()]) <= exported()
    for rule in rules():
        assert rule["annotations"].keys() == {"summary", "action"}, rule["alert"]
        assert rule["labels"]["severity"] in ("page", "ticket")


def test_what_alerts_tell_to_set_exists() -> None:
    known = {f"HEADROOM_{field.upper()}" for field in Settings.model_fields}
    assert set(re.findall(r"HEADROOM_[A-Z_]+", (FOLDER / "alerts.yml").read_text())) <= known


@needs_promtool
def test_prometheus_takes_the_rules_and_its_own_settings() -> None:
    for command in (["rules", "alerts.yml"], ["config", "--syntax-only", "prometheus.yml"]):
        checked = subprocess.run(["promtool", "check", *command], cwd=FOLDER, capture_output=True, text=True)
        assert checked.returncode == 0, checked.stderr


@needs_promtool
def test_alerts_fire_when_they_should_and_not_before(tmp_path: Path) -> None:
    """Series of one value a minute, and which alerts fire in the end."""
    cases: list[tuple[dict[str, str], set[str]]] = [
        ({"headroom_workers": "0x20", "headroom_queue_depth": "0x20"}, set()),  # scaled to none, and nothing waits
        ({"headroom_workers": "0x20", "headroom_queue_depth": "1x20"}, {"HeadroomNoWorker"}),
        ({"headroom_workers": "1x20", 'headroom_up{part="database"}': "0x20"}, {"HeadroomPartAway"}),
        ({"headroom_queue_depth": "1x20"}, {"HeadroomApiAway"}),
        ({"headroom_workers": "1x20", "headroom_oldest_queued_seconds": "4000x20"}, {"HeadroomQueueStuck"}),
        (
            {"headroom_workers": "1x20", "headroom_disk_free_bytes": "5x20", "headroom_disk_bytes": "100x20"},
            {"HeadroomDiskFillsUp"},
        ),
        (
            {
                "headroom_workers": "1x20",
                'headroom_ended_jobs_last_hour{kind="compress",status="failed"}': "6x20",
                'headroom_ended_jobs_last_hour{kind="compress",status="succeeded"}': "2x20",
            },
            {"HeadroomJobsFail"},
        ),
    ]
    names = [rule["alert"] for rule in rules()]
    for series, firing in cases:
        values = {name: value.replace("x", "+0x") for name, value in series.items()}
        test = {
            "interval": "1m",
            "input_series": [{"series": name, "values": value} for name, value in values.items()],
            "promql_expr_test": [
                {
                    "expr": f'count(ALERTS{{alertname="{name}",alertstate="firing"}}) or vector(0)',
                    "eval_time": "15m",
                    "exp_samples": [{"labels": "{}", "value": int(name in firing)}],
                }
                for name in names
            ],
        }
        file = tmp_path / "test.yml"
        file.write_text(yaml.safe_dump({"rule_files": [str(FOLDER / "alerts.yml")], "tests": [test]}))
        checked = subprocess.run(["promtool", "test", "rules", file], capture_output=True, text=True)
        assert checked.returncode == 0, (series, checked.stdout + checked.stderr)


def test_panels_do_not_overlap() -> None:
    places = [(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in panels()]
    assert len(set(places)) == len(places)
