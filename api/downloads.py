"""Answer a request for a stored file: whole, in part, not changed, or elsewhere. conditions.py decides; nothing is
compressed."""

from collections.abc import Callable, Mapping
from typing import BinaryIO

from anyio import to_thread
from fastapi import HTTPException, Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from api.conditions import Slice, Unsatisfiable, is_unchanged, slice_of
from service.file_headers import content_headers
from service.file_ports import ArtifactStore, StoredFile

CHUNK_BYTES = 1 << 20  # 64 KiB chunks gave a third of the rate


class FileSlice(Response):
    """Opens the file before the first header leaves, and closes it whatever happens. HEAD sends headers only."""

    def __init__(self, open_file: Callable[[], BinaryIO], length: int, status: int, headers: Mapping[str, str]) -> None:
        super().__init__(status_code=status, headers=headers, media_type=None)
        self.headers["Content-Length"] = str(length)
        self._open = open_file
        self._length = length

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["method"] == "HEAD":
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            await send({"type": "http.response.body", "body": b""})
            return
        file = await to_thread.run_sync(self._open)
        try:
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            left = self._length
            while left > 0:
                chunk = await to_thread.run_sync(file.read, min(left, CHUNK_BYTES))
                if not chunk:
                    raise OSError("a stored file is shorter than it was when it was published")
                left -= len(chunk)
                await send({"type": "http.response.body", "body": chunk, "more_body": True})
            await send({"type": "http.response.body", "body": b""})
        finally:
            file.close()


def send_file(
    request: Request,
    artifacts: ArtifactStore,
    job_id: str,
    file: StoredFile,
    more_headers: Mapping[str, str] | None = None,
) -> Response:
    """200, 206, 302, 304 or 416, as the headers of the request ask. The ETag is the sha256 of the content."""
    etag = f'"{file.sha256}"'
    kept = {"ETag": etag, "Accept-Ranges": "bytes", **(more_headers or {})}
    if is_unchanged(request.headers.get("if-none-match"), etag):
        return Response(status_code=304, headers=kept)
    asked = request.headers.get("range") if request.method == "GET" else None  # a HEAD tells of the whole file
    part = slice_of(asked, request.headers.get("if-range"), etag, file.size)
    if isinstance(part, Unsatisfiable):
        kept["Content-Range"] = f"bytes */{file.size}"
        raise HTTPException(416, f"{file.path} has {file.size} bytes", kept)
    if link := _link(request, artifacts, job_id, file):
        return Response(status_code=302, headers=kept | {"Location": link, "Cache-Control": "no-store"})
    headers = kept | content_headers(file.path) | {"X-Content-Type-Options": "nosniff"}
    status, wanted = 200, Slice(0, file.size)
    if part is not None:
        status, wanted = 206, part
        headers["Content-Range"] = f"bytes {part.start}-{part.end - 1}/{file.size}"
    return FileSlice(
        lambda: artifacts.open(job_id, file.path, wanted.start, wanted.end), wanted.length, status, headers
    )


def _link(request: Request, artifacts: ArtifactStore, job_id: str, file: StoredFile) -> str | None:
    """To an object store, which knows the client's Range but not our ETags: what depends on one is answered here."""
    if request.method != "GET" or "if-range" in request.headers:
        return None
    return artifacts.link(job_id, file.path)
