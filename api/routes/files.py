"""/v1/jobs/{id}/files: the published files of a job, whole or in ranges, so that a broken download goes on."""

from fastapi import APIRouter, Request, Response

from api.answers.downloads import send_file
from api.dependencies import AppServices, VisibleJob, needs
from api.requests.audit import audited
from headroom.contract.answers.job import Status
from headroom.contract.answers.stored import FileList, FileView
from service.foundation.errors import FileNotFound
from service.records.callers import Scope
from service.records.job import Job

router = APIRouter(prefix="/v1/jobs", tags=["files"])

READS_FILES = needs(Scope.ARTIFACTS_READ)


@router.get("/{job_id}/files", response_model=FileList, dependencies=[READS_FILES])
def list_files(job: VisibleJob, services: AppServices) -> FileList:
    """Empty until the job has succeeded."""
    files = services.artifacts.files(job.id) if _is_published(job) else []
    return FileList(data=[FileView.model_validate(file) for file in files])


@router.get(
    "/{job_id}/files/{path:path}",
    response_class=Response,
    responses={
        200: {"content": {"application/octet-stream": {}}, "description": "The whole file"},
        302: {"description": "By its object store: follow `Location`"},
        206: {"content": {"application/octet-stream": {}}, "description": "The range asked for"},
        304: {"description": "Not changed"},
        416: {"description": "The range lies outside of the file"},
    },
    dependencies=[audited("file.download"), READS_FILES],
)
@router.head("/{job_id}/files/{path:path}", include_in_schema=False, dependencies=[READS_FILES])
def download(job: VisibleJob, path: str, request: Request, services: AppServices) -> Response:
    """One file. The ETag is the sha256 of its content."""
    if not _is_published(job):
        raise FileNotFound(f"job {job.id} has no files: it has not succeeded")
    return send_file(request, services.artifacts, job.id, services.artifacts.file(job.id, path))


def _is_published(job: Job) -> bool:
    """Files lie in place a moment before the job is theirs; until then they may still be withdrawn."""
    return job.status is Status.SUCCEEDED
