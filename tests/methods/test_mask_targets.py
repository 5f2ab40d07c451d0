"""Label maps as masks, by hand."""

from __future__ import annotations

import torch

from kc.methods.finetune.mask_targets import mask_sets
from kc.types import HIDDEN, VOID


def test_semantic_maps() -> None:
    labels = torch.tensor([[[7, 7, HIDDEN], [3, 9, VOID]], [[VOID, VOID, VOID], [HIDDEN, HIDDEN, 9]]])
    first, second = mask_sets({"semantic": labels}, {7: 2, 3: 1})
    assert first[1].tolist() == [1, 2]
    assert first[0].tolist() == [[[0, 0, 0], [1, 0, 0]], [[1, 1, 0], [0, 0, 0]]]
    assert second[0].shape == (0, 2, 3)
    assert second[1].tolist() == []


def test_panoptic_maps_keep_instances_apart_and_leave_crowds_out() -> None:
    category = torch.tensor([[5, 5, 5, 8], [5, 5, VOID, 8]])
    instance = torch.tensor([[1, 1, 2, 0], [3, 3, 0, 0]])
    panoptic = torch.stack([category, instance], -1)[None]
    ((masks, columns),) = mask_sets({"panoptic": panoptic, "crowd": [frozenset({3})]}, {5: 1, 8: 2})
    assert columns.tolist() == [1, 1, 2]
    assert masks.sum((1, 2)).tolist() == [2, 1, 2]
    assert masks[0].tolist() == [[1, 1, 0, 0], [0, 0, 0, 0]]
