"""/livez asks nothing but this process; /readyz asks everything a job needs."""

import shutil
from collections.abc import Callable, Sequence
from typing import Annotated, Literal

from fastapi import APIRouter, Query, Response

from api.dependencies import AppServices, Services
from api.schemas import CheckView, LivenessView, ReadinessView
from service.foundation.errors import ServiceError

router = APIRouter(tags=["health"])

MIN_FREE_BYTES = 500_000_000

Part = Literal["database", "broker", "storage", "disk", "workers"]
Excluded = Annotated[Sequence[Part], Query(description="checks to leave out")]


@router.get("/livez", response_model=LivenessView)
async def livez() -> LivenessView:
    """Asks nothing but this process."""
    return LivenessView(status="ok")


@router.get("/readyz", response_model=ReadinessView, responses={503: {"model": ReadinessView}})
def readyz(services: AppServices, response: Response, exclude: Excluded = ()) -> ReadinessView:
    """503 unless a job posted now would run: database, broker, a worker, the store of files, and room on the disk.

    A load balancer leaves out what jobs can wait for: with `exclude=broker&exclude=workers` it asks whether this
    process can accept jobs.
    """
    asked: dict[Part, Callable[[], CheckView]] = {
        "database": lambda: _answers(services.store.ping),
        "broker": lambda: _answers(services.queue.ping),
        "storage": lambda: _answers(services.artifacts.ping),
        "disk": lambda: _disk(services),
        "workers": lambda: _workers(services),
    }
    checks: dict[str, CheckView] = {name: _check(ask) for name, ask in asked.items() if name not in exclude}
    if services.draining.is_set():
        checks["draining"] = CheckView(ok=False, detail="this process was told to stop: ask another")
    ready = all(check.ok for check in checks.values())
    response.status_code = 200 if ready else 503
    return ReadinessView(ready=ready, checks=checks)


def _check(ask: Callable[[], CheckView]) -> CheckView:
    try:
        return ask()
    except ServiceError as error:
        return CheckView(ok=False, detail=error.message)
    except OSError as error:
        return CheckView(ok=False, detail=error.strerror or type(error).__name__)


def _answers(ping: Callable[[], None]) -> CheckView:
    ping()
    return CheckView(ok=True, detail="answers")


def _disk(services: Services) -> CheckView:
    free = shutil.disk_usage(services.data_dir).free
    return CheckView(ok=free >= MIN_FREE_BYTES, detail=f"{free} bytes free")


def _workers(services: Services) -> CheckView:
    count = services.queue.workers()
    return CheckView(ok=count > 0, detail=f"{count} answering")
