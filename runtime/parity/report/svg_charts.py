"""Charts as inline SVG: pure functions from figures to text.

The reference is solid, with round marks; the candidate is striped or dashed, with square marks. So charts can be read
without colours, which are the page's, by class.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

from runtime.parity.report.summary import NO_FIGURE

CHART_WIDTH = 440
LABEL_WIDTH = 120
VALUE_WIDTH = 76
BAR_HEIGHT = 14
ROW_HEIGHT = 22
GROUP_GAP = 12
HISTOGRAM_HEIGHT = 110
HISTOGRAM_TOP = 18
LINES_WIDTH, LINES_HEIGHT = 220, 130
SQUARE_SIDE = 260


@dataclass(frozen=True)
class BarPair:
    """The reference's and the candidate's value of one figure, in one unit; `None` if it is missing."""

    label: str
    reference: float | None
    candidate: float | None


@dataclass(frozen=True)
class Estimate:
    """A figure with its interval; `stands_out` draws it as a diamond."""

    label: str
    value: float
    low: float
    high: float
    stands_out: bool = False


def paired_bars(title: str, pairs: Sequence[BarPair], form: str, unit: str) -> str:
    """Draw horizontal bars, the reference's (solid) above the candidate's (striped) in each group.

    Args:
        title: of the chart, for its caption and for screen readers.
        pairs: the groups, from the top, values >= 0.
        form: the format of a value, e.g. `".1f"`.
        unit: of all values, for the caption.

    Returns:
        An HTML figure with an SVG chart; all bars share one scale that starts at 0.
    """
    largest = max((value for pair in pairs for value in (pair.reference, pair.candidate) if value), default=1.0)
    room = CHART_WIDTH - LABEL_WIDTH - VALUE_WIDTH
    group_height = 2 * BAR_HEIGHT + 2 + GROUP_GAP
    parts = []
    for row, pair in enumerate(pairs):
        top = row * group_height + GROUP_GAP / 2
        parts.append(_label(pair.label, top + BAR_HEIGHT + 5))
        parts.append(_bar("reference", pair.reference, largest, room, top, form))
        parts.append(_bar("candidate", pair.candidate, largest, room, top + BAR_HEIGHT + 2, form))
    return chart(title, unit, CHART_WIDTH, len(pairs) * group_height, parts)


def _bar(role: str, value: float | None, largest: float, room: float, top: float, form: str) -> str:
    baseline = top + BAR_HEIGHT - 3
    if value is None:
        return f'<text x="{LABEL_WIDTH}" y="{baseline:.1f}">{NO_FIGURE}</text>'
    width = room * value / largest
    box = f'x="{LABEL_WIDTH}" y="{top:.1f}" width="{width:.1f}" height="{BAR_HEIGHT}"'
    stripes = f'<rect {box} fill="url(#stripes)"/>' if role == "candidate" else ""
    text = f'<text x="{LABEL_WIDTH + width + 6:.1f}" y="{baseline:.1f}">{value:{form}}</text>'
    return f'<rect class="{role}" {box}><title>{role}</title></rect>{stripes}{text}'


def _label(label: str, baseline: float) -> str:
    return f'<text x="0" y="{baseline:.1f}"><title>{escape(label)}</title>{escape(shortened(label))}</text>'


def shortened(label: str, longest: int = 17) -> str:
    """Cut a label to the width beside a chart."""
    return label if len(label) <= longest else label[: longest - 1] + "…"


def histogram(title: str, edges: Sequence[float], counts: Sequence[int]) -> str:
    """Draw a distribution as the share of images in each interval.

    Args:
        title: of the chart.
        edges: the B+1 ends of the intervals, ascending.
        counts: images in each of the B intervals, >= 0.

    Returns:
        An HTML figure with an SVG chart; all intervals have the same width.
    """
    total, largest = max(sum(counts), 1), max(*counts, 1)
    step = CHART_WIDTH / len(counts)
    floor = HISTOGRAM_TOP + HISTOGRAM_HEIGHT
    parts = [_line("baseline", 0, floor, CHART_WIDTH, floor)]
    for index, count in enumerate(counts):
        height = HISTOGRAM_HEIGHT * count / largest
        left, middle = index * step, (index + 0.5) * step
        bound = f"≥{edges[index]:g}" if index else f"&lt;{edges[1]:g}"
        box = f'x="{left + 2:.1f}" y="{floor - height:.1f}" width="{step - 4:.1f}" height="{height:.1f}"'
        parts.append(f'<rect class="candidate" {box}/>')
        if count:
            text = percent(count / total)
            parts.append(f'<text text-anchor="middle" x="{middle:.1f}" y="{floor - height - 4:.1f}">{text}</text>')
        parts.append(f'<text class="axis" text-anchor="middle" x="{middle:.1f}" y="{floor + 15}">{bound}</text>')
    return chart(title, "share of images", CHART_WIDTH, floor + 20, parts)


def percent(share: float) -> str:
    """Write a share in whole percent, as HTML."""
    # Neither 0% for a few images, nor 100% for nearly all.
    if share < 0.01:
        return "&lt;1%"
    return "&gt;99%" if 0.99 < share < 1 else f"{share:.0%}"


def estimates(title: str, rows: Sequence[Estimate], form: str, unit: str, *, zero: bool = True) -> str:
    """Draw figures with their intervals on one scale, one a row.

    Args:
        title: of the chart.
        rows: from the top; may be empty.
        form: the format of a value.
        unit: the unit of all values.
        zero: draw a line at 0 and keep it within the chart.

    Returns:
        An HTML figure with an SVG chart.
    """
    low = min([each.low for each in rows] + ([0.0] if zero else []), default=0.0)
    high = max([each.high for each in rows] + ([0.0] if zero else []), default=1.0)
    span, room = (high - low) or 1.0, CHART_WIDTH - LABEL_WIDTH - VALUE_WIDTH - 8
    height = len(rows) * ROW_HEIGHT + 18

    def place(value: float) -> float:
        return LABEL_WIDTH + 4 + room * (value - low) / span

    floor = height - 16
    parts = [_line("baseline", LABEL_WIDTH, floor, CHART_WIDTH - VALUE_WIDTH, floor)]
    parts += [_axis(place(end), height - 3, f"{end:{form}}", "middle") for end in (low, high)]
    if zero:
        parts.append(_line("zero", place(0.0), 0, place(0.0), floor))
        if min(abs(place(0.0) - place(end)) for end in (low, high)) > 34:
            parts.append(_axis(place(0.0), height - 3, "0", "middle"))
    for index, each in enumerate(rows):
        middle = (index + 0.5) * ROW_HEIGHT
        parts.append(_label(each.label, middle + 4))
        parts.append(_line("whisker", place(each.low), middle, place(each.high), middle))
        parts += [_line("whisker", place(end), middle - 4, place(end), middle + 4) for end in (each.low, each.high)]
        parts.append(_diamond(place(each.value), middle) if each.stands_out else _circle(place(each.value), middle))
        parts.append(f'<text text-anchor="end" x="{CHART_WIDTH}" y="{middle + 4:.1f}">{each.value:{form}}</text>')
    return chart(title, unit, CHART_WIDTH, height, parts)


def two_lines(
    title: str, ticks: Sequence[str], reference: Sequence[float], candidate: Sequence[float], ends: tuple[float, float]
) -> str:
    """Draw the reference (solid, round marks) and the candidate (dashed, square marks) over a few steps, in percent.

    Args:
        title: of the chart.
        ticks: names of the steps, from the left.
        reference: one share a step, 0..1.
        candidate: the same.
        ends: the shares at the ends of the scale, the same for charts side by side.

    Returns:
        An HTML figure with an SVG chart.
    """
    left, right, top, floor = 34, LINES_WIDTH - 10, 8, LINES_HEIGHT - 18
    span = (ends[1] - ends[0]) or 1.0

    def place(index: int, value: float) -> tuple[float, float]:
        x = left + 8 + (right - left - 16) * index / max(len(ticks) - 1, 1)
        return x, floor - (floor - top) * (value - ends[0]) / span

    parts = []
    for share in (ends[0], (ends[0] + ends[1]) / 2, ends[1]):
        y = place(0, share)[1]
        parts.append(_line("grid", left, y, right, y))
        parts.append(_axis(left - 4, y + 4, f"{share:.0%}", "end"))
    parts += [_axis(place(index, ends[0])[0], LINES_HEIGHT - 3, tick, "middle") for index, tick in enumerate(ticks)]
    for role, values in (("reference", reference), ("candidate", candidate)):
        parts += _curve(role, [place(index, value) for index, value in enumerate(values)])
    return chart(title, "", LINES_WIDTH, LINES_HEIGHT, parts)


def reliability(title: str, series: Mapping[str, Sequence[tuple[float, float]]]) -> str:
    """Draw accuracy against confidence; on the diagonal they are equal.

    Args:
        title: of the chart.
        series: for `"reference"` and `"candidate"`, pairs of confidence and accuracy, 0..1.

    Returns:
        An HTML figure with a square SVG chart.
    """
    left, floor, side = 34, SQUARE_SIDE - 30, SQUARE_SIDE - 44

    def place(confidence: float, accuracy: float) -> tuple[float, float]:
        return left + side * confidence, floor - side * accuracy

    parts = [_line("zero", *place(0, 0), *place(1, 1))]
    for share in (0.0, 0.5, 1.0):
        parts.append(_line("grid", *place(0, share), *place(1, share)))
        parts.append(_axis(left - 4, place(0, share)[1] + 4, f"{share:.0%}", "end"))
        parts.append(_axis(place(share, 0)[0], floor + 14, f"{share:.0%}", "middle"))
    parts.append(_axis(left + side / 2, floor + 27, "confidence", "middle"))
    for role, pairs in series.items():
        parts += _curve(role, [place(*pair) for pair in pairs])
    return chart(title, "on the diagonal they are equal", SQUARE_SIDE + 12, SQUARE_SIDE, parts, "square")


def value_range(title: str, unit: str, span: Sequence[float], ends: Sequence[float], counts: Sequence[int]) -> str:
    """Draw a distribution over an integer range; the parts outside the range are hatched.

    Args:
        title: of the chart.
        unit: added to the caption, such as the clipped share.
        span: the least and the largest value drawn.
        ends: the ends of the range.
        counts: values in each of B intervals of equal width over the span.

    Returns:
        An HTML figure with an SVG chart; heights are square roots of counts, so that tails are seen.
    """
    height, floor, largest = 78, 84, max(*counts, 1)
    step, width = CHART_WIDTH / len(counts), span[1] - span[0]
    places = [CHART_WIDTH * (end - span[0]) / width for end in ends]
    parts = [
        f'<rect x="0" y="6" width="{places[0]:.1f}" height="{height}" fill="url(#hatch)"/>',
        f'<rect x="{places[1]:.1f}" y="6" width="{CHART_WIDTH - places[1]:.1f}" height="{height}" fill="url(#hatch)"/>',
    ]
    for index, count in enumerate(counts):
        tall = height * (count / largest) ** 0.5
        box = f'x="{index * step:.1f}" y="{floor - tall:.1f}" width="{step - 0.8:.1f}" height="{tall:.1f}"'
        parts.append(f'<rect class="reference" {box}/>')
    parts.append(_line("baseline", 0, floor, CHART_WIDTH, floor))
    for place, end in zip(places, ends, strict=True):
        parts += [_line("zero", place, 6, place, floor), _axis(place, floor + 14, f"{end:.3g}", "middle")]
    return chart(title, unit, CHART_WIDTH, floor + 18, parts)


def chart(title: str, unit: str, width: float, height: float, parts: Sequence[str], style: str = "") -> str:
    """Frame the parts of a chart.

    Args:
        title: of the chart.
        unit: its unit; "" for none.
        width: of the drawing.
        height: of the drawing.
        parts: SVG elements.
        style: a CSS class.

    Returns:
        An HTML figure with a caption.
    """
    caption = escape(title) + (f", {escape(unit)}" if unit else "")
    return (
        f'<figure class="{style}"><figcaption>{caption}</figcaption>'
        f'<svg viewBox="0 0 {width:g} {height:g}" role="img" aria-label="{escape(title)}">'
        f"{''.join(parts)}</svg></figure>"
    )


def _line(style: str, x1: float, y1: float, x2: float, y2: float) -> str:
    return f'<line class="{style}" x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"/>'


def _axis(x: float, y: float, text: str, anchor: str) -> str:
    return f'<text class="axis" text-anchor="{anchor}" x="{x:.1f}" y="{y:.1f}">{escape(text)}</text>'


def _curve(role: str, points: Sequence[tuple[float, float]]) -> list[str]:
    """Draw a line with a mark at each point."""
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    marks = [_circle(x, y) if role == "reference" else _square(x, y) for x, y in points]
    return [f'<polyline class="line {role}-line" points="{path}"/>', *marks]


def _circle(x: float, y: float) -> str:
    return f'<circle class="reference" cx="{x:.1f}" cy="{y:.1f}" r="3.6"/>'


def _square(x: float, y: float) -> str:
    return f'<rect class="candidate" x="{x - 3.2:.1f}" y="{y - 3.2:.1f}" width="6.4" height="6.4"/>'


def _diamond(x: float, y: float) -> str:
    return f'<path class="candidate" d="M{x:.1f} {y - 6:.1f}l6 6l-6 6l-6-6z"/>'
