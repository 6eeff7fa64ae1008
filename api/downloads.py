"""Answer a request for a stored file: whole, in part, or not changed. conditions.py decides; nothing is compressed."""

from collections.abc import Mapping
from mimetypes import guess_type
from pathlib import Path
from typing import BinaryIO
from urllib.parse import quote

from anyio import to_thread
from fastapi import HTTPException, Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from api.conditions import Slice, Unsatisfiable, is_unchanged, slice_of
from service.ports import StoredFile

CHUNK_BYTES = 1 << 20  # 64 KiB chunks gave a third of the rate


class FileSlice(Response):
    """Opens the file before the first header leaves, and closes it whatever happens. HEAD sends headers only."""

    def __init__(self, path: Path, part: Slice, status: int, headers: Mapping[str, str]) -> None:
        super().__init__(status_code=status, headers=headers, media_type=None)
        self.headers["Content-Length"] = str(part.length)
        self._path = path
        self._part = part

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        file = await to_thread.run_sync(self._open)
        try:
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            left = 0 if scope["method"] == "HEAD" else self._part.length
            while left > 0:
                chunk = await to_thread.run_sync(file.read, min(left, CHUNK_BYTES))
                if not chunk:
                    raise OSError(f"{self._path.name} is shorter than it was when it was published")
                left -= len(chunk)
                await send({"type": "http.response.body", "body": chunk, "more_body": True})
            await send({"type": "http.response.body", "body": b""})
        finally:
            file.close()

    def _open(self) -> BinaryIO:
        file = self._path.open("rb")
        file.seek(self._part.start)
        return file


def send_file(
    request: Request, file: StoredFile, location: Path, more_headers: Mapping[str, str] | None = None
) -> Response:
    """200, 206, 304 or 416, as the headers of the request ask. The ETag is the sha256 of the content."""
    etag = f'"{file.sha256}"'
    kept = {"ETag": etag, "Accept-Ranges": "bytes", **(more_headers or {})}
    if is_unchanged(request.headers.get("if-none-match"), etag):
        return Response(status_code=304, headers=kept)
    asked = request.headers.get("range") if request.method == "GET" else None  # a HEAD tells of the whole file
    part = slice_of(asked, request.headers.get("if-range"), etag, file.size)
    if isinstance(part, Unsatisfiable):
        kept["Content-Range"] = f"bytes */{file.size}"
        raise HTTPException(416, f"{file.path} has {file.size} bytes", kept)
    headers = kept | content_headers(file.path)
    if part is None:
        return FileSlice(location, Slice(0, file.size), 200, headers)
    headers["Content-Range"] = f"bytes {part.start}-{part.end - 1}/{file.size}"
    return FileSlice(location, part, 206, headers)


def content_headers(path: str) -> dict[str, str]:
    """How the content is to be taken. Always an attachment: a report.html must not run in our origin."""
    name = path.rsplit("/", 1)[-1]
    plain = "".join(sign if sign.isascii() and sign.isprintable() and sign not in '"\\' else "_" for sign in name)
    value = f'attachment; filename="{plain}"'
    if plain != name:
        value += f"; filename*=UTF-8''{quote(name, safe='')}"
    return {
        "Content-Type": guess_type(name)[0] or "application/octet-stream",
        "Content-Disposition": value,
        "X-Content-Type-Options": "nosniff",
    }
