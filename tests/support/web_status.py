"""A status of a running demo, for tests of the web view and the status strip."""

from __future__ import annotations

from runtime.demo.controls import Settings
from runtime.demo.status import Status

STATUS = Status(
    frame="sample:1",
    frames=1,
    dropped_frames=0,
    engine="ai-edge-litert 2.3.0",
    threads=1,
    settings=Settings(),
    maps=("gate, level 1", "gate, level 2", "gate, global", "modulator"),
    precisions=("float32", "int8"),
    top5=(("cat", 0.9), ("dog", 0.06), ("frog", 0.02), ("deer", 0.01), ("ship", 0.005)),
    latency_ms=0.6,
    latency_p50_ms=0.5,
    latency_p90_ms=0.7,
    frames_per_s=100.0,
)
