"""From queries to maps, by hand."""

from __future__ import annotations

import pytest
import torch

from kc.openvocab.mask_inference import at_size, instances, panoptic_map, semantic_scores
from kc.types import VOID

SURE = 12.0


def query(column: int, rows: list[list[int]], n: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    """Probabilities of a query that is sure of a column, and logits of a mask that is sure of where it is."""
    classes = torch.zeros(n)
    classes[column] = SURE
    return classes.softmax(-1), (torch.tensor(rows).float() * 2 - 1) * SURE


def together(*queries: tuple[torch.Tensor, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.stack([q[0] for q in queries]), torch.stack([q[1] for q in queries])


def test_semantic_scores_add_up_over_queries() -> None:
    classes, masks = torch.full((2, 3), 1 / 3), torch.tensor([[[0.0, 50.0]], [[-50.0, 50.0]]])
    scores = semantic_scores(classes, masks)
    torch.testing.assert_close(scores, torch.tensor([[[1 / 6, 2 / 3]]]).expand(2, 1, 2))


def test_things_stay_apart_and_stuff_is_one() -> None:
    classes, masks = together(
        query(1, [[1, 0, 0, 0]]), query(1, [[0, 1, 0, 0]]), query(2, [[0, 0, 1, 0]]), query(2, [[0, 0, 0, 1]])
    )
    found = panoptic_map(classes, masks, [7, 9], {7})
    assert found[0].tolist() == [[7, 1], [7, 2], [9, 0], [9, 0]]


def test_no_object_and_unsure_queries_paint_nothing() -> None:
    unsure = (torch.tensor([0.0, 1.0, 1.0]).softmax(-1), torch.full((1, 2), SURE))
    classes, masks = together(query(0, [[1, 1]]), unsure)
    assert (panoptic_map(classes, masks, [7, 9], {7})[..., 0] == VOID).all()
    assert (panoptic_map(classes, masks, [7, 9], {7}, score=0.3)[..., 0] != VOID).all()


def test_a_mask_that_loses_most_of_itself_is_dropped() -> None:
    """The second query has five pixels and wins three: dropped at 0.8, kept at 0.5, but never what it lost."""
    weaker = (torch.tensor([0.0, 0.0, 4.0]).softmax(-1), query(2, [[1, 1, 1, 1, 1]])[1])
    classes, masks = together(query(1, [[1, 1, 0, 0, 0]]), weaker)
    assert panoptic_map(classes, masks, [7, 9], {7})[0, :, 0].tolist() == [7, 7, VOID, VOID, VOID]
    assert panoptic_map(classes, masks, [7, 9], {7}, overlap=0.5)[0, :, 0].tolist() == [7, 7, 9, 9, 9]


def test_masks_grow_to_the_image() -> None:
    assert at_size(torch.zeros(2, 3, 4), (6, 9)).shape == (2, 6, 9)


def test_instances_by_hand() -> None:
    """One query is two instances, 7 and 8; its mask has probabilities 0.8 and 0.6 above 1/2, and one below."""
    masks = torch.logit(torch.tensor([[[0.8, 0.6, 0.1]], [[0.1, 0.2, 0.9]], [[0.3, 0.2, 0.1]]]))
    classes = torch.tensor([[0.1, 0.5, 0.3, 0.1], [0.0, 0.05, 0.0, 0.95], [0.0, 0.9, 0.05, 0.05]])
    found = instances(classes, masks, [7, 8, 9], {7, 8}, top=6)
    assert found.class_ids.tolist() == [7, 8, 7, 7]
    assert found.scores.tolist() == pytest.approx([0.5 * 0.7, 0.3 * 0.7, 0.05 * 0.9, 0.0])
    assert found.masks[:, 0].tolist() == [[1, 1, 0], [1, 1, 0], [0, 0, 1], [0, 0, 0]]


def test_stuff_takes_places_among_the_best() -> None:
    masks = torch.full((2, 1, 1), SURE)
    classes = torch.tensor([[0.0, 0.6, 0.3], [0.0, 0.2, 0.8]])
    assert instances(classes, masks, [7, 9], {7}, top=2).scores.tolist() == pytest.approx([0.6], rel=1e-4)
    assert len(instances(classes, masks, [7, 9], set()).scores) == 0
    assert instances(classes, masks, [7, 9], {7}).masks.shape == (2, 1, 1)


def test_instances_are_those_of_a_twin_that_counts_one_by_one() -> None:
    generator = torch.Generator().manual_seed(0)
    classes = torch.rand(30, 6, generator=generator)
    masks = torch.randn(30, 4, 5, generator=generator)
    pairs = sorted(((classes[q, c].item(), q, c) for q in range(30) for c in range(1, 6)), reverse=True)[:100]
    twin = []
    for p, q, c in pairs:
        if c in (1, 3):
            chosen = [v for v in masks[q].sigmoid().flatten().tolist() if v > 0.5]
            twin.append((p * sum(chosen) / len(chosen), 10 * c))
    found = instances(classes, masks, [10, 20, 30, 40, 50], {10, 30})
    twin.sort(reverse=True)
    assert found.class_ids.tolist() == [c for _, c in twin]
    assert found.scores.tolist() == pytest.approx([s for s, _ in twin], rel=1e-5)
