"""Open a web view: a server in its own thread that shows the panels of the demo."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass

from runtime.core.errors import ConfigError
from runtime.demo.controls import Controls
from runtime.demo.status import Status
from runtime.images.preprocess import Image
from runtime.web.access import access_for
from runtime.web.address import listen, page_url, parse_address
from runtime.web.latest_image import LatestImage
from runtime.web.limits import Limits

JOIN_S = 5.0


@dataclass(frozen=True)
class View:
    """An open web view.

    Attributes:
        url: the address to open in a browser, with the token if one is required.
        publish: shows a panel, uint8 `[h, w, 3]` RGB, and its status; see `LatestImage.publish`.
    """

    url: str
    publish: Callable[[Image, Status], None]


@contextmanager
def serve_view(
    address: str, controls: Controls, *, token: str | None = None, limits: Limits | None = None
) -> Iterator[View]:
    """Serve a web view for the length of a `with` block.

    Args:
        address: "[HOST:]PORT"; HOST defaults to 127.0.0.1, an IPv6 address is written in brackets, and port 0 takes a
            free one.
        controls: receives the viewers' commands.
        token: what a viewer must present, 16 characters or more. `None` requires nothing on an address that only this
            machine can reach, and generates a token for any other.
        limits: limits of the server, by default `Limits()`.

    Yields:
        The view.

    Raises:
        ConfigError: the address or token cannot be used, or aiohttp is not installed.
    """
    parsed = parse_address(address)
    # Checked before anything is opened.
    _require_aiohttp()
    with closing(listen(parsed)) as listener:
        access = access_for(parsed, listener, token)
        loop = asyncio.new_event_loop()
        latest = LatestImage(loop)
        stop = asyncio.Event()
        ready: Future[None] = Future()

        def serve() -> None:
            from runtime.web.server import Server

            with asyncio.Runner(loop_factory=lambda: loop) as runner:
                try:
                    server = Server(latest, controls, access, limits or Limits())
                    runner.run(server.run(listener, lambda: ready.set_result(None), stop))
                except BaseException as error:
                    if ready.done():
                        raise
                    ready.set_exception(error)

        thread = threading.Thread(target=serve, name="web view", daemon=True)
        thread.start()
        try:
            ready.result()
            yield View(page_url(parsed, listener, access.token), latest.publish)
        finally:
            # The loop is closed already if the server could not start.
            with suppress(RuntimeError):
                loop.call_soon_threadsafe(stop.set)
            thread.join(JOIN_S)


def _require_aiohttp() -> None:
    try:
        import aiohttp  # noqa: F401
    except ImportError as error:
        raise ConfigError(
            f"a web view needs aiohttp, which cannot be imported ({error}); run `pip install aiohttp`"
        ) from error
