"""The newest panel, from the thread that draws panels to the viewers, made a JPEG only when one of them asks for it."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass

import cv2
import numpy as np

from runtime.core.errors import DataError
from runtime.demo.status import Status
from runtime.images.preprocess import Image
from runtime.web.messages import status_message

JPEG_QUALITY = 88
# The most that a JPEG can be.
MAX_SIDE_PX = 65500
# Eyes need no more, and a small CPU has better things to do than to encode.
MAX_IMAGES_PER_S = 30.0


@dataclass(frozen=True)
class Panel:
    """A panel that was published, the `number`th, as uint8 `[h, w, 3]` RGB, and what is said about it."""

    number: int
    image: Image
    status: Status


@dataclass(frozen=True)
class EncodedImage:
    """A panel as viewers receive it: `status` as JSON, the image as JPEG."""

    number: int
    status: str
    jpeg: bytes


class Newest:
    """Holds one panel: `publish` is for any thread, the rest for the event loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        """Begin without a panel; `loop` is where viewers wait."""
        self._loop = loop
        self._lock = threading.Lock()
        self._panel: Panel | None = None
        self._image: EncodedImage | None = None
        self._coming: asyncio.Future[EncodedImage] = loop.create_future()
        self._look = asyncio.Event()
        self._told = False
        self._waiting = 0
        self.viewers = 0

    @property
    def status(self) -> Status | None:
        """What is said about the newest panel, None before the first."""
        return self._panel.status if self._panel else None

    def publish(self, image: Image, status: Status) -> None:
        """Replace the newest panel; never waits for a viewer.

        Args:
            image: uint8 `[h, w, 3]` RGB; it may be drawn on again after the call.
            status: what is said about it.

        Raises:
            DataError: the panel has another shape or dtype, or no JPEG can be so large.
        """
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or image.size == 0:
            raise DataError(
                f"received a panel of dtype {image.dtype} and shape {image.shape}; expected uint8 [h, w, 3], not empty"
            )
        if max(image.shape) > MAX_SIDE_PX:
            raise DataError(f"received a panel of shape {image.shape}; expected sides of {MAX_SIDE_PX} pixels at most")
        # Nobody sees it: then a copy would be for nothing.
        kept = image.copy() if self.viewers else image
        with self._lock:
            self._panel = Panel(self._panel.number + 1 if self._panel else 1, kept, status)
        if self._waiting and not self._told:
            self._told = True
            # The loop may have been closed since.
            with suppress(RuntimeError):
                self._loop.call_soon_threadsafe(self._look.set)

    async def after(self, number: int) -> EncodedImage:
        """Wait for an image that is newer than the `number`th panel, and return the newest."""
        panel, image = self._panel, self._image
        if panel and image and number < image.number == panel.number:
            return image
        self._waiting += 1
        self._look.set()
        try:
            return await asyncio.shield(self._coming)
        finally:
            self._waiting -= 1

    async def encode(self) -> None:
        """Make an image of the newest panel whenever somebody waits for it, until cancelled."""
        with ThreadPoolExecutor(1, thread_name_prefix="web encoder") as pool:
            while True:
                await self._look.wait()
                self._look.clear()
                self._told = False
                panel, image = self._panel, self._image
                if not self._waiting or panel is None or (image and image.number == panel.number):
                    continue
                start_s = self._loop.time()
                self._image = await self._loop.run_in_executor(pool, encoded, panel)
                self._coming.set_result(self._image)
                self._coming = self._loop.create_future()
                await asyncio.sleep(1.0 / MAX_IMAGES_PER_S - (self._loop.time() - start_s))
                # A panel may have come meanwhile.
                self._look.set()


def encoded(panel: Panel) -> EncodedImage:
    """Make a panel what viewers receive."""
    bgr = cv2.cvtColor(panel.image, cv2.COLOR_RGB2BGR)
    _, jpeg = cv2.imencode(".jpg", bgr, (cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY))
    return EncodedImage(panel.number, status_message(panel.status), jpeg.tobytes())
