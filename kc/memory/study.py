"""What a memory is worth: accuracy against k of every vote, and label noise that is injected to be found again.

Over tables of neighbours alone: one search at the largest k serves every smaller k, and every labelling of the rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy.stats import rankdata

from kc.memory.vote import TIP_BETA, VOTES, decide
from kc.types import BoolArray, Float32Array, Int64Array, Neighbours


def nearest(neighbours: Neighbours, k: int) -> Neighbours:
    """The first `k` of each query's neighbours; all where there are fewer. ValueError for k below 1."""
    if k < 1:
        raise ValueError(f"k must be at least 1, got {k}")
    return Neighbours(**{name: column[:, :k] for name, column in vars(neighbours).items()})


def accuracies(
    neighbours: Neighbours,
    truth: Int64Array,
    ks: Sequence[int],
    kinds: Sequence[str] = tuple(VOTES),
    tau: float = 0.07,
    alpha: float = 2.0,
    beta: float = TIP_BETA,
) -> dict[str, list[float]]:
    """Share of queries (Q,) whose winning class is `truth`, of each vote at each k; NaN without a query.

    The classes that may win are those of the neighbours and of `truth`.
    """
    if len(truth) == 0:
        return {kind: [float("nan")] * len(ks) for kind in kinds}
    classes = np.unique(np.concatenate([truth, neighbours.class_id.ravel()]))
    return {
        kind: [
            float((decide(nearest(neighbours, k), classes, kind, tau, alpha, beta).numpy() == truth).mean()) for k in ks
        ]
        for kind in kinds
    }


def correct(
    neighbours: Neighbours,
    truth: Int64Array,
    kind: str = "rank",
    tau: float = 0.07,
    alpha: float = 2.0,
    beta: float = TIP_BETA,
) -> BoolArray:
    """(Q,) whether the winning class of each query is `truth` (Q,)."""
    classes = np.unique(np.concatenate([truth, neighbours.class_id.ravel()]))
    right: BoolArray = decide(neighbours, classes, kind, tau, alpha, beta).numpy() == truth
    return right


def gain(before: BoolArray, after: BoolArray, z: float = 1.96) -> tuple[float, float, float]:
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


def relabelled(neighbours: Neighbours, ids: Int64Array, class_id: Int64Array) -> Neighbours:
    """The same neighbours under other labels: `class_id` (N,) of the rows `ids` (N,), ascending."""
    return replace(neighbours, class_id=class_id[np.searchsorted(ids, neighbours.id)])


@dataclass(frozen=True)
class Found:
    """How well wrong labels were found. `auroc` of the score; `precision` and `recall` of the rows that are suspected.

    NaN where undefined: no wrong label, no right one, no suspect.
    """

    auroc: float
    precision: float
    recall: float


def detection(score: Float32Array | Int64Array, suspected: BoolArray, wrong: BoolArray) -> Found:
    """Of rows (N,): `score`, higher is more likely wrong; `suspected`; the truth. Ties count half in the AUROC
    (Mann-Whitney)."""
    n_wrong, n_right = int(wrong.sum()), int((~wrong).sum())
    auroc = float("nan")
    if n_wrong and n_right:
        ranks = rankdata(score)
        auroc = float((ranks[wrong].sum() - n_wrong * (n_wrong + 1) / 2) / (n_wrong * n_right))
    hits = int((suspected & wrong).sum())
    return Found(
        auroc,
        hits / int(suspected.sum()) if suspected.any() else float("nan"),
        hits / n_wrong if n_wrong else float("nan"),
    )
