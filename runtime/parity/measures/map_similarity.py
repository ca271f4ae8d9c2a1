"""Map similarity: each map's similarity over all images, and the images where it is lowest."""

from __future__ import annotations

from typing import Any

import numpy as np

from runtime.evaluation.metrics import Floats, percentile
from runtime.parity.maps import FIGURES
from runtime.parity.measure import Context, Missing

# Uneven, because nearly all similarities of a sound export lie above 0.98.
EDGES = (-1.0, 0.5, 0.8, 0.9, 0.95, 0.98, 0.99, 0.995, 0.999, 1.0)
WORST_IMAGES = 3


def measure_map_similarity(context: Context) -> dict[str, Any] | Missing:
    """Measure `map_similarity`."""
    similarity = context.predictions.similarity
    if similarity is None:
        return Missing("the two have different numbers of maps, so theirs are not comparable")
    names = map_names(similarity.cosine.shape[1])
    figures = dict(zip(FIGURES, similarity.figures, strict=True))
    maps: list[dict[str, Any]] = [
        {"map": name, **{key: _summary(values[:, index]) for key, values in figures.items()}}
        for index, name in enumerate(names)
    ]
    worst = similarity.worst_places(WORST_IMAGES)
    return {
        "edges": list(EDGES),
        "maps": maps,
        **{f"lowest_mean_{key}": min(entry[key]["mean"] for entry in maps) for key in FIGURES},
        "lowest_p5_cosine": min(entry["cosine"]["p5"] for entry in maps),
        "worst": [
            {
                "id": context.ids[image],
                "map": names[level],
                **{key: float(values[image, level]) for key, values in figures.items()},
            }
            for image, level in worst
        ],
    }


def map_names(maps: int) -> list[str]:
    """Name the maps of an overlay layer: focal levels from fine to coarse, global gate, modulator."""
    levels = [f"focal level {level}" for level in range(1, maps - 1)]
    return [*levels, "global gate", "modulator"]


def _summary(values: Floats) -> dict[str, Any]:
    return {
        "mean": float(values.mean()),
        "p5": percentile(values, 5),
        "min": float(values.min()),
        # Rounding may leave a similarity slightly above 1.
        "histogram": np.histogram(np.clip(values, -1.0, 1.0), EDGES)[0].tolist(),
    }
