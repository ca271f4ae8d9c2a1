"""The audit of artifacts: what each operator computes in, and which of them the CPU delegate takes.

`python -m export.audit --bundle models/edge-nano-cifar10`

The installed interpreter lists them. How its delegate cuts the graph may differ from one version to the next.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import tf_keras

from export.quantize.schemes import INTERFACE, PRODUCT_OPS, SELECTIVE, Scheme, find_scheme
from runtime.bundle.manifest import Artifact, Audit, Manifest, read_manifest, verified_file
from runtime.core.cli import run_cli
from runtime.core.errors import ArtifactError
from runtime.core.schema import parse
from runtime.engines.tflite_graph import layer_of, read_graph
from train.model.config import FocalNetConfig
from train.model.focalnet import build_focalnet

NAMED_IN_ERRORS = 6
PRODUCTS = ("CONV_2D", "DEPTHWISE_CONV_2D")


@dataclass(frozen=True)
class Operator:
    """One operator of an artifact.

    Attributes:
        name: TFLite's, e.g. `"CONV_2D"`.
        layer: the layer of the network that it computes or helps to, or `schemes.INTERFACE`.
        inputs: types of what it reads, e.g. `("int8",)`; constants, such as weights and axes, are left out.
        outputs: types of what it gives.
        partition: number of the delegate's partition that it is in, or `None` outside the delegate.
        weights: type of a product's kernel.
    """

    name: str
    layer: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    partition: int | None
    weights: str | None = None

    @property
    def dtype(self) -> str:
        """The types in short: `"int8"`, or `"int8 -> float32"` where what it gives differs from what it reads."""
        before, after = ("/".join(dict.fromkeys(types)) for types in (self.inputs, self.outputs))
        dtype = after if before in ("", after) else f"{before} -> {after}"
        return dtype if self.weights in (None, before) else f"{dtype}, {self.weights} weights"

    @property
    def is_float(self) -> bool:
        """Whether it reads or gives a float tensor, as conversions between int8 and float do too."""
        return "float" in self.dtype


@dataclass(frozen=True)
class Listing:
    """An artifact, operator by operator; `interpreter` is the one that cut it into `partitions`."""

    interpreter: str
    partitions: int
    operators: tuple[Operator, ...]


def layer_names(config: FocalNetConfig) -> list[str]:
    """Return the names of a network's layers, in its order."""
    return [layer.name for layer in build_focalnet(config, tf_keras).layers]


def list_operators(content: bytes, layers: Iterable[str]) -> Listing:
    """List the operators of an artifact in the order of its graph.

    Args:
        content: the .tflite file.
        layers: the names of its network's layers.

    Returns:
        Every operator, with the delegate partition that it is in.

    Raises:
        ArtifactError: it is not a model with one graph, or the interpreter does not list operators.
    """
    graph, known = read_graph(content), frozenset(layers)
    computed = {tensor for node in graph.nodes for tensor in node.outputs} | set(graph.inputs)
    operators = []
    for node in graph.nodes:
        outputs = [graph.tensors[tensor] for tensor in node.outputs]
        operators.append(
            Operator(
                name=node.name,
                layer=layer_of([tensor.name for tensor in outputs], known) or INTERFACE,
                inputs=tuple(graph.tensors[tensor].dtype for tensor in node.inputs if tensor in computed),
                outputs=tuple(tensor.dtype for tensor in outputs),
                partition=node.partition,
                weights=graph.tensors[node.inputs[1]].dtype if node.name in PRODUCTS else None,
            )
        )
    return Listing(graph.interpreter, graph.partitions, tuple(operators))


def summarise(listing: Listing) -> Audit:
    """Return what the manifest carries of an artifact's operators."""
    counts: dict[str, Counter[str]] = {}
    for operator in listing.operators:
        counts.setdefault(operator.name, Counter())[operator.dtype] += 1
    return Audit(
        interpreter=listing.interpreter,
        operators={name: dict(sorted(counts[name].items())) for name in sorted(counts)},
        delegate_partitions=listing.partitions,
        outside_delegate=_by_layer(operator for operator in listing.operators if operator.partition is None),
        float_operators=_by_layer(operator for operator in listing.operators if operator.is_float),
    )


def _by_layer(operators: Iterable[Operator]) -> dict[str, tuple[str, ...]]:
    names: dict[str, list[str]] = {}
    for operator in operators:
        names.setdefault(operator.layer, []).append(operator.name)
    return {layer: tuple(each) for layer, each in names.items()}


def unlisted_float(listing: Listing, scheme: Scheme) -> list[Operator]:
    """Return the float operators that a scheme does not list, in the order of the graph."""
    return [each for each in listing.operators if each.is_float and not scheme.allows_float(each.name, each.layer)]


def check_scheme(listing: Listing, scheme: Scheme) -> None:
    """Hold an int8 artifact to its scheme.

    Args:
        listing: its operators.
        scheme: what it was quantized by.

    Raises:
        ArtifactError: operators are float that the scheme does not list, or int8 that it leaves in float; the
            message names them.
    """
    int8 = [each.layer for each in listing.operators if each.name in PRODUCT_OPS and not each.is_float]
    if strays := [layer for layer in scheme.float_layers if layer in int8]:
        raise ArtifactError(
            f"the int8 artifact computes {', '.join(strays[:NAMED_IN_ERRORS])} in int8, and the scheme {scheme.name!r} "
            "was to leave them in float; make it anew with `make export`"
        )
    unlisted = unlisted_float(listing, scheme)
    if not unlisted:
        return
    shown = ", ".join(f"{each.name} ({each.layer})" for each in unlisted[:NAMED_IN_ERRORS])
    more = f" and {len(unlisted) - NAMED_IN_ERRORS} more" if len(unlisted) > NAMED_IN_ERRORS else ""
    raise ArtifactError(
        f"the int8 artifact computes {shown}{more} in float, and the scheme {scheme.name!r} lists none of them; "
        "give the layers a rule in export/quantize/schemes.py that makes them int8, or add them to its float_ops"
    )


def describe(listing: Listing) -> str:
    """Return an artifact's operators as text: a table of counts, and the float ones by layer."""
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


def _layer_lines(operators: dict[str, tuple[str, ...]]) -> list[str]:
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
    """Print the audit of a bundle's artifacts, and hold the int8 one to the scheme."""
    args = _parser().parse_args(argv)
    manifest = read_manifest(args.bundle)
    layers = layer_names(parse(FocalNetConfig, manifest.config, "config"))
    listings = [
        (artifact, list_operators(verified_file(args.bundle, artifact).read_bytes(), layers))
        for artifact in manifest.artifacts
        if artifact.engine == "tflite"
    ]
    if args.json:
        print(json.dumps([_to_json(artifact, listing) for artifact, listing in listings], indent=2))
    else:
        texts = [f"{args.bundle / artifact.file}: {describe(listing)}" for artifact, listing in listings]
        print("\n\n".join(texts))
    for artifact, listing in listings:
        if artifact.precision == "int8":
            check_scheme(listing, _scheme_of(manifest))
    return 0


def _scheme_of(manifest: Manifest) -> Scheme:
    """Return the scheme that a bundle was made by; bundles of before there were several do not say."""
    if manifest.scheme is None:
        return SELECTIVE
    return find_scheme(manifest.scheme.name).leaving_float(manifest.scheme.float_layers)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m export.audit",
        description="List the operators of a bundle's artifacts: types, delegate partitions, what is float.",
    )
    parser.add_argument("--bundle", type=Path, required=True, help="folder with manifest.json and artifacts")
    parser.add_argument("--json", action="store_true", help="print every operator as JSON")
    return parser


if __name__ == "__main__":
    sys.exit(run_cli(main))
