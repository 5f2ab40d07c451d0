"""The memory's own linear discriminant: a class mean each, one covariance for all, class priors; nothing is trained.

That is streaming linear discriminant analysis (SLDA, arXiv 1909.01520) with its covariance made from all rows:

log p(c | x) = log(n_c / n) + m_c^T S^-1 x - m_c^T S^-1 m_c / 2 + const.

What it reads of the rows are sums, so that rows are added and removed exactly: `Moments` are whole numbers, and after
a removal they equal those of the rows left.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from kc.types import BoolArray, Float32Array, Int64Array

Float64Array = npt.NDArray[np.float64]

STEPS = 1 << 18
"""A key value counts in steps of 1 / STEPS (rounding 4e-5 of a typical value of 500). Products of two then sum exactly
in float64 over `_BLOCK` rows, and in int64 over 2^27 rows."""
_BLOCK = 1 << 14
SHRINKS = (0.01, 0.03, 0.1, 0.3, 1.0)
"""Parts of the mean variance that may be added to every direction of the covariance."""
_FLOOR = 1e-6
"""Part of the mean square of all keys that is always added: the covariance of one row a class is 0."""


@dataclass(frozen=True)
class Moments:
    """Sums over rows, in whole steps: `class_id` (C,) ascending, `count` (C,) rows of each, `total` (C, D) of the keys,
    `square` (D, D) of x x^T over all rows; all int64."""

    class_id: Int64Array
    count: Int64Array
    total: Int64Array
    square: Int64Array

    @staticmethod
    def of(keys: Float32Array, class_id: Int64Array) -> Moments:
        """Of rows with `keys` (N, D), values in [-1, 1], and classes (N,)."""
        classes, column = np.unique(class_id, return_inverse=True)
        steps = np.rint(keys.astype(np.float64) * STEPS)
        order = np.argsort(column, kind="stable")
        starts = np.searchsorted(column[order], np.arange(len(classes)))
        total = np.add.reduceat(steps[order].astype(np.int64), starts, axis=0) if len(keys) else steps.astype(np.int64)
        square = np.zeros((keys.shape[1], keys.shape[1]), np.int64)
        for first in range(0, len(keys), _BLOCK):
            block = steps[first : first + _BLOCK]
            square += (block.T @ block).astype(np.int64)
        return Moments(classes.astype(np.int64), np.bincount(column, minlength=len(classes)), total, square)

    def __add__(self, other: Moments) -> Moments:
        return self._joined(other, 1)

    def __sub__(self, other: Moments) -> Moments:
        """Without rows that were counted; a class of which none is left is gone."""
        return self._joined(other, -1)

    def _joined(self, other: Moments, sign: int) -> Moments:
        classes = np.union1d(self.class_id, other.class_id)
        count = np.zeros(len(classes), np.int64)
        total = np.zeros((len(classes), len(self.square)), np.int64)
        for part, factor in ((self, 1), (other, sign)):
            place = np.searchsorted(classes, part.class_id)
            count[place] += factor * part.count
            total[place] += factor * part.total
        left = count != 0
        return Moments(classes[left], count[left], total[left], self.square + sign * other.square)

    @property
    def means(self) -> Float64Array:
        """(C, D) mean key of each class."""
        result: Float64Array = self.total / (STEPS * self.count[:, None].astype(np.float64))
        return result

    @property
    def within(self) -> Float64Array:
        """(D, D) sum over all rows of (x - m_c)(x - m_c)^T, m_c being the mean of the row's class."""
        means = self.means
        result: Float64Array = self.square / float(STEPS) ** 2 - (means.T * self.count) @ means
        return result

    @property
    def mean_square(self) -> float:
        """Mean over rows of |x|^2."""
        return float(np.trace(self.square) / float(STEPS) ** 2 / max(int(self.count.sum()), 1))


def solved(
    square: Float64Array, total: Float64Array, count: Float64Array, shrink: float
) -> tuple[Float64Array, Float64Array]:
    """Weights (D, C) and offsets (C,) of the discriminant of rows, of which `count` (C,) may be fractions.

    `square` (D, D): the sum of x x^T over all rows; `total` (C, D): of x in each class. `shrink`: part of the mean
    variance that is added to every direction of the covariance. A class without rows has offset -inf.
    """
    n, dim = count.sum(), len(square)
    means = total / np.maximum(count, 1e-12)[:, None]
    covariance = (square - (means.T * count) @ means) / n
    covariance += (shrink * np.trace(covariance) + _FLOOR * np.trace(square) / n) / dim * np.eye(dim)
    weights = np.linalg.solve(covariance, means.T).astype(np.float64)
    with np.errstate(divide="ignore"):
        offset: Float64Array = np.log(count / n) - 0.5 * (means.T * weights).sum(0)
    return weights, offset


@dataclass(frozen=True)
class Discriminant:
    """log p(c | x) = x `weights` + `offset` up to a constant: (D, C) and (C,), over the classes `class_id` (C,)."""

    class_id: Int64Array
    weights: Float64Array
    offset: Float64Array

    @staticmethod
    def of(moments: Moments, shrink: float) -> Discriminant:
        """With `shrink` times the mean variance added to every direction of the covariance. At least one row."""
        square, total = moments.square / float(STEPS) ** 2, moments.total / float(STEPS)
        return Discriminant(moments.class_id, *solved(square, total, moments.count.astype(np.float64), shrink))

    def log_posterior(self, keys: Float32Array, class_id: Int64Array) -> Float64Array:
        """(N, C) log probability of each of the classes `class_id` (C,) among those that have rows; -inf for others."""
        return spread(self.class_id, keys.astype(np.float64) @ self.weights + self.offset, class_id)


def spread(own: Int64Array, logits: Float64Array, class_id: Int64Array) -> Float64Array:
    """Log probabilities (N, C) over the classes `class_id` (C,), from `logits` (N, O) of the classes `own` (O,)."""
    place = np.searchsorted(own, class_id).clip(max=max(len(own) - 1, 0))
    has = own[place] == class_id if len(own) else np.zeros(len(class_id), bool)
    result = np.where(has, logits[:, place], -np.inf)
    best = result.max(axis=1, keepdims=True, initial=-np.inf)
    shifted = result - np.where(np.isfinite(best), best, 0)
    with np.errstate(divide="ignore"):
        found: Float64Array = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return np.where(has, found, -np.inf)


def left_out_log_posterior(
    moments: Moments, keys: Float32Array, class_id: Int64Array, group: Int64Array, asked: BoolArray
) -> Float64Array:
    """What discriminants of all rows but those of a row's own image say of it: (S, Q, C), for each of `SHRINKS`.

    moments: of all rows. keys (N, D), class_id (N,), group (N,): all rows of some images, and which image each is of.
    asked (N,) bool: the Q rows to answer for. Columns: `moments.class_id`; a class of this image alone has -inf. Exact:
    mean, prior and covariance all lose the image, the covariance by a low-rank update (Woodbury) in the eigenvectors
    of the whole one.
    """
    values, vectors = np.linalg.eigh(moments.within)
    values = values.clip(min=0)
    n, dim, whole = int(moments.count.sum()), len(values), moments.mean_square
    turned = (np.rint(keys.astype(np.float64) * STEPS) / STEPS) @ vectors
    totals, column = (moments.means * moments.count[:, None]) @ vectors, np.searchsorted(moments.class_id, class_id)
    answers = np.full((len(SHRINKS), int(asked.sum()), len(moments.class_id)), -np.inf)
    place = np.cumsum(asked) - 1
    order = np.argsort(group, kind="stable")
    for rows in np.split(order, np.flatnonzero(np.diff(group[order])) + 1):
        if not asked[rows].any():
            continue
        own, classes = turned[rows], np.unique(column[rows])
        lost = np.bincount(column[rows], minlength=len(moments.class_id))
        count = moments.count - lost
        left = n - len(rows)
        if left == 0:
            continue
        total, parts = totals.copy(), []
        for c in classes:
            these = own[column[rows] == c]
            mean = these.mean(0)
            parts.append(these - mean)
            if count[c]:  # Steiner: what the two means add to the scatter
                gap = mean - totals[c] / moments.count[c]
                parts.append(np.sqrt(moments.count[c] * lost[c] / count[c]) * gap[None])
            total[c] -= these.sum(0)
        means = total / np.maximum(count, 1)[:, None]
        with np.errstate(divide="ignore"):
            prior = np.log(count / left)
        factor = np.concatenate(parts)
        variance = max(values.sum() - float((factor**2).sum()), 0.0)
        square = (whole * n - float((own**2).sum())) / left
        for i, shrink in enumerate(SHRINKS):
            inverse = 1 / (values + (shrink * variance + _FLOOR * square * left) / dim)
            scaled = factor * inverse
            small = np.linalg.solve(np.eye(len(factor)) - scaled @ factor.T, scaled)
            weights = left * (means * inverse + (means @ scaled.T) @ small)
            logits = own[asked[rows]] @ weights.T + prior - 0.5 * (means * weights).sum(1)
            answers[i, place[rows[asked[rows]]]] = spread(
                moments.class_id[count > 0], logits[:, count > 0], moments.class_id
            )
    return answers
