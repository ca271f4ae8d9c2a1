"""Write and read short videos."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray


def read_video(path: Path) -> list[NDArray[np.uint8]]:
    capture = cv2.VideoCapture(str(path))
    frames: list[NDArray[np.uint8]] = []
    while True:
        received, frame = capture.read()
        if not received:
            return frames
        frames.append(np.asarray(frame, dtype=np.uint8))


def write_clip(path: Path, count: int) -> None:
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 20.0, (64, 48))
    for index in range(count):
        frame = np.zeros((48, 64, 3), np.uint8)
        frame[:, : index % 64 + 1] = (40, 90, 240)
        writer.write(frame)
    writer.release()
