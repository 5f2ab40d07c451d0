"""Scores of several models to one: the fusions of kNN-CLIP (METHODS 1.1) and of RetCLIP (METHODS 1.2)."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from kc.memory.vote.votes import ClassIds, columns_of, neighbour_tensors
from kc.types import Neighbours


def retrieval_logits(neighbours: Neighbours, class_ids: ClassIds) -> tuple[Tensor, Tensor]:
    """kNN-CLIP's retrieval probabilities P_ret (Q, C) float64, and which queries have a vote (Q,) bool.

    P_ret(c) = sum of the cosines of neighbours of class c / sum of the cosines of all neighbours, negative ones
    clipped to 0, each times its stored weight (arXiv 2404.09447). Neighbours outside `class_ids` count below only. A
    query without a positive neighbour of a class asked for has no vote, and zeros.
    """
    score, class_id, weight = neighbour_tensors(neighbours)
    column, known = columns_of(class_id, class_ids)
    strength = score.clamp_min(0.0) * weight
    logits = torch.zeros(len(strength), len(class_ids), dtype=torch.float64, device=strength.device)
    logits.scatter_add_(1, column, torch.where(known, strength, 0.0))
    has_votes = (logits > 0).any(dim=1)
    whole = strength.sum(dim=1, keepdim=True)
    return logits / torch.where(whole > 0, whole, 1.0), has_votes


def knn_clip(p_base: Tensor, p_ret: Tensor, has_votes: Tensor, lam: float, threshold: float) -> Tensor:
    """kNN-CLIP's fusion (Q, C): only where the base model is unsure is retrieval fused (arXiv 2404.09447).

    p_base, p_ret: (Q, C) probabilities; has_votes: (Q,) bool. Where max P_base < threshold and the memory has a
    vote: lam * P_ret + (1 - lam) * P_base; elsewhere P_base unchanged. lam in [0, 1]; threshold at least 0 (above 1
    it is always fused). Both are ours: the paper's values are unpublished here. ValueError otherwise.
    """
    if not 0.0 <= lam <= 1.0:
        raise ValueError(f"lam must lie in [0, 1], got {lam}")
    if math.isnan(threshold) or threshold < 0:
        raise ValueError(f"threshold must be at least 0, got {threshold}")
    if p_base.shape != p_ret.shape or has_votes.shape != p_base.shape[:1]:
        raise ValueError(
            f"p_base and p_ret must both be (Q, C) and has_votes (Q,), got {tuple(p_base.shape)}, "
            f"{tuple(p_ret.shape)} and {tuple(has_votes.shape)}"
        )
    unsure = (p_base.amax(dim=1) < threshold) & has_votes
    return torch.where(unsure[:, None], lam * p_ret + (1.0 - lam) * p_base, p_base)


def ret_clip(
    s_ret: Tensor,
    s_clip: Tensor,
    s_iv: Tensor,
    seen_in_base: Tensor,
    alpha: float = 0.4,
    beta: float = 0.7,
    gamma: float = 0.3,
) -> Tensor:
    """RetCLIP's linear fusion (Q, C) of three scores (arXiv 2601.12779).

    s_oov = gamma * s_ret + (1 - gamma) * s_clip; then w * s_oov + (1 - w) * s_iv, with w = alpha for classes that the
    base was trained on (`seen_in_base` (C,) bool) and beta for others. s_ret, s_clip, s_iv: (Q, C) scores of the
    retrieval, of CLIP and of the in-vocabulary head. The place of gamma is our reading of the paper. ValueError for
    weights outside [0, 1] or shapes that differ.
    """
    for name, value in (("alpha", alpha), ("beta", beta), ("gamma", gamma)):
        if not 0.0 <= value <= 1.0:
            raise ValueError(f"{name} must lie in [0, 1], got {value}")
    if not (s_ret.shape == s_clip.shape == s_iv.shape) or seen_in_base.shape != s_ret.shape[1:]:
        raise ValueError(
            f"s_ret, s_clip and s_iv must all be (Q, C) and seen_in_base (C,), got {tuple(s_ret.shape)}, "
            f"{tuple(s_clip.shape)}, {tuple(s_iv.shape)} and {tuple(seen_in_base.shape)}"
        )
    s_oov = gamma * s_ret + (1.0 - gamma) * s_clip
    w = torch.where(seen_in_base, alpha, beta).to(s_oov)
    return w * s_oov + (1.0 - w) * s_iv


def restrict_to_known(p: Tensor, known: Tensor) -> Tensor:
    """Probabilities (Q, C) of `p` (Q, C) given that the answer is a `known` one ((C,) or (Q, C) bool); others are 0."""
    kept = p * known
    total = kept.sum(dim=1, keepdim=True)
    return kept / torch.where(total > 0, total, 1.0)


def fuse_known_names(fused: Tensor, p_base: Tensor, known: Tensor) -> Tensor:
    """Scores (Q, C) where only some names are `known` to the memory ((C,) or (Q, C) bool): ours, not the papers'.

    A name that the memory has never seen keeps the base's probability `p_base` (Q, C). The rest of the base's mass is
    shared out as `fused` (Q, C), the fusion of the memory with `among(p_base, known)`. Where every name is known that
    is the fusion itself. One more unknown name scales all others alike (under a softmax base), so that the answer
    changes only where the new name wins. (Mixed over all names instead, lambda would take from unknown names what
    the memory could not give them.)
    """
    mass = (p_base * known).sum(dim=1, keepdim=True)
    return torch.where(known.expand(p_base.shape), mass * fused, p_base)
