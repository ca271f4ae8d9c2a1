"""The figures of parity of sight: every map's similarity over images, and where it is worst."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from runtime.evaluation.metrics import Floats, percentile
from runtime.parity.measures.map_similarity import FIGURES, MapSimilarity

# Uneven, because nearly all similarities of a sound export lie above 0.98.
EDGES = (-1.0, 0.5, 0.8, 0.9, 0.95, 0.98, 0.99, 0.995, 0.999, 1.0)
WORST_IMAGES = 3


def map_names(maps: int) -> list[str]:
    """Name the maps of an overlay layer: focal levels from fine to coarse, global gate, modulator."""
    levels = [f"focal level {level}" for level in range(1, maps - 1)]
    return [*levels, "global gate", "modulator"]


def sight_figures(similarity: MapSimilarity, ids: Sequence[str]) -> dict[str, Any]:
    """Return `sight` of report.json.

    Args:
        similarity: of M maps on N images.
        ids: N names.

    Returns:
        The figures; see docs/guides/parity.md.
    """
    names = map_names(similarity.cosine.shape[1])
    maps: list[dict[str, Any]] = [
        {"map": name, **{key: _summary(getattr(similarity, key)[:, index]) for key in FIGURES}}
        for index, name in enumerate(names)
    ]
    return {
        "edges": list(EDGES),
        "maps": maps,
        **{f"lowest_mean_{key}": min(entry[key]["mean"] for entry in maps) for key in FIGURES},
        "lowest_p5_cosine": min(entry["cosine"]["p5"] for entry in maps),
        "worst": [
            {
                "id": ids[image],
                "map": names[level],
                **{key: float(getattr(similarity, key)[image, level]) for key in FIGURES},
            }
            for image, level in worst_places(similarity)
        ],
    }


def _summary(values: Floats) -> dict[str, Any]:
    return {
        "mean": float(values.mean()),
        "p5": percentile(values, 5),
        "min": float(values.min()),
        # Rounding may leave a similarity of 1 a little above it.
        "histogram": np.histogram(np.clip(values, -1.0, 1.0), EDGES)[0].tolist(),
    }


def worst_places(similarity: MapSimilarity, count: int = WORST_IMAGES) -> list[tuple[int, int]]:
    """Return the images with the least similar map by cosine, and which map it is; each image once."""
    lowest = similarity.cosine.argmin(axis=1)
    order = np.argsort(similarity.cosine.min(axis=1), kind="stable")[:count]
    return [(int(image), int(lowest[image])) for image in order]
