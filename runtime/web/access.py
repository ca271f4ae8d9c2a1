"""Access to the web view: accepted host names, origins and tokens.

A foreign page in the same browser can send requests here too, and can make its own name resolve to this machine (DNS
rebinding). So every request must use a known name of this machine, and must not come from another page. Other machines
need a token as well.
"""

from __future__ import annotations

import hmac
import ipaddress
import re
import secrets
import socket
from dataclasses import dataclass

from runtime.core.errors import ConfigError
from runtime.web.address import Address, is_loopback

MIN_TOKEN_CHARACTERS = 16
TOKEN_BYTES = 18
# These need no escaping in a URL or on a command line.
TOKEN = re.compile(r"[A-Za-z0-9._~-]+")
HOST_HEADER = re.compile(r"(?:\[(?P<ipv6>[0-9A-Fa-f:.]+)\]|(?P<name>[A-Za-z0-9._-]+))(?P<port>:\d{1,5})?", re.ASCII)


@dataclass(frozen=True)
class Access:
    """What a request must present.

    Attributes:
        token: required once, in the URL; `None` requires none.
        cookie_name: name of the cookie that replaces the token.
        loopback: only this machine can connect.
        names: host names of this machine in lower case, besides its IP addresses.
    """

    token: str | None
    cookie_name: str
    loopback: bool
    names: frozenset[str]

    @property
    def cookie(self) -> str:
        """Value of the cookie, which is not the token: browsers send cookies to every port of a host."""
        return hmac.digest((self.token or "").encode(), b"focaledge web view", "sha256").hex()

    def admits(self, token: str | None, cookie: str | None) -> bool:
        """Return whether the token of a URL, or else the cookie, is right."""
        if self.token is None:
            return True
        if token is not None:
            return _equal(token, self.token)
        return cookie is not None and _equal(cookie, self.cookie)

    def knows_host(self, header: str | None) -> bool:
        """Return whether a `Host` header names this machine.

        IP addresses cannot be rebound, so all are accepted where other machines can connect.
        """
        match = HOST_HEADER.fullmatch(header or "")
        if match is None:
            return False
        name = (match["ipv6"] or match["name"]).lower()
        if name in self.names:
            return True
        try:
            address = ipaddress.ip_address(name)
        except ValueError:
            return False
        return address.is_loopback or not self.loopback


def access_for(address: Address, listener: socket.socket, token: str | None) -> Access:
    """Return what requests to a listening socket must present.

    Args:
        address: the address of the command line; its host is an accepted name.
        listener: the listening socket.
        token: the required token. `None` requires none where only this machine can connect, and generates one
            elsewhere.

    Raises:
        ConfigError: the token is too short to be safe, or has characters that a URL must escape.
    """
    loopback = is_loopback(listener)
    if token is None and not loopback:
        token = secrets.token_urlsafe(TOKEN_BYTES)
    if token is not None and (len(token) < MIN_TOKEN_CHARACTERS or not TOKEN.fullmatch(token)):
        # The token itself is a secret, and errors end up in logs.
        raise ConfigError(
            f"received a token of {len(token)} characters; expected {MIN_TOKEN_CHARACTERS} or more letters, digits "
            "and - . _ ~; make one with `python -c 'import secrets; print(secrets.token_urlsafe())'`"
        )
    own = socket.gethostname().lower()
    names = {"localhost"} if loopback else {"localhost", own, f"{own}.local"}
    return Access(token, f"focaledge_{listener.getsockname()[1]}", loopback, frozenset({*names, address.host.lower()}))


def same_origin(origin: str | None, host: str) -> bool:
    """Return whether a request comes from the page itself.

    Args:
        origin: the `Origin` header; only browsers send one.
        host: the `Host` header.
    """
    return origin is None or origin.lower() in (f"http://{host}".lower(), f"https://{host}".lower())


def _equal(received: str, expected: str) -> bool:
    """Compare two secrets in constant time."""
    return hmac.compare_digest(received.encode("utf-8", "surrogatepass"), expected.encode())
