"""Why the URL of a stream gives no frame: the server's status, a refused connection, an unknown host, a timeout.

Asked after OpenCV has failed, which does not say. Passwords are sent to the server alone and never returned.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable
from http import HTTPStatus
from urllib.parse import SplitResult, unquote

GENERAL = "check the address, the user name and the password, and that it sends video"
_HTTP_PORTS = {"http": 80, "https": 443}
_TCP_PORTS = {"rtsp": 554, "rtsps": 322, "rtmp": 1935, "rtmps": 443, "ftp": 21}
_ADVICE = {401: "check the user name and the password in the URL", 403: "ask for access to it", 404: "check its path"}
_LONGEST_HEADER = 4096


def why_no_video(url: SplitResult, timeout_s: float) -> str:
    """Ask a server why a URL gives no video.

    Args:
        url: of the stream.
        timeout_s: longest wait for the server, in seconds.

    Returns:
        The reason and what to do.
    """
    answers: list[str] = []
    # A server that sends a byte now and then must not hold the command.
    thread = threading.Thread(target=lambda: answers.append(_ask(url, timeout_s)), daemon=True)
    thread.start()
    thread.join(2 * timeout_s)
    return answers[0] if answers else f"{_host(url)} does not answer within {timeout_s:g} s; check the address"


def _host(url: SplitResult) -> str:
    port = url.port or _HTTP_PORTS.get(url.scheme.lower()) or _TCP_PORTS.get(url.scheme.lower())
    return f"{url.hostname}:{port}" if port else str(url.hostname)


def _ask(url: SplitResult, timeout_s: float) -> str:
    asks: dict[str, Callable[[SplitResult, float], str]] = {"http": _http, "https": _http, "rtsp": _rtsp}
    scheme = url.scheme.lower()
    if not url.hostname:
        return "the URL names no host; give one such as http://192.168.1.20/video"
    ask = asks.get(scheme, _tcp if scheme in _TCP_PORTS else None)
    try:
        return (ask and ask(url, timeout_s)) or GENERAL
    except (OSError, UnicodeError) as error:
        return _network_error(url, error, timeout_s)


def _network_error(url: SplitResult, error: BaseException, timeout_s: float) -> str:
    if isinstance(error, socket.gaierror | UnicodeError):
        return f"the host {url.hostname} is unknown; check its name and the network"
    if isinstance(error, ConnectionRefusedError):
        return f"{_host(url)} refuses the connection; check the address, and that the server runs"
    if isinstance(error, TimeoutError):
        return f"{_host(url)} does not answer within {timeout_s:g} s; check the address and the network"
    reason = error.strerror if isinstance(error, OSError) else None
    return f"{_host(url)} cannot be reached ({reason or type(error).__name__}); check the address and the network"


def _status(code: int) -> str:
    try:
        phrase = f" ({HTTPStatus(code).phrase})"
    except ValueError:
        phrase = ""
    return f"the server answers {code}{phrase}; {_ADVICE.get(code, 'check the address, and the server')}"


def _http(url: SplitResult, timeout_s: float) -> str:
    import http.client
    import ssl
    import urllib.error
    import urllib.request as requests

    plain = url._replace(netloc=url.netloc.rpartition("@")[2], fragment="").geturl()
    passwords = requests.HTTPPasswordMgrWithDefaultRealm()
    if url.username is not None:
        passwords.add_password(None, plain, unquote(url.username), unquote(url.password or ""))
    # FFmpeg does not check certificates either: a camera signs its own.
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    opener = requests.build_opener(
        requests.HTTPSHandler(context=context),
        requests.HTTPBasicAuthHandler(passwords),
        requests.HTTPDigestAuthHandler(passwords),
    )
    try:
        with opener.open(plain, timeout=timeout_s) as response:
            kind = response.headers.get_content_type()
    except urllib.error.HTTPError as error:
        error.close()
        return _status(error.code)
    except urllib.error.URLError as error:
        if isinstance(error.reason, OSError):
            raise error.reason from error
        return GENERAL
    except (http.client.HTTPException, ValueError):
        return f"{_host(url)} does not answer in HTTP; check the address"
    if kind.startswith(("text/html", "application/json")):
        return f"the server answers with {kind}, not with video; give the address of the stream itself"
    return ""


def _rtsp(url: SplitResult, timeout_s: float) -> str:
    plain = url._replace(netloc=url.netloc.rpartition("@")[2], fragment="").geturl()
    request = f"DESCRIBE {plain} RTSP/1.0\r\nCSeq: 1\r\nAccept: application/sdp\r\n\r\n"
    with socket.create_connection((url.hostname or "", url.port or _TCP_PORTS["rtsp"]), timeout_s) as server:
        server.settimeout(timeout_s)
        server.sendall(request.encode("ascii", "replace"))
        line = server.recv(_LONGEST_HEADER).split(b"\r\n")[0].split()
    if len(line) < 2 or not line[0].startswith(b"RTSP/") or not (line[1].isdigit() and len(line[1]) == 3):
        return f"{_host(url)} does not answer in RTSP; check the address"
    code = int(line[1])
    if code == HTTPStatus.UNAUTHORIZED and url.username is not None:
        return ""  # the first answer to any request: the password may still be right
    return _status(code) if code >= HTTPStatus.BAD_REQUEST else ""


def _tcp(url: SplitResult, timeout_s: float) -> str:
    port = url.port or _TCP_PORTS[url.scheme.lower()]
    with socket.create_connection((url.hostname or "", port), timeout_s):
        return ""
