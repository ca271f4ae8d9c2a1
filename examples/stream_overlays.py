"""Classify the frames of a camera, video, folder or the built-in clip, and write a video with overlays.

python examples/stream_overlays.py sample overlays.mp4
"""

from __future__ import annotations

import sys
from itertools import islice
from pathlib import Path

from runtime.bundle.manifest import read_manifest
from runtime.draw.overlay import gate_panel
from runtime.engines.engine import open_engine
from runtime.images.preprocess import preprocess
from runtime.video.sources import open_source
from runtime.video.writer import open_output


def main(source: str, output: str, frames: str = "100", bundle: str = "models/edge-nano-cifar10") -> None:
    """Write the first `frames` frames of a source, each with its gates and modulator."""
    engine, labels = open_engine(Path(bundle)), read_manifest(Path(bundle)).labels
    with open_source(source, on_skip=print) as opened, open_output(Path(output)) as write:
        for frame in islice(opened.frames, int(frames)):
            outputs = engine.run(preprocess(frame.image_rgb, engine.input_spec))
            write(gate_panel(frame.image_rgb, outputs, labels), opened.fps or 30.0)


if __name__ == "__main__":
    main(*sys.argv[1:])
