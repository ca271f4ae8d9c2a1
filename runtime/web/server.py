"""The HTTP server of the web view: the files of one page, and a WebSocket for a limited number of viewers.

Viewers request each image, so a slow one delays nobody. No request names a path on disk: the page's files are read
once, when the server starts.
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
from runtime.web.latest_image import LatestImage
from runtime.web.limits import (
    CLOSE_S,
    COMMANDS_PER_S,
    MAX_FIELD_BYTES,
    MAX_HEADERS,
    MAX_LINE_BYTES,
    MAX_MESSAGE_BYTES,
    MAX_REQUESTED,
    MESSAGES_PER_S,
    Limits,
    RateLimit,
)
from runtime.web.messages import NEXT, checked_command, error_message, read_message

PAGE = Path(__file__).with_name("page")
CONTENT_TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
# The files of the page that asks for the token.
PUBLIC = frozenset({"/page.css", "/icon.svg"})

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Viewer:
    """One open page: its WebSocket, its rate limits and how many images it has requested."""

    def __init__(self, ws: web.WebSocketResponse, transport: asyncio.Transport, now_s: float) -> None:
        """Start without requested images."""
        self.ws = ws
        self.transport = transport
        self.commands = RateLimit(COMMANDS_PER_S, now_s)
        self.messages = RateLimit(MESSAGES_PER_S, now_s)
        self._requested = 0
        self._has_requests = asyncio.Event()

    def request_image(self) -> None:
        """Count a requested image, up to `MAX_REQUESTED`."""
        self._requested = min(self._requested + 1, MAX_REQUESTED)
        self._has_requests.set()

    async def send(self, latest: LatestImage) -> None:
        """Send the latest image for each request, until cancelled or disconnected."""
        number = 0
        with suppress(ConnectionError):
            while True:
                await self._has_requests.wait()
                image = await latest.after(number)
                number = image.number
                self._requested -= 1
                if not self._requested:
                    self._has_requests.clear()
                await self.ws.send_str(image.status)
                await self.ws.send_bytes(image.jpeg)


class Server:
    """The server of one web view."""

    def __init__(self, latest: LatestImage, controls: Controls, access: Access, limits: Limits) -> None:
        """Show `latest` to viewers that `access` admits, and pass their commands to `controls`."""
        self._latest = latest
        self._controls = controls
        self._access = access
        self._limits = limits
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
            ready: called when the server accepts requests.
            stop: ends the server; it must be set on the server's event loop.
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
            keepalive_timeout=self._limits.request_s,
            lingering_time=CLOSE_S,
            max_line_size=MAX_LINE_BYTES,
            max_field_size=MAX_FIELD_BYTES,
            max_headers=MAX_HEADERS,
        )
        await runner.setup()
        encoder = asyncio.create_task(self._latest.encode())
        accepting = await loop.create_server(lambda: self._connection(runner.server), sock=listener)
        stopping = asyncio.create_task(stop.wait())
        ready()
        try:
            # The encoder ends only with an error, which is raised here.
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

    def _connection(self, server: web.Server | None) -> asyncio.BaseProtocol:
        """Accept a new connection, or refuse it if there are too many."""
        return server() if server and len(server.connections) < self._limits.connections else Refusal()

    async def _close_viewers(self) -> None:
        """Close each viewer, and abort the connections that do not close in time."""
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
        """Reject requests that are not admitted, and add the security headers to every response."""
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
            return _short(403, "the host name is not one of this machine; open the page by its IP address")
        if not same_origin(request.headers.get("Origin"), request.host):
            return _short(403, "requests from other pages are not accepted")
        admitted = self._access.admits(request.query.get("token"), request.cookies.get(self._access.cookie_name))
        if not admitted and request.path not in PUBLIC:
            response = _copied(self._files["token.html"])
            response.set_status(401)
            return response
        return None

    async def _page(self, request: web.Request) -> web.StreamResponse:
        response = _copied(self._files["index.html"])
        if self._access.token is not None and "token" in request.query:
            # No redirection: a link opened from another site would lose the strict cookie on the way.
            response.set_cookie(self._access.cookie_name, self._access.cookie, httponly=True, samesite="Strict")
        return response

    async def _file(self, request: web.Request) -> web.StreamResponse:
        file = self._files.get(request.match_info["name"])
        return _copied(file) if file else _short(404, "page not found")

    async def _view(self, request: web.Request) -> web.StreamResponse:
        ws = web.WebSocketResponse(
            heartbeat=self._limits.heartbeat_s, max_msg_size=MAX_MESSAGE_BYTES, compress=False, timeout=CLOSE_S
        )
        if not ws.can_prepare(request):
            return _short(400, "expected a WebSocket")
        await ws.prepare(request)
        transport = request.transport
        if transport is None:
            return ws
        if len(self._viewers) >= self._limits.viewers:
            # A page cannot see the status of a refused WebSocket, but it can see the reason of a closed one.
            message = f"the limit of {self._limits.viewers} viewers is reached"
            await ws.close(code=WSCloseCode.TRY_AGAIN_LATER, message=message.encode())
            return ws
        viewer = Viewer(ws, transport, asyncio.get_running_loop().time())
        await self._serve(viewer)
        return ws

    async def _serve(self, viewer: Viewer) -> None:
        self._viewers.add(viewer)
        self._latest.viewers += 1
        sender = asyncio.create_task(viewer.send(self._latest))
        try:
            async for message in viewer.ws:
                await self._receive(viewer, message)
        finally:
            self._viewers.discard(viewer)
            self._latest.viewers -= 1
            sender.cancel()
            await asyncio.gather(sender, return_exceptions=True)
            if viewer.ws.close_code == WSCloseCode.ABNORMAL_CLOSURE:
                # Unread data would keep the connection open.
                viewer.transport.abort()

    async def _receive(self, viewer: Viewer, message: WSMessage) -> None:
        now_s = asyncio.get_running_loop().time()
        if not viewer.messages.allows(now_s):
            await viewer.ws.close(code=WSCloseCode.POLICY_VIOLATION, message=b"too many messages")
            return
        try:
            action, value = read_message(message.data if message.type == WSMsgType.TEXT else "bytes")
            if action == NEXT:
                viewer.request_image()
                return
            if not viewer.commands.allows(now_s):
                raise ConfigError(f"too many commands; send {COMMANDS_PER_S:g} a second at most")
            self._controls.put(checked_command(action, value, self._latest.status))
        except ConfigError as error:
            with suppress(ConnectionError):
                await viewer.ws.send_str(error_message(error))


class Refusal(asyncio.Protocol):
    """Abort a connection at once."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Abort it."""
        if isinstance(transport, asyncio.Transport):
            transport.abort()


def _logger() -> logging.Logger:
    """Return a logger of our own errors; malformed requests are not logged, as they could fill a disk."""
    logger = logging.Logger("web view")
    logger.addFilter(lambda record: not (record.exc_info and isinstance(record.exc_info[1], HttpProcessingError)))
    return logger


def _headers(host: str) -> dict[str, str]:
    # For older browsers, 'self' does not include the page's own WebSockets. Unsafe host names are not repeated.
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
    """Return a copy of a response: each response can be sent once."""
    return web.Response(body=file.body, content_type=file.content_type, charset=file.charset)


def _short(status: int, text: str) -> web.Response:
    return web.Response(status=status, text=f"{text}\n")
