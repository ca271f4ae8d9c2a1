"""The parity measures: one file each, and one row each in `MEASURES`."""

from __future__ import annotations

from runtime.parity.measure import Measure
from runtime.parity.measures.accuracy import measure_accuracy, measure_classes, measure_confusion
from runtime.parity.measures.calibration_leak import measure_calibration_leak
from runtime.parity.measures.corruptions import measure_corruptions
from runtime.parity.measures.cost import measure_cost
from runtime.parity.measures.disagreements import measure_disagreements
from runtime.parity.measures.energy import measure_energy
from runtime.parity.measures.layer_error import measure_layer_error
from runtime.parity.measures.map_similarity import measure_map_similarity
from runtime.parity.measures.peak_throughput import measure_peak_throughput

MEASURES = (
    Measure("accuracy", measure_accuracy),
    Measure("classes", measure_classes),
    Measure("confusion", measure_confusion),
    Measure("disagreements", measure_disagreements),
    Measure("map_similarity", measure_map_similarity),
    Measure("corruptions", measure_corruptions),
    Measure("layer_error", measure_layer_error),
    Measure("cost", measure_cost),
    Measure("energy", measure_energy),
    Measure("peak_throughput", measure_peak_throughput, needs=("cost",)),
    Measure("calibration_leak", measure_calibration_leak),
)
