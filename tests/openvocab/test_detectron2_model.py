"""A model of detectron2 as a base: names it knows share the probability, all others have none."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from kc.errors import KcError
from kc.openvocab.base import DenseVocabulary, Trained, plain_name
from kc.openvocab.detectron2_base import Detectron2Base
from kc.openvocab.load import check_base, load_base
from kc.proposals.base import from_partition
from kc.proposals.detectron2_model import Detectron2Model

IMAGE = np.zeros((2, 4, 3), dtype=np.uint8)
LEFT_RIGHT = from_partition(np.array([[0, 0, 1, 1]] * 2))


def test_names_are_compared_without_case_underscores_and_spaces() -> None:
    assert plain_name(" Traffic_Light ") == plain_name("traffic  light") == "traffic light"


@pytest.fixture
def base(detectron2_panoptic: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> Detectron2Base:
    """Left: grass 0.5, sky 0.25, sea 0.25 (things 0), and a dog of 0.5 at two of four pixels. Right: sea alone."""
    from detectron2.structures import Instances

    p = torch.zeros(4, 2, 4)
    p[1, :, :2], p[2, :, :2], p[3, :, :2] = 0.5, 0.25, 0.25
    p[3, :, 2:] = 1
    masks = torch.zeros(2, 2, 4, dtype=torch.bool)
    masks[:, 0, :2] = True
    dogs = Instances((2, 4), pred_masks=masks, scores=torch.tensor([0.5, 0.2]), pred_classes=torch.tensor([1, 1]))
    answer = {"sem_seg": p.log(), "instances": dogs}
    monkeypatch.setattr(Detectron2Model, "__call__", lambda self, image: answer)
    return Detectron2Base(detectron2_panoptic.places)


def test_regions_have_the_mean_evidence_of_the_names(base: Detectron2Base) -> None:
    names = [("meadow", "Grass"), ("dog",), ("unicorn",)]
    scores = base.region_scores(IMAGE, "a", LEFT_RIGHT, names, None)
    # Left: grass 0.5, dog 0.5 on half of it; unicorn 0. Right: nothing of the three, so all alike.
    assert torch.allclose(scores, torch.tensor([[2 / 3, 1 / 3, 0], [1 / 3, 1 / 3, 1 / 3]]))
    assert base.trained_on(names).tolist() == [True, True, False]


def test_a_background_gets_what_is_left(base: Detectron2Base) -> None:
    scores = base.region_scores(IMAGE, "a", LEFT_RIGHT, [("background",), ("grass",)], 0)
    assert torch.allclose(scores, torch.tensor([[0.5, 0.5], [1.0, 0.0]]))
    known = base.region_scores(IMAGE, "a", LEFT_RIGHT, [("sea",), ("grass",)], 0)
    assert torch.allclose(known, torch.tensor([[1 / 3, 2 / 3], [1.0, 0.0]]))


def test_the_class_that_stands_for_things_matches_no_name(base: Detectron2Base) -> None:
    assert base.trained_on([("things",), ("bird",)]).tolist() == [False, True]


def test_pixels(base: Detectron2Base) -> None:
    best = base.segment(IMAGE, "a", [("grass",), ("sea",), ("dog",)], None)
    assert best.tolist() == [[0, 0, 1, 1], [0, 0, 1, 1]]
    best = base.segment(IMAGE, "a", [("rest",), ("dog",), ("sky",)], 0)
    # Above the dog 0.5 wins over sky 0.25 and the 0.25 that is left; below, what is left is 0.75.
    assert best.tolist() == [[1, 1, 0, 0], [0, 0, 0, 0]]


def test_panoptic_segments_where_there_are_no_instances(
    detectron2_panoptic: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    numbers = torch.tensor([[1, 1, 2, 0]] * 2)
    segments = [{"id": 1, "isthing": True, "category_id": 2, "score": 0.5},
                {"id": 2, "isthing": False, "category_id": 3}]  # fmt: skip
    monkeypatch.setattr(Detectron2Model, "__call__", lambda self, image: {"panoptic_seg": (numbers, segments)})
    base = Detectron2Base(detectron2_panoptic.places)
    found = base.evidence(IMAGE, "a")
    assert found[2].tolist() == [[0.5, 0.5, 0, 0]] * 2  # Bird
    assert found[3 + 3].tolist() == [[0, 0, 1, 0]] * 2  # sea
    assert float(found.sum()) == 4


def test_a_real_network_answers_through_the_contract(
    detectron2_panoptic: SimpleNamespace, photograph: np.ndarray
) -> None:
    name = f"detectron2:{detectron2_panoptic.places}"
    check_base(name, "lite0", "panoptic")
    no_encoder: Any = None
    base = load_base(name, no_encoder)
    assert isinstance(base, DenseVocabulary)
    assert isinstance(base, Trained)
    partition = from_partition((np.arange(70) // 18)[None].repeat(48, 0))
    names = [("grass",), ("sky",), ("cat",), ("zebra",)]
    scores = base.region_scores(photograph, "p", partition, names, None)
    assert scores.shape == (4, 4)
    assert torch.allclose(scores.sum(1), torch.ones(4))
    assert scores[:, 3].eq(0).all()
    p = Detectron2Model(detectron2_panoptic.places)(photograph)["sem_seg"].softmax(0)
    assert np.array_equal(base.segment(photograph, "p", names[:2], None), (p[2] > p[1]).int().numpy())
    assert str(detectron2_panoptic.weights) in base.key
    with pytest.raises(KcError, match="does not read pooled features"):
        base.scores_from(torch.zeros(1, 3), names)
    with pytest.raises(KcError, match="this benchmark is classification"):
        check_base(name, "lite0", "classification")
