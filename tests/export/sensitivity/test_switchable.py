"""Switchable products: all int8 is the fake-quantized network, none the float one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from calibration.calibration_file import read_calibration
from export.quantize.schemes import SELECTIVE, Rule
from export.sensitivity.switchable import SwitchableNetwork, build_switchable
from runtime.core.errors import ArtifactError, ConfigError
from tests.support.tiny_run import CONFIG, soft_images

IMAGES = soft_images(40, seed=8).astype(np.float32)


@pytest.fixture(scope="module")
def network(tiny_run: Path, tiny_float: Any) -> SwitchableNetwork:
    return build_switchable(tiny_float, CONFIG, read_calibration(tiny_run).ranges, SELECTIVE.rules)


def logits(network: SwitchableNetwork, int8: list[str]) -> Any:
    network.switch(int8)
    return network.model.predict_on_batch(IMAGES)


def test_none_int8_is_the_float_network(network: SwitchableNetwork, tiny_float: Any) -> None:
    np.testing.assert_allclose(logits(network, []), tiny_float.predict_on_batch(IMAGES), rtol=1e-5, atol=1e-5)


def test_all_int8_is_the_fake_quantized_network(network: SwitchableNetwork, tiny_fake_quant: Any) -> None:
    expected = tiny_fake_quant.predict_on_batch(IMAGES)
    found = logits(network, list(network.products))
    assert np.abs(found - logits(network, [])).max() > 1e-3
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


def test_each_product_alone_changes_the_logits_and_switches_back(network: SwitchableNetwork) -> None:
    exact = logits(network, [])
    errors = {name: float(np.abs(logits(network, [name]) - exact).max()) for name in network.products}
    assert len(errors) == 3 + 2 * 6 + 5
    assert all(error > 0 for error in errors.values())
    np.testing.assert_array_equal(logits(network, []), exact)


def test_refuses_an_unknown_product(network: SwitchableNetwork) -> None:
    with pytest.raises(ConfigError, match=r"\['embed\.norm'\]; expected some of embed\.proj"):
        network.switch(["logits", "embed.norm"])


def test_refuses_an_int8_product_of_a_float_input(tiny_run: Path, tiny_float: Any) -> None:
    ranges = read_calibration(tiny_run).ranges
    with pytest.raises(ConfigError, match=r"logits reads head\.pool, which has no rule"):
        build_switchable(tiny_float, CONFIG, ranges, [Rule("logits", True, "the head")])


def test_refuses_a_missing_range(tiny_run: Path, tiny_float: Any) -> None:
    ranges = {name: ends for name, ends in read_calibration(tiny_run).ranges.items() if name != "head.pool"}
    with pytest.raises(ArtifactError, match=r"no range for head\.pool"):
        build_switchable(tiny_float, CONFIG, ranges, SELECTIVE.rules)
