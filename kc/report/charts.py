"""Charts as inline SVG. Without a script they are plain pictures; the page's script adds hover, keys, pinning."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape

import numpy as np

from kc.report import words
from kc.report.figures import spread_apart
from kc.report.records import FloatArray
from kc.report.style import LogAxis

_WIDTH, _HEIGHT = 460, 270
_LEFT, _TOP, _BOTTOM = 34, 10, 40


@dataclass(frozen=True)
class Series:
    """One line: `values` and `spread` (T,) in [0, 1], NaN where there is no point; `css` carries its colour.

    `about` names what is scored, for tooltips; `end` is written beside the last point; `wide` lies pale under the rest.
    """

    about: str
    css: str
    values: FloatArray
    spread: FloatArray
    dash: tuple[float, ...] = ()
    end: str = ""
    wide: bool = False


@dataclass(frozen=True)
class Scale:
    """The upright axis from `low` to `high` with its marks (value, text); `say` writes a value with its deviation."""

    low: float
    high: float
    marks: tuple[tuple[float, str], ...]
    say: Callable[[float, float], str] = words.points

    @classmethod
    def of_points(cls, low: float, top: float) -> Scale:
        """Scores in [0, 1], shown times 100, from `low` to `top` points."""
        step = _step(top - min(low, 0))
        first = step * math.floor(low / step) if low < 0 else 0
        marks = tuple((v / 100, f"{v:g}".replace("-", "−")) for v in range(first, math.floor(top) + 1, step))
        return cls(first / 100, top / 100, marks)

    @classmethod
    def of_bytes(cls, most: float) -> tuple[Scale, str]:
        """Bytes from 0, and the binary unit of its marks."""
        size, unit = next((s for s in ((2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB")) if most >= s[0]), (1, "B"))
        step = 10 ** math.floor(math.log10(max(most / size, 1)))
        step = next((step * f for f in (0.2, 0.5, 1, 2) if most / size / (step * f) <= 6), step * 2)
        n = math.ceil(most / size / step) or 1
        marks = tuple((i * step * size, f"{i * step:g}") for i in range(n + 1))
        return cls(0.0, n * step * size, marks, words.size), unit

    def at(self, value: float) -> float:
        """Height of a value in the picture."""
        return _height(value - self.low, self.high - self.low)

    def levels(self, wide: float) -> list[str]:
        """Horizontal lines of the grid with their texts."""
        return [line for value, text in self.marks for line in _level(self.at(value), text, wide)]


def line_chart(series: Sequence[Series], label: str, top: float, scale: Scale | None = None) -> str:
    """An `<svg>` of scores times 100 from 0 to `top` points, or on another `scale`, over the tasks learned (1..T)."""
    scale = scale or Scale.of_points(0, top)
    n = len(series[0].values)
    right = 96 if any(s.end for s in series) else 12
    wide = _WIDTH - _LEFT - right

    def x(t: float) -> float:
        return _LEFT + (wide / 2 if n == 1 else 8 + (wide - 16) * t / (n - 1))

    out = [f'<svg class="chart" viewBox="0 0 {_WIDTH} {_HEIGHT}" role="group" aria-label="{escape(label)}">']
    out += scale.levels(wide)
    for t in range(0, n, max(1, math.ceil(n / 12))):
        out.append(f'<text x="{x(t):.1f}" y="{_HEIGHT - _BOTTOM + 18}" text-anchor="middle">{t + 1}</text>')
    out.append(f'<text x="{_LEFT + wide / 2:.1f}" y="{_HEIGHT - 4}" text-anchor="middle">tasks learned</text>')
    named = {s.about: scale.at(_last(s)[1]) for s in series if s.end}
    names = sorted(named, key=lambda name: named[name])
    heights = dict(zip(names, spread_apart([named[name] for name in names], 16), strict=True))
    for s in sorted(series, key=lambda s: not s.wide):
        out.append(_series(s, x, scale, heights.get(s.about)))
    return "\n".join([*out, "</svg>"])


@dataclass(frozen=True)
class Point:
    """One method: `score` in [0, 1] with its deviation `spread` (NaN: none) at the price `cost`; `tip` says both."""

    name: str
    css: str
    cost: float
    score: float
    spread: float
    tip: str


def cost_chart(points: Sequence[Point], label: str, title: str, unit: str, top: float) -> str:
    """An `<svg>` of scores times 100 from 0 to `top` against a cost ("s" or "B") on a logarithmic axis."""
    axis = LogAxis.over([p.cost for p in points], unit)
    wide = _WIDTH - _LEFT - 96

    def x(share: float) -> float:
        return _LEFT + 14 + (wide - 28) * share

    def y(score: float) -> float:
        return _height(score, top)

    out = [f'<svg class="chart" viewBox="0 0 {_WIDTH} {_HEIGHT}" role="group" aria-label="{escape(label)}">']
    out += Scale.of_points(0, top).levels(wide)
    for share, text in axis.ticks:
        out.append(f'<line class="grid" x1="{x(share):.1f}" x2="{x(share):.1f}" y1="{y(top)}" y2="{y(0)}"/>')
        out.append(f'<text x="{x(share):.1f}" y="{_HEIGHT - _BOTTOM + 18}" text-anchor="middle">{text}</text>')
    out.append(f'<text x="{_LEFT + wide / 2:.1f}" y="{_HEIGHT - 4}" text-anchor="middle">{escape(title)}</text>')
    ordered = sorted(points, key=lambda p: y(100 * p.score))
    names = dict(zip(ordered, spread_apart([y(100 * p.score) for p in ordered], 15), strict=True))
    for p, at in ((p, names[p]) for p in points):
        x0, y0 = x(axis.at(p.cost)), y(100 * p.score)
        said = escape(p.tip)
        out.append(
            f'<g class="series dots {p.css}" tabindex="0" role="button" aria-pressed="false" aria-label="{said}">'
        )
        if not math.isnan(p.spread):
            ends = y(100 * (p.score + p.spread)), y(100 * (p.score - p.spread))
            out.append(f'<line class="lead" x1="{x0:.1f}" x2="{x0:.1f}" y1="{ends[0]:.1f}" y2="{ends[1]:.1f}"/>')
        out.append(f'<circle cx="{x0:.1f}" cy="{y0:.1f}" r="6" data-tip="{said}"/>')
        out.append(f'<text class="end" x="{x0 + 10:.1f}" y="{at + 4.5:.1f}">{escape(_short(p.name))}</text></g>')
    return "\n".join([*out, "</svg>"])


def _short(name: str) -> str:
    """At most 11 characters; the middle is left out, because names of compared runs differ at the end."""
    return name if len(name) <= 11 else f"{name[:5]}…{name[-5:]}"


def _height(points: float, top: float) -> float:
    return _HEIGHT - _BOTTOM - (_HEIGHT - _TOP - _BOTTOM) * points / top


def _level(at: float, text: str, wide: float) -> tuple[str, str]:
    return (
        f'<line class="grid" x1="{_LEFT}" x2="{_LEFT + wide}" y1="{at:.1f}" y2="{at:.1f}"/>',
        f'<text x="{_LEFT - 6}" y="{at + 4.5:.1f}" text-anchor="end">{text}</text>',
    )


def _step(span: float) -> int:
    """Points between two marks of an axis that is `span` points long."""
    return 20 if span > 50 else 10 if span > 20 else 5


def _last(s: Series) -> tuple[int, float]:
    """Index and value of the last point; (0, 0.0) of an empty line."""
    known = np.flatnonzero(~np.isnan(s.values))
    return (int(known[-1]), float(s.values[known[-1]])) if known.size else (0, 0.0)


def _series(s: Series, x: Callable[[float], float], scale: Scale, end_at: float | None) -> str:
    known = [int(t) for t in np.flatnonzero(~np.isnan(s.values))]
    points = " ".join(f"{x(t):.1f},{scale.at(s.values[t]):.1f}" for t in known)
    said = ", ".join(f"{scale.say(s.values[t], math.nan)} after task {t + 1}" for t in known) or "undefined"
    css = f"series {s.css}{' wide' if s.wide else ''}"
    out = [f'<g class="{css}" tabindex="0" role="button" aria-pressed="false" aria-label="{escape(s.about)}: {said}">']
    banded = [t for t in known if not math.isnan(s.spread[t])]
    if len(banded) > 1:
        # A deviation may reach beyond what a score can be; the band ends with the axis.
        upper = [f"{x(t):.1f},{scale.at(min(s.values[t] + s.spread[t], scale.high)):.1f}" for t in banded]
        lower = [f"{x(t):.1f},{scale.at(max(s.values[t] - s.spread[t], scale.low)):.1f}" for t in reversed(banded)]
        out.append(f'<polygon points="{" ".join(upper + lower)}"/>')
    dash = f' stroke-dasharray="{" ".join(f"{2 * d:g}" for d in s.dash)}"' if s.dash else ""
    out.append(f'<polyline points="{points}"{dash}/>')
    for t in known:
        tip = f"{s.about}, after task {t + 1}: {scale.say(s.values[t], s.spread[t])}"
        out.append(f'<circle cx="{x(t):.1f}" cy="{scale.at(s.values[t]):.1f}" r="3" data-tip="{escape(tip)}"/>')
    if s.end and end_at is not None and known:
        t, value = _last(s)
        x0, y0 = x(t) + 5, scale.at(value)
        out.append(f'<line class="lead" x1="{x0:.1f}" y1="{y0:.1f}" x2="{x0 + 9:.1f}" y2="{end_at:.1f}"/>')
        out.append(f'<text class="end" x="{x0 + 12:.1f}" y="{end_at + 4.5:.1f}">{escape(_short(s.end))}</text>')
    return "\n".join([*out, "</g>"])
