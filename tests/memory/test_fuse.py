"""Fusions against loops that follow METHODS 1.1 and 1.2 word by word."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from kc.memory.vote.fusion import fuse_known_names, knn_clip, restrict_to_known, ret_clip, retrieval_logits
from kc.types import Neighbours


def table(classes: np.ndarray, scores: np.ndarray, weights: np.ndarray) -> Neighbours:
    return Neighbours(classes, scores.astype("f4"), classes, weights.astype("f4"), classes)


def test_retrieval_logits_by_hand() -> None:
    classes = np.array([[0, 5, 0, 9], [5, 5, 5, 5], [9, 9, 9, 9]])
    scores = np.array([[0.5, 0.25, 0.0, 0.25], [0.0, -0.5, -0.5, -1.0], [1.0, 1, 1, 1]])
    p, has = retrieval_logits(table(classes, scores, np.ones((3, 4))), [0, 5])
    assert p.tolist() == [[0.5, 0.25], [0, 0], [0, 0]]
    assert has.tolist() == [True, False, False]


def test_retrieval_logits_twin() -> None:
    rng = np.random.default_rng(0)
    classes = rng.integers(0, 6, (50, 9))
    n = table(classes, rng.uniform(-1, 1, (50, 9)), rng.choice([0, 1, 2.5], (50, 9)))
    vocabulary = [4, 0, 2]
    p, has = retrieval_logits(n, vocabulary)
    for q in range(50):
        s = np.maximum(n.score[q].astype(float), 0) * n.weight[q]
        for j, c in enumerate(vocabulary):
            assert p[q, j].item() == pytest.approx(s[classes[q] == c].sum() / s.sum(), abs=1e-12)
        assert has[q].item() == bool((s[np.isin(classes[q], vocabulary)] > 0).any())


def test_knn_clip_speaks_only_where_the_base_is_unsure() -> None:
    base = torch.tensor([[0.9, 0.1], [0.5, 0.5], [0.6, 0.4], [0.5, 0.5]])
    ret = torch.tensor([[0.0, 1.0], [0.0, 1.0], [0.0, 1.0], [0.0, 0.0]])
    got = knn_clip(base, ret, torch.tensor([True, True, True, False]), lam=0.25, threshold=0.6)
    assert got.tolist() == [base[0].tolist(), [0.375, 0.625], base[2].tolist(), [0.5, 0.5]]
    assert torch.equal(knn_clip(base, ret, torch.ones(4, dtype=torch.bool), lam=1.0, threshold=math.inf), ret)
    assert torch.equal(knn_clip(base, ret, torch.ones(4, dtype=torch.bool), lam=1.0, threshold=0.0), base)


def test_knn_clip_refuses_nonsense() -> None:
    p, has = torch.full((2, 2), 0.5), torch.ones(2, dtype=torch.bool)
    for lam, threshold in ((-0.1, 0.5), (1.1, 0.5), (math.nan, 0.5), (0.5, math.nan), (0.5, -1)):
        with pytest.raises(ValueError, match=r"lam|threshold"):
            knn_clip(p, p, has, lam, threshold)
    with pytest.raises(ValueError, match="has_votes"):
        knn_clip(p, p[:1], has, 0.5, 0.5)


def test_ret_clip_twin() -> None:
    g = torch.Generator().manual_seed(0)
    ret, clip, iv = (torch.rand(5, 4, generator=g) for _ in range(3))
    seen = torch.tensor([True, False, False, True])
    got = ret_clip(ret, clip, iv, seen)
    for q in range(5):
        for c in range(4):
            oov = 0.3 * ret[q, c] + 0.7 * clip[q, c]
            w = 0.4 if seen[c] else 0.7
            assert got[q, c].item() == pytest.approx((w * oov + (1 - w) * iv[q, c]).item(), abs=1e-6)
    assert torch.allclose(ret_clip(ret, clip, iv, seen, alpha=1.0, beta=0.0, gamma=1.0), torch.where(seen, ret, iv))
    with pytest.raises(ValueError, match="gamma"):
        ret_clip(ret, clip, iv, seen, gamma=1.5)
    with pytest.raises(ValueError, match="seen_in_base"):
        ret_clip(ret, clip, iv, seen[:2])


def test_an_unknown_name_keeps_what_the_base_gave_it() -> None:
    base = torch.tensor([[0.5, 0.3, 0.2]])
    known = torch.tensor([True, True, False])
    assert restrict_to_known(base, known)[0].tolist() == pytest.approx([0.625, 0.375, 0])
    got = fuse_known_names(torch.tensor([[0.25, 0.75, 0.0]]), base, known)
    assert got[0].tolist() == pytest.approx([0.2, 0.6, 0.2])
    # Every name known: the fusion itself. None: the base itself.
    assert torch.equal(fuse_known_names(base.flip(1), base, torch.tensor([True] * 3)), base.sum() * base.flip(1))
    assert torch.equal(fuse_known_names(restrict_to_known(base, ~known.any(0)), base, torch.tensor([False] * 3)), base)


def test_one_more_unknown_name_leaves_the_order_of_the_others() -> None:
    """With the plain mixture over all names it would not: the last assertion is what the extension is for."""
    logits = torch.tensor([[2.0, 1.5, 0.0]])
    wider = torch.cat([logits, torch.tensor([[1.2]])], dim=1)
    ret = torch.tensor([[0.40, 0.60, 0.0]])
    few, many = logits.softmax(1), wider.softmax(1)
    known = torch.tensor([True, True, False])
    yes = torch.tensor([True])

    def ours(p: torch.Tensor, r: torch.Tensor, k: torch.Tensor) -> torch.Tensor:
        return fuse_known_names(knn_clip(restrict_to_known(p, k), r, yes, 0.5, 1.01), p, k)

    before = ours(few, ret, known)
    after = ours(many, torch.cat([ret, torch.zeros(1, 1)], 1), torch.cat([known, torch.tensor([False])]))
    assert after[:, :3] == pytest.approx(before * (1 - many[0, 3]), rel=1e-5)
    plain = knn_clip(few, ret, yes, 0.5, 1.01), knn_clip(many, torch.cat([ret, torch.zeros(1, 1)], 1), yes, 0.5, 1.01)
    assert plain[0].argmax() == 0
    assert plain[1].argmax() == 1
