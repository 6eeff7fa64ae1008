"""POST to an address that a user named, without letting it reach what only we can reach.

The name is resolved here, every address of it is checked, and the connection goes to exactly a checked address, so a
name that changes between two look-ups gains nothing. TLS is verified against the name. No redirect is followed, no
proxy used, and of the answer only the status is read, within one deadline for all of it.
"""

import ipaddress
import socket
import ssl
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit

import httpcore

from service.records.webhooks import Attempt, Outcome

IPAddress = ipaddress.IPv4Address | ipaddress.IPv6Address
IPNetwork = ipaddress.IPv4Network | ipaddress.IPv6Network

SECONDS = 15.0  # for one attempt
NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
NEVER: tuple[IPNetwork, ...] = (  # global by the book, and yet none of the public's
    ipaddress.IPv4Network("192.0.0.0/24"),  # protocol assignments; Oracle's metadata
    ipaddress.IPv4Network("168.63.129.16/32"),  # Azure's host
    ipaddress.IPv6Network("2002::/16"),  # 6to4: any IPv4 address in disguise
)


class AddressRefused(Exception):
    """The name leads to where deliveries must not go."""


class OutwardHttp:
    """`allowed`: networks that may be reached beside public addresses, also without TLS."""

    def __init__(self, allowed: Sequence[IPNetwork], seconds: float = SECONDS) -> None:
        self._allowed = tuple(allowed)
        self._seconds = seconds
        self._ssl = ssl.create_default_context()

    def post(self, url: str, headers: Mapping[str, str], body: bytes) -> Attempt:
        """Never raises for what lies with the receiver or the way to it."""
        is_plain = urlsplit(url).scheme == "http"
        backend = _CheckedBackend(self._allowed, is_plain, time.monotonic() + self._seconds)
        sent = [(name.encode(), value.encode()) for name, value in headers.items()]
        sent += [(b"Host", urlsplit(url).netloc.encode()), (b"Content-Length", str(len(body)).encode())]
        timeouts = dict.fromkeys(("connect", "read", "write", "pool"), self._seconds)
        try:
            with (
                httpcore.ConnectionPool(ssl_context=self._ssl, network_backend=backend) as pool,
                pool.stream("POST", url, headers=sent, content=body, extensions={"timeout": timeouts}) as response,
            ):
                status = response.status
        except AddressRefused as error:
            return Attempt(Outcome.REFUSED, error=str(error))
        except (httpcore.TimeoutException, TimeoutError):
            return Attempt(Outcome.FAILED, error=f"no answer within {self._seconds:g} s")
        except (httpcore.NetworkError, httpcore.ProtocolError, OSError) as error:
            return Attempt(Outcome.FAILED, error=f"{type(error).__name__}: {error}")
        return _attempt_of(status)


def _attempt_of(status: int) -> Attempt:
    if 200 <= status < 300:
        return Attempt(Outcome.DELIVERED, status)
    if status == 410:
        return Attempt(Outcome.GONE, status, "the receiver is gone: nothing more is sent")
    hint = "; redirects are not followed" if 300 <= status < 400 else ""
    return Attempt(Outcome.FAILED, status, f"the receiver answered {status}{hint}")


def check_address(address: str, allowed: Sequence[IPNetwork], is_plain: bool) -> None:
    """AddressRefused unless it is public and the connection is by TLS, or it lies in an allowed network."""
    ip = _unwrapped(ipaddress.ip_address(address.partition("%")[0]))
    if any(ip in network for network in allowed):
        return
    if not ip.is_global or ip.is_multicast or any(ip in network for network in NEVER):
        raise AddressRefused(f"{ip} is no public address; an operator can allow its network")
    if is_plain:
        raise AddressRefused("without TLS only networks that an operator allowed are reached; use https")


def _unwrapped(ip: IPAddress) -> IPAddress:
    """An IPv4 address that wears an IPv6 one is judged as what it is."""
    if isinstance(ip, ipaddress.IPv6Address):
        if ip.ipv4_mapped is not None:
            return ip.ipv4_mapped
        if ip in NAT64:
            return ipaddress.IPv4Address(int(ip) & 0xFFFF_FFFF)
    return ip


class _CheckedBackend(httpcore.NetworkBackend):
    """Opens connections of one attempt."""

    def __init__(self, allowed: Sequence[IPNetwork], is_plain: bool, deadline: float) -> None:
        self._allowed = allowed
        self._is_plain = is_plain
        self._deadline = deadline
        self._sockets = httpcore.SyncBackend()

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.NetworkStream:
        found = socket.getaddrinfo(host.strip("[]"), port, type=socket.SOCK_STREAM)
        addresses = list(dict.fromkeys(str(info[4][0]) for info in found))
        for address in addresses:  # all of them: one that is refused makes the whole name suspect
            check_address(address, self._allowed, self._is_plain)
        for last, address in enumerate(addresses, start=1 - len(addresses)):
            try:
                left = _left(self._deadline)
                stream = self._sockets.connect_tcp(address, port, left, local_address, socket_options)
            except (httpcore.ConnectError, httpcore.ConnectTimeout):
                if last == 0:
                    raise
            else:
                return _BoundedStream(stream, self._deadline)
        raise OSError(f"{host} has no address")


class _BoundedStream(httpcore.NetworkStream):
    """A connection whose every step ends by the deadline: a receiver cannot hold on by trickling."""

    def __init__(self, stream: httpcore.NetworkStream, deadline: float) -> None:
        self._stream = stream
        self._deadline = deadline

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        return self._stream.read(max_bytes, _left(self._deadline))

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self._stream.write(buffer, _left(self._deadline))

    def close(self) -> None:
        self._stream.close()

    def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.NetworkStream:
        secured = self._stream.start_tls(ssl_context, server_hostname, _left(self._deadline))
        return _BoundedStream(secured, self._deadline)

    def get_extra_info(self, info: str) -> Any:
        return self._stream.get_extra_info(info)


def _left(deadline: float) -> float:
    left = deadline - time.monotonic()
    if left <= 0:
        raise httpcore.ReadTimeout("the time for this attempt is over")
    return left
