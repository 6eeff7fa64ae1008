"""`python -m bench [NAME]`: run one benchmark, or all. The last line printed is one JSON object with its figures."""

import importlib
import json
import os
import shutil
import sys
from datetime import UTC, datetime
from pathlib import Path

from bench.folders import MODELS, RESULTS, SHARED

ROOMS = {  # in the order in which all are run
    "sweep": "engine",
    "analysis": "engine",
    "head": "head",
    "decode": "head",
    "monitor": "head",
    "methods": "engine",
    "precision": "engine",
    "frontier": "engine",
    "products": "engine",
    "models": "engine",
    "overhead": "service",
    "large": "engine",
    "large_job": "engine",
    "hub": "service",
    "download": "service",
    "events": "service",
    "status": "service",
    "vllm": "head",
}
VLLM_PYTHON = Path(os.environ.get("HEADROOM_VLLM_PYTHON", ".venv-vllm/bin/python"))


def main() -> None:
    names = sys.argv[1:] or [name for name in ROOMS if name not in missing()]
    if not sys.argv[1:]:
        sys.stdout.writelines(f"left out: {name}, which needs {what}\n" for name, what in missing().items())
    unknown = [name for name in names if name not in ROOMS]
    if unknown:
        raise SystemExit(f"no benchmark {unknown[0]!r}; there are {', '.join(ROOMS)}")
    for name in names:
        figures = importlib.import_module(f"bench.{ROOMS[name]}.{name}").run()
        record = {"bench": name, "time": datetime.now(UTC).isoformat(timespec="seconds")} | figures
        RESULTS.mkdir(exist_ok=True)
        where = "-cuda" if str(figures.get("device", "")).startswith("cuda") else ""
        (RESULTS / f"{name}{where}.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
        sys.stdout.write(json.dumps(record) + "\n")
        sys.stdout.flush()
        if figures.get("failed"):
            raise SystemExit(f"bench {name}: not as it must be: {figures['failed']}")


def missing() -> dict[str, str]:
    """What benchmarks need that is not on this machine."""
    needed = {
        "precision": ("the reference models in ../shared", (SHARED / "models").is_dir()),
        "models": ("the texts in ../shared", (SHARED / "models").is_dir()),
        "frontier": ("the reference texts in ../shared", (SHARED / "models").is_dir()),
        "decode": ("the models of `make models`", MODELS.is_dir()),
        "vllm": ("an environment with vLLM (make test-vllm)", VLLM_PYTHON.exists()),
        "download": ("nginx", shutil.which("nginx") is not None),
    }
    return {name: what for name, (what, is_here) in needed.items() if not is_here}


if __name__ == "__main__":
    main()
