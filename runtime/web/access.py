"""Who may use the web view: by which names the machine is called, from which pages, and with which token.

A page from elsewhere that is open in the same browser can send requests here too, and can make its own name mean this
machine (DNS rebinding). So every request must call the machine by a name that is known to be its own, and come from
no other page. Beyond this machine a token is needed as well.
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
# A URL holds them as they are, and so does a command line.
TOKEN = re.compile(r"[A-Za-z0-9._~-]+")
HOST_HEADER = re.compile(r"(?:\[(?P<ipv6>[0-9A-Fa-f:.]+)\]|(?P<name>[A-Za-z0-9._-]+))(?P<port>:\d{1,5})?", re.ASCII)


@dataclass(frozen=True)
class Access:
    """What a request must bring.

    Attributes:
        token: to be shown once, in the URL; None asks for none.
        cookie_name: of the cookie that is given for it.
        loopback: whether this machine alone can connect.
        names: host names of this machine besides its IP addresses, in small letters.
    """

    token: str | None
    cookie_name: str
    loopback: bool
    names: frozenset[str]

    @property
    def cookie(self) -> str:
        """What a browser keeps in place of the token: cookies are shown to every port of a host."""
        return hmac.digest((self.token or "").encode(), b"focaledge web view", "sha256").hex()

    def admits(self, token: str | None, cookie: str | None) -> bool:
        """Whether a request may be answered, by the token of its URL, or else by its cookie."""
        if self.token is None:
            return True
        if token is not None:
            return _equal(token, self.token)
        return cookie is not None and _equal(cookie, self.cookie)

    def knows_host(self, header: str | None) -> bool:
        """Whether a `Host` header calls this machine by a name of its own.

        An IP address cannot be rebound, so each is right where other machines can connect.
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
    """Decide what requests to a listening socket must bring.

    Args:
        address: as it was asked for; its host is a name that the machine may be called by.
        listener: the listening socket.
        token: what to ask for. None asks for nothing where this machine alone can connect, and else makes a token.

    Raises:
        ConfigError: the token is too short to be safe, or has characters that a URL must write in another way.
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
    """Whether a request comes from the page itself.

    Args:
        origin: the `Origin` header; programs that are no browsers send none.
        host: the `Host` header.
    """
    return origin is None or origin.lower() in (f"http://{host}".lower(), f"https://{host}".lower())


def _equal(received: str, expected: str) -> bool:
    """Compare two secrets in a time that does not tell how far they agree."""
    return hmac.compare_digest(received.encode("utf-8", "surrogatepass"), expected.encode())
