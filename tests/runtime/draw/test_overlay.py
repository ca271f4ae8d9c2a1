"""The panel: honest colours and ranges for signed maps, and no frame or map that breaks it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from runtime.core.errors import ConfigError
from runtime.demo.controls import Layout, Settings
from runtime.draw.canvas import BACKGROUND, BRIGHT, blank, fit, letterbox, write_text
from runtime.draw.overlay import (
    Map,
    View,
    blend_map,
    colour_map,
    gate_panel,
    map_range,
    map_titles,
    output_maps,
    view_panel,
)
from runtime.engines.outputs import Outputs

LABELS = ("cat", "dog", "a class whose name is far too long for the place that it has", "plane")
BLACK = np.zeros((64, 64, 3), np.uint8)


def make_outputs(levels: int = 2, side: int = 6, seed: int = 0) -> Outputs:
    rng = np.random.default_rng(seed)
    return Outputs(
        logits=rng.normal(0, 3, len(LABELS)).astype(np.float32),
        gates=rng.normal(0, 1, (side, side, levels + 1)).astype(np.float32),
        modulator=rng.random((side, side)).astype(np.float32),
    )


def brightness(colours: NDArray[np.uint8]) -> NDArray[np.float64]:
    return np.asarray(colours.astype(np.float64) @ (0.299, 0.587, 0.114))


@settings(max_examples=40, deadline=None)
@given(
    height=st.integers(1, 90),
    width=st.integers(1, 90),
    levels=st.integers(1, 4),
    side=st.integers(1, 9),
    tile_size=st.integers(32, 120),
    data=st.data(),
)
def test_any_frame_gives_the_same_even_size(
    height: int, width: int, levels: int, side: int, tile_size: int, data: st.DataObject
) -> None:
    level = data.draw(st.none() | st.integers(1, levels + 2))
    frame = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    outputs = make_outputs(levels, side)
    panel = gate_panel(frame, outputs, LABELS, note="0.45 ms", tile_size=tile_size, level=level)
    other = gate_panel(BLACK, outputs, LABELS, tile_size=tile_size, level=level)
    assert panel.dtype == np.uint8
    assert panel.shape == other.shape
    assert panel.shape[0] % 2 == panel.shape[1] % 2 == 0
    tiles, side_px = (levels + 3, tile_size) if level is None else (2, 2 * tile_size)
    assert tiles * side_px < panel.shape[1] < tiles * (side_px + 40)
    assert not np.array_equal(panel, other)


@settings(max_examples=40, deadline=None)
@given(value=st.floats(width=32), where=st.sampled_from(["logits", "gates", "modulator"]), full=st.booleans())
def test_any_value_can_be_drawn(value: float, where: str, full: bool) -> None:
    outputs = make_outputs(levels=1, side=3)
    flat = getattr(outputs, where).reshape(-1)
    flat[: None if full else 1] = value
    with np.errstate(all="raise", under="ignore"):
        panel = gate_panel(BLACK, outputs, LABELS, tile_size=32)
    assert panel.std() > 0


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_non_finite_map_is_marked_and_the_others_are_drawn(bad: float) -> None:
    outputs = make_outputs()
    whole = gate_panel(BLACK, outputs, LABELS)
    outputs.gates[2, 3, 0] = bad
    marked = gate_panel(BLACK, outputs, LABELS)
    changed = np.flatnonzero((whole != marked).any(axis=(0, 2)))
    tile = 224 + 14
    assert changed.min() >= 14 + tile
    assert changed.max() < 14 + 2 * tile


def test_arguments_are_left_as_they_were() -> None:
    frame, outputs = BLACK.copy(), make_outputs()
    before = [frame.copy(), outputs.logits.copy(), outputs.gates.copy(), outputs.modulator.copy()]
    gate_panel(frame, outputs, LABELS, tile_size=64)
    for kept, now in zip(before, [frame, outputs.logits, outputs.gates, outputs.modulator], strict=True):
        np.testing.assert_array_equal(kept, now)


@pytest.mark.parametrize(("arguments", "message"), [({"tile_size": 31}, "32"), ({"level": 0}, "level 0")])
def test_refuses(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        gate_panel(BLACK, make_outputs(), LABELS, **arguments)


def test_level_beyond_the_last_lists_those_there() -> None:
    with pytest.raises(ConfigError, match=r"level 5.*1 \(gate, level 1\).*3 \(gate, global\), 4 \(modulator\)"):
        gate_panel(BLACK, make_outputs(levels=2), LABELS, level=5)


def test_maps_come_in_the_order_of_the_contract() -> None:
    outputs = make_outputs(levels=2)
    maps = output_maps(outputs)
    assert [each.title for each in maps] == ["gate, level 1", "gate, level 2", "gate, global", "modulator"]
    assert [each.signed for each in maps] == [True, True, True, False]
    np.testing.assert_array_equal(maps[2].values, outputs.gates[:, :, 2])
    np.testing.assert_array_equal(maps[3].values, outputs.modulator)


def test_level_shows_its_own_map() -> None:
    outputs = make_outputs(levels=2)
    before = gate_panel(BLACK, outputs, LABELS, level=2)
    outputs.gates[:, :, 0] += 1
    outputs.gates[:, :, 2] += 1
    np.testing.assert_array_equal(gate_panel(BLACK, outputs, LABELS, level=2), before)
    outputs.gates[:, :, 1] *= np.linspace(0, 1, 6)
    assert not np.array_equal(gate_panel(BLACK, outputs, LABELS, level=2), before)


def test_signed_range_is_symmetric_and_the_modulators_its_own() -> None:
    values = np.array([[-0.5, 0.25], [1.5, 0.0]], np.float32)
    assert map_range(Map("gate", values, signed=True)) == (-1.5, 1.5)
    assert map_range(Map("modulator", np.abs(values), signed=False)) == (0.0, 1.5)


def test_signed_colours_tell_signs_apart_and_are_fair_to_both() -> None:
    scale = colour_map(np.linspace(0, 1, 257)[np.newaxis], signed=True)[0]
    red, blue = scale[:, 0].astype(int), scale[:, 2].astype(int)
    assert (blue[:110] > red[:110] + 20).all()
    assert (red[147:] > blue[147:] + 20).all()
    assert int(brightness(scale).argmin()) == pytest.approx(128, abs=2)
    assert np.abs(brightness(scale) - brightness(scale)[::-1]).max() < 12
    assert (np.diff(brightness(scale)[128:]) >= -1).all()


def test_negated_gate_swaps_the_colours() -> None:
    values = np.zeros((4, 4), np.float32)
    values[:, 0], values[:, 3] = 2.0, -2.0
    tile = blend_map(BLACK, Map("gate", values, signed=True))
    negated = blend_map(BLACK, Map("gate", -values, signed=True))
    assert tile[32, 2, 0] > tile[32, 2, 2] and tile[32, 61, 2] > tile[32, 61, 0]
    np.testing.assert_allclose(negated.astype(int), tile[:, ::-1].astype(int), atol=2)


def test_map_lies_where_the_network_saw_it() -> None:
    values = np.zeros((8, 8), np.float32)
    values[1, 6] = 1.0
    light = brightness(blend_map(BLACK, Map("gate", values, signed=True)))
    row, column = np.unravel_index(light.argmax(), light.shape)
    assert (row // 8, column // 8) == (1, 6)


def test_flat_maps_have_no_false_structure() -> None:
    for value in (0.0, 3.0):
        for signed in (True, False):
            tile = blend_map(BLACK, Map("flat", np.full((5, 5), value, np.float32), signed=signed))
            assert (tile == tile[0, 0]).all()


def test_frame_shines_through() -> None:
    frame = BLACK.copy()
    frame[:, 32:] = 255
    tile = blend_map(frame, Map("gate", np.zeros((4, 4), np.float32), signed=True))
    assert brightness(tile[:, 40:]).min() > brightness(tile[:, :24]).max() + 50


@given(height=st.integers(1, 50), width=st.integers(1, 50))
@settings(max_examples=30, deadline=None)
def test_letterbox_keeps_proportions(height: int, width: int) -> None:
    boxed = letterbox(np.full((height, width, 3), 255, np.uint8), 40, 60)
    assert boxed.shape == (40, 60, 3)
    rows = int((boxed == 255).all(axis=2).any(axis=1).sum())
    columns = int((boxed == 255).all(axis=2).any(axis=0).sum())
    scale = min(40 / height, 60 / width)
    assert (rows, columns) == (max(1, round(height * scale)), max(1, round(width * scale)))


VIEWS = {"grid": Settings(), "single": Settings(2, "single"), "blend": Settings(2, "blend")}


@settings(max_examples=40, deadline=None)
@given(
    height=st.integers(1, 90),
    width=st.integers(1, 90),
    layout=st.sampled_from(sorted(VIEWS)),
    views=st.integers(1, 2),
    tile_size=st.integers(32, 120),
)
def test_every_layout_has_one_even_size(height: int, width: int, layout: str, views: int, tile_size: int) -> None:
    frame = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    seen = [View(f"artifact {seed}", make_outputs(seed=seed)) for seed in range(views)]
    panel = view_panel(frame, seen, LABELS, VIEWS[layout], note="a frame", tile_size=tile_size)
    other = view_panel(BLACK, seen, LABELS, VIEWS[layout], tile_size=tile_size)
    assert panel.dtype == np.uint8
    assert panel.shape == other.shape
    assert panel.shape[0] % 2 == panel.shape[1] % 2 == 0
    assert not np.array_equal(panel, other)


@pytest.mark.parametrize("layout", ["single", "blend"])
def test_layouts_of_one_map_show_that_map(layout: Layout) -> None:
    def draw(outputs: Outputs, level: int) -> NDArray[np.uint8]:
        return view_panel(BLACK, [View("int8", outputs)], LABELS, Settings(level, layout))

    outputs = make_outputs(levels=2)
    before = draw(outputs, 4)
    outputs.gates[:] *= 2
    np.testing.assert_array_equal(draw(outputs, 4), before)
    outputs.modulator[0] += 5
    assert not np.array_equal(draw(outputs, 4), before)
    for level in (0, 5):
        with pytest.raises(ConfigError, match=f"level {level}"):
            draw(outputs, level)


@pytest.mark.parametrize("layout", sorted(VIEWS))
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_every_layout_marks_what_is_not_finite(layout: str, bad: float) -> None:
    outputs, broken = make_outputs(), make_outputs()
    broken.gates[0, 0, 1] = bad
    broken.logits[0] = bad
    alone = view_panel(BLACK, [View("int8", broken)], LABELS, VIEWS[layout])
    assert not np.array_equal(alone, view_panel(BLACK, [View("int8", outputs)], LABELS, VIEWS[layout]))
    # The whole artifact beside it is drawn on its own scale, as if there were no other.
    both = view_panel(BLACK, [View("a", outputs), View("b", broken)], LABELS, VIEWS[layout])
    whole = view_panel(BLACK, [View("a", outputs), View("b", outputs)], LABELS, VIEWS[layout])
    half = both.shape[0] // 2 if layout == "grid" else both.shape[1] // 2
    first = np.s_[:half] if layout == "grid" else np.s_[:, :half]
    np.testing.assert_array_equal(both[first], whole[first])
    assert not np.array_equal(both, whole)


def test_two_artifacts_share_each_maps_scale() -> None:
    weak, strong = make_outputs(), make_outputs()
    strong.gates[..., 0] *= 2
    alone = view_panel(BLACK, [View("a", weak)], LABELS, Settings())
    same = view_panel(BLACK, [View("a", weak), View("b", weak)], LABELS, Settings())
    shared = view_panel(BLACK, [View("a", weak), View("b", strong)], LABELS, Settings())
    tile, top = 224 + 14, 46 + 20
    first, second = np.s_[top : top + 224, 14 + tile : 14 + tile + 224], np.s_[top : top + 224, 14 + 2 * tile :]
    np.testing.assert_array_equal(alone[first], same[first])
    # Half as strong as the other one, and so drawn darker; maps that are the same stay as they are.
    assert brightness(shared[first]).mean() < brightness(alone[first]).mean()
    np.testing.assert_array_equal(alone[second], shared[second])


def test_blend_keeps_the_frame_where_a_gate_is_shut_and_dims_what_was_not_seen() -> None:
    outputs = make_outputs(levels=2, side=8)
    outputs.gates[:] = 0
    outputs.gates[:, :2, 0] = 3.0
    frame = np.full((60, 120, 3), (90, 140, 40), np.uint8)
    panel = view_panel(frame, [View("int8", outputs)], LABELS, Settings(1, "blend"))
    height, width = 448, 597
    image = panel[46 + 20 :, 14 : 14 + width][:height]
    row = image[height // 2].astype(int)
    middle = width // 2
    assert np.abs(row[middle + 60] - (90, 140, 40)).max() <= 3
    # The network saw the square in the middle of a frame twice as wide: its left quarter is under the open gate.
    assert row[middle - 130, 0] > 150
    assert row[20].max() < 70 and row[width - 20].max() < 70
    assert np.abs(row[20] - np.array((90, 140, 40)) * 0.4).max() <= 2


def framed(side: int) -> NDArray[np.uint8]:
    """A grey frame, 120 by 200, with a bright square of so many pixels in its middle."""
    frame = np.full((120, 200, 3), 60, np.uint8)
    frame[60 - side // 2 : 60 + side // 2, 100 - side // 2 : 100 + side // 2] = 220
    return frame


@pytest.mark.parametrize("draw", ["gate_panel", "grid", "single"])
def test_tiles_show_what_the_network_saw_and_no_more(draw: str) -> None:
    def panel(frame: NDArray[np.uint8], fraction: float) -> NDArray[np.uint8]:
        if draw == "gate_panel":
            return gate_panel(frame, make_outputs(), LABELS, seen_fraction=fraction)
        return view_panel(frame, [View("int8", make_outputs())], LABELS, VIEWS[draw], seen_fraction=fraction)

    bright = np.full((120, 200, 3), 220, np.uint8)
    np.testing.assert_array_equal(panel(framed(60), 0.5), panel(bright, 0.5))
    assert not np.array_equal(panel(framed(56), 0.5), panel(bright, 0.5))
    assert not np.array_equal(panel(framed(60), 0.6), panel(bright, 0.6))
    assert not np.array_equal(panel(framed(60), 1.0), panel(bright, 1.0))


@pytest.mark.parametrize("fraction", [1.0, 0.875, 0.5])
def test_blend_lays_the_map_on_what_the_network_saw(fraction: float) -> None:
    outputs = make_outputs(levels=2, side=8)
    outputs.gates[:] = 0
    frame = np.full((90, 120, 3), 200, np.uint8)
    panel = view_panel(frame, [View("int8", outputs)], LABELS, Settings(1, "blend"), seen_fraction=fraction)
    height, width = 448, 597
    image = panel[46 + 20 :, 14 : 14 + width][:height]
    # A shut gate leaves the frame as it is; what was not seen is dimmed.
    seen = (image > 150).all(axis=2)
    side = fraction * height
    assert np.count_nonzero(seen[height // 2]) == pytest.approx(side, abs=2)
    assert np.count_nonzero(seen[:, width // 2]) == pytest.approx(side, abs=2)
    assert np.argwhere(seen).mean(axis=0) == pytest.approx((height / 2, width / 2), abs=2)


@pytest.mark.parametrize("shape", [(480, 640), (1080, 1920), (37, 50), (16, 16)])
def test_fitting_keeps_the_mean_and_makes_no_pattern(shape: tuple[int, int]) -> None:
    rows, columns = np.indices(shape)
    board = np.repeat(((rows + columns) % 2 * 255).astype(np.uint8)[..., np.newaxis], 3, axis=2)
    fitted = fit(board, 224, 224)
    assert fitted.shape == (224, 224, 3)
    assert float(fitted.mean()) == pytest.approx(127.5, abs=4)
    if shape[0] > 448:
        assert fitted.std() < 4
    assert fit(fitted, 224, 224) is fitted


def test_text_stays_in_its_room() -> None:
    for room in (-5, 0, 3, 40, 200):
        canvas = blank(40, 300)
        used = write_text(canvas, "a long line of text that does not fit", (50, 25), 10, BRIGHT, room)
        assert 0 <= used <= max(room, 0)
        drawn = np.flatnonzero((canvas != BACKGROUND).any(axis=(0, 2)))
        assert drawn.size == 0 or (drawn.min() >= 48 and drawn.max() <= 52 + room)


def test_titles_are_those_of_the_maps() -> None:
    outputs = make_outputs(levels=3)
    assert map_titles(3) == tuple(each.title for each in output_maps(outputs))
