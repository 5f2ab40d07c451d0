"""Panoptic quality against a slow transcription of the published rules, torchmetrics and hand-solved cases."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pytest
import torch
from torchmetrics.functional.detection import panoptic_quality as reference_quality

from kc.metrics.panoptic import PanopticQuality, PanopticStats, class_qualities, panoptic_quality, panoptic_stats
from kc.types import VOID


def layers(category: list[list[int]], instance: list[list[int]] | None = None) -> np.ndarray:
    c = np.array(category)
    return np.stack([c, np.zeros_like(c) if instance is None else np.array(instance)], axis=-1)


def naive(
    target: np.ndarray, prediction: np.ndarray, ids: list[int], crowd: frozenset[int] = frozenset()
) -> dict[str, list[float]]:
    """The rules one by one, pixel sets and loops, no arrays."""
    pixels = [
        (tuple(t) if t[0] in ids else None, tuple(p) if p[0] in ids else None)
        for t, p in zip(target.reshape(-1, 2).tolist(), prediction.reshape(-1, 2).tolist(), strict=True)
    ]
    gt = Counter(t for t, _ in pixels if t is not None)
    pred = Counter(p for _, p in pixels if p is not None)
    both = Counter(pixels)
    out = {name: [0.0] * len(ids) for name in ("iou_sum", "tp", "fp", "fn")}
    gt_matched, pred_matched = set(), set()
    for g in gt:
        for p in pred:
            if g[0] != p[0] or g[1] in crowd:
                continue
            inter = both[(g, p)]
            union = gt[g] + pred[p] - inter - both[(None, p)]
            if inter / union > 0.5:
                out["iou_sum"][ids.index(g[0])] += inter / union
                out["tp"][ids.index(g[0])] += 1
                gt_matched.add(g)
                pred_matched.add(p)
    for g in gt:
        if g not in gt_matched and g[1] not in crowd:
            out["fn"][ids.index(g[0])] += 1
    for p in pred:
        if p in pred_matched:
            continue
        ignored = both[(None, p)] + sum(both[(g, p)] for g in gt if g[0] == p[0] and g[1] in crowd)
        if ignored / pred[p] <= 0.5:
            out["fp"][ids.index(p[0])] += 1
    return out


def blocky(rng: np.random.Generator, ids: list[int], things: set[int], size: int = 24) -> np.ndarray:
    """Random rectangles of things over blocks of stuff."""
    stuff = [c for c in ids if c not in things]
    category = np.repeat(np.repeat(rng.choice(stuff, (3, 3)), size // 3, 0), size // 3, 1)
    instance = np.zeros_like(category)
    for number in range(1, 7):
        y, x = rng.integers(0, size - 4, 2)
        h, w = rng.integers(3, 10, 2)
        category[y : y + h, x : x + w] = rng.choice(sorted(things))
        instance[y : y + h, x : x + w] = number
    # Rectangles of one number belong to one category because each is painted whole.
    return np.stack([category, instance], axis=-1)


def disturbed(rng: np.random.Generator, target: np.ndarray) -> np.ndarray:
    """A prediction: the truth moved by a pixel or two, some segments of another class."""
    moved = np.roll(target, tuple(rng.integers(-2, 3, 2)), axis=(0, 1)).copy()
    swap = moved[..., 1] == rng.integers(1, 7)
    moved[swap, 0] = 3
    return moved


@pytest.mark.parametrize("seed", range(12))
def test_agrees_with_the_rules_written_out(seed: int) -> None:
    rng = np.random.default_rng(seed)
    ids, things = [0, 2, 3, 4], {3, 4}
    target = blocky(rng, [*ids, 9], things)
    prediction = disturbed(rng, target) if seed % 2 else blocky(rng, [*ids, 8], things)
    target[rng.random(target.shape[:2]) < 0.15] = (VOID, 0)
    target[:8, :8] = (VOID, 0)
    prediction[4:6] = (VOID, 0)
    crowd = frozenset({1, 2}) if seed % 3 else frozenset()
    stats = panoptic_stats(target.astype(np.int32), prediction.astype(np.int32), ids, crowd)
    expected = naive(target, prediction, ids, crowd)
    assert stats.iou_sum.tolist() == pytest.approx(expected["iou_sum"])
    for name in ("tp", "fp", "fn"):
        assert getattr(stats, name).tolist() == expected[name], name


def test_random_cases_reach_every_rule() -> None:
    """The comparison above is only worth something if its maps match, miss, invent and ignore segments."""
    totals = PanopticStats.zeros([0, 2, 3, 4])
    for seed in range(12):
        rng = np.random.default_rng(seed)
        target = blocky(rng, [0, 2], {3, 4})
        totals.add(panoptic_stats(target, disturbed(rng, target), totals.class_ids))
    assert totals.tp.sum() > 20
    assert totals.fp.sum() > 5
    assert totals.fn.sum() > 5


@pytest.mark.parametrize("seed", range(4))
def test_agrees_with_torchmetrics_without_void_and_crowd(seed: int) -> None:
    rng = np.random.default_rng(seed)
    ids, things = [0, 2, 3, 4], [3, 4]
    quality = PanopticQuality(ids, things)
    targets, predictions = [], []
    for _ in range(3):
        target = blocky(rng, ids, set(things))
        targets.append(target)
        predictions.append(disturbed(rng, target))
        quality.update(target, predictions[-1])
    reference = reference_quality(
        torch.tensor(np.array(predictions)),
        torch.tensor(np.array(targets)),
        things=set(things),
        stuffs={0, 2},
        return_sq_and_rq=True,
    )
    ours = quality.compute()
    assert [ours["pq"], ours["sq"], ours["rq"]] == pytest.approx(reference.tolist(), abs=1e-7)


def test_hand_solved() -> None:
    target = layers([[1, 1, 1, 1], [2, 2, 2, 2], [2, 2, 0, 0]], [[0, 0, 0, 0], [1, 1, 2, 2], [1, 1, 0, 0]])
    prediction = layers([[1, 1, 1, 2], [2, 2, 2, 2], [2, 2, 1, 1]], [[0, 0, 0, 9], [5, 5, 9, 9], [5, 5, 0, 0]])
    # class 1 (stuff): 3 of 4, predicted 5 -> IoU 3/6, no match. class 2: 4/4 and 2/3. class 0: one miss.
    quality = PanopticQuality([0, 1, 2], [2])
    quality.update(target, prediction)
    assert quality.stats.tp.tolist() == [0, 0, 2]
    assert quality.stats.fp.tolist() == [0, 1, 0]
    assert quality.stats.fn.tolist() == [1, 1, 0]
    result = quality.compute()
    assert result["per_class"] == pytest.approx({0: 0.0, 1: 0.0, 2: 5 / 6})
    assert result["sq_things"] == pytest.approx(5 / 6)
    assert result["rq_things"] == 1.0
    assert result["pq_stuff"] == 0.0
    assert result["pq"] == pytest.approx(5 / 18)


def test_exactly_one_half_does_not_match() -> None:
    stats = panoptic_stats(layers([[1, 1, 0, 0]]), layers([[1, 0, 0, 0]]), [0, 1])
    assert stats.tp.tolist() == [1, 0]
    assert stats.iou_sum.tolist() == pytest.approx([2 / 3, 0])
    assert (stats.fp[1], stats.fn[1]) == (1, 1)


def test_void_is_removed_from_the_union() -> None:
    target = layers([[1, 1, VOID, VOID, VOID]])
    prediction = layers([[1, 1, 1, 1, 1]])
    stats = panoptic_stats(target, prediction, [1])
    assert (stats.tp[0], stats.iou_sum[0]) == (1, 1.0)


def test_unanswered_pixels_stay_in_the_union() -> None:
    """panopticapi: the area of the true segment counts whole, also where the prediction is void."""
    stats = panoptic_stats(layers([[1, 1, 1, 1]]), layers([[1, 1, 1, VOID]]), [1])
    assert stats.iou_sum[0] == 0.75


def test_predictions_mostly_on_void_are_ignored_and_half_is_not_mostly() -> None:
    target = layers([[VOID, VOID, VOID, 0]])
    assert panoptic_stats(target, layers([[1, 1, 1, 1]]), [0, 1]).fp.tolist() == [0, 0]
    half = layers([[VOID, VOID, 0, 0]])
    assert panoptic_stats(half, layers([[1, 1, 1, 1]]), [0, 1]).fp.tolist() == [0, 1]


def test_crowds_are_no_misses_and_swallow_only_their_own_class() -> None:
    target = layers([[1, 1, 1, 1, 1, 1]], [[4, 4, 4, 5, 5, 5]])
    crowd = frozenset({4, 5})
    same = panoptic_stats(target, layers([[1, 1, 1, 1, 1, 1]], [[1, 1, 1, 2, 2, 2]]), [1, 2], crowd)
    assert (same.tp.sum(), same.fp.sum(), same.fn.sum()) == (0, 0, 0)
    spanning = panoptic_stats(target, layers([[1, 1, 1, 1, 1, 1]], [[1] * 6]), [1, 2], crowd)
    assert spanning.fp.sum() == 0
    other = panoptic_stats(target, layers([[2, 2, 2, 2, 2, 2]], [[1] * 6]), [1, 2], crowd)
    assert other.fp.tolist() == [0, 1]
    assert panoptic_stats(target, layers([[2] * 6]), [1, 2]).fn.tolist() == [2, 0]


def test_categories_that_are_not_evaluated() -> None:
    target = layers([[1, 1, 7, 7, 7]])
    prediction = layers([[8, 8, 1, 1, 1]])
    stats = panoptic_stats(target, prediction, [1])
    # 7 is void, so the prediction on it is ignored; 8 is no segment, so 1 is missed.
    assert (stats.tp[0], stats.fp[0], stats.fn[0]) == (0, 0, 1)


def test_segments_do_not_match_across_images_and_counts_add() -> None:
    a, b = layers([[1, 0]], [[1, 0]]), layers([[0, 1]], [[0, 1]])
    whole, part = PanopticQuality([0, 1], [1]), PanopticQuality([0, 1], [1])
    whole.update(a, a)
    whole.update(b, a)
    part.update(b, a)
    first = PanopticQuality([0, 1], [1])
    first.update(a, a)
    first.stats.add(part.stats)
    assert first.compute() == whole.compute()
    assert whole.stats.tp.tolist() == [1, 1]
    assert whole.stats.fn.tolist() == [1, 1]
    with pytest.raises(ValueError, match="classes"):
        first.stats.add(PanopticQuality([0]).stats)


def test_absent_classes_are_left_out_of_the_means() -> None:
    quality = PanopticQuality([0, 1, 2], [2])
    quality.update(layers([[0, 0]]), layers([[0, 0]]))
    result = quality.compute()
    assert result["pq"] == 1.0
    assert math.isnan(result["pq_things"])
    assert math.isnan(result["per_class"][1])
    values = class_qualities(quality.stats)
    assert values["sq"][0] == 1.0
    assert np.isnan(values["rq"][1:]).all()
    assert all(math.isnan(v) for v in panoptic_quality(PanopticStats.zeros([0, 1]), []).values())


def test_bad_arguments() -> None:
    with pytest.raises(ValueError, match="one size"):
        panoptic_stats(layers([[0, 0]]), layers([[0]]), [0])
    with pytest.raises(ValueError, match="thing"):
        PanopticQuality([0, 1], [5])


@pytest.mark.parametrize("offset", [-7, 5, 1 << 22])
def test_instance_numbers_are_only_names(offset: int) -> None:
    rng = np.random.default_rng(0)
    target = blocky(rng, [0, 2, 3, 4], {3, 4})
    prediction = disturbed(rng, target)
    shift = np.array([0, offset])
    a = panoptic_stats(target, prediction, [0, 2, 3, 4])
    b = panoptic_stats(target + shift, prediction + shift, [0, 2, 3, 4])
    assert (a.tp.tolist(), a.fp.tolist(), a.fn.tolist()) == (b.tp.tolist(), b.fp.tolist(), b.fn.tolist())
    assert a.iou_sum.tolist() == b.iou_sum.tolist()


@pytest.mark.parametrize("dtype", [np.int32, np.int64, np.uint8])
def test_the_type_and_the_layout_of_maps_do_not_matter(dtype: type) -> None:
    """Runs are found in eight bytes at a time where they can be; the numbers are those of the loops everywhere."""
    rng, ids = np.random.default_rng(3), [1, 2, 3]
    noise = rng.integers(0, 4, (2, 9, 7, 2))  # hardly a run longer than a pixel
    blocks = np.repeat(np.repeat(noise, 4, axis=1), 5, axis=2)
    for target, prediction in (noise, blocks):
        target, prediction = target.astype(dtype), prediction.astype(dtype)
        found = panoptic_stats(target, prediction, ids)
        expected = naive(target, prediction, ids)
        turned = panoptic_stats(np.swapaxes(target, 0, 1), np.swapaxes(prediction, 0, 1), ids)
        for name, values in expected.items():
            np.testing.assert_allclose(getattr(found, name), values)
            np.testing.assert_allclose(getattr(turned, name), values)
    empty = panoptic_stats(np.empty((0, 4, 2), dtype), np.empty((0, 4, 2), dtype), ids)
    assert empty.fn.sum() == empty.fp.sum() == 0


@pytest.mark.parametrize("border", [1, 65535, 65536, 65537, 131072, 131073])
def test_large_maps_are_looked_at_in_blocks(border: int) -> None:
    """Two segments side by side, whose border lies within a block or between two; the answer is a pixel off."""
    target, prediction = np.zeros((1, 140_000, 2), np.int32), np.zeros((1, 140_000, 2), np.int32)
    target[:, border:, 0] = 1
    prediction[:, border + 1 :, 0] = 1
    stats = panoptic_stats(target, prediction, (0, 1))
    left = border / (border + 1)
    assert stats.tp.tolist() == [int(left > 0.5), 1]
    assert stats.iou_sum.tolist() == pytest.approx([left * (left > 0.5), 1 - 1 / (140_000 - border)], abs=1e-12)
