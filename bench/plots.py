"""Plots as SVG: bars with their spread, and lines over time. Readable on light and dark ground; no script, no font."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Final

from figures import Spread

__all__ = ["Bars", "Line", "bars", "lines", "short"]

_WIDTH: Final = 760
_LABELS: Final = 210
_FIGURES: Final = 150
_ROW: Final = 22
_TITLE: Final = 34
_GAP: Final = 30
_COLOURS: Final = 8
_STYLE: Final = """
text { font: 13px system-ui, sans-serif; fill: #24292f }
.title { font-weight: 600; font-size: 14px } .soft { fill: #57606a; font-size: 12px }
.grid { stroke: #d0d7de; stroke-width: 1 } .whisker { stroke: #24292f; stroke-width: 1.5 }
.ours { fill: #0969da } .theirs { fill: #afb8c1 } .line { fill: none; stroke-width: 2 }
.c0 { stroke: #0969da } .c1 { stroke: #bc4c00 } .c2 { stroke: #1a7f37 } .c3 { stroke: #8250df }
.c4 { stroke: #bf3989 } .c5 { stroke: #6e7781 } .c6 { stroke: #9a6700 } .c7 { stroke: #1b7c83 }
@media (prefers-color-scheme: dark) {
text { fill: #e6edf3 } .soft { fill: #9198a1 } .grid { stroke: #3d444d } .whisker { stroke: #e6edf3 }
.ours { fill: #4493f8 } .theirs { fill: #656c76 }
.c0 { stroke: #4493f8 } .c1 { stroke: #f0883e } .c2 { stroke: #3fb950 } .c3 { stroke: #ab7df8 }
.c4 { stroke: #db61a2 } .c5 { stroke: #9198a1 } .c6 { stroke: #d29922 } .c7 { stroke: #39c5cf }
}
"""


@dataclass(frozen=True)
class Bars:
    """One group of bars: who, and how much."""

    title: str
    rows: Sequence[tuple[str, Spread]]


@dataclass(frozen=True)
class Line:
    """One line: (seconds, figure)."""

    label: str
    points: Sequence[tuple[float, float]]


def short(value: float) -> str:
    """A number with three significant digits, and no exponent: 0.0412, 1.5, 30, 1 930."""
    if not math.isfinite(value):
        return "-"
    if not value:
        return "0"
    digits = max(0, 2 - math.floor(math.log10(abs(value))))
    text = f"{value:,.{min(digits, 4)}f}".replace(",", " ")
    return text.rstrip("0").rstrip(".") if "." in text else text


def _text(x: float, y: float, text: str, *, kind: str = "", anchor: str = "start") -> str:
    style = f' class="{kind}"' if kind else ""
    return f'<text x="{x:.1f}" y="{y:.1f}"{style} text-anchor="{anchor}">{escape(text)}</text>'


def _document(title: str, height: float, parts: Sequence[str]) -> str:
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height:.0f}" width="{_WIDTH}"'
        f' height="{height:.0f}" role="img" aria-label="{escape(title, quote=True)}">'
    )
    return "\n".join([head, f"<style>{_STYLE}</style>", *parts, "</svg>", ""])


def bars(title: str, unit: str, groups: Sequence[Bars], *, ours: str) -> str:
    """An SVG of horizontal bars, a scale for each group, the rounds' spread as whiskers. `ours` stands out."""
    parts = [_text(0, 18, f"{title}{f', {unit}' if unit else ''}", kind="title")]
    y = float(_TITLE)
    for group in groups:
        parts.append(_text(0, y + 14, group.title, kind="soft"))
        y += _ROW
        most = max((spread.high for _, spread in group.rows), default=0.0) or 1.0
        scale = (_WIDTH - _LABELS - _FIGURES) / most
        for who, spread in group.rows:
            middle = y + _ROW / 2 - 1
            kind = "ours" if who == ours else "theirs"
            parts.append(_text(_LABELS - 8, middle + 5, who, anchor="end"))
            parts.append(
                f'<rect x="{_LABELS}" y="{y + 2:.1f}" width="{max(spread.median * scale, 1):.1f}"'
                f' height="{_ROW - 6}" rx="2" class="{kind}"/>'
            )
            low, high = _LABELS + spread.low * scale, _LABELS + spread.high * scale
            if high - low > 1:
                parts.append(f'<path d="M{low:.1f} {middle:.1f}H{high:.1f}" class="whisker"/>')
            parts.append(_text(max(high, _LABELS) + 8, middle + 5, short(spread.median)))
            y += _ROW
        y += _GAP - _ROW / 2
    return _document(title, y, parts)


def lines(title: str, unit: str, all_lines: Sequence[Line]) -> str:
    """An SVG of lines over seconds, on a logarithmic scale where the figures are far apart."""
    points = [point for line in all_lines for point in line.points if point[1] > 0]
    if not points:
        return _document(title, _TITLE, [_text(0, 18, title, kind="title")])
    left, right, top, height = 60.0, _WIDTH - 12.0, 44.0, 220.0
    longest = max(at for at, _ in points) or 1.0
    low, high = min(value for _, value in points), max(value for _, value in points)
    is_log = high > 20 * low
    bottom = math.floor(math.log10(low)) if is_log else 0.0
    ceiling = math.ceil(math.log10(high)) if is_log else high * 1.1

    def place(at: float, value: float) -> tuple[float, float]:
        scaled = math.log10(max(value, 10**bottom)) if is_log else value
        share = (scaled - bottom) / (ceiling - bottom)
        return left + (right - left) * at / longest, top + height * (1 - share)

    ticks = [10.0**power for power in range(int(bottom), int(ceiling) + 1)] if is_log else _round_steps(ceiling)
    parts = [_text(0, 18, f"{title}{f', {unit}' if unit else ''}", kind="title")]
    for tick in ticks:
        _, y = place(0, tick)
        parts.append(f'<path d="M{left:.1f} {y:.1f}H{right:.1f}" class="grid"/>')
        parts.append(_text(left - 8, y + 4, short(tick), kind="soft", anchor="end"))
    for second in _round_steps(longest):
        x, _ = place(second, 10**bottom)
        parts.append(_text(x, top + height + 18, f"{short(second)} s", kind="soft", anchor="middle"))
    for number, line in enumerate(all_lines):
        path = "L".join("{:.1f} {:.1f}".format(*place(at, value)) for at, value in line.points)
        parts.append(f'<path d="M{path}" class="line c{number % _COLOURS}"/>')
        x, y = (number % 3) * _WIDTH / 3, top + height + 44 + (number // 3) * _ROW
        parts.append(f'<path d="M{x:.1f} {y - 4:.1f}h20" class="line c{number % _COLOURS}"/>')
        parts.append(_text(x + 27, y, line.label))
    return _document(title, top + height + 54 + math.ceil(len(all_lines) / 3) * _ROW, parts)


def _round_steps(most: float) -> list[float]:
    """About five round numbers from 0 to `most`."""
    rough = most / 5
    power = 10 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough)
    return [step * number for number in range(int(most / step) + 1)]
