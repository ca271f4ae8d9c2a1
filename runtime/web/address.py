"""The address on which the web view listens, and its URL."""

from __future__ import annotations

import errno
import ipaddress
import re
import socket
from dataclasses import dataclass
from urllib.parse import quote

from runtime.core.errors import ConfigError

LOOPBACK = "127.0.0.1"
MAX_PORT = 65535
BACKLOG = 64
# Addresses of documentation networks: nothing is sent, but the system selects its own address for the route.
FAR_AWAY = {socket.AF_INET: ("192.0.2.1", 9), socket.AF_INET6: ("2001:db8::1", 9)}
ADDRESS = re.compile(r"(?:(?:\[(?P<ipv6>[^\[\]]+)\]|(?P<name>[^\[\]:]+)):)?(?P<port>\d{1,5})", re.ASCII)


@dataclass(frozen=True)
class Address:
    """A host name or an IP address without brackets, and a port; port 0 is any free one."""

    host: str
    port: int


def parse_address(text: str) -> Address:
    """Parse "[HOST:]PORT".

    Args:
        text: a port of 127.0.0.1, or a host and a port; an IPv6 address is written in brackets.

    Raises:
        ConfigError: the text has another form, or the port is out of range.
    """
    match = ADDRESS.fullmatch(text)
    port = int(match["port"]) if match else MAX_PORT + 1
    if match is None or port > MAX_PORT:
        raise ConfigError(
            f"received the address {text!r}; expected [HOST:]PORT with a port up to {MAX_PORT}, "
            "e.g. 8080, 0.0.0.0:8080 or [::1]:8080"
        )
    return Address(match["ipv6"] or match["name"] or LOOPBACK, port)


def listen(address: Address) -> socket.socket:
    """Open a listening TCP socket.

    Raises:
        ConfigError: the host is unknown or another machine, or the port is in use or not permitted.
    """
    try:
        family, _, _, _, where = socket.getaddrinfo(
            address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except (OSError, UnicodeError) as error:
        raise ConfigError(
            f"the host {address.host!r} is not known here; give {LOOPBACK} for this machine alone, 0.0.0.0 for its "
            "networks, or another of its addresses"
        ) from error
    both = family == socket.AF_INET6 and where[0] == "::" and socket.has_dualstack_ipv6()
    try:
        return socket.create_server(where, family=family, backlog=BACKLOG, dualstack_ipv6=both)
    except OSError as error:
        raise ConfigError(_cannot_listen(address, error)) from error


def is_loopback(listener: socket.socket) -> bool:
    """Return whether only this machine can reach a listening socket."""
    return ipaddress.ip_address(_host(listener)).is_loopback


def page_url(address: Address, listener: socket.socket, token: str | None) -> str:
    """Return the URL to open in a browser.

    Args:
        address: the address of the command line.
        listener: its listening socket.
        token: added to the URL, if there is one.
    """
    host = _reachable_host(listener) if ipaddress.ip_address(_host(listener)).is_unspecified else address.host
    shown = f"[{host}]" if ":" in host else host
    query = f"?token={quote(token, safe='')}" if token else ""
    return f"http://{shown}:{listener.getsockname()[1]}/{query}"


def _host(listener: socket.socket) -> str:
    """Return the IP address of a socket, without the zone of a link-local IPv6 address."""
    return str(listener.getsockname()[0]).partition("%")[0]


def _reachable_host(listener: socket.socket) -> str:
    """Return an address of this machine that others can reach."""
    with socket.socket(listener.family, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(FAR_AWAY[listener.family])
        except OSError:
            return socket.gethostname()
        return _host(probe)


def _cannot_listen(address: Address, error: OSError) -> str:
    what = f"cannot listen on port {address.port} of {address.host}"
    if error.errno == errno.EADDRINUSE:
        return f"{what}: it is in use; stop the program that uses it, or give another port (0 takes a free one)"
    if error.errno in (errno.EACCES, errno.EPERM):
        return f"{what}: not permitted; give a port of 1024 or more"
    if error.errno == errno.EADDRNOTAVAIL:
        return f"{what}: this machine has no such address; give one of its own, or 0.0.0.0 for all"
    return f"{what}: {error.strerror or error}; give another address"
