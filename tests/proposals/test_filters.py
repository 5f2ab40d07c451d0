"""Masks are kept and dropped as by hand; run lengths lose nothing; stability is that of Segment Anything."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from kc.proposals.filters import MaskFilter, areas, as_segments, decode, encode, overlaps, stability


def bars(*spans: tuple[int, int]) -> np.ndarray:
    """Masks of 4 x 20, each some columns."""
    masks = np.zeros((len(spans), 4, 20), bool)
    for mask, (start, stop) in zip(masks, spans, strict=True):
        mask[:, start:stop] = True
    return masks


def test_run_lengths_there_and_back() -> None:
    masks = np.random.default_rng(0).random((5, 7, 11)) < 0.4
    masks[3] = False
    rles = encode(masks)
    np.testing.assert_array_equal(decode(rles, (7, 11)), masks)
    assert areas(rles).tolist() == masks.sum((1, 2)).tolist()
    wanted = [[(a & b).sum() / max(1, (a | b).sum()) for b in masks] for a in masks]
    np.testing.assert_allclose(overlaps(rles, rles), wanted)
    assert encode(masks[:0]) == []
    assert decode([], (7, 11)).shape == (0, 7, 11)
    with pytest.raises(ValueError, match=r"expected \(7, 12\)"):
        decode(rles, (7, 12))


def test_each_filter_by_hand() -> None:
    # 0 and 1 share 8 of 10 columns (IoU 0.8), 2 is apart, 3 has 4 pixels, 4 is empty.
    rles = encode(bars((0, 9), (1, 10), (12, 20), (10, 11), (0, 0)))
    scores = np.array([0.6, 0.9, 0.3, 0.8, 1.0], np.float32)
    every = MaskFilter(min_area=0, max_overlap=1.0)
    assert every.kept(rles, scores).tolist() == [1, 3, 0, 2]
    assert MaskFilter(min_area=5, max_overlap=1.0).kept(rles, scores).tolist() == [1, 0, 2]
    assert MaskFilter(min_area=0, max_overlap=0.7).kept(rles, scores).tolist() == [1, 3, 2]
    assert MaskFilter(min_area=0, max_overlap=0.8).kept(rles, scores).tolist() == [1, 3, 0, 2]
    assert MaskFilter(min_area=0, min_score=0.6, max_overlap=1.0).kept(rles, scores).tolist() == [1, 3, 0]
    assert MaskFilter(min_area=0, max_overlap=0.7, budget=2).kept(rles, scores).tolist() == [1, 3]
    stable = np.array([0.9, 0.2, 0.9, 0.9, 0.9], np.float32)
    assert MaskFilter(min_area=0, min_stability=0.5).kept(rles, scores, stable).tolist() == [3, 0, 2]


def test_equal_scores_keep_their_order_and_a_dropped_mask_drops_none() -> None:
    rles = encode(bars((0, 10), (2, 12), (4, 14)))
    # 1 overlaps 0 by 8 / 12, 2 overlaps 1 by as much but 0 by 6 / 14 only.
    assert MaskFilter(min_area=0, max_overlap=0.5).kept(rles, np.ones(3, np.float32)).tolist() == [0, 2]


def test_nothing_to_keep() -> None:
    chosen = MaskFilter().kept([], np.zeros(0, np.float32))
    segments = as_segments([], np.zeros(0, np.float32), chosen, (4, 20))
    assert len(segments) == 0
    assert segments.masks is not None
    assert segments.masks.shape == (0, 4, 20)


def test_stability_by_hand_and_as_in_segment_anything() -> None:
    from transformers.models.sam.image_processing_sam import _compute_stability_score

    logits = torch.tensor([[[2.0, 2.0, 0.5, -0.5]], [[-2.0, -2.0, -2.0, -2.0]], [[3.0, 3.0, 3.0, 3.0]]])
    assert stability(logits).tolist() == [0.5, 0.0, 1.0]
    many = torch.randn(6, 9, 9, generator=torch.Generator().manual_seed(0)) * 3
    np.testing.assert_allclose(stability(many), _compute_stability_score(many, 0.0, 1).numpy(), rtol=1e-6)


def test_keys_tell_settings_apart() -> None:
    settings = [{}, {"min_area": 1}, {"min_score": 0.5}, {"min_stability": 0.5}, {"max_overlap": 0.5}, {"budget": 5}]
    assert len({MaskFilter(**s).key for s in settings}) == len(settings)
