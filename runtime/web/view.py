"""Opens a web view: a server in a thread of its own, and the two things that the demo needs of it."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import closing, contextmanager, suppress
from socket import socket

from runtime.core.errors import ConfigError
from runtime.demo.controls import Controls
from runtime.demo.status import Status
from runtime.images.preprocess import Image
from runtime.web.access import Access, access_for
from runtime.web.address import listen, page_url, parse_address
from runtime.web.latest_image import Newest

JOIN_S = 5.0


class View:
    """An open web view.

    Attributes:
        url: what to open in a browser, with the token if one is asked for.
    """

    def __init__(self, url: str, newest: Newest) -> None:
        """Show `newest` at `url`."""
        self.url = url
        self._newest = newest

    def publish(self, panel: Image, status: Status) -> None:
        """Show a panel in place of the one before; never waits for a viewer.

        Args:
            panel: uint8 `[h, w, 3]` RGB; it may be drawn on again after the call.
            status: what is said about it.

        Raises:
            DataError: the panel has another shape or dtype.
        """
        self._newest.publish(panel, status)


@contextmanager
def serve_view(address: str, controls: Controls, *, token: str | None = None) -> Iterator[View]:
    """Serve a web view for the length of a `with` block.

    Args:
        address: "[HOST:]PORT"; HOST is 127.0.0.1 unless given, an IPv6 address stands in brackets, and port 0 takes
            a free one.
        controls: take what viewers wish for.
        token: what a viewer must show, 16 characters or more. None asks for nothing on an address that this machine
            alone can reach, and makes one for any other.

    Yields:
        The view; its `url` has the token.

    Raises:
        ConfigError: the address or token cannot be used, or aiohttp is not installed.
    """
    place = parse_address(address)
    # Found missing before anything is opened.
    _require_aiohttp()
    with closing(listen(place)) as listener:
        access = access_for(place, listener, token)
        loop = asyncio.new_event_loop()
        newest = Newest(loop)
        stop = asyncio.Event()
        ready: Future[None] = Future()
        thread = threading.Thread(
            target=_run, args=(loop, newest, controls, access, listener, ready, stop), name="web view", daemon=True
        )
        thread.start()
        try:
            ready.result()
            yield View(page_url(place, listener, access.token), newest)
        finally:
            # The loop is closed where the server could not start.
            with suppress(RuntimeError):
                loop.call_soon_threadsafe(stop.set)
            thread.join(JOIN_S)


def _run(
    loop: asyncio.AbstractEventLoop,
    newest: Newest,
    controls: Controls,
    access: Access,
    listener: socket,
    ready: Future[None],
    stop: asyncio.Event,
) -> None:
    from runtime.web.server import Server

    with asyncio.Runner(loop_factory=lambda: loop) as runner:
        try:
            runner.run(Server(newest, controls, access).run(listener, lambda: ready.set_result(None), stop))
        except BaseException as error:
            if ready.done():
                raise
            ready.set_exception(error)


def _require_aiohttp() -> None:
    try:
        import aiohttp  # noqa: F401
    except ImportError as error:
        raise ConfigError(
            f"a web view needs aiohttp, which cannot be imported ({error}); run `pip install aiohttp`"
        ) from error
