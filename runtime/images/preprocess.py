"""Preprocessing: colour order, crop and size of images, the same for training, calibration and camera.

Precisions take uint8 RGB pixels and normalise inside the graph. Crop and size are the network's `InputSpec`, which is
part of its configuration in training and of the bundle's manifest on a device.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from runtime.core.errors import DataError
from runtime.images.antialiased import resize_window
from runtime.images.input_spec import InputSpec

Image = NDArray[np.uint8]


def bgr_to_rgb(frame: Image) -> Image:
    """Convert an OpenCV frame to RGB.

    Args:
        frame: uint8 `[H, W]` or `[H, W, 1]` grey, `[H, W, 3]` BGR or `[H, W, 4]` BGRA, values 0..255.

    Returns:
        uint8 `[H, W, 3]` RGB, values 0..255.

    Raises:
        DataError: the frame is empty, or of another shape or dtype.
    """
    # A capture that fails may return anything.
    frame = np.asarray(frame)
    if frame.dtype != np.uint8 or frame.ndim not in (2, 3) or frame.size == 0:
        raise DataError(
            f"received a frame of dtype {frame.dtype} and shape {frame.shape}; "
            "expected non-empty uint8 [H, W], [H, W, 1], [H, W, 3] or [H, W, 4]"
        )
    channels = 1 if frame.ndim == 2 else frame.shape[2]
    codes = {1: cv2.COLOR_GRAY2RGB, 3: cv2.COLOR_BGR2RGB, 4: cv2.COLOR_BGRA2RGB}
    if channels not in codes:
        raise DataError(f"received a frame with {channels} channels; expected 1, 3 or 4")
    return np.asarray(cv2.cvtColor(frame, codes[channels]), dtype=np.uint8)


def centre_square(image: Image, fraction: float = 1.0) -> Image:
    """Return a centred square of an image, as a view.

    Args:
        image: uint8 `[H, W, C]`.
        fraction: side of the square as a share of the image's short side, above 0, at most 1.

    Returns:
        uint8 `[side, side, C]`.
    """
    height, width = image.shape[:2]
    side = square_side(height, width, fraction)
    top, left = (height - side) // 2, (width - side) // 2
    return image[top : top + side, left : left + side]


def square_side(height: int, width: int, fraction: float) -> int:
    """Return the side, in pixels, of a square that is a fraction (above 0, at most 1) of the short side; 1 or more."""
    return max(1, round(min(height, width) * fraction))


def resize_square(image: Image, spec: InputSpec) -> Image:
    """Crop and resize an image to a square.

    Args:
        image: uint8 `[H, W, 3]`, any colour order.
        spec: crop, size and interpolation.

    Returns:
        uint8 `[size, size, 3]`.
    """
    if spec.interpolation != "area":
        return _resize_antialiased(image, spec)
    square, size = centre_square(image, spec.crop_fraction), spec.size
    if square.shape[0] == size:
        return np.ascontiguousarray(square)
    interpolation = cv2.INTER_AREA if square.shape[0] > size else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(square, (size, size), interpolation=interpolation), dtype=np.uint8)


def _resize_antialiased(image: Image, spec: InputSpec) -> Image:
    height, width = image.shape[:2]
    short, target = min(height, width), spec.resized_short_side
    rows, columns = (int(target * side / short) for side in (height, width))
    # Python's round takes halves to even; torchvision's CenterCrop uses the same function.
    top, left = (round((side - spec.size) / 2) for side in (rows, columns))
    if short == target:
        return np.ascontiguousarray(image[top : top + spec.size, left : left + spec.size])
    return resize_window(image, (rows, columns), (top, left, spec.size, spec.size), spec.interpolation)


def preprocess(image: Image, spec: InputSpec) -> Image:
    """Convert an RGB image to the network's input batch.

    Args:
        image: uint8 `[H, W, 3]` RGB, values 0..255.
        spec: crop, size and interpolation, as in the bundle's manifest.

    Returns:
        uint8 `[1, size, size, 3]` RGB, values 0..255.
    """
    return resize_square(image, spec)[np.newaxis]


def check_input(image: Image, shape: tuple[int, ...]) -> None:
    """Check that an image is uint8 of the network's input shape.

    Args:
        image: the input batch.
        shape: `(1, S, S, 3)`.

    Raises:
        DataError: it has another shape or dtype.
    """
    if image.dtype != np.uint8 or image.shape != shape:
        raise DataError(
            f"received an image of dtype {image.dtype} and shape {list(image.shape)}; expected uint8 "
            f"{list(shape)}: pass it through runtime.images.preprocess.preprocess"
        )
