"""Which engine does which kind of job. A ports.Engine; imports only what the job at hand needs."""

import shutil
from typing import Any

from service.ports.engine import OFFLOADED_NAME, EngineOutcome, EngineTask, Progress


def run_engine(task: EngineTask[Any], progress: Progress) -> EngineOutcome:
    """Do the task. Its recipe was validated, so its kind is one of these."""
    try:
        return _run(task, progress)
    finally:
        shutil.rmtree(task.staging / OFFLOADED_NAME, ignore_errors=True)


def _run(task: EngineTask[Any], progress: Progress) -> EngineOutcome:
    match task.recipe.kind:
        case "compress":
            from service.compression.jobs.compress import compress

            return compress(task, progress)
        case "analyze":
            from service.compression.jobs.analyze import analyze

            return analyze(task, progress)
        case "steer":
            from service.compression.jobs.steer import steer

            return steer(task, progress)
        case "compare":
            from service.compression.jobs.compare import compare

            return compare(task, progress)
        case "dynamics":
            from service.compression.jobs.dynamics import dynamics

            return dynamics(task, progress)
        case kind:
            raise AssertionError(f"no engine for a {kind} job")
