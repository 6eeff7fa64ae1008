"""Names and addresses that can mean nothing but this machine."""

import ipaddress


def is_loopback(host: str) -> bool:
    """Of a host without its port; the brackets of an IPv6 address may be there."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"
