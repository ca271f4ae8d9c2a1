"""The web view over real sockets: each request gets its response, and no viewer delays the pipeline."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import socket
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import cv2
import numpy as np
import pytest

import runtime.web.latest_image as latest_image
import runtime.web.server as server
from runtime.core.errors import ConfigError, DataError
from runtime.demo.controls import Command, Controls
from runtime.demo.status import Status
from runtime.images.preprocess import Image
from runtime.web import View, serve_view
from runtime.web.limits import MAX_MESSAGE_BYTES, Limits
from tests.support.web_status import STATUS

TOKEN = "a-token-of-some-length"
WAIT_S = 5.0
SHAPE = (64, 128, 3)
LARGE = (1080, 1920, 3)
OPEN_FILES = "/proc/self/fd"


def painted(value: int, shape: tuple[int, ...] = SHAPE) -> Image:
    """A panel of one grey, which JPEG preserves closely."""
    return np.full(shape, value, np.uint8)


def numbered(number: int) -> Status:
    return replace(STATUS, frames=number, frame=f"sample:{number}")


@pytest.fixture
def controls() -> Controls:
    return Controls()


@pytest.fixture
def view(controls: Controls) -> Iterator[View]:
    with serve_view("0", controls) as opened:
        yield opened


def connect(view: View) -> socket.socket:
    where = urlsplit(view.url)
    return socket.create_connection((where.hostname, where.port), timeout=WAIT_S)


def raw(view: View, request: str | bytes) -> bytes:
    """The response to a raw request, until its header ends or the server closes."""
    with connect(view) as connection:
        connection.sendall(request if isinstance(request, bytes) else request.replace("\n", "\r\n").encode())
        received = b""
        while b"\r\n\r\n" not in received and (chunk := connection.recv(65536)):
            received += chunk
        return received


def status_of(response: bytes) -> int:
    return int(response.split(maxsplit=2)[1])


def get(view: View, path: str = "/", headers: str = "") -> bytes:
    return raw(view, f"GET {path} HTTP/1.1\nHost: {urlsplit(view.url).netloc}\n{headers}\n")


def in_browser(main: Callable[[aiohttp.ClientSession], Coroutine[Any, Any, Any]]) -> Any:
    """Run a client on its own event loop."""

    async def run() -> Any:
        jar = aiohttp.CookieJar(unsafe=True)
        async with aiohttp.ClientSession(cookie_jar=jar) as session:
            return await asyncio.wait_for(main(session), 4 * WAIT_S)

    return asyncio.run(run())


async def next_image(ws: aiohttp.ClientWebSocketResponse) -> tuple[dict[str, Any], Image]:
    await ws.send_json({"action": "next"})
    return await received_image(ws)


async def received_image(ws: aiohttp.ClientWebSocketResponse) -> tuple[dict[str, Any], Image]:
    status = await ws.receive_json(timeout=WAIT_S)
    jpeg = np.frombuffer(await ws.receive_bytes(timeout=WAIT_S), np.uint8)
    image = cv2.imdecode(jpeg, cv2.IMREAD_COLOR)
    assert image is not None
    return status, np.asarray(image, dtype=np.uint8)


@contextmanager
def publishing(view: View, per_s: float = 200.0) -> Iterator[list[float]]:
    """Publish panels from a thread; yields how long each call took, in seconds."""
    stopped = threading.Event()
    took_s: list[float] = []

    def publish() -> None:
        number = 0
        while not stopped.wait(1.0 / per_s):
            number += 1
            panel = painted(number % 256)
            start_s = time.perf_counter()
            view.publish(panel, numbered(number))
            took_s.append(time.perf_counter() - start_s)

    thread = threading.Thread(target=publish)
    thread.start()
    try:
        yield took_s
    finally:
        stopped.set()
        thread.join()


def until(condition: Callable[[], bool], timeout_s: float = WAIT_S) -> bool:
    deadline_s = time.monotonic() + timeout_s
    while time.monotonic() < deadline_s:
        if condition():
            return True
        time.sleep(0.01)
    return condition()


def test_page_and_its_files(view: View) -> None:
    async def main(session: aiohttp.ClientSession) -> None:
        for path, kind, content in (
            ("", "text/html", "<canvas"),
            ("page.js", "text/javascript", "import"),
            ("page.css", "text/css", "--accent"),
            ("icon.svg", "image/svg+xml", "<svg"),
        ):
            async with session.get(view.url + path) as response:
                assert response.status == 200
                assert response.content_type == kind
                assert content in await response.text()
                policy = response.headers["Content-Security-Policy"]
                assert "default-src 'none'" in policy and "script-src 'self';" in policy
                assert "unsafe" not in policy
                assert response.headers["X-Content-Type-Options"] == "nosniff"
                assert response.headers["Referrer-Policy"] == "no-referrer"
        async with session.post(view.url) as response:
            assert response.status == 405

    in_browser(main)


def test_image_and_status_belong_together(view: View) -> None:
    colours = np.zeros(SHAPE, np.uint8)
    colours[:, :64] = (250, 10, 20)

    async def main(session: aiohttp.ClientSession) -> None:
        async with session.ws_connect(view.url + "view") as ws:
            view.publish(colours, numbered(7))
            status, image = await next_image(ws)
            assert status["type"] == "status"
            assert status["frame"] == "sample:7"
            assert status["top5"][0] == ["cat", 0.9]
            assert image.shape == SHAPE
            # OpenCV reads BGR.
            assert np.abs(image[32, 20].astype(int) - (20, 10, 250)).max() < 12
            # Without a newer panel a viewer waits, and does not get the same image again.
            await ws.send_json({"action": "next"})
            with pytest.raises(asyncio.TimeoutError):
                await ws.receive(timeout=0.2)

    in_browser(main)


def test_a_published_panel_may_be_reused(view: View) -> None:
    async def main(session: aiohttp.ClientSession) -> None:
        async with session.ws_connect(view.url + "view") as ws:
            view.publish(painted(1), numbered(1))
            await next_image(ws)
            panel = painted(200)
            view.publish(panel, numbered(2))
            panel[:] = 0
            _, image = await next_image(ws)
            assert image.mean() > 190

    in_browser(main)


def test_a_panel_is_encoded_once_and_only_on_request(view: View, monkeypatch: pytest.MonkeyPatch) -> None:
    encoded: list[int] = []
    encode = latest_image.encoded
    monkeypatch.setattr(latest_image, "encoded", lambda panel: encoded.append(panel.number) or encode(panel))

    async def main(session: aiohttp.ClientSession) -> None:
        for number in range(1, 11):
            view.publish(painted(number), numbered(number))
        async with Viewers(session, view, 5) as viewers:
            view.publish(painted(11), numbered(11))
            await asyncio.sleep(0.1)
            assert encoded == []
            for status, _ in await asyncio.gather(*map(next_image, viewers)):
                assert status["frames"] == 11
            view.publish(painted(12), numbered(12))
            await asyncio.sleep(0.1)
            assert encoded == [11]

    in_browser(main)


class Viewers:
    """A number of open WebSockets."""

    def __init__(self, session: aiohttp.ClientSession, view: View, count: int) -> None:
        self.session, self.view, self.count = session, view, count
        self.viewers: list[aiohttp.ClientWebSocketResponse] = []

    async def __aenter__(self) -> list[aiohttp.ClientWebSocketResponse]:
        connecting = [self.session.ws_connect(self.view.url + "view") for _ in range(self.count)]
        self.viewers = list(await asyncio.gather(*connecting))
        return self.viewers

    async def __aexit__(self, *_: object) -> None:
        await asyncio.gather(*(each.close() for each in self.viewers))


def test_twenty_viewers_get_the_latest_and_publishing_never_waits(view: View) -> None:
    async def watch(ws: aiohttp.ClientWebSocketResponse) -> list[int]:
        return [(await next_image(ws))[0]["frames"] for _ in range(10)]

    async def main(session: aiohttp.ClientSession) -> list[list[int]]:
        async with Viewers(session, view, 20) as viewers:
            return list(await asyncio.gather(*map(watch, viewers)))

    with publishing(view) as took_s:
        every = in_browser(main)
    assert len(every) == 20
    for frames in every:
        assert frames == sorted(set(frames))
        # A viewer sees at most 30 of 200 panels a second.
        assert frames[-1] - frames[0] > 20
    assert np.percentile(took_s, 90) < 0.005


def test_a_slow_viewer_gets_the_latest_and_delays_nobody(view: View) -> None:
    async def main(session: aiohttp.ClientSession) -> None:
        async with Viewers(session, view, 2) as (slow, fast):
            first, _ = await next_image(slow)
            start_s = time.monotonic()
            for _ in range(15):
                before, _ = await next_image(fast)
            assert time.monotonic() - start_s < 2.0
            after, _ = await next_image(slow)
            assert after["frames"] >= before["frames"] > first["frames"] + 15

    with publishing(view):
        in_browser(main)


def test_at_most_two_images_are_requested_ahead(view: View) -> None:
    async def main(session: aiohttp.ClientSession) -> None:
        async with session.ws_connect(view.url + "view") as ws:
            for _ in range(40):
                await ws.send_json({"action": "next"})
            await asyncio.sleep(0.1)
            for number in (1, 2, 3, 4):
                view.publish(painted(number), numbered(number))
                await asyncio.sleep(0.08)
            assert [(await received_image(ws))[0]["frames"] for _ in range(2)] == [1, 2]
            with pytest.raises(asyncio.TimeoutError):
                await ws.receive(timeout=0.1)

    in_browser(main)


def websocket(view: View, headers: str = "") -> socket.socket:
    """A raw WebSocket after the handshake."""
    where = urlsplit(view.url)
    connection = connect(view)
    key = base64.b64encode(os.urandom(16)).decode()
    request = (
        f"GET /view HTTP/1.1\nHost: {where.netloc}\nUpgrade: websocket\nConnection: Upgrade\n"
        f"Sec-WebSocket-Version: 13\nSec-WebSocket-Key: {key}\n{headers}\n"
    )
    connection.sendall(request.replace("\n", "\r\n").encode())
    response = connection.recv(4096)
    assert response.startswith(b"HTTP/1.1 101"), response
    return connection


def frame_of(text: str) -> bytes:
    """A text frame with a mask of zeros."""
    data = text.encode()
    length = bytes([0x80 | len(data)]) if len(data) < 126 else b"\xfe" + len(data).to_bytes(2, "big")
    return b"\x81" + length + bytes(4) + data


@pytest.mark.skipif(not os.path.isdir(OPEN_FILES), reason="this system does not list open files")
def test_a_viewer_that_never_reads_is_dropped(controls: Controls, capfd: pytest.CaptureFixture[str]) -> None:
    noise = np.random.default_rng(0).integers(0, 256, LARGE, dtype=np.uint8)
    with serve_view("0", controls, limits=Limits(heartbeat_s=0.4)) as view, websocket(view) as silent:
        before = len(os.listdir(OPEN_FILES))
        for _ in range(8):
            silent.sendall(frame_of('{"action": "next"}'))
            view.publish(noise, STATUS)
            time.sleep(0.05)
        # The server closes its end, although its data was never read.
        assert until(lambda: len(os.listdir(OPEN_FILES)) < before)
        assert status_of(get(view)) == 200
    assert capfd.readouterr().err == ""


def test_too_many_viewers(controls: Controls) -> None:
    async def main(session: aiohttp.ClientSession) -> None:
        async with Viewers(session, view, 3) as viewers:
            async with session.ws_connect(view.url + "view") as extra:
                assert (await extra.receive(timeout=WAIT_S)).type == aiohttp.WSMsgType.CLOSE
                assert extra.close_code == aiohttp.WSCloseCode.TRY_AGAIN_LATER
            assert (await next_image(viewers[0]))[0]["frames"] == 9
            await viewers[1].close()
            async with session.ws_connect(view.url + "view") as again:
                assert (await next_image(again))[0]["frames"] == 9

    with serve_view("0", controls, limits=Limits(viewers=3)) as view:
        view.publish(painted(9), numbered(9))
        in_browser(main)


def test_idle_connections_are_limited_and_closed(controls: Controls) -> None:
    limits = Limits(connections=8, request_s=0.5)
    with serve_view("0", controls, limits=limits) as view, ExitStack() as stack:
        idle = [stack.enter_context(connect(view)) for _ in range(7)]
        # One connection never completes its request.
        idle[0].sendall(b"GET / HTTP/1.1\r\nX: ")
        idle.append(stack.enter_context(websocket(view)))
        with pytest.raises(ConnectionError):
            if get(view) == b"":
                raise ConnectionResetError
        for each in idle[:7]:
            with pytest.raises(ConnectionError):
                if each.recv(1) == b"":
                    raise ConnectionResetError
        assert status_of(get(view)) == 200
        # The viewer among them stays connected.
        idle[7].sendall(frame_of('{"action": "level", "value": "9"}'))
        assert b"no frame yet" in idle[7].recv(4096)


def test_commands_arrive_and_bad_ones_are_errors(view: View, controls: Controls) -> None:
    view.publish(painted(1), STATUS)

    async def main(session: aiohttp.ClientSession) -> None:
        async with session.ws_connect(view.url + "view") as ws:
            for bad in ("no JSON", '{"action": "quit"}', '{"action": "level", "value": "99"}', "[" * 900):
                await ws.send_str(bad)
                response = await ws.receive_json(timeout=WAIT_S)
                assert response["type"] == "error"
                assert "expected" in response["message"]
            await ws.send_bytes(b'{"action": "level", "value": "1"}')
            assert (await ws.receive_json(timeout=WAIT_S))["type"] == "error"
            assert controls.take() == []
            await ws.send_json({"action": "level", "value": "2"})
            await ws.send_json({"action": "record", "value": "on"})
            # The error about the last message shows that the ones before were read.
            await ws.send_str("{}")
            await ws.receive_json(timeout=WAIT_S)
            assert controls.take() == [Command("level", "2"), Command("record", "on")]

    in_browser(main)


def test_too_many_commands_are_errors_and_too_many_messages_close(view: View, controls: Controls) -> None:
    view.publish(painted(1), STATUS)

    async def main(session: aiohttp.ClientSession) -> None:
        async with session.ws_connect(view.url + "view") as ws:
            for _ in range(40):
                await ws.send_json({"action": "layout", "value": "blend"})
            assert "too many commands" in (await ws.receive_json(timeout=WAIT_S))["message"]
            taken = len(controls.take())
            assert 20 <= taken < 30
            for _ in range(400):
                await ws.send_json({"action": "next"})
            while (message := await ws.receive(timeout=WAIT_S)).type != aiohttp.WSMsgType.CLOSE:
                assert message.type in (aiohttp.WSMsgType.TEXT, aiohttp.WSMsgType.BINARY)
            assert ws.close_code == aiohttp.WSCloseCode.POLICY_VIOLATION

    in_browser(main)


def test_a_large_message_closes_only_its_connection(view: View) -> None:
    view.publish(painted(1), STATUS)

    async def main(session: aiohttp.ClientSession) -> None:
        async with Viewers(session, view, 2) as (large, other):
            await large.send_str("x" * (MAX_MESSAGE_BYTES + 1))
            await large.receive(timeout=WAIT_S)
            assert large.close_code == aiohttp.WSCloseCode.MESSAGE_TOO_BIG
            assert (await next_image(other))[0]["frames"] == 1

    in_browser(main)


@pytest.mark.parametrize(
    "path",
    [
        "/../../etc/passwd", "/..%2f..%2fetc%2fpasswd", "/%2e%2e/%2e%2e/etc/passwd", "//etc/passwd", "/page/index.html",
        "/server.py", "/..%5c..%5cetc%5cpasswd", "/page.js%00.css", "/page.js/", "/./page.js/../../server.py",
        "/....//etc/passwd", "/%252e%252e/etc/passwd",
    ],
)  # fmt: skip
def test_no_path_reaches_the_file_system(view: View, path: str) -> None:
    response = get(view, path)
    assert status_of(response) in (400, 404)
    assert b"root:" not in response and b"aiohttp" not in response.partition(b"\r\n\r\n")[2]


@pytest.mark.parametrize(
    "request_text",
    [
        "GET /{long} HTTP/1.1\nHost: localhost\n\n",
        "GET / HTTP/1.1\nHost: localhost\nX: {long}\n\n",
        "GET / HTTP/1.1\nHost: localhost\n{many}\n",
        "GET / HTTP/1.1\nHost: localhost\nContent-Length: 9999999999\n\n",
        "GET / HTTP/1.1\nHost: localhost\nTransfer-Encoding: chunked\n\nffffffff\n",
        "GET / HTTP/1.1\nHost: localhost\nContent-Length: -1\n\n",
        "NONSENSE\n\n",
        "\x16\x03\x01\x02\x00\x01\n\n",
    ],
)
def test_oversize_and_broken_requests(
    view: View, request_text: str, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    text = request_text.format(long="x" * 20_000, many="".join(f"X{i}: 1\n" for i in range(200)))
    assert status_of(raw(view, text)) in (400, 413, 414, 431)
    assert status_of(get(view)) == 200
    # A network scan must not fill a log.
    assert capfd.readouterr().err == ""
    assert caplog.records == []


def test_our_own_errors_are_logged(
    view: View, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(server, "_copied", lambda file: file.nothing)
    assert status_of(get(view)) == 500
    assert "AttributeError" in capfd.readouterr().err
    monkeypatch.undo()
    assert status_of(get(view)) == 200


@pytest.mark.parametrize("host", ["evil.example", "evil.example:80", "127.0.0.1.nip.example", "192.168.0.9", ""])
def test_wrong_host(view: View, host: str) -> None:
    assert status_of(raw(view, f"GET / HTTP/1.1\nHost: {host}\n\n")) in (400, 403)


def test_no_host_at_all(view: View) -> None:
    assert status_of(raw(view, "GET / HTTP/1.0\n\n")) == 403


@pytest.mark.parametrize("origin", ["http://evil.example", "null", "http://127.0.0.1", "http://localhost:1"])
def test_wrong_origin(view: View, origin: str) -> None:
    key = base64.b64encode(bytes(16)).decode()
    upgrade = f"Upgrade: websocket\nConnection: Upgrade\nSec-WebSocket-Version: 13\nSec-WebSocket-Key: {key}\n"
    assert status_of(get(view, "/view", f"{upgrade}Origin: {origin}\n")) == 403
    own = f"http://{urlsplit(view.url).netloc}"
    assert status_of(get(view, "/view", f"{upgrade}Origin: {own}\n")) == 101


def test_view_accepts_only_websockets(view: View) -> None:
    assert status_of(get(view, "/view")) == 400


def test_token_once_and_then_a_cookie(controls: Controls) -> None:
    with serve_view("0", controls, token=TOKEN) as view:
        assert view.url.endswith(f"/?token={TOKEN}")
        bare = view.url.partition("?")[0]
        view.publish(painted(3), numbered(3))

        async def main(session: aiohttp.ClientSession) -> None:
            async with session.get(bare) as response:
                assert response.status == 401
                assert 'name="token"' in await response.text()
                assert "Set-Cookie" not in response.headers
            with pytest.raises(aiohttp.WSServerHandshakeError):
                await session.ws_connect(bare + "view")
            async with session.get(view.url) as response:
                assert response.status == 200
                cookie = response.headers["Set-Cookie"]
                assert "HttpOnly" in cookie and "SameSite=Strict" in cookie
                assert TOKEN not in cookie
            async with session.get(bare) as response:
                assert response.status == 200
            async with session.ws_connect(bare + "view") as ws:
                assert (await next_image(ws))[0]["frames"] == 3

        in_browser(main)


@pytest.mark.parametrize(
    "path",
    [
        "/", "/?token=", "/?token=wrong", f"/?token={TOKEN[:-1]}", f"/?token={TOKEN}x", f"/?Token={TOKEN}", "/page.js",
        "/view", "/nothing", "/?token=%ff%fe", "/?token=%ED%A0%80", "/index.html",
    ],
)  # fmt: skip
def test_bad_tokens(controls: Controls, path: str) -> None:
    with serve_view("0", controls, token=TOKEN) as view:
        response = get(view, path, "Cookie: focaledge_0=x\n")
        assert status_of(response) == 401
        assert TOKEN.encode() not in response
        assert b"Set-Cookie" not in response


def test_a_token_is_generated_for_other_machines(controls: Controls) -> None:
    with serve_view("0.0.0.0:0", controls) as view:
        url = urlsplit(view.url)
        assert url.query.startswith("token=")
        request = f"GET /{{}} HTTP/1.1\r\nHost: 127.0.0.1:{url.port}\r\n\r\n"
        for query, status in (("", 401), (f"?{url.query}", 200)):
            with socket.create_connection(("127.0.0.1", url.port or 0), timeout=WAIT_S) as connection:
                connection.sendall(request.format(query).encode())
                assert status_of(connection.recv(4096)) == status


def test_port_in_use_is_one_error(view: View, controls: Controls) -> None:
    with (
        pytest.raises(ConfigError, match="in use; stop"),
        serve_view(str(urlsplit(view.url).port), controls),
    ):
        pass


@pytest.mark.parametrize(
    "panel",
    [
        np.zeros((4, 4), np.uint8), np.zeros((4, 4, 4), np.uint8), np.zeros((4, 4, 3), np.float32),
        np.zeros((0, 4, 3), np.uint8), np.zeros((1, 70_000, 3), np.uint8),
    ],
)  # fmt: skip
def test_invalid_panels(view: View, panel: Any) -> None:
    with pytest.raises(DataError, match=r"received a panel.*expected"):
        view.publish(panel, STATUS)


@pytest.mark.parametrize("shape", [(1, 1, 3), (2, 1, 3), (301, 77, 3)])
def test_panels_of_odd_sizes(view: View, shape: tuple[int, ...]) -> None:
    async def main(session: aiohttp.ClientSession) -> None:
        async with session.ws_connect(view.url + "view") as ws:
            view.publish(painted(5, shape)[::-1], STATUS)
            assert (await next_image(ws))[1].shape == shape

    in_browser(main)


def test_ends_promptly_with_viewers_connected(controls: Controls, capfd: pytest.CaptureFixture[str]) -> None:
    threads = threading.active_count()

    async def main(session: aiohttp.ClientSession) -> None:
        opened = serve_view("0", controls)
        view = opened.__enter__()
        async with Viewers(session, view, 4) as viewers:
            with websocket(view), connect(view), publishing(view):
                for each in viewers[:2]:
                    await next_image(each)
                await viewers[2].send_json({"action": "next"})
                closing = [asyncio.create_task(each.receive()) for each in (*viewers[:2], viewers[3])]
                start_s = time.monotonic()
                await asyncio.to_thread(opened.__exit__, None, None, None)
                assert time.monotonic() - start_s < 3.0
                for message in await asyncio.gather(*closing):
                    assert message.type == aiohttp.WSMsgType.CLOSE
                    assert message.data == aiohttp.WSCloseCode.GOING_AWAY
                # The pipeline may publish once more without an error.
                view.publish(painted(1), STATUS)
            with pytest.raises(ConnectionRefusedError):
                connect(view)

    in_browser(main)
    assert until(lambda: threading.active_count() <= threads)
    assert capfd.readouterr().err == ""


def test_a_server_that_cannot_start_raises(controls: Controls, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(server, "PAGE", tmp_path / "nothing")
    with pytest.raises(FileNotFoundError), serve_view("0", controls):
        pass


def test_the_port_is_free_again(controls: Controls) -> None:
    with serve_view("0", controls) as view:
        port = urlsplit(view.url).port
        assert status_of(get(view)) == 200
    with serve_view(str(port), controls) as view:
        assert status_of(get(view)) == 200


def test_an_error_in_the_block_is_raised(controls: Controls) -> None:
    with pytest.raises(KeyError), serve_view("0", controls):
        raise KeyError


def test_messages_have_the_documented_fields(view: View) -> None:
    view.publish(painted(1), STATUS)

    async def main(session: aiohttp.ClientSession) -> dict[str, Any]:
        async with session.ws_connect(view.url + "view") as ws:
            return (await next_image(ws))[0]

    status = in_browser(main)
    assert json.loads(json.dumps(status)) == status
    assert {
        "latency_p50_ms",
        "latency_p90_ms",
        "frames_per_s",
        "dropped_frames",
        "settings",
        "maps",
        "layouts",
    } <= status.keys()
