"""A model of detectron2 as it is: its answers are its own, its files are plain, its masks are regions."""

from __future__ import annotations

import importlib.util
import pickle
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import save_file

from kc.errors import KcError, MissingExtraError
from kc.proposals.base import as_masks
from kc.proposals.detectron2_model import Detectron2Masks, Detectron2Model, masks_of
from kc.proposals.filters import MaskFilter
from kc.proposals.load import check_proposals, load_proposer

HAVE = importlib.util.find_spec("detectron2") is not None


@pytest.mark.skipif(HAVE, reason="detectron2 is installed")
def test_without_detectron2_one_error_says_what_to_build() -> None:
    with pytest.raises(MissingExtraError, match=r"--proposals detectron2:a\.yaml,b\.pth needs detectron2.*docs/detec"):
        check_proposals("detectron2:a.yaml,b.pth")


def test_answers_are_those_of_default_predictor(detectron2_panoptic: SimpleNamespace, photograph: np.ndarray) -> None:
    from detectron2.engine import DefaultPredictor

    config = detectron2_panoptic.cfg.clone()
    config.MODEL.WEIGHTS = str(detectron2_panoptic.weights)
    theirs = DefaultPredictor(config)(photograph[:, :, ::-1])  # it reads BGR
    ours = Detectron2Model(detectron2_panoptic.places)(photograph)
    assert torch.equal(ours["sem_seg"], theirs["sem_seg"])
    assert torch.equal(ours["panoptic_seg"][0], theirs["panoptic_seg"][0])
    assert torch.equal(ours["instances"].scores, theirs["instances"].scores)
    assert len(ours["instances"]) > 0
    assert ours["sem_seg"].shape[1:] == (48, 70)


def test_panoptic_segments_are_regions(detectron2_panoptic: SimpleNamespace, photograph: np.ndarray) -> None:
    name = f"detectron2:{detectron2_panoptic.places}"
    proposer = load_proposer(name, keep=MaskFilter(min_area=1, max_overlap=1.0))
    assert proposer.name == name
    found = proposer.propose(photograph)
    numbers, segments = Detectron2Model(detectron2_panoptic.places)(photograph)["panoptic_seg"]
    wanted = {(numbers == s["id"]).numpy().tobytes() for s in segments if (numbers == s["id"]).any()}
    assert {m.tobytes() for m in as_masks(found)} == wanted
    assert found.size == (48, 70)
    assert np.all(np.diff(found.scores) <= 0)
    assert proposer.key != Detectron2Masks(detectron2_panoptic.places).key


def answer_of(**parts: Any) -> Any:
    return lambda self, image: parts


def test_instances_then_the_semantic_partition(
    detectron2_panoptic: SimpleNamespace, photograph: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    from detectron2.structures import Instances

    masks = torch.zeros(2, 48, 70, dtype=torch.bool)
    masks[0, :10, :10], masks[1, 20:40, 20:40] = True, True
    found = Instances((48, 70), pred_masks=masks, scores=torch.tensor([0.3, 0.9]))
    proposer = Detectron2Masks(detectron2_panoptic.places)
    monkeypatch.setattr(Detectron2Model, "__call__", answer_of(instances=found, sem_seg=torch.zeros(2, 48, 70)))
    regions = proposer.propose(photograph)
    assert np.array_equal(as_masks(regions), masks.numpy()[::-1])
    assert regions.scores.tolist() == [np.float32(0.9), np.float32(0.3)]
    logits = torch.zeros(3, 48, 70)
    logits[2, :, 35:] = 1
    monkeypatch.setattr(Detectron2Model, "__call__", answer_of(sem_seg=logits))
    regions = proposer.propose(photograph)
    assert regions.partition is not None
    assert np.array_equal(regions.partition, (np.arange(70) >= 35)[None].repeat(48, 0))
    monkeypatch.setattr(Detectron2Model, "__call__", answer_of(instances=Instances((48, 70))))
    with pytest.raises(KcError, match="the model answers instances, but no masks"):
        proposer.propose(photograph)


def test_segments_that_are_numbered_but_not_listed() -> None:
    found = masks_of({"panoptic_seg": (torch.tensor([[-1, 3000], [5001, 3000]]), None)})
    assert found is not None
    assert found[0].astype(int).tolist() == [[[0, 1], [0, 1]], [[0, 0], [1, 0]]]
    assert found[1].tolist() == [1, 1]


def test_safetensors_and_bare_tensors(detectron2_panoptic: SimpleNamespace, tmp_path: Path) -> None:
    tensors = {k: v.contiguous() for k, v in detectron2_panoptic.network.state_dict().items()}
    save_file(tensors, tmp_path / "model.safetensors")
    torch.save(tensors, tmp_path / "bare.pth")
    for file in ("model.safetensors", "bare.pth"):
        network = Detectron2Model(f"{detectron2_panoptic.config},{tmp_path / file}").network
        assert torch.equal(
            network.state_dict()["backbone.fpn_lateral2.weight"], tensors["backbone.fpn_lateral2.weight"]
        )
        assert not network.training


def test_weights_must_fill_the_model(detectron2_panoptic: SimpleNamespace, tmp_path: Path) -> None:
    tensors = dict(detectron2_panoptic.network.state_dict())

    def opened(content: Any) -> Any:
        torch.save(content, tmp_path / "x.pth")
        return Detectron2Model(f"{detectron2_panoptic.config},{tmp_path / 'x.pth'}").network

    lacking = {k: v for k, v in tensors.items() if k != "backbone.fpn_lateral2.weight"}
    with pytest.raises(KcError, match=r"1 missing: backbone\.fpn_lateral2\.weight; 1 unexpected: other"):
        opened({**lacking, "other": torch.zeros(1)})
    with pytest.raises(KcError, match="size mismatch"):
        opened({**tensors, "backbone.fpn_lateral2.weight": torch.zeros(1)})
    with pytest.raises(KcError, match="expected a dictionary of tensors"):
        opened([torch.zeros(1)])
    with pytest.raises(KcError, match="cannot read tensors from it"):
        opened({"model": Path("x")})


def test_files_that_could_run_code_are_refused(detectron2_panoptic: SimpleNamespace, tmp_path: Path) -> None:
    config, weights = detectron2_panoptic.config, detectron2_panoptic.weights
    (tmp_path / "model.pkl").write_bytes(pickle.dumps({"model": {}}))
    (tmp_path / "lazy.py").write_text("raise SystemExit('run')")
    (tmp_path / "unsafe.yaml").write_text("MODEL: !!python/object/apply:os.system ['true']\n")
    (tmp_path / "far.yaml").write_text("_BASE_: detectron2://x.yaml\n")
    (tmp_path / "self.yaml").write_text("_BASE_: self.yaml\n")
    for places, said in [
        (f"{config},{tmp_path / 'model.pkl'}", "a .pkl could run code"),
        (f"{tmp_path / 'lazy.py'},{weights}", r"a LazyConfig \(\.py\) is a program"),
        (f"{tmp_path / 'unsafe.yaml'},{weights}", "is not plain YAML"),
        (f"{tmp_path / 'far.yaml'},{weights}", "builds upon 'detectron2://x.yaml'"),
        (f"{tmp_path / 'self.yaml'},{weights}", "without end"),
        (f"{config}", "expected two files, detectron2:CONFIG.yaml,WEIGHTS.pth"),
        (f"{config},{tmp_path / 'none.pth'}", "there is no file"),
    ]:
        with pytest.raises(KcError, match=said):
            check_proposals(f"detectron2:{places}")


def test_keys_that_detectron2_has_not(detectron2_panoptic: SimpleNamespace, tmp_path: Path) -> None:
    changes = {**detectron2_panoptic.changes, "SOLVER": {"OPTIMISER": "x"}}
    (tmp_path / "own.yaml").write_text(yaml.safe_dump(changes))
    model = Detectron2Model(f"{tmp_path / 'own.yaml'},{detectron2_panoptic.weights}")
    with pytest.raises(KcError, match=r"is no config of detectron2 .*SOLVER\.OPTIMISER"):
        _ = model.config
