"""The latest panel, handed from the thread that draws to the viewers; encoded as JPEG only on request."""

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
# The limit of the JPEG format.
MAX_SIDE_PX = 65500
# Enough for the eye; a small CPU has better uses for its time.
MAX_IMAGES_PER_S = 30.0


@dataclass(frozen=True)
class Panel:
    """The `number`th published panel, uint8 `[h, w, 3]` RGB, with its status."""

    number: int
    image: Image
    status: Status


@dataclass(frozen=True)
class EncodedImage:
    """A panel as viewers receive it: the status as JSON, the image as JPEG."""

    number: int
    status: str
    jpeg: bytes


class LatestImage:
    """Holds one panel; `publish` may be called from any thread, the rest from the event loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        """Start without a panel; viewers wait on `loop`."""
        self._loop = loop
        self._lock = threading.Lock()
        self._panel: Panel | None = None
        self._image: EncodedImage | None = None
        self._next: asyncio.Future[EncodedImage] = loop.create_future()
        self._wake = asyncio.Event()
        self._waking = False
        self._waiting = 0
        self.viewers = 0

    @property
    def status(self) -> Status | None:
        """Status of the latest panel, `None` before the first."""
        return self._panel.status if self._panel else None

    def publish(self, image: Image, status: Status) -> None:
        """Replace the latest panel; never waits for a viewer.

        Args:
            image: uint8 `[h, w, 3]` RGB; the caller may reuse it after the call.
            status: its status.

        Raises:
            DataError: the panel has another shape or dtype, or is too large for JPEG.
        """
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or image.size == 0:
            raise DataError(
                f"received a panel of dtype {image.dtype} and shape {image.shape}; expected uint8 [h, w, 3], not empty"
            )
        if max(image.shape) > MAX_SIDE_PX:
            raise DataError(f"received a panel of shape {image.shape}; expected sides of {MAX_SIDE_PX} pixels at most")
        # Without viewers the panel is never read, so it needs no copy.
        kept = image.copy() if self.viewers else image
        with self._lock:
            self._panel = Panel(self._panel.number + 1 if self._panel else 1, kept, status)
        if self._waiting and not self._waking:
            self._waking = True
            # The loop may be closed by now.
            with suppress(RuntimeError):
                self._loop.call_soon_threadsafe(self._wake.set)

    async def after(self, number: int) -> EncodedImage:
        """Return the image of the latest panel; wait until it is newer than the `number`th."""
        panel, image = self._panel, self._image
        if panel and image and number < image.number == panel.number:
            return image
        self._waiting += 1
        self._wake.set()
        try:
            return await asyncio.shield(self._next)
        finally:
            self._waiting -= 1

    async def encode(self) -> None:
        """Encode the latest panel whenever a viewer waits for it, until cancelled."""
        with ThreadPoolExecutor(1, thread_name_prefix="web encoder") as pool:
            while True:
                await self._wake.wait()
                self._wake.clear()
                self._waking = False
                panel, image = self._panel, self._image
                if not self._waiting or panel is None or (image and image.number == panel.number):
                    continue
                start_s = self._loop.time()
                self._image = await self._loop.run_in_executor(pool, encoded, panel)
                self._next.set_result(self._image)
                self._next = self._loop.create_future()
                await asyncio.sleep(1.0 / MAX_IMAGES_PER_S - (self._loop.time() - start_s))
                # Another panel may have been published meanwhile.
                self._wake.set()


def encoded(panel: Panel) -> EncodedImage:
    """Encode a panel for viewers."""
    bgr = cv2.cvtColor(panel.image, cv2.COLOR_RGB2BGR)
    _, jpeg = cv2.imencode(".jpg", bgr, (cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY))
    return EncodedImage(panel.number, status_message(panel.status), jpeg.tobytes())
