"""Neighbours to class scores: the four votes of the visual memory (arXiv 2408.08172, METHODS 1.3) and the cache term
of Tip-Adapter (arXiv 2111.03930, METHODS 1.4), vectorised.

All computed in float64. Class id 0 is an ordinary class. A neighbour's stored weight multiplies its vote; a neighbour
whose class is not asked for gives none, but keeps its rank.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from kc.types import VOID, Int64Array, Neighbours

ClassIds = Sequence[int] | Int64Array | Tensor
VoteWeights = Callable[[Tensor, Tensor, "VoteParameters"], Tensor]
"""(scores (Q, k) cosines, votes (Q, k) bool: who may vote, parameters) -> (Q, k) weights before the stored ones."""

TIP_ALPHA = 1.17
"""Weight of Tip-Adapter's cache beside zero-shot logits: the authors' start on ImageNet (their configs/imagenet.yaml).
It scales every class alike, so that it decides nothing while the cache answers alone."""
TIP_BETA = 5.5
"""Sharpness of the Tip-Adapter vote. The authors start from 1, where the vote is the distance vote, and search up to 7
on held-out images; here one fixed value between, not tuned."""

_TIE = 1e-12
"""Sums within this share of the maximum are tied: float64 sums of the same terms in another order differ by less."""


@dataclass(frozen=True)
class VoteParameters:
    """What the votes read; ValueError unless each is finite and above 0.

    Args:
        tau: Temperature of the softmax vote.
        rank_offset: Offset of the rank vote.
        sharpness: Sharpness of the tip vote.
    """

    tau: float = 0.07
    rank_offset: float = 2.0
    sharpness: float = TIP_BETA

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if not (math.isfinite(value) and value > 0):
                raise ValueError(f"{name} must be a number above 0, got {value}")


def _plurality(score: Tensor, votes: Tensor, parameters: VoteParameters) -> Tensor:
    return torch.ones_like(score)


def _distance(score: Tensor, votes: Tensor, parameters: VoteParameters) -> Tensor:
    return torch.exp(-(1.0 - score))


def _softmax(score: Tensor, votes: Tensor, parameters: VoteParameters) -> Tensor:
    # Relative to the best voter of each query, which changes no share and keeps exp from overflow and underflow.
    best = score.masked_fill(~votes, -math.inf).amax(dim=1, keepdim=True)
    return torch.exp((score - torch.where(best.isfinite(), best, 0.0)).masked_fill(~votes, 0.0) / parameters.tau)


def _rank(score: Tensor, votes: Tensor, parameters: VoteParameters) -> Tensor:
    rank = torch.arange(score.shape[1], dtype=score.dtype, device=score.device)
    return (1.0 / (parameters.rank_offset + rank)).expand_as(score)


def _tip(score: Tensor, votes: Tensor, parameters: VoteParameters) -> Tensor:
    return TIP_ALPHA * torch.exp(-parameters.sharpness * (1.0 - score))


VOTES: dict[str, VoteWeights] = {
    "plurality": _plurality,
    "distance": _distance,
    "softmax": _softmax,
    "rank": _rank,
    "tip": _tip,
}


def columns_of(class_id: Tensor, class_ids: ClassIds) -> tuple[Tensor, Tensor]:
    """Column of each neighbour's class in `class_ids`, and whether it has one (else the column is 0).

    class_id: (Q, k) int64. ValueError if `class_ids` is empty or names a class twice.
    """
    wanted = torch.as_tensor(class_ids, dtype=torch.int64, device=class_id.device).reshape(-1)
    if len(wanted) == 0:
        raise ValueError("class_ids is empty: there is no class to vote for")
    ordered, order = torch.sort(wanted)
    if bool((ordered[1:] == ordered[:-1]).any()):
        raise ValueError("class_ids names a class twice")
    place = torch.searchsorted(ordered, class_id.contiguous()).clamp(max=len(ordered) - 1)
    known = ordered[place] == class_id
    return torch.where(known, order[place], 0), known


def neighbour_tensors(neighbours: Neighbours) -> tuple[Tensor, Tensor, Tensor]:
    """Cosines (Q, k) float64, class ids (Q, k) int64, weights (Q, k) float64 of a table of arrays or tensors."""
    score, class_id, weight = map(torch.as_tensor, (neighbours.score, neighbours.class_id, neighbours.weight))
    return score.to(torch.float64), class_id.to(torch.int64), weight.to(torch.float64)


def _votes(
    neighbours: Neighbours, class_ids: ClassIds, kind: str, parameters: Mapping[str, float]
) -> tuple[Tensor, Tensor, Tensor]:
    """Vote of each neighbour (Q, k) float64, its column (Q, k), and the sums of the columns (Q, C) float64."""
    if kind not in VOTES:
        raise ValueError(f"vote must be one of {', '.join(VOTES)}, got {kind!r}")
    score, class_id, weight = neighbour_tensors(neighbours)
    column, known = columns_of(class_id, class_ids)
    may_vote = known & (weight > 0)
    value = VOTES[kind](score, may_vote, VoteParameters(**parameters)) * weight
    value = torch.where(may_vote, value, 0.0)
    total = torch.zeros(len(value), len(class_ids), dtype=torch.float64, device=value.device)
    return value, column, total.scatter_add_(1, column, value)


def contributions(neighbours: Neighbours, class_ids: ClassIds, kind: str = "softmax", **parameters: float) -> Tensor:
    """What each neighbour adds to its class (Q, k) float64, at least 0; arguments and errors are those of `vote`.

    The neighbours of a class sum to the score that `vote` gives it.
    """
    return _votes(neighbours, class_ids, kind, parameters)[0]


def vote(neighbours: Neighbours, class_ids: ClassIds, kind: str = "softmax", **parameters: float) -> Tensor:
    """Class scores (Q, C) float64, at least 0, of each query: the votes of its neighbours summed by class.

    neighbours: nearest first, arrays or tensors. class_ids: (C,) the classes of the columns; neighbours of others give
    no vote. kind: plurality 1, distance exp(-(1 - s)), softmax exp(s / tau) (here relative to the query's best voter,
    which changes no share), rank 1 / (rank_offset + r) with r from 0 (arXiv 2408.08172, section 3), tip
    1.17 exp(-sharpness (1 - s)), the cache term of Tip-Adapter (arXiv 2111.03930, equation 5) over these neighbours
    alone. parameters: those of `VoteParameters`.
    ValueError for an unknown kind, a parameter not above 0, classes named twice.
    """
    return _votes(neighbours, class_ids, kind, parameters)[2]


def decide(neighbours: Neighbours, class_ids: ClassIds, kind: str = "softmax", **parameters: float) -> Tensor:
    """The winning class id (Q,) int64 of `vote`; a tie goes to the class that reached its total first in rank order.

    A query without any vote (no neighbour of a class asked for) gets VOID, which is no class.
    """
    value, column, total = _votes(neighbours, class_ids, kind, parameters)
    best = total.amax(dim=1, keepdim=True)
    # A class has its total from its last voter on; nobody votes twice, so two classes never share that rank.
    k = value.shape[1]
    rank = torch.where(value > 0, torch.arange(k, device=value.device).expand_as(column), -1)
    reached = torch.full_like(total, -1, dtype=torch.int64).scatter_reduce_(1, column, rank, "amax")
    reached = torch.where((total >= best * (1 - _TIE)) & (total > 0), reached, k)
    winner = torch.as_tensor(class_ids, dtype=torch.int64, device=value.device).reshape(-1)[reached.argmin(dim=1)]
    return torch.where(best[:, 0] > 0, winner, VOID)
