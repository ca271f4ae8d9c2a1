"""Registry of peer families, and the loop that makes their peers."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from tqdm import tqdm

from export.bench.contender import Contender, FloatNetwork, NotMeasured
from export.bench.peers import ai_edge_quantizer, openvino_nncf, ort_quantizer, tflite_converter
from export.bench.peers.family import Family

LONGEST_REASON = 300

FAMILIES: dict[str, Family] = {
    "TensorFlow Lite": tflite_converter.FAMILY,
    "ai-edge-quantizer": ai_edge_quantizer.FAMILY,
    "ONNX Runtime": ort_quantizer.FAMILY,
    "OpenVINO": openvino_nncf.FAMILY,
}


def make_peers(
    families: Mapping[str, Family], network: FloatNetwork, folder: Path
) -> tuple[list[Contender], list[NotMeasured]]:
    """Make the peers whose packages are installed.

    Args:
        families: by name.
        network: the float network to convert.
        folder: for the peers' files; it exists.

    Returns:
        The peers, each of which has run once, and the others with the reason.
    """
    made: list[Contender] = []
    not_measured: list[NotMeasured] = []
    total = sum(len(family.peers) for family in families.values())
    with tqdm(total=total, desc="making peers", unit="peer", disable=None) as bar:
        for name, family in families.items():
            bar.set_postfix_str(name)
            if missing := family.missing():
                reason = f"{', '.join(missing)} not installed; run `pip install '.[bench]'`"
            else:
                peers, reason = _make_family(family, network, folder, bar)
                made += peers
            names = {contender.name for contender in made}
            not_measured += [
                NotMeasured(peer, reason, failed=not missing) for peer in family.peers if peer not in names
            ]
    return made, not_measured


def _make_family(family: Family, network: FloatNetwork, folder: Path, bar: tqdm) -> tuple[list[Contender], str]:
    """Make a family's peers; return them with the reason why the rest are missing."""
    made = []
    # Other converters fail with any exception, and one failure must not lose the other families' figures.
    try:
        for peer in family.make(network, folder):
            peer.open(1).run(network.representative[:1])
            made.append(peer)
            bar.update()
    except Exception as error:
        return made, " ".join(f"{type(error).__name__}: {error}".split())[:LONGEST_REASON]
    return made, "its module made no such peer"
