"""Each peer of a tiny network predicts what Keras does."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from export.bench.contender import FloatNetwork
from export.bench.peers.family import Family
from export.bench.peers.registry import FAMILIES
from export.bench.peers.tflite_converter import quantized_pixels
from export.quantize.fake_quant import build_stock
from tests.support.tiny_run import draw_weights, soft_images, spread_logits
from train.model.config import FocalNetConfig
from train.model.fold_norms import fold_weights, folded
from train.model.presets import PRESETS

EDGE = dataclasses.replace(PRESETS["edge-nano"].model, input_size=16, classes=5, dims=(32, 64), depths=(1, 1))
WITH_GELU = dataclasses.replace(EDGE, activation="gelu")


def tiny_network(config: FocalNetConfig) -> FloatNetwork:
    import keras

    from train.model.focalnet import build_focalnet
    from train.model.weights import model_weights

    shapes = {name: tuple(v.shape) for name, v in model_weights(build_focalnet(config, keras)).items()}
    model = build_stock(folded(config), fold_weights(draw_weights(shapes, seed=4), config), "test")
    network = FloatNetwork(model, soft_images(48, seed=1))
    spread_logits(model_weights(model), logits(network, network.representative))
    return network


@pytest.fixture(scope="module")
def edge() -> FloatNetwork:
    return tiny_network(EDGE)


def needs(family: Family) -> None:
    if missing := family.missing():
        pytest.skip(f"{', '.join(missing)} not installed: the extra `bench`")


def logits(network: FloatNetwork, images: NDArray[np.uint8]) -> NDArray[np.float32]:
    return np.asarray(network.model.predict_on_batch(images.astype(np.float32)))


def run_all(classifier: Any, images: NDArray[np.uint8]) -> NDArray[np.float32]:
    return np.stack([classifier.run(image[np.newaxis]) for image in images])


def least_sqnr_db(name: str) -> float:
    """Lower limit for a sound peer; random weights and a scaled head make int8 coarse here."""
    if "int8" in name:
        return 4
    if "bfloat16" in name or "dynamic" in name:
        return 15
    return 40 if "OpenVINO" in name else 90  # OpenVINO's weights are float16 on disk


@pytest.mark.parametrize("family", FAMILIES.values(), ids=FAMILIES.keys())
def test_a_familys_peers_predict_what_keras_does(family: Family, edge: FloatNetwork, tmp_path: Path) -> None:
    needs(family)
    images = soft_images(60, seed=2)
    expected = logits(edge, images)
    assert len(set(expected.argmax(axis=1).tolist())) == EDGE.classes
    peers = list(family.make(edge, tmp_path))
    assert tuple(peer.name for peer in peers) == family.peers
    for peer in peers:
        found = run_all(peer.open(1), images)
        assert (found.dtype, found.shape) == (np.float32, expected.shape)
        sqnr_db = 10 * np.log10((expected**2).sum() / ((found - expected) ** 2).sum())
        assert sqnr_db > least_sqnr_db(peer.name), peer.name
        # Chance would be 0.2.
        assert (found.argmax(axis=1) == expected.argmax(axis=1)).mean() > 0.65, peer.name
        assert peer.size_bytes == sum(path.stat().st_size for path in peer.files) > 1000
        np.testing.assert_array_equal(run_all(peer.open(2), images[:5]).argmax(axis=1), found[:5].argmax(axis=1))


def test_gelu_is_rewritten_for_tf2onnx(tmp_path: Path) -> None:
    family = FAMILIES["ONNX Runtime"]
    needs(family)
    network, images = tiny_network(WITH_GELU), soft_images(8, seed=2)
    peer = next(family.make(network, tmp_path))
    assert "erf" in peer.what
    np.testing.assert_allclose(run_all(peer.open(1), images), logits(network, images), rtol=0, atol=1e-4)


def test_peers_get_stock_keras_layers(edge: FloatNetwork) -> None:
    import tf_keras

    norms = [layer for layer in edge.model.layers if layer.name.endswith(".norm1")]
    assert norms
    assert all(type(layer) is tf_keras.layers.LayerNormalization for layer in norms)


@pytest.mark.parametrize(
    ("dtype", "scale", "zero_point", "expected"),
    [
        (np.float32, 0.0, 0, None),
        (np.uint8, 1.0, 0, None),
        (np.int8, 1.0, -128, [-128, -127, -1, 127]),
        (np.uint8, 2.0, 10, [10, 10, 74, 138]),
        (np.int8, 0.5, -128, [-128, -126, 126, 127]),
    ],
)
def test_pixels_become_quantized_inputs(dtype: type, scale: float, zero_point: int, expected: list[int] | None) -> None:
    values = quantized_pixels({"dtype": dtype, "quantization": (scale, zero_point)})
    if expected is None:
        assert values is None
    else:
        assert values is not None
        assert values.dtype == dtype
        assert values[[0, 1, 127, 255]].tolist() == expected
