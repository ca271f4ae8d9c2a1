"""What a user would run instead of this project's artifacts: other converters and other runtimes.

A module of each family makes its peers from a float network, by the family's own stock route, and says in a
sentence what it did. Their packages are those of the extra `bench`; without them a family is left out, by name.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from tqdm import tqdm

from export.bench.contender import Contender, FloatNetwork, NotMeasured

LONGEST_REASON = 300


@dataclass(frozen=True)
class Family:
    """Peers that are made by one tool chain.

    Attributes:
        module: the module of this package that makes them, by `make(network, folder)`.
        packages: the distributions that it needs, besides those of the extra `export`.
        peers: their names, in the order in which they are made.
    """

    module: str
    packages: tuple[str, ...]
    peers: tuple[str, ...]

    def missing(self) -> list[str]:
        """Return the packages that are not installed."""
        return [package for package in self.packages if installed_version(package) is None]

    def make(self, network: FloatNetwork, folder: Path) -> Iterator[Contender]:
        """Make the peers, one by one.

        Args:
            network: what they are made from.
            folder: where their files go; it exists.

        Yields:
            Each peer, once its files are written.
        """
        module = importlib.import_module(f"{__package__}.{self.module}")
        peers: Iterator[Contender] = module.make(network, folder)
        return peers


FAMILIES: tuple[Family, ...] = (
    Family("tflite_converter", (), ("TFLite float", "TFLite dynamic range", "TFLite full int8")),
    Family("ai_edge_quantizer", ("ai-edge-quantizer",), ("ai-edge-quantizer static int8",)),
    Family(
        "ort_quantizer",
        ("onnx", "tf2onnx", "onnxruntime"),
        (
            "ONNX Runtime float",
            "ONNX Runtime int8, by default",
            "ONNX Runtime int8, all operators",
            "ONNX Runtime int8, Conv and MatMul",
        ),
    ),
    Family(
        "openvino_nncf",
        ("openvino", "nncf"),
        (
            "OpenVINO float",
            "OpenVINO float, bfloat16 allowed",
            "OpenVINO NNCF int8",
            "OpenVINO NNCF int8, bfloat16 allowed",
            "OpenVINO NNCF int8 transformer",
            "OpenVINO NNCF int8 transformer, bfloat16 allowed",
        ),
    ),
)


def installed_version(package: str) -> str | None:
    """Return the version of a distribution, or `None` if it is not installed."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def make_peers(
    families: Iterable[Family], network: FloatNetwork, folder: Path
) -> tuple[list[Contender], list[NotMeasured]]:
    """Make the peers whose packages are installed.

    Args:
        families: of peers.
        network: what they are made from.
        folder: where their files go; it exists.

    Returns:
        The peers, each of which has run once; and the others, with the reason.
    """
    made: list[Contender] = []
    not_measured: list[NotMeasured] = []
    families = list(families)
    total = sum(len(family.peers) for family in families)
    with tqdm(total=total, desc="making peers", unit="peer", disable=None) as bar:
        for family in families:
            if missing := family.missing():
                reason = f"{', '.join(missing)} not installed; run `pip install '.[bench]'`"
                not_measured += [NotMeasured(name, reason, failed=False) for name in family.peers]
                continue
            bar.set_postfix_str(family.module)
            peers, reason = _make_family(family, network, folder, bar)
            made += peers
            names = {peer.name for peer in peers}
            not_measured += [NotMeasured(name, reason, failed=True) for name in family.peers if name not in names]
    return made, not_measured


def _make_family(family: Family, network: FloatNetwork, folder: Path, bar: tqdm) -> tuple[list[Contender], str]:
    """Make a family's peers, and say what ended that if they are not all."""
    made = []
    # By what exceptions other people's converters fail is not known, and one must not cost the rest their figures.
    try:
        for peer in family.make(network, folder):
            peer.open(1).run(network.representative[:1])
            made.append(peer)
            bar.update()
    except Exception as error:
        return made, " ".join(f"{type(error).__name__}: {error}".split())[:LONGEST_REASON]
    return made, "its module made no such peer"
