"""Options that all methods with a memory share."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from kc.spec import Count, Fraction, NonNegative, Positive


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
    vote: Literal["plurality", "distance", "softmax", "rank", "tip"] = "softmax"
    tau: Positive = 0.07
    rank_offset: Positive = 2.0
    sharpness: Positive = 1.0
    background: Literal["keep", "ignore", "last", "repair", "per-task"] = "repair"
    anonymous: bool = False

    def rule(self) -> dict[str, Any]:
        """What `kc.memory.vote.votes.vote` is told."""
        return {"kind": self.vote, "tau": self.tau, "rank_offset": self.rank_offset, "sharpness": self.sharpness}


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
        fusion: Weights of the fusion: fixed (as given) or calibrated (chosen after each task by leaving stored samples
            out of their own search; no validation image is read).
        retrieval: Opinion of the memory: cosine (kNN-CLIP's formula) or vote (that of `vote`).
        names: File with names that are asked for beside the classes learned so far; line t adds those of task t,
            separated by commas, synonyms by |.
    """

    fusion: Literal["fixed", "calibrated"] = "fixed"
    retrieval: Literal["cosine", "vote"] = "cosine"
    names: Path | None = None
