"""URLs that give no video: each error says what the server did, and none shows a password."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from runtime.core.errors import SourceError
from runtime.video.reachability import GENERAL, why_no_video
from runtime.video.sources import open_source

TIMEOUT_S = 2.0
SECRET = "hunter2"


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@contextmanager
def http_server(status: int, headers: dict[str, str], body: bytes = b"") -> Iterator[int]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        server.server_close()


@contextmanager
def tcp_server(answer: bytes | None, pause_s: float = 0.0) -> Iterator[int]:
    """A server that answers every request alike, byte by byte with pauses, or never."""
    listener = socket.create_server(("127.0.0.1", 0))
    held = []

    def serve(connection: socket.socket) -> None:
        try:
            if answer is None:
                return
            connection.recv(4096)
            for at in range(0, len(answer), 1 if pause_s else len(answer)):
                connection.sendall(answer[at : at + (1 if pause_s else len(answer))])
                time.sleep(pause_s)
            connection.close()
        except OSError:
            pass

    def accept() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            held.append(connection)
            threading.Thread(target=serve, args=(connection,), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    try:
        yield int(listener.getsockname()[1])
    finally:
        listener.close()
        for connection in held:
            connection.close()


def error_of(url: str) -> str:
    with (
        pytest.raises(SourceError) as caught,
        open_source(url, on_skip=pytest.fail, timeout_s=TIMEOUT_S) as source,
    ):
        next(source.frames)
    text = str(caught.value)
    assert SECRET not in text and "close other programs" not in text and "plugged" not in text
    return text


@pytest.mark.parametrize("name", ["clip.mp4", "stream"])
@pytest.mark.parametrize(
    ("status", "expected"),
    [
        (401, "the server answers 401 (Unauthorized); check the user name and the password"),
        (403, "the server answers 403 (Forbidden); ask for access"),
        (404, "the server answers 404 (Not Found); check its path"),
        (410, "the server answers 410 (Gone)"),
        (500, "the server answers 500 (Internal Server Error)"),
        (503, "the server answers 503 (Service Unavailable)"),
        (599, "the server answers 599; check"),
    ],
)
def test_the_status_of_a_server_is_the_message(status: int, expected: str, name: str) -> None:
    with http_server(status, {"WWW-Authenticate": 'Basic realm="cam"'}) as port:
        error = error_of(f"http://someone:{SECRET}@127.0.0.1:{port}/{name}?token={SECRET}")
    assert expected in error and f"http://127.0.0.1:{port}/{name} cannot be opened" in error


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1:{}/a.mp4", "http://127.0.0.1:{}/a", "rtsp://u:hunter2@127.0.0.1:{}/a"]
)
def test_a_refused_connection_is_the_message(url: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    assert f"127.0.0.1:{port} refuses the connection" in error_of(url.format(port))


@pytest.mark.parametrize("url", ["http://no.such.host.invalid/a.mp4", f"rtsp://u:{SECRET}@no.such.host.invalid/a"])
def test_an_unknown_host_is_the_message(url: str) -> None:
    assert "the host no.such.host.invalid is unknown" in error_of(url)


@pytest.mark.parametrize("scheme", ["http", "rtsp"])
def test_a_server_that_never_answers_is_the_message(scheme: str) -> None:
    start_s = time.monotonic()
    with tcp_server(None) as port:
        error = error_of(f"{scheme}://127.0.0.1:{port}/a")
    assert f"127.0.0.1:{port} does not answer within 2 s" in error
    assert time.monotonic() - start_s < 5 * TIMEOUT_S


def test_a_server_that_answers_byte_by_byte_does_not_hold_the_command() -> None:
    start_s = time.monotonic()
    with tcp_server(b"HTTP/1.1 200 OK\r\nX: " + b"x" * 1000, pause_s=0.2) as port:
        text = why_no_video(urlsplit(f"http://127.0.0.1:{port}/a"), 0.5)
    assert "does not answer within 0.5 s" in text
    assert time.monotonic() - start_s < 3


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (b"RTSP/1.0 404 Not Found\r\nCSeq: 1\r\n\r\n", "the server answers 404 (Not Found)"),
        (
            b"RTSP/1.0 401 Unauthorized\r\nWWW-Authenticate: Basic realm=x\r\n\r\n",
            "the server answers 401 (Unauthorized)",
        ),
        (b"RTSP/1.0 \xb2\xb3\xb9 x\r\n\r\n", "does not answer in RTSP"),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "does not answer in RTSP"),
        (b"\x1b[31m\0", "does not answer in RTSP"),
    ],
)
def test_the_status_of_an_rtsp_server_is_the_message(answer: bytes, expected: str) -> None:
    with tcp_server(answer) as port:
        assert expected in error_of(f"rtsp://127.0.0.1:{port}/a")


def test_a_password_that_rtsp_may_accept_is_not_called_wrong() -> None:
    with tcp_server(b"RTSP/1.0 401 Unauthorized\r\n\r\n") as port:
        assert why_no_video(urlsplit(f"rtsp://u:{SECRET}@127.0.0.1:{port}/a"), 1.0) == GENERAL


def test_a_page_is_not_a_video() -> None:
    with http_server(200, {"Content-Type": "text/html; charset=x"}, b"<html>" * 100) as port:
        assert "the server answers with text/html, not with video" in error_of(f"http://127.0.0.1:{port}/")


def test_a_server_of_another_protocol_is_the_message() -> None:
    with tcp_server(b"220 mail ready\r\n") as port:
        assert "does not answer in HTTP" in error_of(f"http://127.0.0.1:{port}/a")


@pytest.mark.parametrize("name", ["clip.avi"])
def test_a_transfer_that_breaks_off_is_no_success(name: str, tmp_path: Path) -> None:
    from tests.support.clips import write_clip

    write_clip(tmp_path / name, 60)
    content = (tmp_path / name).read_bytes()
    with (
        http_server(200, {"Content-Type": "video/x-msvideo"}, content) as port,
        open_source(f"http://127.0.0.1:{port}/{name}", on_skip=pytest.fail, timeout_s=TIMEOUT_S) as source,
    ):
        assert len(list(source.frames)) == 60
        assert source.video is not None and source.video.extent.frames == 60
    with (
        http_server(200, {}, content[: len(content) // 2]) as port,
        pytest.raises(SourceError, match=r"is damaged: \d+ of 60 frames were read"),
        open_source(f"http://127.0.0.1:{port}/{name}", on_skip=pytest.fail, timeout_s=TIMEOUT_S) as source,
    ):
        list(source.frames)


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("http://[::1", "is not a URL (Invalid IPv6 URL)"),
        (f"http://u:{SECRET}@[::1", "http://[::1 is not a URL"),
        (f"rtsp://u:{SECRET}@h:99999/a", "rtsp://h:99999/a is not a URL (Port out of range"),
        ("http://h:x/a", "is not a URL (Port could not be cast"),
        ("http://", "names no host"),
        ("http:///clip.mp4", "names no host"),
        ("foo://bar", "cannot be opened: check the address"),
    ],
)
def test_what_is_no_url_is_one_line(url: str, expected: str) -> None:
    assert expected in error_of(url)
