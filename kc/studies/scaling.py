"""Error against the number of rows, the fitted law, and which encoder buys the error with fewer bytes."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.figure import Figure
from scipy.stats import linregress
from scipy.stats import t as student

from kc.errors import KcError
from kc.memory.vote.evaluation import is_correct
from kc.memory.vote.votes import VOTES
from kc.report.style import looks
from kc.studies.base import Row, column, numbers
from kc.studies.figures import legend, log_axes, panels, style_axes
from kc.studies.keys import Keys, VoteStudy
from kc.studies.options import SeededOptions, StudySpec

Float64Array = npt.NDArray[np.float64]
QUERIES = 2_000
"""Queries at most, test rows at random with seed 0: cells are a million."""


@dataclass(frozen=True)
class ScalingOptions(SeededOptions):
    """Options of scaling.

    Args:
        wanted: Errors in per cent whose memory sizes are predicted, separated by commas.
    """

    wanted: str = "5,2,1"


class Scaling(VoteStudy[ScalingOptions]):
    """A row an encoder, size and seed: error of each vote; then a row an encoder: the law of the rank vote at k, its
    interval, predicted sizes, and the parameters of the encoder."""

    spec = StudySpec(
        summary="Error against the number of rows, on the paper's axes; small and large encoders.",
        plots="left log10 error against log10 log10 rows with the fitted law, right error against the memory's bytes",
        paper="arXiv 2408.08172",
        options=ScalingOptions,
    )

    def run(self) -> Figure:
        wanted = numbers("wanted", self.options.wanted)
        if not all(0 < value < 100 for value in wanted):
            raise KcError(f"--wanted {self.options.wanted}: expected errors in per cent between 0 and 100")
        for name in self.encoders:
            train = self.keys(name, "train")

            @cache
            def queries(name: str = name) -> Keys:
                test = self.keys(name, "test")
                return test.take(np.sort(np.random.default_rng(0).permutation(len(test))[:QUERIES]))

            def row(size: int, seed: int, train: Keys = train, name: str = name) -> Row:
                order = np.random.default_rng([seed, 77]).permutation(len(train))[:size]
                test = queries(name)
                found = self.answers(train.take(np.sort(order)), test.key, self.k)
                right = {kind: is_correct(found, test.label, kind, **self.votes).mean() for kind in VOTES}
                error = {f"error {kind}": 100 * float(1 - share) for kind, share in right.items()}
                size_mb = size * train.key.shape[1] * 4 / 2**20
                return {"encoder": name, "rows": size, "seed": seed, "memory MiB": size_mb, **error}

            for size in sizes(len(train)):
                for seed in self.seeds if size < len(train) else self.seeds[:1]:
                    self.row(f"{name} {size} {seed}", partial(row, size, seed))
        laws = {name: self.law(name) for name in self.encoders}
        for name, law in laws.items():
            if law is not None:
                self.row(f"law {name}", partial(self.summary, name, law, wanted))
        return self.draw(laws)

    def points(self, name: str) -> list[Row]:
        """The measured rows of an encoder."""
        return [r for r in self.rows if r["encoder"] == name and "seed" in r]

    def law(self, name: str) -> Law | None:
        """The law of the rank vote over the mean of the seeds at each size."""
        rows = self.points(name)
        size, error = column(rows, "rows"), column(rows, "error rank")
        distinct = np.unique(size)
        return fit_law(distinct, np.array([error[size == s].mean() for s in distinct]))

    def summary(self, name: str, law: Law, wanted: tuple[float, ...]) -> Row:
        """The law as a row of the table: rows that an error takes, and the memory's keys and the encoder in float32."""
        n_parameters = sum(p.numel() for p in self.source.session(name).encoder.parameters())
        point = self.points(name)[0]
        row_mb = point["memory MiB"] / point["rows"]
        predicted = {}
        for error in wanted:
            predicted[f"rows for {error:g} %"] = law.rows(error)
            predicted[f"MiB for {error:g} %"] = n_parameters * 4 / 2**20 + row_mb * law.rows(error)
        return {
            "encoder": name, "slope": law.slope, "slope low": law.slope_low, "slope high": law.slope_high,
            "intercept": law.intercept, "R2": law.r2, "points": law.n,
            "encoder parameters": n_parameters,
            **{what: value if np.isfinite(value) else None for what, value in predicted.items()},
        }  # fmt: skip

    def draw(self, laws: dict[str, Law | None]) -> Figure:
        figure, (left, right) = panels(2, width=4.6, height=3.6)
        look = looks(list(self.encoders))
        ticks: set[int] = set()
        for name, law in laws.items():
            rows, style = self.points(name), look[name]
            size, error = column(rows, "rows"), column(rows, "error rank")
            shown = error > 0
            ticks |= {int(s) for s in size}
            points: dict[str, Any] = {"s": 16, "color": style.color, "marker": style.marker}
            left.scatter(law_axis(size[shown]), np.log10(error[shown]), label=name, **points)
            right.scatter(column(rows, "memory MiB")[shown], error[shown], **points)
            if law is not None:
                line = np.geomspace(size.min(), 10 * size.max(), 60)
                low, high = law.band(line)
                left.plot(law_axis(line), np.log10(law.error(line)), color=style.color, linewidth=1.2)
                band: dict[str, Any] = {"color": style.color, "alpha": 0.15, "linewidth": 0}
                left.fill_between(law_axis(line), np.log10(low), np.log10(high), **band)
        decades = [10**e for e in range(1, 10) if min(ticks) / 2 <= 10**e <= 20 * max(ticks)]
        names = [f"$10^{{{int(np.log10(d))}}}$" for d in decades]
        left.set_xticks([float(law_axis(float(d))) for d in decades], names)
        legend(left)
        title = f"{self.source.manifest.name}, {self.source.kind}, rank vote, k = {self.k}"
        style_axes(left, title, "rows (axis: log10 log10)", "log10 of the error in %")
        log_axes(right, y=True)
        style_axes(right, "what the error costs in memory", "memory, MiB", "error, %")
        return figure


def sizes(n_rows: int) -> list[int]:
    """Powers of the square root of ten from 100 on, and all rows."""
    found = [round(10 ** (e / 2)) for e in range(4, 40)]
    return [n for n in found if n < 0.9 * n_rows] + [n_rows]


@dataclass(frozen=True)
class Law:
    """log10(error %) = intercept + slope * log10(log10(rows)); 95 % interval of the slope; R squared; points used."""

    intercept: float
    slope: float
    slope_low: float
    slope_high: float
    r2: float
    n: int
    spread: float
    mean_x: float
    sum_x: float

    def error(self, rows: Float64Array | float) -> Float64Array:
        """Predicted error in per cent of memories of `rows` rows (above 1)."""
        return np.asarray(10 ** (self.intercept + self.slope * law_axis(rows)), np.float64)

    def band(self, rows: Float64Array, level: float = 0.95) -> tuple[Float64Array, Float64Array]:
        """Where the mean error in per cent lies with confidence `level` (the band of the fitted line)."""
        x = law_axis(rows)
        width = np.sqrt(1 / self.n + (x - self.mean_x) ** 2 / self.sum_x)
        half = student.ppf((1 + level) / 2, self.n - 2) * self.spread * width
        middle = self.intercept + self.slope * x
        return 10 ** (middle - half), 10 ** (middle + half)

    def rows(self, error: float) -> float:
        """Rows at which the line reaches `error` per cent; NaN for a line that does not fall, infinity where the
        number cannot be written."""
        if not self.slope < 0:
            return float("nan")
        exponent = (np.log10(error) - self.intercept) / self.slope
        with np.errstate(over="ignore"):
            return float(np.float64(10) ** (np.float64(10) ** exponent))


def law_axis(rows: Float64Array | float) -> Float64Array:
    """log10(log10(rows)), the paper's axis; rows above 1."""
    return np.log10(np.log10(np.asarray(rows, np.float64)))


def fit_law(rows: Float64Array, error: Float64Array) -> Law | None:
    """Least squares over memories of `rows` (N,) with `error` (N,) per cent; None for fewer than three points that can
    be drawn (rows above 1, error above 0) or rows all alike. R squared is NaN where all errors are alike."""
    use = (rows > 1) & (error > 0)
    x, y = law_axis(rows[use]), np.log10(error[use])
    if len(x) < 3 or np.ptp(x) == 0:
        return None
    line, sum_x = linregress(x, y), float(((x - x.mean()) ** 2).sum())
    slope, half = float(line.slope), float(student.ppf(0.975, len(x) - 2) * line.stderr)
    r2 = float(line.rvalue**2) if np.ptp(y) > 0 else float("nan")
    spread = float(line.stderr) * sum_x**0.5
    return Law(float(line.intercept), slope, slope - half, slope + half, r2, len(x), spread, float(x.mean()), sum_x)
