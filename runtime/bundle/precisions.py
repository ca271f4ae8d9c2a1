"""The float32 and int8 engines of one bundle, between which a running demo switches."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from runtime.bundle.manifest import PRECISIONS, read_manifest, verified_file
from runtime.engines.engine import Engine, open_engine

WARM_UP_RUNS = 5


class Precisions:
    """Both precisions of a bundle for one kind of engine, each opened when first used.

    An open engine keeps running if its file changes. Switching checks the file against the manifest of the start.
    """

    def __init__(self, folder: Path, *, precision: str = "int8", engine: str | None = None, threads: int = 1) -> None:
        """Open one artifact; see `runtime.engines.engine.open_engine`.

        Args:
            folder: the bundle.
            precision: the artifact to begin with.
            engine: what runs them; by default the engine of the manifest's first artifact of `precision`.
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
        """The precisions that the bundle has for this kind of engine."""
        present = {artifact.precision for artifact in self.manifest.artifacts if artifact.engine == self._kind}
        return tuple(precision for precision in PRECISIONS if precision in present)

    def engine(self, precision: str) -> Engine:
        """Return the open engine of a precision."""
        return self._engines[precision]

    def switch_to(self, precision: str) -> None:
        """Check an artifact's file against the manifest, and open it unless it is open.

        Raises:
            ArtifactError: the file does not match the manifest or cannot be opened.
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
