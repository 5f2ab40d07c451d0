"""How good a memory's answers are: accuracy against k of every vote, detection of label noise and of unknowns.

Functions of neighbour tables: one search at the largest k serves every smaller k, and every labelling of the rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
from scipy.stats import rankdata

from kc.memory.base import MemoryStore
from kc.memory.vote.votes import VOTES, decide
from kc.types import BoolArray, Float32Array, Int64Array, Neighbours


def first_k(neighbours: Neighbours, k: int) -> Neighbours:
    """The first `k` of each query's neighbours; all where there are fewer. ValueError for k below 1."""
    if k < 1:
        raise ValueError(f"k must be at least 1, got {k}")
    return Neighbours(**{name: column[:, :k] for name, column in vars(neighbours).items()})


def accuracies(
    neighbours: Neighbours,
    truth: Int64Array,
    ks: Sequence[int],
    kinds: Sequence[str] = tuple(VOTES),
    **parameters: float,
) -> dict[str, list[float]]:
    """Share of queries (Q,) whose winning class is `truth`, of each vote at each k; NaN without a query.

    The classes that may win are those of the neighbours and of `truth`.
    """
    if len(truth) == 0:
        return {kind: [float("nan")] * len(ks) for kind in kinds}
    return {
        kind: [float(is_correct(first_k(neighbours, k), truth, kind, **parameters).mean()) for k in ks]
        for kind in kinds
    }


def is_correct(neighbours: Neighbours, truth: Int64Array, kind: str = "rank", **parameters: float) -> BoolArray:
    """(Q,) whether the winning class of each query is `truth` (Q,)."""
    classes = np.unique(np.concatenate([truth, neighbours.class_id.ravel()]))
    right: BoolArray = decide(neighbours, classes, kind, **parameters).numpy() == truth
    return right


def accuracy_gain(before: BoolArray, after: BoolArray, z: float = 1.96) -> tuple[float, float, float]:
    """How much more often `after` (Q,) is right than `before` on the same queries: mean, and its interval.

    The interval is mean -+ z standard errors of the paired differences (95 per cent at 1.96). NaN without a query.
    """
    if len(before) == 0:
        return float("nan"), float("nan"), float("nan")
    difference = after.astype(np.float64) - before
    mean, spread = float(difference.mean()), z * float(difference.std() / np.sqrt(len(difference)))
    return mean, mean - spread, mean + spread


def inject_label_noise(class_id: Int64Array, share: float, seed: int) -> tuple[Int64Array, BoolArray]:
    """Labels (N,) of which a `share`, rounded to whole rows, was replaced by another class at random; which ones.

    Another class is drawn evenly from the classes there are, never the row's own. A larger share with the same seed
    replaces the same rows, with the same labels, and more. ValueError for a share outside [0, 1] or a single class.
    """
    classes, own = np.unique(class_id, return_inverse=True)
    if not 0 <= share <= 1 or len(classes) < 2:
        raise ValueError(f"share must lie in [0, 1] and there must be two classes, got {share} and {len(classes)}")
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(class_id))
    step = rng.integers(1, len(classes), len(class_id))
    wrong = np.zeros(len(class_id), bool)
    wrong[order[: round(share * len(class_id))]] = True
    return np.where(wrong, classes[(own + step) % len(classes)], class_id).astype(np.int64), wrong


def with_labels(neighbours: Neighbours, ids: Int64Array, class_id: Int64Array) -> Neighbours:
    """The same neighbours under other labels: `class_id` (N,) of the rows `ids` (N,), ascending."""
    return replace(neighbours, class_id=class_id[np.searchsorted(ids, neighbours.id)])


@dataclass(frozen=True)
class DetectionScores:
    """How well wrong labels were found. `auroc` of the score; `precision` and `recall` of the rows that are suspected.

    NaN where undefined: no wrong label, no right one, no suspect.
    """

    auroc: float
    precision: float
    recall: float


def detection(score: Float32Array | Int64Array, suspected: BoolArray, wrong: BoolArray) -> DetectionScores:
    """Of rows (N,): `score`, higher is more likely wrong; `suspected`; the truth. Ties count half in the AUROC
    (Mann-Whitney)."""
    n_wrong, n_right = int(wrong.sum()), int((~wrong).sum())
    auroc = float("nan")
    if n_wrong and n_right:
        ranks = rankdata(score)
        auroc = float((ranks[wrong].sum() - n_wrong * (n_wrong + 1) / 2) / (n_wrong * n_right))
    hits = int((suspected & wrong).sum())
    return DetectionScores(
        auroc,
        hits / int(suspected.sum()) if suspected.any() else float("nan"),
        hits / n_wrong if n_wrong else float("nan"),
    )


Float64Array = npt.NDArray[np.float64]
ACCEPTED = 0.95
"""Share of what is known that should pass for known."""
MAX_SAMPLES = 1000
"""Stored rows at most that are compared with the others."""
N_NEIGHBOURS = 32
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


def neighbour_cosines(memory: MemoryStore, at: int | None = None) -> Float64Array:
    """Cosines (N,), ascending, of stored rows with the nearest row of another sample.

    Where all `N_NEIGHBOURS` nearest are of the same sample, with the last of them. Of more than `MAX_SAMPLES` rows,
    those at even steps; rows of weight 0 do not count. Empty for fewer than two rows. A query that lies farther off
    than all but 1 - `ACCEPTED` of them can be called unknown (`novelty_threshold`).
    """
    labels = memory.labels(at)
    searchable = labels.id[labels.weight > 0]
    if len(searchable) < 2:
        return np.zeros(0)
    chosen = searchable[np.linspace(0, len(searchable) - 1, min(MAX_SAMPLES, len(searchable))).astype(np.int64)]
    found = memory.search(memory.keys(chosen), N_NEIGHBOURS, at=at, exclude_ids=chosen)
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
