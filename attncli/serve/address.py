"""The addresses that a server answers to: parses the headers Host and Origin, and decides which are allowed.

A page of another site can make a browser send requests to this machine, and can give its own name the address of this
machine (DNS rebinding). The first kind names the other site in Origin, the second in Host. Therefore both are compared
with the names under which this server is known. The port in Host may be any: it is another one behind a tunnel.
"""

from __future__ import annotations

import ipaddress
import re
import socket
from dataclasses import dataclass

_AUTHORITY = re.compile(r"(?:\[([0-9a-f:.]{2,45})\]|([a-z0-9_.-]{1,253}))(?::([0-9]{1,5}))?")
_PORT = 80  # of http
_LOCAL = frozenset({"localhost", "127.0.0.1", "::1"})


def authority(text: str) -> tuple[str, int] | None:
    """Parses a host and a port: 'LocalHost' -> ('localhost', 80), '[::1]:8000' -> ('::1', 8000).

    Returns None for any other text. A number with dots is an IPv4 address in its usual form or nothing.
    """
    found = _AUTHORITY.fullmatch(text.lower()) if text.isascii() else None
    if found is None:
        return None
    bracketed, name, port = found.groups()
    number = _PORT if port is None else int(port)
    if not 0 < number < 1 << 16:
        return None
    try:
        if bracketed is not None:
            return ipaddress.IPv6Address(bracketed).compressed, number
        if name.replace(".", "").isdecimal() or name.startswith("0x"):
            return str(ipaddress.IPv4Address(name)), number
    except ValueError:
        return None
    return name, number


def origin(text: str) -> tuple[str, int] | None:
    """Parses an origin of http: 'http://localhost:8000' -> ('localhost', 8000). Returns None for any other text."""
    scheme, mark, rest = text.partition("://")
    return authority(rest) if mark and scheme.lower() == "http" else None


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches a server that listens on this address or name."""
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


@dataclass(frozen=True)
class Names:
    """The names and addresses under which a server is known."""

    known: frozenset[str]
    any_address: bool = False  # every IP address; a name can be given another address, but an IP address cannot

    @classmethod
    def of(cls, host: str) -> Names:
        """Returns the names of a server that listens on `host`.

        On loopback, the names of this machine for itself. On another address, also its name in the network and every IP
        address, because a machine has several.
        """
        plain = (authority(f"[{host}]" if ":" in host else host) or (host.lower(), 0))[0]
        if is_loopback(plain):
            return cls(_LOCAL | {plain})
        machine = socket.gethostname().lower()
        return cls(_LOCAL | {plain, machine, machine.partition(".")[0], f"{machine.partition('.')[0]}.local"}, True)

    def allow(self, host: str) -> bool:
        """Whether a request may name this host, in the form that `authority` returns."""
        return host in self.known or (self.any_address and _is_address(host))


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
