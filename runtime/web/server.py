"""The HTTP side of the web view: a page of three files and one WebSocket, for a bounded number of viewers.

A viewer asks for each image, so that none waits in line for him and a slow one holds up nobody. No request names a
file: the page is read once, when the server starts.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path

from aiohttp import WSCloseCode, WSMessage, WSMsgType, web
from aiohttp.http_exceptions import HttpProcessingError

from runtime.core.errors import ConfigError
from runtime.demo.controls import Controls
from runtime.web.access import Access, same_origin
from runtime.web.latest_image import Newest
from runtime.web.messages import NEXT, checked_command, error_message, read_message

PAGE = Path(__file__).with_name("page")
CONTENT_TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
# What the page that asks for the token needs.
PUBLIC = frozenset({"/page.css", "/icon.svg"})
MAX_VIEWERS = 32
MAX_CONNECTIONS = 128
MAX_LINE_BYTES = 2048
MAX_FIELD_BYTES = 4096
MAX_HEADERS = 64
MAX_MESSAGE_BYTES = 1024
# Enough to keep images coming while one is on its way.
MAX_ASKED = 2
COMMANDS_PER_S = 10.0
MESSAGES_PER_S = 100.0
# A viewer that does not answer a ping within half of it is dropped.
HEARTBEAT_S = 10.0
# How long a connection may take for a request.
REQUEST_S = 20.0
CLOSE_S = 1.0

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Allowance:
    """How often something may be done: `per_s` in the long run, twice as often at once."""

    def __init__(self, per_s: float, now_s: float) -> None:
        """Begin with all of it."""
        self._per_s = per_s
        self._left = 2 * per_s
        self._at_s = now_s

    def take(self, now_s: float) -> bool:
        """Use it once; return whether there was any left."""
        self._left = min(2 * self._per_s, self._left + (now_s - self._at_s) * self._per_s)
        self._at_s = now_s
        if self._left < 1:
            return False
        self._left -= 1
        return True


class Viewer:
    """One open page: its WebSocket and how many images it has asked for."""

    def __init__(self, ws: web.WebSocketResponse, transport: asyncio.Transport, now_s: float) -> None:
        """Begin with nothing asked for."""
        self.ws = ws
        self.transport = transport
        self.commands = Allowance(COMMANDS_PER_S, now_s)
        self.messages = Allowance(MESSAGES_PER_S, now_s)
        self._asked = 0
        self._asking = asyncio.Event()

    def ask(self) -> None:
        """Count an image that is wanted, but none beyond `MAX_ASKED`."""
        self._asked = min(self._asked + 1, MAX_ASKED)
        self._asking.set()

    async def send(self, newest: Newest) -> None:
        """Send the newest image each time one is asked for, until cancelled or disconnected."""
        number = 0
        with suppress(ConnectionError):
            while True:
                await self._asking.wait()
                image = await newest.after(number)
                number = image.number
                self._asked -= 1
                if not self._asked:
                    self._asking.clear()
                await self.ws.send_str(image.status)
                await self.ws.send_bytes(image.jpeg)


class Server:
    """Answers the requests of one web view."""

    def __init__(self, newest: Newest, controls: Controls, access: Access) -> None:
        """Serve `newest`, and pass commands to `controls`, for those whom `access` admits."""
        self._newest = newest
        self._controls = controls
        self._access = access
        self._viewers: set[Viewer] = set()
        self._files = {
            path.name: web.Response(body=path.read_bytes(), content_type=CONTENT_TYPES[path.suffix], charset="utf-8")
            for path in sorted(PAGE.iterdir())
            if path.suffix in CONTENT_TYPES
        }

    async def run(self, listener: socket.socket, ready: Callable[[], None], stop: asyncio.Event) -> None:
        """Serve until `stop` is set, then close every connection.

        Args:
            listener: a listening socket.
            ready: called when requests are answered.
            stop: ends the server; to be set on its event loop.
        """
        loop = asyncio.get_running_loop()
        app = web.Application(middlewares=[self._guard], client_max_size=MAX_MESSAGE_BYTES)
        app.router.add_get("/", self._page)
        app.router.add_get("/view", self._view)
        app.router.add_get("/{name}", self._file)
        runner = web.AppRunner(
            app,
            handle_signals=False,
            access_log=None,
            logger=_logger(),
            shutdown_timeout=CLOSE_S,
            keepalive_timeout=REQUEST_S,
            lingering_time=CLOSE_S,
            max_line_size=MAX_LINE_BYTES,
            max_field_size=MAX_FIELD_BYTES,
            max_headers=MAX_HEADERS,
        )
        await runner.setup()
        encoder = asyncio.create_task(self._newest.encode())
        accepting = await loop.create_server(lambda: _connection(runner.server), sock=listener)
        stopping = asyncio.create_task(stop.wait())
        ready()
        try:
            # The encoder ends by an error alone, which is then raised here.
            await asyncio.wait((stopping, encoder), return_when=asyncio.FIRST_COMPLETED)
            if encoder.done():
                encoder.result()
        finally:
            accepting.close()
            await self._close_viewers()
            encoder.cancel()
            stopping.cancel()
            await asyncio.gather(encoder, stopping, return_exceptions=True)
            await runner.cleanup()

    async def _close_viewers(self) -> None:
        """Say goodbye to each viewer, and cut off those who do not answer soon."""
        viewers = list(self._viewers)
        closing = [asyncio.create_task(each.ws.close(code=WSCloseCode.GOING_AWAY)) for each in viewers]
        if closing:
            await asyncio.wait(closing, timeout=CLOSE_S)
        for viewer in viewers:
            viewer.transport.abort()
        for task in closing:
            task.cancel()
        await asyncio.gather(*closing, return_exceptions=True)

    @web.middleware
    async def _guard(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Answer only what may be asked, and tell browsers to allow the page nothing but itself."""
        try:
            response = self._refused(request) or await handler(request)
        except web.HTTPException as error:
            response = web.Response(status=error.status, text=error.text, headers=_allowed(error))
        if not response.prepared:
            response.headers.update(_headers(request.host))
        return response

    def _refused(self, request: web.Request) -> web.Response | None:
        if request.body_exists:
            return _short(413, "this page takes no uploads")
        if not self._access.knows_host(request.headers.get("Host")):
            return _short(403, "this machine does not know itself by that name; open it by its address")
        if not same_origin(request.headers.get("Origin"), request.host):
            return _short(403, "requests from other pages are not answered")
        admitted = self._access.admits(request.query.get("token"), request.cookies.get(self._access.cookie_name))
        if not admitted and request.path not in PUBLIC:
            response = _copied(self._files["token.html"])
            response.set_status(401)
            return response
        return None

    async def _page(self, request: web.Request) -> web.StreamResponse:
        response = _copied(self._files["index.html"])
        if self._access.token is not None and "token" in request.query:
            # Not answered with a redirection: a link in a chat would then lose the strict cookie on the way.
            response.set_cookie(self._access.cookie_name, self._access.cookie, httponly=True, samesite="Strict")
        return response

    async def _file(self, request: web.Request) -> web.StreamResponse:
        file = self._files.get(request.match_info["name"])
        return _copied(file) if file else _short(404, "there is no such page")

    async def _view(self, request: web.Request) -> web.StreamResponse:
        ws = web.WebSocketResponse(
            heartbeat=HEARTBEAT_S, max_msg_size=MAX_MESSAGE_BYTES, compress=False, timeout=CLOSE_S
        )
        if not ws.can_prepare(request):
            return _short(400, "expected a WebSocket")
        await ws.prepare(request)
        transport = request.transport
        if transport is None:
            return ws
        if len(self._viewers) >= MAX_VIEWERS:
            # A page cannot see the status of a refused WebSocket, but this it can.
            await ws.close(code=WSCloseCode.TRY_AGAIN_LATER, message=f"{MAX_VIEWERS} viewers already".encode())
            return ws
        viewer = Viewer(ws, transport, asyncio.get_running_loop().time())
        await self._serve(viewer)
        return ws

    async def _serve(self, viewer: Viewer) -> None:
        self._viewers.add(viewer)
        self._newest.viewers += 1
        sender = asyncio.create_task(viewer.send(self._newest))
        try:
            async for message in viewer.ws:
                await self._receive(viewer, message)
        finally:
            self._viewers.discard(viewer)
            self._newest.viewers -= 1
            sender.cancel()
            await asyncio.gather(sender, return_exceptions=True)
            if viewer.ws.close_code == WSCloseCode.ABNORMAL_CLOSURE:
                # What it never read would keep the connection open.
                viewer.transport.abort()

    async def _receive(self, viewer: Viewer, message: WSMessage) -> None:
        now_s = asyncio.get_running_loop().time()
        if not viewer.messages.take(now_s):
            await viewer.ws.close(code=WSCloseCode.POLICY_VIOLATION, message=b"too many messages")
            return
        try:
            action, value = read_message(message.data if message.type == WSMsgType.TEXT else "bytes")
            if action == NEXT:
                viewer.ask()
                return
            if not viewer.commands.take(now_s):
                raise ConfigError(f"too many commands; send {COMMANDS_PER_S:g} a second at most")
            self._controls.put(checked_command(action, value, self._newest.status))
        except ConfigError as error:
            with suppress(ConnectionError):
                await viewer.ws.send_str(error_message(error))


class Refusal(asyncio.Protocol):
    """Ends a connection at once."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Cut it off."""
        if isinstance(transport, asyncio.Transport):
            transport.abort()


def _connection(server: web.Server | None) -> asyncio.BaseProtocol:
    """Take a new connection, or refuse it: those that say nothing must not use up all there can be."""
    return server() if server and len(server.connections) < MAX_CONNECTIONS else Refusal()


def _logger() -> logging.Logger:
    """Return a logger that tells of our own errors, and not of what strangers send: that could fill a disk."""
    logger = logging.Logger("web view")
    logger.addFilter(lambda record: not (record.exc_info and isinstance(record.exc_info[1], HttpProcessingError)))
    return logger


def _headers(host: str) -> dict[str, str]:
    # Older browsers do not count a page's own WebSockets as 'self'. The name of an unknown host is not repeated.
    sockets = f" ws://{host} wss://{host}" if not set(host) & set(" ;,'\"") else ""
    return {
        "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; "
        f"connect-src 'self'{sockets}; base-uri 'none'; form-action 'self'; frame-ancestors 'none'",
        "X-Content-Type-Options": "nosniff",
        "X-Frame-Options": "DENY",
        "Referrer-Policy": "no-referrer",
        "Cross-Origin-Resource-Policy": "same-origin",
        "Cache-Control": "no-store",
    }


def _allowed(error: web.HTTPException) -> dict[str, str]:
    return {"Allow": error.headers["Allow"]} if "Allow" in error.headers else {}


def _copied(file: web.Response) -> web.Response:
    """Return a response that can be sent: each can be sent once."""
    return web.Response(body=file.body, content_type=file.content_type, charset=file.charset)


def _short(status: int, text: str) -> web.Response:
    return web.Response(status=status, text=f"{text}\n")
