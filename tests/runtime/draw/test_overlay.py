"""The panel: true colours and ranges for signed maps, and no frame or map that breaks it."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from runtime.core.errors import ConfigError
from runtime.draw.canvas import BACKGROUND, BRIGHT, blank, fit, letterbox, write_text
from runtime.draw.maps import Map, colour_scale, greyed, map_titles, output_maps, over_grey
from runtime.draw.overlay import LAYOUTS, View, gate_panel, view_panel
from runtime.engines.outputs import Outputs

LABELS = ("cat", "dog", "a class whose name is far too long for the place that it has", "plane")
BLACK = np.zeros((64, 64, 3), np.uint8)
# A layout, and the level that it shows here.
LEVELS = {name: 0 if layout.shows_all_maps else 2 for name, layout in LAYOUTS.items()}


def make_outputs(levels: int = 2, side: int = 6, seed: int = 0) -> Outputs:
    rng = np.random.default_rng(seed)
    return Outputs(
        logits=rng.normal(0, 3, len(LABELS)).astype(np.float32),
        gates=rng.normal(0, 1, (side, side, levels + 1)).astype(np.float32),
        modulator=rng.random((side, side)).astype(np.float32),
    )


def draw(outputs: Outputs, layout: str, level: int | None = None) -> NDArray[np.uint8]:
    """The panel of one artifact over a black frame."""
    level = LEVELS[layout] if level is None else level
    return view_panel(BLACK, [View("int8", outputs)], LABELS, layout, level)


def brightness(colours: NDArray[np.uint8]) -> NDArray[np.float64]:
    return np.asarray(colours.astype(np.float64) @ (0.299, 0.587, 0.114))


@settings(max_examples=60, deadline=None)
@given(
    height=st.integers(1, 90),
    width=st.integers(1, 90),
    levels=st.integers(1, 4),
    side=st.integers(1, 9),
    layout=st.sampled_from(sorted(LAYOUTS)),
    views=st.integers(1, 2),
    tile_size=st.integers(32, 120),
    data=st.data(),
)
def test_any_frame_gives_the_same_even_size(
    height: int, width: int, levels: int, side: int, layout: str, views: int, tile_size: int, data: st.DataObject
) -> None:
    frame = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    level = data.draw(st.integers(1, levels + 2))
    shown = [View(f"artifact {seed}", make_outputs(levels, side, seed)) for seed in range(views)]
    panel = view_panel(frame, shown, LABELS, layout, level, note="a frame", tile_size=tile_size)
    other = view_panel(BLACK, shown, LABELS, layout, level, tile_size=tile_size)
    assert panel.dtype == np.uint8
    assert panel.shape == other.shape
    assert panel.shape[0] % 2 == panel.shape[1] % 2 == 0
    if layout == "grid":
        assert (levels + 3) * tile_size < panel.shape[1] < (levels + 3) * (tile_size + 40)
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


def test_arguments_are_not_changed() -> None:
    frame, outputs = BLACK.copy(), make_outputs()
    before = [frame.copy(), outputs.logits.copy(), outputs.gates.copy(), outputs.modulator.copy()]
    gate_panel(frame, outputs, LABELS, tile_size=64)
    for kept, now in zip(before, [frame, outputs.logits, outputs.gates, outputs.modulator], strict=True):
        np.testing.assert_array_equal(kept, now)


def test_tiles_too_small_are_refused() -> None:
    with pytest.raises(ConfigError, match="32"):
        gate_panel(BLACK, make_outputs(), LABELS, tile_size=31)


@pytest.mark.parametrize("level", [0, 5])
def test_unknown_level_lists_the_known_ones(level: int) -> None:
    with pytest.raises(ConfigError, match=rf"level {level}.*1 \(gate, level 1\).*3 \(gate, global\), 4 \(modulator\)"):
        draw(make_outputs(levels=2), "single", level)


def test_maps_come_in_the_order_of_the_contract() -> None:
    outputs = make_outputs(levels=2)
    maps = output_maps(outputs)
    assert [each.title for each in maps] == ["gate, level 1", "gate, level 2", "gate, global", "modulator"]
    assert map_titles(2) == tuple(each.title for each in maps)
    assert [each.signed for each in maps] == [True, True, True, False]
    np.testing.assert_array_equal(maps[2].values, outputs.gates[:, :, 2])
    np.testing.assert_array_equal(maps[3].values, outputs.modulator)


def test_signed_span_is_symmetric_and_unsigned_span_is_not() -> None:
    values = np.array([[-0.5, 0.25], [1.5, 0.0]], np.float32)
    assert Map("gate", values, signed=True).span() == (-1.5, 1.5)
    assert Map("modulator", np.abs(values), signed=False).span() == (0.0, 1.5)


def test_signed_colours_are_distinct_and_equally_bright() -> None:
    scale = colour_scale(257, signed=True)[0]
    red, blue = scale[:, 0].astype(int), scale[:, 2].astype(int)
    assert (blue[:110] > red[:110] + 20).all()
    assert (red[147:] > blue[147:] + 20).all()
    assert int(brightness(scale).argmin()) == pytest.approx(128, abs=2)
    assert np.abs(brightness(scale) - brightness(scale)[::-1]).max() < 12
    assert (np.diff(brightness(scale)[128:]) >= -1).all()


def test_negated_gate_swaps_the_colours() -> None:
    values = np.zeros((4, 4), np.float32)
    values[:, 0], values[:, 3] = 2.0, -2.0
    tile = over_grey(BLACK, Map("gate", values, signed=True))
    negated = over_grey(BLACK, Map("gate", -values, signed=True))
    assert tile[32, 2, 0] > tile[32, 2, 2] and tile[32, 61, 2] > tile[32, 61, 0]
    np.testing.assert_allclose(negated.astype(int), tile[:, ::-1].astype(int), atol=2)


def test_map_lies_where_the_network_saw_it() -> None:
    values = np.zeros((8, 8), np.float32)
    values[1, 6] = 1.0
    light = brightness(over_grey(BLACK, Map("gate", values, signed=True)))
    row, column = np.unravel_index(light.argmax(), light.shape)
    assert (row // 8, column // 8) == (1, 6)


@pytest.mark.parametrize("signed", [True, False])
@pytest.mark.parametrize("value", [0.0, 3.0])
def test_flat_maps_have_no_false_structure(value: float, signed: bool) -> None:
    tile = over_grey(BLACK, Map("flat", np.full((5, 5), value, np.float32), signed=signed))
    assert (tile == tile[0, 0]).all()


def test_frame_is_visible_through_a_map() -> None:
    frame = BLACK.copy()
    frame[:, 32:] = 255
    tile = over_grey(greyed(frame), Map("gate", np.zeros((4, 4), np.float32), signed=True))
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


@pytest.mark.parametrize("layout", ["single", "blend"])
def test_layouts_of_one_map_show_that_map(layout: str) -> None:
    outputs = make_outputs(levels=2)
    before = draw(outputs, layout, 2), draw(outputs, layout, 4)
    outputs.gates[:, :, (0, 2)] += 1
    np.testing.assert_array_equal(draw(outputs, layout, 2), before[0])
    outputs.gates[:, :, 1] *= np.linspace(0, 1, 6)
    assert not np.array_equal(draw(outputs, layout, 2), before[0])
    np.testing.assert_array_equal(draw(outputs, layout, 4), before[1])
    outputs.modulator[0] += 5
    assert not np.array_equal(draw(outputs, layout, 4), before[1])


@pytest.mark.parametrize("layout", sorted(LAYOUTS))
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_every_layout_marks_non_finite_values(layout: str, bad: float) -> None:
    outputs, broken = make_outputs(), make_outputs()
    broken.gates[0, 0, 1] = bad
    broken.logits[0] = bad
    assert not np.array_equal(draw(broken, layout), draw(outputs, layout))
    # The finite artifact is drawn on its own scale, as if it were alone.
    both = view_panel(BLACK, [View("a", outputs), View("b", broken)], LABELS, layout, LEVELS[layout])
    whole = view_panel(BLACK, [View("a", outputs), View("b", outputs)], LABELS, layout, LEVELS[layout])
    axis = LAYOUTS[layout].compare_axis
    np.testing.assert_array_equal(np.split(both, 2, axis)[0], np.split(whole, 2, axis)[0])
    assert not np.array_equal(both, whole)


def test_two_artifacts_share_each_maps_scale() -> None:
    weak, strong = make_outputs(), make_outputs()
    strong.gates[..., 0] *= 2
    alone = draw(weak, "grid")
    same = view_panel(BLACK, [View("a", weak), View("b", weak)], LABELS)
    shared = view_panel(BLACK, [View("a", weak), View("b", strong)], LABELS)
    tile, top = 224 + 14, 46 + 20
    first, second = np.s_[top : top + 224, 14 + tile : 14 + tile + 224], np.s_[top : top + 224, 14 + 2 * tile :]
    np.testing.assert_array_equal(alone[first], same[first])
    # The weak map is half as strong, so it is drawn darker; equal maps do not change.
    assert brightness(shared[first]).mean() < brightness(alone[first]).mean()
    np.testing.assert_array_equal(alone[second], shared[second])


def test_blend_keeps_the_frame_where_a_gate_is_shut_and_dims_the_unseen_part() -> None:
    outputs = make_outputs(levels=2, side=8)
    outputs.gates[:] = 0
    outputs.gates[:, :2, 0] = 3.0
    frame = np.full((60, 120, 3), (90, 140, 40), np.uint8)
    panel = view_panel(frame, [View("int8", outputs)], LABELS, "blend", 1)
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
    """A grey frame, 120 by 200 pixels, with a bright square of `side` pixels in its middle."""
    frame = np.full((120, 200, 3), 60, np.uint8)
    frame[60 - side // 2 : 60 + side // 2, 100 - side // 2 : 100 + side // 2] = 220
    return frame


@pytest.mark.parametrize("layout", ["grid", "single"])
def test_tiles_show_the_seen_square_and_no_more(layout: str) -> None:
    def panel(frame: NDArray[np.uint8], fraction: float) -> NDArray[np.uint8]:
        views = [View("int8", make_outputs())]
        return view_panel(frame, views, LABELS, layout, LEVELS[layout], seen_fraction=fraction)

    bright = np.full((120, 200, 3), 220, np.uint8)
    np.testing.assert_array_equal(panel(framed(60), 0.5), panel(bright, 0.5))
    assert not np.array_equal(panel(framed(56), 0.5), panel(bright, 0.5))
    assert not np.array_equal(panel(framed(60), 0.6), panel(bright, 0.6))
    assert not np.array_equal(panel(framed(60), 1.0), panel(bright, 1.0))


@pytest.mark.parametrize("fraction", [1.0, 0.875, 0.5])
def test_blend_lays_the_map_on_the_seen_square(fraction: float) -> None:
    outputs = make_outputs(levels=2, side=8)
    outputs.gates[:] = 0
    frame = np.full((90, 120, 3), 200, np.uint8)
    panel = view_panel(frame, [View("int8", outputs)], LABELS, "blend", 1, seen_fraction=fraction)
    height, width = 448, 597
    image = panel[46 + 20 :, 14 : 14 + width][:height]
    # A shut gate leaves the frame as it is; the unseen part is dimmed.
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


@pytest.mark.parametrize("room", [-5, 0, 3, 40, 200])
def test_text_stays_in_its_room(room: int) -> None:
    canvas = blank(40, 300)
    used = write_text(canvas, "a long line of text that does not fit", (50, 25), 10, BRIGHT, room)
    assert 0 <= used <= max(room, 0)
    drawn = np.flatnonzero((canvas != BACKGROUND).any(axis=(0, 2)))
    assert drawn.size == 0 or (drawn.min() >= 48 and drawn.max() <= 52 + room)
