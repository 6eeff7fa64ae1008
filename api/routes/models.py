"""/v1/models: what a job can work on without fetching, and what jobs have published."""

from fastapi import APIRouter

from api.dependencies import AppServices, JobsReader
from headroom.contract.answers.job import Status
from headroom.contract.answers.stored import ModelList, ModelView
from service.ports.jobs import JobFilter

router = APIRouter(prefix="/v1/models", tags=["models"])

NEWEST_OUTPUTS = 100


@router.get("", response_model=ModelList)
def list_models(services: AppServices, caller: JobsReader) -> ModelList:
    """Local models, then the newest outputs. A hub's models are not listed."""
    local = [ModelView(id=model_id, kind="local") for model_id in services.models.local_ids()]
    page = services.store.page(JobFilter(status=Status.SUCCEEDED, owner=caller.sees), NEWEST_OUTPUTS, None)
    outputs = [
        ModelView(id=job.recipe.model.id, kind="output", job_id=job.id, repository=job.repository)
        for job in page.jobs
        if job.repository
    ]
    return ModelList(data=local + outputs)
