"""What Grafana draws and Prometheus watches exists in the code, and says what to do."""

import json
import re
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "deploy/monitoring"
SUFFIXES = ("_total", "_bucket", "_count", "_sum")


def exported() -> set[str]:
    named = re.findall(r'"(headroom_\w+)"', (ROOT / "api/metrics.py").read_text())
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


def test_panels_do_not_overlap() -> None:
    places = [(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in panels()]
    assert len(set(places)) == len(places)
