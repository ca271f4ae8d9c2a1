"""Classify an image and show where the network's gates are largest.

python examples/classify_image.py dog.jpg
"""

from __future__ import annotations

import sys

import numpy as np

from runtime.classify import Classifier


def main(path: str, bundle: str = "models/edge-nano-cifar10") -> None:
    """Print the three likeliest classes, and the largest cell of each gate map."""
    result = Classifier(bundle)(path)
    for label, probability in result.top(3):
        print(f"{label:12} {probability:.1%}")
    levels = result.gates.shape[-1] - 1
    for index, name in enumerate([*(f"focal level {level + 1}" for level in range(levels)), "global gate"]):
        gate = result.gates[..., index]
        row, column = np.unravel_index(np.abs(gate).argmax(), gate.shape)
        print(f"{name:13} {gate[row, column]:+.3f} at row {row}, column {column} of {gate.shape[0]}x{gate.shape[1]}")


if __name__ == "__main__":
    main(*sys.argv[1:])
