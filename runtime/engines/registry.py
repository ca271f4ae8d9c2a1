"""Engines by name: the packages that run their artifacts, what installs them, the files they take.

To add an engine: write its module, add its row here and its extra to pyproject.toml.
It imports the standard library only, so that the doctor works without packages.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple


class Interpreter(NamedTuple):
    """A package that runs artifacts.

    Attributes:
        distributions: the names pip may know it by, the usual one first.
        module: the module that has its class.
        attribute: the path of the class in that module.
        quick_import: `False` if the import takes seconds and hundreds of megabytes.
    """

    distributions: tuple[str, ...]
    module: str
    attribute: str
    quick_import: bool = True

    @property
    def package(self) -> str:
        """The top-level module."""
        return self.module.partition(".")[0]


class EngineKind(NamedTuple):
    """A kind of engine.

    Attributes:
        title: its name for people.
        interpreters: the packages that run its artifacts; the first one installed is used.
        extra: the extra of this project that installs the first interpreter.
        files: the artifact's file name by precision.
        opener: `module:class` of its `runtime.engines.engine.Engine`.
    """

    title: str
    interpreters: tuple[Interpreter, ...]
    extra: str
    files: Mapping[str, str]
    opener: str

    @property
    def install(self) -> str:
        """What pip installs to run its artifacts."""
        return self.interpreters[0].distributions[0]


ENGINES: Mapping[str, EngineKind] = {
    "tflite": EngineKind(
        title="TFLite",
        interpreters=(
            Interpreter(("ai-edge-litert", "ai-edge-litert-nightly"), "ai_edge_litert.interpreter", "Interpreter"),
            Interpreter(("tflite-runtime", "tflite-runtime-nightly"), "tflite_runtime.interpreter", "Interpreter"),
            Interpreter(
                ("tensorflow", "tensorflow-cpu", "tensorflow-cpu-aws", "tf-nightly"),
                "tensorflow",
                "lite.Interpreter",
                quick_import=False,
            ),
        ),
        extra="runtime",
        files={"float32": "float.tflite", "int8": "int8.tflite"},
        opener="runtime.engines.tflite:TFLiteEngine",
    ),
    "ort": EngineKind(
        title="ONNX Runtime",
        interpreters=(
            Interpreter(("onnxruntime", "onnxruntime-gpu", "onnxruntime-openvino"), "onnxruntime", "InferenceSession"),
        ),
        extra="ort",
        files={"float32": "float.onnx", "int8": "int8.onnx"},
        opener="runtime.engines.onnx_runtime:OnnxRuntimeEngine",
    ),
}
INTERPRETERS = tuple(interpreter for kind in ENGINES.values() for interpreter in kind.interpreters)


def interpreter_versions() -> dict[str, str]:
    """Return the version of each installed interpreter by its top-level module, without importing it."""
    # Imported here: opening an artifact does not need package metadata, and starts faster without it.
    from runtime.core.machine import installed_version

    found = {each.package: installed_version(each.package, each.distributions) for each in INTERPRETERS}
    return {package: version for package, version in found.items() if version}
