"""/v1/corpora: evaluation texts. An upload streams through; it is never whole in memory."""

from collections.abc import Iterator
from typing import Annotated

from anyio import from_thread, to_thread
from fastapi import APIRouter, HTTPException, Query, Request, Response
from fastapi.responses import JSONResponse

from api.dependencies import AppServices, JobsReader, JobsWriter, Services
from api.requests.audit import audited
from api.requests.strict_requests import media_type
from headroom.contract.answers.stored import CorpusList, CorpusView
from service.adapters.files.decompression import decompressed
from service.ports.files import Corpus
from service.records.callers import Caller

UPLOAD_PATH = "/v1/corpora"
FORMATS = {
    "text/plain": "text",
    "application/jsonl": "jsonl",
    "application/x-ndjson": "jsonl",
    "application/x-jsonlines": "jsonl",
}
ENCODINGS = ("identity", "gzip", "zstd")
BINARY = {"schema": {"type": "string", "format": "binary"}}

router = APIRouter(prefix=UPLOAD_PATH, tags=["corpora"])


@router.post(
    "",
    status_code=201,
    response_model=CorpusView,
    dependencies=[audited("corpus.upload")],
    responses={200: {"model": CorpusView, "description": "The same content was there already"}},
    openapi_extra={"requestBody": {"required": True, "content": dict.fromkeys(FORMATS, BINARY)}},
)
async def upload(
    request: Request,
    services: AppServices,
    caller: JobsWriter,
    field: Annotated[str | None, Query(min_length=1, max_length=100, description="of JSON lines: what to read")] = None,
) -> Response:
    """Store a text, UTF-8, plain or as JSON lines; Content-Encoding gzip or zstd."""
    format, encoding = _format(request, field), _encoding(request)
    corpus, is_new = await to_thread.run_sync(
        _store, request, services, caller, format, field, encoding, limiter=services.uploads, abandon_on_cancel=False
    )
    body = CorpusView.model_validate(corpus).model_dump(mode="json")
    return JSONResponse(body, 201 if is_new else 200, headers={"Location": f"{UPLOAD_PATH}/{corpus.id}"})


@router.get("", response_model=CorpusList)
def list_corpora(services: AppServices, caller: JobsReader) -> CorpusList:
    """Newest first."""
    return CorpusList(data=[CorpusView.model_validate(corpus) for corpus in services.owned_corpora.all(caller)])


@router.get("/{corpus_id}", response_model=CorpusView)
def read(corpus_id: str, services: AppServices, caller: JobsReader) -> CorpusView:
    """One text: its size, hash and form. Its content is not given out."""
    return CorpusView.model_validate(services.owned_corpora.get(caller, corpus_id))


@router.delete("/{corpus_id}", status_code=204, dependencies=[audited("corpus.delete")])
def delete(corpus_id: str, services: AppServices, caller: JobsWriter) -> None:
    """Refused while a job that has not ended reads it."""
    services.owned_corpora.delete(caller, corpus_id)


def _format(request: Request, field: str | None) -> str:
    format = FORMATS.get(media_type(request))
    if format is None:
        raise HTTPException(415, f"send the text with one of these as its Content-Type: {', '.join(FORMATS)}")
    if format == "text" and field is not None:
        raise HTTPException(422, "plain text has no fields; send JSON lines, or leave `field` out")
    return format


def _encoding(request: Request) -> str:
    encoding = request.headers.get("content-encoding", "identity").strip().lower()
    if encoding not in ENCODINGS:
        raise HTTPException(415, f"send the body with one of these as its Content-Encoding: {', '.join(ENCODINGS)}")
    return encoding


def _store(
    request: Request, services: Services, caller: Caller, format: str, field: str | None, encoding: str
) -> tuple[Corpus, bool]:
    """Runs in a thread: the store blocks, and pulls chunk by chunk from the event loop."""
    chunks = decompressed(_chunks(request), encoding, services.max_corpus_bytes)
    return services.owned_corpora.add(caller, chunks, format, field)


def _chunks(request: Request) -> Iterator[bytes]:
    stream = request.stream()

    async def next_chunk() -> bytes | None:
        return await anext(stream, None)

    while (chunk := from_thread.run(next_chunk)) is not None:
        if chunk:
            yield chunk
