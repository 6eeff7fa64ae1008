"""Whether a browser sent a request from our own pages (Fetch Metadata, and RFC 6454 for older browsers)."""

from collections.abc import Mapping
from urllib.parse import urlsplit

SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})


def is_same_origin(headers: Mapping[str, str]) -> bool | None:
    """Whether a page of ours sent this; None where headers do not tell, as those of curl and other non-browsers."""
    site = headers.get("sec-fetch-site")
    if site is not None:
        return site == "same-origin"
    origin = headers.get("origin")
    if origin is None:
        return None
    try:
        return urlsplit(origin).netloc.lower() == headers.get("host", "").lower()
    except ValueError:
        return False
