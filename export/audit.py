"""Print the operators of a bundle's TFLite artifacts: `python -m export.audit --bundle models/edge-nano-cifar10`.

The installed interpreter lists the operators. The delegate partitions may differ between its versions.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from export.quantize.schemes import SELECTIVE, Scheme, find_scheme
from export.tflite.operators import Listing, check_scheme, layer_names, list_operators, summarise
from runtime.bundle.manifest import Artifact, Manifest, read_manifest, verified_file
from runtime.core.cli import command_parser, run_cli, shared_options
from runtime.core.files import json_text
from runtime.core.schema import parse
from runtime.core.text import printable, printable_lines
from train.model.config import FocalNetConfig


def describe(listing: Listing) -> str:
    """Return an artifact's operators as text: counts, and by layer those outside the delegate and in float."""
    kinds = Counter((each.name, each.dtype) for each in listing.operators)
    outside = Counter((each.name, each.dtype) for each in listing.operators if each.partition is None)
    lines = [
        f"{len(listing.operators)} operators, {sum(outside.values())} outside the delegate; "
        f"delegate partitions: {listing.partitions} ({listing.interpreter})",
        f"{'operator':20} {'dtype':20} {'count':>6} {'delegate':>9} {'outside':>8}",
    ]
    for (name, dtype), count in sorted(kinds.items()):
        left = outside[name, dtype]
        lines.append(f"{name:20} {dtype:20} {count:6} {count - left:9} {left:8}")
    audit = summarise(listing)
    lines += ["", "outside the delegate, by layer:", *_layer_lines(audit.outside_delegate)]
    lines += ["", "float, by layer:", *_layer_lines(audit.float_operators)]
    return "\n".join(lines)


def _layer_lines(operators: Mapping[str, tuple[str, ...]]) -> list[str]:
    return [f"  {layer:26} {' '.join(names)}" for layer, names in operators.items()] or ["  none"]


def _to_json(artifact: Artifact, listing: Listing) -> dict[str, Any]:
    operators = [asdict(operator) | {"is_float": operator.is_float} for operator in listing.operators]
    return {
        "file": artifact.file,
        "precision": artifact.precision,
        "interpreter": listing.interpreter,
        "delegate_partitions": listing.partitions,
        "operators": operators,
    }


def main(argv: Sequence[str] | None = None) -> int:
    """Print the operators of a bundle's artifacts, and check the int8 artifact against the scheme."""
    args = _parser().parse_args(argv)
    manifest = read_manifest(args.bundle)
    layers = layer_names(parse(FocalNetConfig, manifest.config, "config"))
    listings = [
        (artifact, list_operators(verified_file(args.bundle, artifact).read_bytes(), layers))
        for artifact in manifest.artifacts
        if artifact.engine == "tflite"
    ]
    if args.json:
        print(json_text([_to_json(artifact, listing) for artifact, listing in listings]))
    else:
        texts = [
            f"{printable(str(args.bundle / artifact.file))}: {printable_lines(describe(listing))}"
            for artifact, listing in listings
        ]
        print("\n\n".join(texts))
    for artifact, listing in listings:
        if artifact.precision == "int8":
            check_scheme(listing, _scheme_of(manifest))
    return 0


def _scheme_of(manifest: Manifest) -> Scheme:
    """Return the scheme of a bundle; older manifests have none."""
    if manifest.scheme is None:
        return SELECTIVE
    return find_scheme(manifest.scheme.name).leaving_float(manifest.scheme.float_layers)


def _parser() -> argparse.ArgumentParser:
    parser = command_parser(
        "python -m export.audit",
        "List the operators of a bundle's TFLite artifacts: types, delegate partitions, float operators.",
        parents=[shared_options("--json", json="print all operators as JSON")],
    )
    parser.add_argument(
        "--bundle", type=Path, required=True, metavar="FOLDER", help="folder with manifest.json and artifacts"
    )
    return parser


if __name__ == "__main__":
    sys.exit(run_cli(main))
