"""Names and addresses that can mean nothing but this machine."""

import ipaddress
from functools import lru_cache
from urllib.parse import urlsplit


def is_loopback(host: str) -> bool:
    """Whether a host, without its port, is this machine; the brackets of an IPv6 address may be there."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"


@lru_cache(maxsize=64)  # the same few come with every request
def names_loopback(authority: str) -> bool:
    """Whether a Host header, a host and maybe its port, names this machine."""
    try:
        return is_loopback(urlsplit(f"//{authority}").hostname or "")
    except ValueError:  # brackets that are no address
        return False
