"""The artifacts of one bundle that a running demo switches between, each opened when it is first asked for."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from runtime.bundle.manifest import PRECISIONS, read_manifest, verified_file
from runtime.engines.engine import Engine, open_engine

WARM_UP_RUNS = 5


class Artifacts:
    """Both precisions of a bundle for one kind of engine.

    An open engine goes on, whatever becomes of its file; but whoever switches to an artifact gets the one that
    the manifest described when the bundle was opened, or an error.
    """

    def __init__(self, folder: Path, *, precision: str = "int8", engine: str | None = None, threads: int = 1) -> None:
        """Open one artifact; see `runtime.engines.engine.open_engine`.

        Args:
            folder: the bundle.
            precision: which artifact to begin with.
            engine: what runs them; by default what the manifest names first for `precision`.
            threads: CPU threads, 1 or more.

        Raises:
            FocalEdgeError: the bundle or this artifact cannot be used.
        """
        self.manifest = read_manifest(folder)
        self._folder = folder
        self._threads = threads
        first = _warm(open_engine(folder, precision=precision, engine=engine, threads=threads))
        self._kind = first.kind
        self._engines = {precision: first}

    @property
    def precisions(self) -> tuple[str, ...]:
        """The precisions there are for this kind of engine."""
        there = {artifact.precision for artifact in self.manifest.artifacts if artifact.engine == self._kind}
        return tuple(precision for precision in PRECISIONS if precision in there)

    def engine(self, precision: str) -> Engine:
        """Return the engine of an artifact that was switched to."""
        return self._engines[precision]

    def switch_to(self, precision: str) -> None:
        """Check an artifact's file against the manifest of the beginning, and open it unless it is open.

        Raises:
            ArtifactError: the file is not the one that the manifest described, or cannot be opened.
        """
        verified_file(self._folder, self.manifest.artifact(precision, self._kind))
        if precision not in self._engines:
            opened = open_engine(self._folder, precision=precision, engine=self._kind, threads=self._threads)
            self._engines[precision] = _warm(opened)


def _warm(engine: Engine) -> Engine:
    """Run a black image a few times: first runs allocate memory and pack weights."""
    side = engine.input_spec.size
    black = np.zeros((1, side, side, 3), dtype=np.uint8)
    for _ in range(WARM_UP_RUNS):
        engine.run(black)
    return engine
