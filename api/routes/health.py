"""/livez asks nothing but this process; /readyz asks everything a job needs."""

import shutil
from collections.abc import Callable

from fastapi import APIRouter, Response

from api.dependencies import AppServices, Services
from api.schemas import CheckView, LivenessView, ReadinessView
from service.errors import ServiceError

router = APIRouter(tags=["health"])

MIN_FREE_BYTES = 500_000_000


@router.get("/livez", response_model=LivenessView)
async def livez() -> LivenessView:
    return LivenessView(status="ok")


@router.get("/readyz", response_model=ReadinessView, responses={503: {"model": ReadinessView}})
def readyz(services: AppServices, response: Response) -> ReadinessView:
    """503 unless a job posted now would run: database, broker, a worker, and room on the disk."""
    checks = {
        "database": _check(lambda: _answers(services.store.ping)),
        "broker": _check(lambda: _answers(services.queue.ping)),
        "disk": _check(lambda: _disk(services)),
        "workers": _check(lambda: _workers(services)),
    }
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
