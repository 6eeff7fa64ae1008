"""/v1/jobs/{id}/files: the published files of a job, whole or in ranges, so that a broken download goes on."""

from fastapi import APIRouter, Request, Response

from api.dependencies import AppServices, Services
from api.downloads import send_file
from api.schemas import FileList, FileView
from service.errors import FileNotFound
from service.jobs import Status

router = APIRouter(prefix="/v1/jobs", tags=["files"])


@router.get("/{job_id}/files", response_model=FileList)
def list_files(job_id: str, services: AppServices) -> FileList:
    """Empty until the job has succeeded."""
    files = services.artifacts.files(job_id) if _is_published(job_id, services) else []
    return FileList(data=[FileView.of(file) for file in files])


@router.get(
    "/{job_id}/files/{path:path}",
    response_class=Response,
    responses={
        200: {"content": {"application/octet-stream": {}}, "description": "The whole file"},
        206: {"content": {"application/octet-stream": {}}, "description": "The range asked for"},
        304: {"description": "Not changed"},
        416: {"description": "The range lies outside of the file"},
    },
)
@router.head("/{job_id}/files/{path:path}", include_in_schema=False)
def download(job_id: str, path: str, request: Request, services: AppServices) -> Response:
    """One file. The ETag is the sha256 of its content."""
    if not _is_published(job_id, services):
        raise FileNotFound(f"job {job_id} has no files: it has not succeeded")
    file, location = services.artifacts.open(job_id, path)
    return send_file(request, file, location)


def _is_published(job_id: str, services: Services) -> bool:
    """Files lie in place a moment before the job is theirs; until then they may still be withdrawn."""
    return services.store.get(job_id).status is Status.SUCCEEDED
