"""How a stored file is to be taken by whoever downloads it: type and name, as HTTP headers. Pure functions."""

from mimetypes import guess_type
from urllib.parse import quote


def content_headers(path: str) -> dict[str, str]:
    """Always an attachment: a report.html must not run in our origin."""
    name = path.rsplit("/", 1)[-1]
    plain = "".join(sign if sign.isascii() and sign.isprintable() and sign not in '"\\' else "_" for sign in name)
    value = f'attachment; filename="{plain}"'
    if plain != name:
        value += f"; filename*=UTF-8''{quote(name, safe='')}"
    return {"Content-Type": guess_type(name)[0] or "application/octet-stream", "Content-Disposition": value}
