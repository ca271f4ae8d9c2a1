"""The fake-quantized network: int8 in the layers of the scheme, over the calibrated ranges."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from export.quantize.fake_quant import build_fake_quant, build_float, fake_quant_weights, settle_weights
from export.quantize.schemes import SELECTIVE, Rule, match_rules
from runtime.core.errors import ArtifactError, ConfigError
from runtime.engines.tflite_graph import QUANTIZED_PREFIX
from tests.support.tiny_run import CONFIG, draw_weights, soft_images
from train.model.config import FocalNetConfig
from train.model.weights import Tensors, model_weights, read_tensors


@pytest.fixture(scope="module")
def weights(tiny_run: Path) -> Tensors:
    return read_tensors(tiny_run / "float.safetensors")


@pytest.fixture(scope="module")
def outputs(tiny_fake_quant: Any) -> dict[str, NDArray[np.float32]]:
    """The input ("name/input") and output ("name") of each quantized layer for 40 images."""
    import tf_keras

    quantized = [layer for layer in tiny_fake_quant.layers if layer.name.startswith(QUANTIZED_PREFIX)]
    tensors = {layer.name.removeprefix(QUANTIZED_PREFIX): layer.output for layer in quantized}
    tensors |= {
        f"{layer.name.removeprefix(QUANTIZED_PREFIX)}/input": layer.input
        for layer in quantized
        if not isinstance(layer.input, list)
    }
    views = tf_keras.Model(tiny_fake_quant.input, tensors)
    return dict(views.predict_on_batch(soft_images(40, seed=9).astype(np.float32)))


def int8_kernel(kernel: NDArray[np.float32]) -> NDArray[np.float64]:
    """Round a kernel to 255 values a channel, symmetric about 0."""
    scale = np.abs(kernel.astype(np.float64)).max(axis=(0, 1, 2)) / 127.0
    return np.asarray(np.round(kernel / scale) * scale)


def test_exactly_the_schemes_layers_are_quantized(tiny_float: Any, tiny_fake_quant: Any) -> None:
    names = {layer.name for layer in tiny_float.layers}
    quantized = {layer.name for layer in tiny_fake_quant.layers if layer.name.startswith(QUANTIZED_PREFIX)}
    assert quantized == {QUANTIZED_PREFIX + name for name in match_rules(SELECTIVE.rules, names)}
    rest = {layer.name for layer in tiny_fake_quant.layers} - quantized
    assert {name for name in rest if not name.startswith("quantize")} == names - {
        name.removeprefix(QUANTIZED_PREFIX) for name in quantized
    }


@pytest.mark.parametrize("name", ["embed.proj", "stage0.block0.query", "stage1.block0.expand", "logits"])
def test_kernels_are_int8_per_channel(
    name: str, tiny_fake_quant: Any, weights: Tensors, outputs: dict[str, NDArray[np.float32]]
) -> None:
    wrapper = tiny_fake_quant.get_layer(QUANTIZED_PREFIX + name)
    wrapper(outputs[f"{name}/input"][:1], training=False)
    used = np.asarray(wrapper.layer.kernel, dtype=np.float64)
    kernel = weights[f"{name}/kernel"]
    scale = np.abs(kernel.astype(np.float64)).max(axis=(0, 1, 2)) / 127.0
    steps = used / scale
    np.testing.assert_allclose(steps, np.round(steps), atol=1e-3)
    assert np.abs(used - kernel).max() > 0
    assert (np.abs(used - kernel) <= 0.501 * scale).all()


@pytest.mark.parametrize("name", ["stage0.block0.query", "stage1.block0.gate1", "stage1.block0.contract"])
def test_a_products_output_equals_numpys(
    name: str,
    weights: Tensors,
    ranges: dict[str, tuple[float, float]],
    outputs: dict[str, NDArray[np.float32]],
) -> None:
    kernel, bias = int8_kernel(weights[f"{name}/kernel"]), weights[f"{name}/bias"]
    low, high = ranges[name]
    step = (high - low) / 255.0
    expected = np.clip(outputs[f"{name}/input"].astype(np.float64) @ kernel[0, 0] + bias, low, high)
    # Half a step of rounding, and up to half a step for the shift that makes 0 a value of the range.
    assert np.abs(outputs[name] - expected).max() <= 1.01 * step


def test_activations_take_256_values_of_their_range(
    ranges: dict[str, tuple[float, float]], outputs: dict[str, NDArray[np.float32]]
) -> None:
    ranges = ranges | {"normalise": (0.0, 1.0)}
    checked = [name for name in outputs if not name.endswith("/input")]
    assert len(checked) > 30
    for name in checked:
        low, high = ranges[name]
        step = (high - low) / 255.0
        values = np.unique(outputs[name])
        assert 1 < len(values) <= 256, name
        assert values[0] >= low - step, name
        assert values[-1] <= high + step, name
        levels = values / step
        np.testing.assert_allclose(levels, np.round(levels), atol=0.02, err_msg=name)


def test_the_residual_stream_is_float(outputs: dict[str, NDArray[np.float32]]) -> None:
    # norm2 reads the sum after the modulation, embed.input that after the MLP.
    for name in ("stage0.block0.norm2/input", "stage1.embed.input/input", "stage1.block0.norm2/input"):
        assert len(np.unique(outputs[name])) > 2000, name


def test_image_values_are_exact(tiny_fake_quant: Any) -> None:
    import tf_keras

    normalise = tf_keras.Model(tiny_fake_quant.input, tiny_fake_quant.get_layer("quant_normalise").output)
    values = np.arange(256, dtype=np.float32)
    image = np.broadcast_to(values.reshape(1, 16, 16, 1), (1, 16, 16, 3))
    np.testing.assert_allclose(normalise.predict_on_batch(image)[0, ..., 1].ravel(), values / 255.0, atol=1e-6)


@pytest.mark.parametrize("std", [0.25])
def test_the_images_range_follows_mean_and_std_not_the_calibration(
    std: float, ranges: dict[str, tuple[float, float]], weights: Tensors
) -> None:
    config = dataclasses.replace(CONFIG, mean=(0.5, 0.4, 0.6), std=(std, std, std))
    model = build_float(config, weights, "test")
    student = build_fake_quant(model, config, ranges | {"normalise": (0.0, 1e-3)}, SELECTIVE)
    quantizer = student.get_layer("quant_normalise").quantize_config
    assert (quantizer.low, quantizer.high) == pytest.approx((-0.6 / std, 0.6 / std))


def test_the_float_network_is_unchanged(tiny_run: Path, tiny_float: Any, tiny_fake_quant: Any) -> None:
    images = soft_images(8, seed=4).astype(np.float32)
    fresh = build_float(CONFIG, read_tensors(tiny_run / "float.safetensors"), "test")
    np.testing.assert_array_equal(tiny_float.predict_on_batch(images), fresh.predict_on_batch(images))
    student = [id(variable) for variable in tiny_fake_quant.variables]
    assert not {id(variable) for variable in tiny_float.variables} & set(student)


def test_predictions_are_nearly_the_float_networks(tiny_float: Any, tiny_fake_quant: Any) -> None:
    images = soft_images(200, seed=4).astype(np.float32)
    exact, quantized = (model.predict_on_batch(images) for model in (tiny_float, tiny_fake_quant))
    assert (exact.argmax(axis=-1) == quantized.argmax(axis=-1)).mean() >= 0.9
    assert 0 < np.abs(exact - quantized).mean() < 0.2 * exact.std()


def test_weights_have_the_float_names(weights: Tensors, tiny_fake_quant: Any) -> None:
    kept = fake_quant_weights(tiny_fake_quant)
    assert set(kept) == set(weights)
    for name, value in weights.items():
        # Biases are rounded to multiples of (input's scale * kernel's scale), a hundredth of an activation's step.
        np.testing.assert_allclose(kept[name], value, atol=1e-3 if name.endswith("/bias") else 0, err_msg=name)


def test_biases_are_int32_values(tiny_fake_quant: Any, ranges: dict[str, tuple[float, float]]) -> None:
    kept = fake_quant_weights(tiny_fake_quant)
    low, high = ranges["head.pool"]
    largest = np.abs(kept["logits/kernel"]).max(axis=(0, 1, 2))
    stored = kept["logits/bias"] / ((high - low) / 255.0 * largest / 127.0)
    assert np.abs(stored).max() > 10
    np.testing.assert_allclose(stored, np.rint(stored), atol=1e-2)


def test_kernel_ranges_follow_the_kernels(tiny_float: Any, ranges: dict[str, tuple[float, float]]) -> None:
    student = build_fake_quant(tiny_float, CONFIG, ranges, SELECTIVE)
    kernel = model_weights(student)["quant_logits/kernel"]
    kernel.assign(10.0 * kernel)
    settle_weights(student)
    wrapper = student.get_layer("quant_logits")
    largest = np.abs(kernel.numpy()).max(axis=(0, 1, 2))
    by_name = {variable.name.split("/")[-1]: variable.numpy() for variable in wrapper.weights}
    np.testing.assert_allclose(by_name["kernel_max:0"], largest, rtol=1e-6)
    np.testing.assert_allclose(by_name["kernel_min:0"], -largest, rtol=1e-6)


def test_a_layer_that_is_always_zero_is_finite(tiny_float: Any, ranges: dict[str, tuple[float, float]]) -> None:
    name = "stage1.block0.gate1"
    student = build_fake_quant(tiny_float, CONFIG, ranges | {name: (0.0, 0.0)}, SELECTIVE)
    assert np.isfinite(student.predict_on_batch(soft_images(2, seed=4).astype(np.float32))).all()


def test_refuses_a_calibration_without_a_range(tiny_float: Any, ranges: dict[str, tuple[float, float]]) -> None:
    lacking = {name: ends for name, ends in ranges.items() if name not in ("logits", "stage0.block0.gate1")}
    with pytest.raises(ArtifactError, match=r"no range for logits, stage0\.block0\.gate1; run `python -m cal"):
        build_fake_quant(tiny_float, CONFIG, lacking, SELECTIVE)


def test_refuses_a_rule_without_a_layer(tiny_float: Any, ranges: dict[str, tuple[float, float]]) -> None:
    rules = (*SELECTIVE.rules, Rule("softmax", False, "none here"))
    with pytest.raises(ConfigError, match="'softmax'"):
        build_fake_quant(tiny_float, CONFIG, ranges, dataclasses.replace(SELECTIVE, rules=rules))


def other_weights(config: FocalNetConfig) -> Tensors:
    import tf_keras

    from train.model.focalnet import build_focalnet

    shapes = {name: tuple(v.shape) for name, v in model_weights(build_focalnet(config, tf_keras)).items()}
    return draw_weights(shapes, seed=0)


def test_refuses_weights_of_another_network() -> None:
    wider = other_weights(dataclasses.replace(CONFIG, dims=(8, 24)))
    with pytest.raises(ArtifactError, match=r"wider\.safetensors does not fit the model"):
        build_float(CONFIG, wider, "wider.safetensors")
