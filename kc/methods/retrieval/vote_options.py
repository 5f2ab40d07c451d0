"""Options that all methods with a memory share."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeGuard, get_args

from kc.spec import Count, Fraction, NonNegative, Positive
from kc.types import Fitted

Vote = Literal["plurality", "distance", "softmax", "rank", "tip"]


@dataclass(frozen=True)
class VoteOptions:
    """How neighbours vote (arXiv 2408.08172).

    Args:
        k: Neighbours that vote.
        vote: Weight of the neighbour at rank r (from 0) with cosine s: plurality (1), distance (exp(s - 1)), softmax
            (exp(s / tau)), rank (1 / (rank-offset + r)) or tip (exp(-sharpness (1 - s))).
        tau: Temperature of the softmax vote.
        rank_offset: Offset of the rank vote.
        sharpness: Sharpness of the tip vote.
        background: How rows labelled background are taken, where other tasks' classes were labelled so: keep (as
            stored), ignore (not found), last (only the newest task's), repair (as the class that other tasks' rows
            infer) or per-task (one vote a task).
        anonymous: The memory keeps the names of images as salted hashes only; its keys are what they are.
    """

    k: Count = 16
    vote: Vote = "softmax"
    tau: Positive = 0.07
    rank_offset: Positive = 2.0
    sharpness: Positive = 1.0
    background: Literal["keep", "ignore", "last", "repair", "per-task"] = "repair"
    anonymous: bool = False

    def rule(self) -> dict[str, Any]:
        """Arguments of `kc.memory.vote.votes.vote`."""
        kind = self.vote if self.vote in get_args(Vote) else "softmax"  # a fitted vote: what its neighbours say
        return {"kind": kind, "tau": self.tau, "rank_offset": self.rank_offset, "sharpness": self.sharpness}


@dataclass(frozen=True)
class BlendOptions(VoteOptions):
    """How votes are fused with a classifier, a base or a trained head (kNN-CLIP, arXiv 2404.09447).

    Args:
        lambda_: Weight of what is retrieved where it is fused with the base or head (the paper's lambda; the value is
            ours).
        threshold: The base or head answers alone where its best probability reaches this (the paper's T); above 1
            always fuses.
    """

    lambda_: Fraction = 0.7
    threshold: NonNegative = 1.01


@dataclass(frozen=True)
class FusedOptions(VoteOptions):
    """How a memory is fused with an open-vocabulary base.

    Args:
        fusion: Weights of the fusion: fixed (as given), calibrated (chosen after each task by leaving stored images
            out of their own search; no validation image is read) or log-linear (votes of several k, the discriminant
            of all rows and the base as one, fitted in the same way; vote, k and retrieval are not read then).
        retrieval: Opinion of the memory: cosine (kNN-CLIP's formula) or vote (that of `vote`).
        names: File with names that are asked for beside the classes learned so far; line t adds those of task t,
            separated by commas, synonyms by |.
    """

    fusion: Literal["fixed", "calibrated", "log-linear"] = "fixed"
    retrieval: Literal["cosine", "vote"] = "cosine"
    names: Path | None = None

    def __post_init__(self) -> None:
        if self.fusion == "log-linear" and self.background == "per-task":
            raise ValueError("background per-task has one vote a task; fusion log-linear is fitted on all tasks")


@dataclass(frozen=True)
class KnnOptions(BlendOptions):
    """Options of a memory alone, or beside a base.

    Args:
        vote: Weight of the neighbour at rank r (from 0) with cosine s: plurality (1), distance (exp(s - 1)), softmax
            (exp(s / tau)), rank (1 / (rank-offset + r)) or tip (exp(-sharpness (1 - s))); or discriminant (SLDA of all
            rows, no neighbours), or log-linear (both as one, fitted on the rows; softmax votes of 1, 5, 16 and 32
            neighbours, whatever k and tau are).
    """

    vote: Literal["plurality", "distance", "softmax", "rank", "tip", "discriminant", "log-linear"] = "softmax"  # type: ignore[assignment]

    def __post_init__(self) -> None:
        if is_fitted(self.vote) and self.background == "per-task":
            raise ValueError(f"background per-task has one vote a task; vote {self.vote} is fitted on all tasks")


def is_fitted(vote: str) -> TypeGuard[Fitted]:
    """Whether a vote is fitted on the rows, and not the sum of what neighbours say."""
    return vote in get_args(Fitted)
