"""HTTP as the client speaks it: retries, and every failure as a HeadroomError. It knows no routes and no jobs."""

import ipaddress
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx

from headroom.errors import FieldError, HeadroomError, InvalidArgument, ServerUnreachable

RETRY_PAUSES = (0.2, 0.8)  # a wrong URL should be told within about a second
REPEATABLE = frozenset({"GET", "HEAD"})
IDEMPOTENCY_KEY = "Idempotency-Key"  # the server does such a request once, however often it is sent
IN_FLIGHT = '"request_in_flight"'
NEVER_SENT = (httpx.ConnectError, httpx.ConnectTimeout)  # safe to repeat whatever the method


class Connection:
    """One server. Safe to share between threads."""

    def __init__(self, url: str, key: str | None, timeout: float, pauses: tuple[float, ...] = RETRY_PAUSES) -> None:
        self.url = url.rstrip("/")
        self._pauses = pauses
        headers = {"User-Agent": "headroom-client", "Accept": "application/json"}
        if key:
            headers["Authorization"] = f"Bearer {key}"
        try:
            base = httpx.URL(self.url)
        except httpx.InvalidURL as error:
            raise InvalidArgument(f"'{url}' is no URL; it should look like http://127.0.0.1:8000.") from error
        if base.scheme not in ("http", "https") or not base.host:
            raise InvalidArgument(f"'{url}' is no http URL; it should look like http://127.0.0.1:8000.")
        self._http = httpx.Client(
            base_url=base,
            headers=headers,
            timeout=httpx.Timeout(timeout, connect=min(timeout, 5.0)),
            trust_env=not _is_loopback(base.host),  # a proxy from the environment cannot reach this machine's loopback
        )

    def request(self, method: str, path: str, **options: Any) -> httpx.Response:
        """Send, and send again after a pause where that is safe. Answers of 400 and above are raised."""
        has_key = IDEMPOTENCY_KEY in (options.get("headers") or {})
        for attempt in range(len(self._pauses) + 1):
            try:
                response = self._http.request(method, path, **options)
            except httpx.TransportError as error:
                repeatable = method in REPEATABLE or has_key or isinstance(error, NEVER_SENT)
                if attempt == len(self._pauses) or not repeatable:
                    raise self.unreachable(error) from error
            else:
                is_answered_elsewhere = has_key and response.status_code == 409 and IN_FLIGHT in response.text
                if attempt == len(self._pauses) or not is_answered_elsewhere:
                    self.raise_for_problem(response)
                    return response
            time.sleep(self._pauses[attempt])
        raise AssertionError("the last attempt returns or raises")

    def json(self, method: str, path: str, **options: Any) -> Any:
        return self.decode(self.request(method, path, **options))

    @contextmanager
    def stream(
        self, path: str, headers: dict[str, str], timeout: httpx.Timeout | None = None, must_succeed: bool = False
    ) -> Iterator[httpx.Response]:
        """A GET whose body is read by the caller, who also handles httpx.TransportError. Not repeated.

        A server may send on to its object store; the key is not sent there. `must_succeed`: answers of 400 and above
        are raised.
        """
        chosen = httpx.USE_CLIENT_DEFAULT if timeout is None else timeout
        with self._http.stream("GET", path, headers=headers, timeout=chosen, follow_redirects=True) as response:
            if must_succeed and response.status_code >= 400:
                response.read()
                self.raise_for_problem(response)
            yield response

    def decode(self, response: httpx.Response) -> Any:
        try:
            return response.json()
        except ValueError as error:
            raise self._stranger(response) from error

    def raise_for_problem(self, response: httpx.Response) -> None:
        """Turn an answer of 400 and above into a HeadroomError; problem+json gives its code and message."""
        if response.status_code < 400:
            return
        try:
            problem = response.json()
            code, message = problem["code"], problem.get("detail") or problem["title"]
        except (ValueError, KeyError, TypeError) as error:
            raise self._stranger(response) from error
        raise HeadroomError(
            message,
            code,
            status=response.status_code,
            request_id=problem.get("request_id"),
            errors=tuple(FieldError(item["field"], item["message"]) for item in problem.get("errors") or ()),
        )

    def unreachable(self, error: httpx.TransportError) -> ServerUnreachable:
        if isinstance(error, NEVER_SENT):
            return ServerUnreachable(f"No server answers at {self.url}; is it running, and is the address right?")
        return ServerUnreachable(f"The connection to {self.url} broke ({error or type(error).__name__}); try again.")

    def close(self) -> None:
        self._http.close()

    def _stranger(self, response: httpx.Response) -> HeadroomError:
        return HeadroomError(
            f"{self.url} answered {response.status_code} in a form that no Headroom server uses; check the address.",
            status=response.status_code if response.status_code >= 500 else None,
        )


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
