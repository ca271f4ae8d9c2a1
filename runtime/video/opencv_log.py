"""Silence OpenCV's log: every failure here has its own one-line error."""

from __future__ import annotations

import os

import cv2


def silence_opencv() -> None:
    """Keep OpenCV and its FFmpeg from printing, in this process."""
    # OpenCV 4 and 5 have it in different places; 0 is silent in both.
    set_log_level = getattr(cv2, "setLogLevel", None) or cv2.utils.logging.setLogLevel
    set_log_level(0)
    # FFmpeg prints past OpenCV's log level; -8 is its "quiet".
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
