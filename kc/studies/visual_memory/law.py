"""The scaling law of arXiv 2408.08172: log10(error %) is linear in log10(log10(rows))."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.stats import t as student

Float64Array = npt.NDArray[np.float64]


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
        return np.asarray(10 ** (self.intercept + self.slope * axis(rows)), np.float64)

    def band(self, rows: Float64Array, level: float = 0.95) -> tuple[Float64Array, Float64Array]:
        """Where the mean error in per cent lies with confidence `level` (the band of the fitted line)."""
        x = axis(rows)
        half = (
            student.ppf((1 + level) / 2, self.n - 2)
            * self.spread
            * np.sqrt(1 / self.n + (x - self.mean_x) ** 2 / self.sum_x)
        )
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


def axis(rows: Float64Array | float) -> Float64Array:
    """log10(log10(rows)), the paper's axis; rows above 1."""
    return np.log10(np.log10(np.asarray(rows, np.float64)))


def fit_law(rows: Float64Array, error: Float64Array) -> Law | None:
    """Least squares over memories of `rows` (N,) with `error` (N,) per cent; None for fewer than three points that can
    be drawn (rows above 1, error above 0) or rows all alike."""
    use = (rows > 1) & (error > 0)
    x, y = axis(rows[use]), np.log10(error[use])
    if len(x) < 3 or np.ptp(x) == 0:
        return None
    mean_x, sum_x = float(x.mean()), float(((x - x.mean()) ** 2).sum())
    slope = float(((x - mean_x) * (y - y.mean())).sum() / sum_x)
    intercept = float(y.mean() - slope * mean_x)
    left = y - intercept - slope * x
    spread = float(np.sqrt((left**2).sum() / (len(x) - 2)))
    half = float(student.ppf(0.975, len(x) - 2)) * spread / np.sqrt(sum_x)
    total = float(((y - y.mean()) ** 2).sum())
    r2 = 1 - float((left**2).sum()) / total if total > 0 else float("nan")
    return Law(intercept, slope, slope - half, slope + half, r2, len(x), spread, mean_x, sum_x)
