"""From embeddings to probabilities of names: text logits, the best synonym, the ensemble of both heads."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

MAX_SCALE = 100.0
"""CLIP's own limit of exp(logit scale)."""


def name_logits(embeddings: Tensor, text: Tensor, counts: Sequence[int], logit_scale: Tensor) -> Tensor:
    """Logits (..., C) of classes: scaled cosines of `embeddings` (..., D) with their names, the best of each class.

    Args:
        text: (M, D) unit embeddings of all names, class after class.
        counts: (C) names of each class, at least one.
        logit_scale: natural logarithm of the scale, which is cut at `MAX_SCALE`.

    Raises ValueError where counts and names do not agree. A class's logit does not depend on the other classes.
    """
    if any(count < 1 for count in counts) or sum(counts) != len(text):
        raise ValueError(f"{len(text)} names do not divide into classes with {list(counts)}")
    each = logit_scale.exp().clamp(max=MAX_SCALE) * F.normalize(embeddings, dim=-1) @ text.to(embeddings).T
    return torch.stack([of_class.amax(-1) for of_class in torch.split(each, list(counts), dim=-1)], dim=-1)


def with_void(embeddings: Tensor, text: Tensor, counts: Sequence[int], logit_scale: Tensor, void: Tensor) -> Tensor:
    """Logits (..., C + 1) as `name_logits`, the last against the learned embedding `void` (1, D) of no class."""
    text = torch.cat([text.to(embeddings), F.normalize(void, dim=-1)])
    return name_logits(embeddings, text, [*counts, 1], logit_scale)


def mixed(in_vocabulary: Tensor, out_of_vocabulary: Tensor, seen: Tensor, alpha: float, beta: float) -> Tensor:
    """The geometric ensemble (..., C) of two logits (..., C), as logits (paper, eq. 6).

    log(P_in^(1 - w) P_out^w) with w = `alpha` for names that the head was trained on, `seen` (C,) bool, else `beta`.
    """
    weight = torch.where(seen.to(in_vocabulary.device), alpha, beta).to(in_vocabulary)
    return (1 - weight) * in_vocabulary.log_softmax(-1) + weight * out_of_vocabulary.log_softmax(-1)


def ensemble(in_vocabulary: Tensor, out_of_vocabulary: Tensor, seen: Tensor, alpha: float, beta: float) -> Tensor:
    """Probabilities (..., 1 + C), the first of "no object", of the head's logits (..., C + 1) and CLIP's (..., C).

    "No object" is the head's alone; the rest is shared by `mixed`. The authors' 1e-8 under a logarithm is kept.
    """
    void = in_vocabulary.softmax(-1)[..., -1:]
    named = mixed(in_vocabulary[..., :-1], out_of_vocabulary, seen, alpha, beta).softmax(-1) * (1 - void)
    p = torch.cat([void, named], dim=-1) + 1e-8
    return p / p.sum(-1, keepdim=True)
