"""Answer a request for a stored file: whole, in part, not changed, or elsewhere. conditions.py decides; nothing is
compressed. Where file and server allow it the kernel sends (http_protocol.py); else chunks are read and sent in turn.
"""

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from typing import BinaryIO

from fastapi import HTTPException, Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from api.answers.bounded_threads import BoundedThreads
from api.answers.conditions import Slice, Unsatisfiable, is_unchanged, slice_of
from api.answers.http_protocol import EXTENSION
from service.ports.files import ArtifactStore, StoredFile
from service.publishing.file_headers import content_headers

CHUNK_BYTES = 1 << 20  # 64 KiB chunks gave a third of the rate
PART_BYTES = 32 << 20  # after which the figures of what was sent grow
READING = BoundedThreads("downloads", 16)


class FileSlice(Response):
    """An answer that opens its file before the first header leaves, and closes it whatever happens. HEAD: headers only.

    Of a file that the kernel sends nothing is held; else one chunk, and what the server has not sent of the one before.
    """

    def __init__(self, open_file: Callable[[], BinaryIO], length: int, status: int, headers: Mapping[str, str]) -> None:
        super().__init__(status_code=status, headers=headers, media_type=None)
        self.headers["Content-Length"] = str(length)
        self._open = open_file
        self._length = length

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        start = {"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers}
        if scope["method"] == "HEAD":
            await send(start)
            await send({"type": "http.response.body", "body": b""})
            return
        with ExitStack() as opened:
            file = await READING.run(lambda: opened.enter_context(self._open()))
            await send(start)
            try:
                if EXTENSION in scope.get("extensions", {}) and _has_descriptor(file):
                    await self._send_by_kernel(file, send)
                else:
                    await self._send_chunks(file, send)
            except ConnectionError:
                return  # the client has left
            await send({"type": "http.response.body", "body": b""})

    async def _send_by_kernel(self, file: BinaryIO, send: Send) -> None:
        at = file.tell()
        end = at + self._length
        while at < end:
            count = min(end - at, PART_BYTES)
            await send({"type": EXTENSION, "file": file, "offset": at, "count": count, "more_body": True})
            at += count

    async def _send_chunks(self, file: BinaryIO, send: Send) -> None:
        left = self._length
        while left > 0:
            chunk = await READING.run(file.read, min(left, CHUNK_BYTES))
            if not chunk:
                raise OSError("a stored file is shorter than it was when it was published")
            left -= len(chunk)
            await send({"type": "http.response.body", "body": chunk, "more_body": True})


def _has_descriptor(file: BinaryIO) -> bool:
    try:
        file.fileno()
    except OSError:  # an object's content has none
        return False
    return True


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
