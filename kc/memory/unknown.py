"""Can a memory tell what it does not know? Scores from neighbour distance, and how they are judged."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from kc.memory.reader import Reader
from kc.memory.study import detection
from kc.types import BoolArray, Neighbours

Float64Array = npt.NDArray[np.float64]
ACCEPTED = 0.95
"""Share of what is known that should pass for known."""
SAMPLED = 1000
"""Stored rows at most that are compared with the others."""
LOOKED = 32
"""Neighbours among which one of another sample is looked for; regions of one image lie near each other."""


def familiarity(neighbours: Neighbours) -> dict[str, Float64Array]:
    """How well known each query (Q,) is, higher is better known, from its neighbours (Q, k) nearest first.

    nearest: cosine of the nearest. kth: cosine of the k-th (Sun et al. 2022, arXiv 2204.06507). mean: of all k.
    agreement: share of the rows that carry the commonest class, with the nearest cosine breaking ties.
    """
    score = neighbours.score.astype(np.float64)
    same = (neighbours.class_id[:, :, None] == neighbours.class_id[:, None, :]).sum(2).max(1)
    return {
        "nearest": score[:, 0],
        "kth": score[:, -1],
        "mean": score.mean(1),
        # A cosine is at most 1: a thousandth of a row cannot outweigh one row.
        "agreement": same / score.shape[1] + 1e-3 * score[:, 0] / score.shape[1],
    }


def neighbour_cosines(memory: Reader, at: int | None = None) -> Float64Array:
    """Cosines (N,), ascending, of stored rows with the nearest row of another sample.

    Where all `LOOKED` nearest are of the same sample, with the last of them. Of more than `SAMPLED` rows, those at even
    steps; rows of weight 0 do not count. Empty for fewer than two rows. A query that lies farther off than all but
    1 - `ACCEPTED` of them can be called unknown (`novelty_threshold`).
    """
    labels = memory.labels(at)
    heard = labels.id[labels.weight > 0]
    if len(heard) < 2:
        return np.zeros(0)
    chosen = heard[np.linspace(0, len(heard) - 1, min(SAMPLED, len(heard))).astype(np.int64)]
    found = memory.search(memory.keys(chosen), LOOKED, at=at, exclude_ids=chosen)
    own = np.array(memory.rows_of(chosen).sample_id)
    theirs = np.array(memory.rows_of(found.id.ravel()).sample_id).reshape(found.id.shape)
    other = theirs != own[:, None]
    place = np.where(other.any(1), other.argmax(1), -1)
    return np.sort(found.score[np.arange(len(chosen)), place].astype(np.float64))


def novelty_threshold(near: Float64Array) -> float:
    """The cosine that the share `ACCEPTED` of `near` (N,) reaches, from `neighbour_cosines`; -inf without a value."""
    return float(np.quantile(near, 1 - ACCEPTED, method="lower")) if len(near) else float("-inf")


def auroc(known: Float64Array, unknown: Float64Array) -> float:
    """Chance that a known query scores above an unknown one, ties half; NaN where either is empty."""
    both = np.concatenate([known, unknown])
    wrong = np.arange(len(both)) < len(known)
    return detection(both, np.zeros(len(both), bool), wrong).auroc


def fpr(known: Float64Array, unknown: Float64Array, share: float = 0.95) -> float:
    """Share of the unknown that passes for known where at least `share` of the known is accepted (FPR95 at 0.95).

    The threshold is the highest score that still accepts enough of the known. NaN where either is empty.
    """
    if len(known) == 0 or len(unknown) == 0:
        return float("nan")
    needed = int(np.ceil(share * len(known)))
    threshold = np.sort(known)[::-1][needed - 1]
    return float((unknown >= threshold).mean())


def risk_coverage(
    confidence: Float64Array, correct: BoolArray, coverages: Sequence[float]
) -> tuple[list[float], float]:
    """Error among the most confident share of the queries, for each share, and the mean error over all shares (AURC).

    Queries of one confidence are taken together by their mean error (no order among them is invented). NaN without a
    query. Geifman and El-Yaniv 2017, arXiv 1705.08500.
    """
    if len(confidence) == 0:
        return [float("nan")] * len(coverages), float("nan")
    order = np.argsort(-confidence, kind="stable")
    wrong, level = (~correct[order]).astype(np.float64), confidence[order]
    _, start, size = np.unique(-level, return_index=True, return_counts=True)
    wrong = np.repeat(np.add.reduceat(wrong, start) / size, size)
    risk = np.cumsum(wrong) / np.arange(1, len(wrong) + 1)
    at = [max(1, round(c * len(risk))) - 1 for c in coverages]
    return [float(risk[i]) for i in at], float(risk.mean())
