"""/v1/audit: who did what. For admins."""

from typing import Annotated

from fastapi import APIRouter, Query

from api.dependencies import Admin, AppServices
from api.schemas import AuditEntryView, AuditList
from service.records.audit import AuditFilter

router = APIRouter(prefix="/v1/audit", tags=["audit"])


@router.get("", response_model=AuditList)
def list_entries(
    services: AppServices,
    _: Admin,
    owner: Annotated[str | None, Query(max_length=64)] = None,
    action: Annotated[str | None, Query(max_length=64)] = None,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
    after: Annotated[int | None, Query(ge=1, le=2**53, description="the last number of the page before")] = None,
) -> AuditList:
    """Newest first."""
    page = services.audit.page(AuditFilter(owner, action), limit, after)
    return AuditList(data=[AuditEntryView.model_validate(entry) for entry in page.entries], has_more=page.has_more)
