"""/v1/jobs/{job_id}/deliveries: what was sent to a job's webhook, and sending it again."""

from typing import Annotated

from fastapi import APIRouter, Path

from api.dependencies import AppServices, VisibleJob, needs
from api.requests.audit import audited
from api.schemas import DeliveryList, DeliveryView
from service.records.callers import Scope

router = APIRouter(prefix="/v1/jobs/{job_id}/deliveries", tags=["webhooks"])


@router.get("", response_model=DeliveryList, dependencies=[needs(Scope.JOBS_READ)])
def deliveries(job: VisibleJob, services: AppServices) -> DeliveryList:
    """Oldest first; empty for a job without a webhook."""
    return DeliveryList(data=[DeliveryView.of(delivery) for delivery in services.store.webhooks.deliveries(job.id)])


@router.post(
    "/{number}/replay",
    status_code=202,
    response_model=DeliveryView,
    dependencies=[audited("delivery.replay"), needs(Scope.JOBS_WRITE)],
)
def replay(job: VisibleJob, number: Annotated[int, Path(ge=1, le=2**31 - 1)], services: AppServices) -> DeliveryView:
    """Send a message once more, as a new delivery with the same webhook-id. Ends what a 410 had switched off."""
    return DeliveryView.of(services.store.webhooks.replay(job.id, number))
