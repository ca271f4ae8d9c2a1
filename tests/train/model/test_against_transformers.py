"""The chain from a checkpoint to the artifacts, against transformers' own FocalNet on the same images.

Each family of the published networks: short and long range, isotropic, norms after the branches with layer scale,
overlapping patches, and all of these at once. Small, with random weights, norms and biases.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import onnxruntime
import pytest
from numpy.typing import NDArray

from export.onnx import convert as onnx
from export.quantize.fake_quant import build_float
from export.tflite.convert import convert_float
from runtime.engines.tflite import load_interpreter
from train.import_pretrained import import_tensors
from train.model.config import FocalNetConfig
from train.model.focalnet import build_focalnet
from train.model.fold_norms import fold_weights, folded
from train.model.presets import IMAGENET_MEAN, IMAGENET_STD
from train.model.weights import assign_weights, model_weights
from train.pretrained.checkpoint_file import read_checkpoint

torch = pytest.importorskip("torch", reason="transformers' FocalNet needs torch")
transformers = pytest.importorskip("transformers", reason="it is the reference")

SIDE, CLASSES, IMAGES = 64, 7, 4
FAMILIES: dict[str, dict[str, Any]] = {
    "short range": {},
    "long range": {"focal_levels": [3, 3]},
    "isotropic": {"depths": [3], "embed_dim": 32, "focal_levels": [3], "focal_windows": [3], "patch_size": 16},
    "norms after the branches, layer scale": {
        "use_post_layernorm": True,
        "use_layerscale": True,
        "layerscale_value": 0.3,
    },
    "overlapping patches": {"use_conv_embed": True, "focal_windows": [5, 5]},
    "all of the huge network's": {
        "focal_levels": [4, 4],
        "use_conv_embed": True,
        "use_post_layernorm": True,
        "use_post_layernorm_in_modulation": True,
        "use_layerscale": True,
        "layerscale_value": 0.3,
        "normalize_modulator": True,
    },
}
DEFAULTS = {
    "image_size": SIDE,
    "embed_dim": 16,
    "depths": [1, 2],
    "focal_levels": [2, 2],
    "focal_windows": [3, 3],
    "num_labels": CLASSES,
}


def reference(family: str) -> Any:
    """transformers' network, with random norms and biases."""
    torch.manual_seed(0)
    config = transformers.FocalNetConfig(**(DEFAULTS | FAMILIES[family]))
    network = transformers.FocalNetForImageClassification(config).eval()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return network


def described(config: Any) -> FocalNetConfig:
    return FocalNetConfig(
        input_size=SIDE,
        classes=CLASSES,
        patch_size=config.patch_size,
        stem="overlap" if config.use_conv_embed else "patch",
        dims=tuple(config.embed_dim * 2**stage for stage in range(len(config.depths))),
        depths=tuple(config.depths),
        focal_levels=tuple(config.focal_levels),
        focal_windows=tuple(config.focal_windows),
        post_norm=config.use_post_layernorm,
        norm_in_modulation=config.use_post_layernorm_in_modulation,
        normalise_modulator=config.normalize_modulator,
        layer_scale=config.layerscale_value if config.use_layerscale else 0.0,
        mean=IMAGENET_MEAN,
        std=IMAGENET_STD,
    )


def through_tflite(content: bytes, images: NDArray[np.uint8]) -> NDArray[np.float32]:
    _, interpreter_class = load_interpreter()
    interpreter = interpreter_class(model_content=content)
    classify = interpreter.get_signature_runner()
    return np.concatenate([classify(image=image[np.newaxis])["logits"] for image in images])


def through_onnx(content: bytes, images: NDArray[np.uint8]) -> NDArray[np.float32]:
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    return np.concatenate([session.run(["logits"], {"image": image[np.newaxis]})[0] for image in images])


@pytest.mark.parametrize("family", FAMILIES)
def test_a_checkpoint_gives_the_reference_s_logits_here_and_in_both_float_artifacts(
    family: str, tmp_path: Path
) -> None:
    import keras

    network = reference(family)
    network.save_pretrained(tmp_path)
    config = described(network.config)
    weights = import_tensors(read_checkpoint(tmp_path / "model.safetensors").tensors, config, "test").weights
    images = np.random.default_rng(0).integers(0, 256, (IMAGES, SIDE, SIDE, 3), dtype=np.uint8)
    normalised = (images / 255 - np.array(IMAGENET_MEAN)) / np.array(IMAGENET_STD)
    with torch.no_grad():
        expected = network(torch.tensor(normalised.transpose(0, 3, 1, 2), dtype=torch.float32)).logits.numpy()
    assert expected.std() > 0.1

    model = build_focalnet(config, keras)
    assign_weights(model_weights(model), weights, "test")
    found = np.asarray(model(images.astype(np.float32), training=False))
    base = build_float(folded(config), fold_weights(weights, config), "test")
    errors = {
        "keras": np.abs(found - expected).max(),
        "float.tflite": np.abs(through_tflite(convert_float(base, folded(config)), images) - expected).max(),
        "float.onnx": np.abs(through_onnx(onnx.convert_float(base, folded(config), {}), images) - expected).max(),
    }
    print(f"{family}: {', '.join(f'{name} {error:.1e}' for name, error in errors.items())}")
    assert errors["keras"] <= 1e-4
    assert max(errors["float.tflite"], errors["float.onnx"]) <= 1e-3
