"""Charts as inline SVG: a few lines of path data, colours from the page's style, words for who cannot see them.

Nothing here knows of runs. A chart has a name and a description that screen readers tell, scales with the page, and
prints as it stands. Points that are None break a line; they are never drawn as 0.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from coordinator.report.markup import Markup, element

__all__ = ["MOST_POINTS", "Bar", "Line", "bars", "lines", "strips", "thinned", "ticks"]

WIDTH = 640
_LEFT, _RIGHT, _TOP, _BOTTOM = 58, 14, 12, 40
_HEIGHT = 250
MOST_POINTS = 400
"""Of one line: more than a page has dots for."""
SERIES = 6
"""Colours in the page's style, ``s0`` to ``s5``."""


@dataclass(frozen=True)
class Line:
    """One line. All sequences have one length.

    Args:
        x, y: values; None breaks the line.
        low, high: ends of error bars; empty: none.
        bar_along_x: they are of x.
    """

    name: str
    x: Sequence[float | None]
    y: Sequence[float | None]
    low: Sequence[float | None] = ()
    high: Sequence[float | None] = ()
    bar_along_x: bool = False


@dataclass(frozen=True)
class Bar:
    """One bar of stacked parts, with the half width of the interval around its end; None: not bounded.

    Args:
        note: stands behind it, such as the figure.
    """

    label: str
    parts: Sequence[float]
    half_width: float | None
    note: str


def ticks(low: float, high: float, about: int = 5, *, whole: bool = False) -> list[float]:
    """Round numbers from below ``low`` to above ``high``, steps of 1, 2 or 5 times a power of ten; ``whole``: no
    fractions.

    >>> ticks(0, 0.93), ticks(0, 3)
    ([0.0, 0.2, 0.4, 0.6, 0.8, 1.0], [0.0, 1.0, 2.0, 3.0])
    """
    if not high > low:
        # One value: half its size to each side, or one for zero.
        room = abs(low) / 6 or 1.0
        low, high = low - room, high + room
    raw = max((high - low) / about, 1.0 if whole else 0.0)
    power = 10.0 ** math.floor(math.log10(raw))
    step = power * next(factor for factor in (1, 2, 5, 10) if factor * power >= raw * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    digits = max(0, -math.floor(math.log10(step)) + 1)
    return [round(number * step, digits) for number in range(first, last + 1)]


def thinned(line: Line, most: int = MOST_POINTS) -> Line:
    """The same line with at most about ``most`` points: of each stretch its first, lowest and highest, so that no peak
    is lost; the last point stays."""
    count = len(line.x)
    if count <= most:
        return line
    each = -(-3 * count // most)
    kept: set[int] = {0, count - 1}
    for start in range(0, count, each):
        here = [at for at in range(start, min(count, start + each)) if line.y[at] is not None]
        if here:
            by_value = sorted(here, key=lambda at: line.y[at] or 0.0)
            kept |= {here[0], by_value[0], by_value[-1]}
    chosen = sorted(kept)

    def pick(values: Sequence[float | None]) -> list[float | None]:
        return [values[at] for at in chosen] if values else []

    return Line(line.name, pick(line.x), pick(line.y), pick(line.low), pick(line.high), line.bar_along_x)


def lines(
    series: Sequence[Line],
    *,
    title: str,
    x_label: str,
    y_label: str,
    y_format: Callable[[float], str] = "{:g}".format,
    from_zero: bool = False,
) -> Markup | None:
    """A chart of lines; None when there is no point to draw."""
    series = [thinned(line) for line in series]
    points = [(x, y) for line in series for x, y in zip(line.x, line.y, strict=True) if x is not None and y is not None]
    if not points:
        return None
    ends = [end for line in series for side in (line.low, line.high) for end in side if end is not None]
    across = [x for x, _ in points] + (ends if any(line.bar_along_x for line in series) else [])
    up = [y for _, y in points] + ([] if any(line.bar_along_x for line in series) else ends)
    xs = ticks(min(across), max(across), 6, whole=x_label == "round")
    low = min(up + [0.0] * from_zero)
    # All zero: an axis that goes below would say that there could be less.
    ys = ticks(low, max(up) if max(up) > low or not from_zero else 1.0)
    scale_x = _scale(xs[0], xs[-1], _LEFT, WIDTH - _RIGHT)
    scale_y = _scale(ys[0], ys[-1], _HEIGHT - _BOTTOM, _TOP)
    drawn = [_grid(xs, ys, scale_x, scale_y, x_label, y_label, y_format)]
    for index, line in enumerate(series):
        drawn.append(_line(line, f"s{index % SERIES}", scale_x, scale_y))
    described = f"{title}: {', '.join(_told(line, y_format) for line in series)}"
    return _picture(title, described, _HEIGHT, drawn, [line.name for line in series])


def _told(line: Line, y_format: Callable[[float], str]) -> str:
    known = [y for y in line.y if y is not None]
    if not known:
        return f"{line.name} has no points"
    return f"{line.name} from {y_format(known[0])} to {y_format(known[-1])}, highest {y_format(max(known))}"


def _line(line: Line, style: str, scale_x: Callable[[float], float], scale_y: Callable[[float], float]) -> Markup:
    path, pen, dots = [], "M", []
    for x, y in zip(line.x, line.y, strict=True):
        if x is None or y is None:
            pen = "M"
            continue
        path.append(f"{pen}{scale_x(x):.1f} {scale_y(y):.1f}")
        pen = "L"
        dots.append(f"M{scale_x(x):.1f} {scale_y(y):.1f}h0")
    bars_ = []
    for x, y, low, high in zip(line.x, line.y, line.low, line.high, strict=False):
        if x is None or y is None or low is None or high is None:
            continue
        if line.bar_along_x:
            bars_.append(f"M{scale_x(low):.1f} {scale_y(y):.1f}H{scale_x(high):.1f}")
        else:
            bars_.append(f"M{scale_x(x):.1f} {scale_y(low):.1f}V{scale_y(high):.1f}")
    return element(
        "g",
        element("path", d="".join(bars_), class_="err") if bars_ else None,
        element("path", d="".join(path), class_="ln"),
        element("path", d="".join(dots), class_="dot") if len(dots) <= 60 else None,
        class_=style,
    )


def _grid(
    xs: Sequence[float],
    ys: Sequence[float],
    scale_x: Callable[[float], float],
    scale_y: Callable[[float], float],
    x_label: str,
    y_label: str,
    y_format: Callable[[float], str],
) -> Markup:
    bottom = _HEIGHT - _BOTTOM
    rows = [
        element("path", d="".join(f"M{_LEFT} {scale_y(y):.1f}H{WIDTH - _RIGHT}" for y in ys), class_="grid"),
        element("path", d=f"M{_LEFT} {_TOP}V{bottom}H{WIDTH - _RIGHT}", class_="axis"),
    ]
    for y in ys:
        rows.append(element("text", y_format(y), x=_LEFT - 6, y=f"{scale_y(y) + 4:.1f}", class_="tick end"))
    for x in xs:
        rows.append(element("text", f"{x:g}", x=f"{scale_x(x):.1f}", y=bottom + 15, class_="tick mid"))
    rows.append(element("text", x_label, x=(WIDTH + _LEFT) // 2, y=_HEIGHT - 6, class_="label mid"))
    middle = (_TOP + bottom) // 2
    rows.append(element("text", y_label, x=12, y=middle, class_="label mid", transform=f"rotate(-90 12 {middle})"))
    return element("g", *rows)


def bars(rows: Sequence[Bar], parts: Sequence[str], *, title: str, x_label: str) -> Markup | None:
    """Horizontal bars, one for each row, stacked of ``parts``; None without rows."""
    if not rows:
        return None
    left, row_height = min(200, 14 + max(_text_width(bar.label) for bar in rows)), 20
    right = 14 + max(_text_width(bar.note) for bar in rows)
    reach = max(sum(bar.parts) + (bar.half_width or 0.0) for bar in rows)
    marks = ticks(0.0, reach or 1.0)
    height = _TOP + row_height * len(rows) + _BOTTOM
    scale = _scale(0.0, marks[-1], left, WIDTH - right)
    bottom = height - _BOTTOM
    drawn = [
        element("path", d="".join(f"M{scale(x):.1f} {_TOP}V{bottom}" for x in marks), class_="grid"),
        *(element("text", f"{x:g}", x=f"{scale(x):.1f}", y=bottom + 15, class_="tick mid") for x in marks),
        element("text", x_label, x=(WIDTH + left) // 2, y=height - 6, class_="label mid"),
    ]
    filled: list[list[str]] = [[] for _ in parts]
    whiskers = []
    for place, bar in enumerate(rows):
        top = _TOP + row_height * place
        at = 0.0
        for index, value in enumerate(bar.parts):
            if value > 0:
                width = scale(at + value) - scale(at)
                filled[index].append(f"M{scale(at):.1f} {top + 4}h{width:.1f}v12h-{width:.1f}z")
                at += value
        if bar.half_width is not None and bar.half_width > 0:
            low, high = scale(max(0.0, at - bar.half_width)), scale(at + bar.half_width)
            whiskers.append(f"M{low:.1f} {top + 10}H{high:.1f}M{low:.1f} {top + 6}v8M{high:.1f} {top + 6}v8")
        end = scale(at + (bar.half_width or 0.0))
        drawn.append(element("text", _short(bar.label, left - 14), x=left - 6, y=top + 14, class_="tick end"))
        drawn.append(element("text", bar.note, x=f"{end + 5:.1f}", y=top + 14, class_="tick"))
    for index, path in enumerate(filled):
        if path:
            drawn.append(element("path", d="".join(path), class_=f"s{index % SERIES} fill"))
    if whiskers:
        drawn.append(element("path", d="".join(whiskers), class_="whisker"))
    described = f"{title}: " + "; ".join(f"{bar.label} {bar.note}" for bar in rows[:20])
    return _picture(title, described, height, drawn, parts)


def strips(rows: Sequence[tuple[str, Sequence[float | None]]], last: int, *, title: str) -> Markup | None:
    """A row of cells for each name: shares from 0 (pale) to 1 (full), nothing where None; the columns end at round
    ``last``. None without rows."""
    if not rows or not rows[0][1]:
        return None
    left = min(200, 14 + max(_text_width(name) for name, _ in rows))
    count, row_height = max(len(cells) for _, cells in rows), 16
    width = (WIDTH - _RIGHT - left) / count
    height = _TOP + row_height * len(rows) + 26
    shades: dict[int, list[str]] = {}
    drawn = []
    for place, (name, cells) in enumerate(rows):
        top = _TOP + row_height * place
        drawn.append(element("text", _short(name, left - 14), x=left - 6, y=top + 12, class_="tick end"))
        for index, share in enumerate(cells):
            if share is not None:
                cell = f"M{left + index * width:.1f} {top + 1}h{width - 0.6:.1f}v13h-{width - 0.6:.1f}z"
                shades.setdefault(round(4 * share), []).append(cell)
    for shade, path in sorted(shades.items()):
        drawn.append(element("path", d="".join(path), class_=f"cell c{shade}"))
    bottom = height - 8
    drawn.append(element("text", "round 1", x=left, y=bottom, class_="tick"))
    drawn.append(element("text", str(last), x=WIDTH - _RIGHT, y=bottom, class_="tick end"))
    return _picture(title, title, height, drawn, [])


def _picture(title: str, described: str, height: int, drawn: Sequence[Markup], names: Sequence[str]) -> Markup:
    svg = element(
        "svg",
        element("title", title),
        element("desc", described),
        *drawn,
        viewBox=f"0 0 {WIDTH} {height}",
        role="img",
        aria_label=described,
    )
    keys = [
        element("li", element("span", class_=f"key s{index % SERIES}", aria_hidden="true"), name)
        for index, name in enumerate(names)
    ]
    return element(
        "figure", element("figcaption", title), svg, element("ul", *keys, class_="keys") if len(keys) > 1 else None
    )


def _scale(low: float, high: float, first: float, last: float) -> Callable[[float], float]:
    span = (high - low) or 1.0
    return lambda value: first + (value - low) / span * (last - first)


def _text_width(text: str) -> int:
    # Of letters of 12 points: about that wide each, at most.
    return 7 * min(len(text), 40)


def _short(text: str, room: float) -> str:
    most = max(3, int(room / 6.4))
    return text if len(text) <= most else text[: most - 1] + "…"
