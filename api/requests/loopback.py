"""Names and addresses that can mean nothing but this machine."""

import ipaddress
from functools import lru_cache
from urllib.parse import urlsplit


def is_loopback(host: str) -> bool:
    """Of a host without its port; the brackets of an IPv6 address may be there."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"


@lru_cache(maxsize=64)  # the same few come with every request
def names_loopback(authority: str) -> bool:
    """Of a Host header: a host, maybe with its port."""
    try:
        return is_loopback(urlsplit(f"//{authority}").hostname or "")
    except ValueError:  # brackets that are no address
        return False
