"""Family: the peers that one tool chain makes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from export.bench.contender import Contender, FloatNetwork


@dataclass(frozen=True)
class Family:
    """Peers of one tool chain.

    Attributes:
        packages: distributions it needs besides those of the extra `export`; imported by `make` alone.
        peers: their names, in the order in which they are made.
        make: takes a float network and an existing folder for files; yields each peer once its files are written.
    """

    packages: tuple[str, ...]
    peers: tuple[str, ...]
    make: Callable[[FloatNetwork, Path], Iterator[Contender]]

    def missing(self) -> list[str]:
        """Return the packages that are not installed."""
        return [package for package in self.packages if package_version(package) is None]


def package_version(package: str) -> str | None:
    """Return the version of a distribution, or `None` if it is not installed."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None
