"""Proposers on tiny random checkpoints of the real classes, beside what transformers itself makes of them."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from kc.errors import KcError, MissingExtraError, UnknownNameError
from kc.proposals.filters import MaskFilter, decode
from kc.proposals.grounded_sam import GroundedSam, GroundingDino
from kc.proposals.load import check_proposals, load_proposer, reads_names
from kc.proposals.mask2former import at_size, query_scores
from kc.proposals.sam import SegmentAnything

EVERY = MaskFilter(min_area=0, min_score=-9.0, max_overlap=1.0)


# -- mask2former -------------------------------------------------------------------------------------------------------


def test_mask2former_masks_and_scores_as_its_own_post_processing(
    mask2former_folder: Path, photograph: np.ndarray
) -> None:
    """That goes through maps of 384 x 384 and rounds them to the nearest, so borders may differ by a pixel."""
    from transformers import AutoImageProcessor, Mask2FormerForUniversalSegmentation

    segments = load_proposer(f"mask2former:{mask2former_folder}", keep=EVERY).propose(photograph)
    processor = AutoImageProcessor.from_pretrained(mask2former_folder)
    model = Mask2FormerForUniversalSegmentation.from_pretrained(mask2former_folder).eval()
    with torch.no_grad():
        out = model(**processor(images=photograph, return_tensors="pt"))
    (wanted,) = processor.post_process_instance_segmentation(
        out, threshold=0.0, target_sizes=[(48, 70)], return_binary_maps=True
    )
    theirs = wanted["segmentation"].numpy().astype(bool)
    their_scores = np.array([s["score"] for s in wanted["segments_info"]])
    assert segments.masks is not None
    assert segments.masks.shape == (8, 48, 70)
    assert (np.diff(segments.scores) <= 0).all()
    iou = (segments.masks[:, None] & theirs).sum((2, 3)) / (segments.masks[:, None] | theirs).sum((2, 3))
    # They keep the best pairs of query and class; a query may be among them more than once, or not at all.
    assert their_scores.max() == pytest.approx(segments.scores[0], abs=2e-3)
    assert (iou.max(0) > 0.93).all()
    assert np.sort(iou, axis=0)[-2].max() < 0.94


def test_mask2former_pads_are_cut_before_scaling() -> None:
    """A mask over the valid half of a padded input fills the whole image."""
    logits = torch.full((1, 4, 4), -5.0)
    logits[:, :, :2] = 5.0
    valid = torch.zeros(1, 8, 8, dtype=torch.int64)
    valid[:, :, :4] = 1
    assert float((at_size(logits, valid, (8, 8), (6, 6)) > 0).float().mean()) == 1.0
    assert float((at_size(logits, None, (8, 8), (6, 6)) > 0).float().mean()) == 0.5


def test_mask2former_scores_by_hand() -> None:
    classes = torch.log(torch.tensor([[0.6, 0.1, 0.3], [0.05, 0.15, 0.8]]))
    logits = torch.tensor([[[4.0, -4.0]], [[-1.0, -1.0]]])
    np.testing.assert_allclose(query_scores(classes, logits), [0.6 * torch.tensor(4.0).sigmoid(), 0.0], rtol=1e-5)


# -- sam ---------------------------------------------------------------------------------------------------------------


def test_sam_grid_gives_the_masks_of_the_mask_generation_pipeline(sam_folder: Path, photograph: np.ndarray) -> None:
    from PIL import Image
    from transformers import pipeline

    ours = SegmentAnything(
        str(sam_folder), points=4, min_iou=-9.0, min_stability=0.05, max_box_overlap=0.99, keep=EVERY, batch=5
    ).propose(photograph)
    generate = pipeline("mask-generation", model=str(sam_folder), device="cpu")
    wanted = generate(
        Image.fromarray(photograph),
        points_per_crop=4,
        points_per_batch=16,
        pred_iou_thresh=-9.0,
        stability_score_thresh=0.05,
        crops_nms_thresh=0.99,
    )
    theirs = np.stack([np.asarray(m) for m in wanted["masks"]])
    assert len(ours) == len(theirs) > 1
    assert ours.masks is not None
    order = np.argsort(-wanted["scores"].numpy(), kind="stable")
    np.testing.assert_array_equal(ours.masks, theirs[order])
    np.testing.assert_allclose(ours.scores, np.clip(wanted["scores"].numpy()[order], 0, 1), atol=1e-6)


def test_sam_that_is_sure_of_nothing_gives_no_region(sam_folder: Path, photograph: np.ndarray) -> None:
    segments = SegmentAnything(str(sam_folder), points=2, min_iou=99.0).propose(photograph)
    assert len(segments) == 0
    assert segments.size == (48, 70)


def test_sam_in_boxes_as_by_its_own_processor(sam_folder: Path, photograph: np.ndarray) -> None:
    from transformers import SamModel, SamProcessor

    boxes = np.array([[2, 3, 30, 40], [33, 5, 66, 44]], np.float32)
    rles, stable = SegmentAnything(str(sam_folder)).in_boxes(photograph, boxes)
    processor, model = SamProcessor.from_pretrained(sam_folder), SamModel.from_pretrained(sam_folder).eval()
    inputs = processor(images=photograph, input_boxes=[boxes.tolist()], return_tensors="pt")
    with torch.no_grad():
        out = model(**inputs, multimask_output=False)
    (wanted,) = processor.post_process_masks(
        out.pred_masks, inputs["original_sizes"].tolist(), inputs["reshaped_input_sizes"].tolist()
    )
    np.testing.assert_array_equal(decode(rles, (48, 70)), wanted[:, 0].numpy())
    assert stable.shape == (2,)
    assert SegmentAnything(str(sam_folder)).in_boxes(photograph, boxes[:0])[0] == []


# -- grounding dino and grounded sam -----------------------------------------------------------------------------------

NAMES = ("cat", "red panda", "traffic lights", "dog", "sky")


def test_boxes_belong_to_the_name_with_the_likeliest_word(dino_folder: Path, photograph: np.ndarray) -> None:
    """Beside a loop over queries and words, that finds words by their number in the vocabulary."""
    from transformers import GroundingDinoForObjectDetection, GroundingDinoProcessor

    found = GroundingDino(str(dino_folder), min_score=0.25).find(photograph, NAMES)
    processor = GroundingDinoProcessor.from_pretrained(dino_folder)
    model = GroundingDinoForObjectDetection.from_pretrained(dino_folder).eval()
    inputs = processor(images=photograph, text="cat. red panda. traffic lights. dog. sky.", return_tensors="pt")
    with torch.no_grad():
        out = model(**inputs)
    ids = inputs["input_ids"][0].tolist()
    words = [[1030], [1032, 1033], [1035, 1036, 1037], [1031], [1034]]
    scores, names, boxes = [], [], []
    for logits, (x, y, w, h) in zip(out.logits[0].sigmoid(), out.pred_boxes[0].tolist(), strict=True):
        of_name = [max(float(logits[ids.index(word)]) for word in of) for of in words]
        if max(of_name) > 0.25:
            scores.append(max(of_name))
            names.append(int(np.argmax(of_name)))
            boxes.append([(x - w / 2) * 70, (y - h / 2) * 48, (x + w / 2) * 70, (y + h / 2) * 48])
    assert len(boxes) > 1
    assert found.name.tolist() == names
    np.testing.assert_allclose(found.scores, scores, rtol=1e-5)
    np.testing.assert_allclose(found.boxes, boxes, atol=1e-3)


def test_more_names_than_the_text_holds_are_asked_in_turns(dino_folder: Path, photograph: np.ndarray) -> None:
    dino = GroundingDino(str(dino_folder), min_score=0.0)
    both, first = dino.find(photograph, [*NAMES, "dog", "sky"]), dino.find(photograph, NAMES)
    n = len(first.name)
    np.testing.assert_array_equal(both.name[:n], first.name)
    np.testing.assert_allclose(both.boxes[:n], first.boxes)
    assert set(both.name[n:].tolist()) <= {5, 6}
    assert len(both.name) == 2 * n
    assert len(dino.find(photograph, []).name) == 0


def test_names_that_cannot_be_asked(dino_folder: Path, photograph: np.ndarray) -> None:
    dino = GroundingDino(str(dino_folder))
    with pytest.raises(KcError, match="longer than Grounding DINO reads"):
        dino.find(photograph, ["cat " * 20])
    with pytest.raises(ValueError, match="no letters"):
        dino.find(photograph, ["cat", " . "])


def test_grounded_sam_joins_boxes_masks_and_names(dino_folder: Path, sam_folder: Path, photograph: np.ndarray) -> None:
    proposer = load_proposer(f"grounded-sam:{dino_folder},{sam_folder}", names=NAMES, keep=EVERY)
    assert isinstance(proposer, GroundedSam)
    segments, names = proposer.named(photograph, NAMES)
    found = proposer.dino.find(photograph, NAMES)
    rles, _ = proposer.sam.in_boxes(photograph, found.boxes)
    order = [i for i in np.argsort(-found.scores, kind="stable") if decode([rles[i]], (48, 70)).any()]
    assert segments.masks is not None
    np.testing.assert_array_equal(segments.masks, decode([rles[i] for i in order], (48, 70)))
    np.testing.assert_array_equal(names, found.name[order])
    np.testing.assert_array_equal(segments.scores, found.scores[order])
    again = proposer.propose(photograph)
    assert again.masks is not None
    np.testing.assert_array_equal(again.masks, segments.masks)
    other = load_proposer(f"grounded-sam:{dino_folder},{sam_folder}", names=NAMES[:2], keep=EVERY)
    assert other.key != proposer.key
    assert reads_names(proposer.name)
    assert not reads_names("edges")


# -- names, folders, weights -------------------------------------------------------------------------------------------


def test_equal_files_have_equal_keys_and_other_weights_another(sam_folder: Path, tmp_path: Path) -> None:
    copied = Path(shutil.copytree(sam_folder, tmp_path / "copy"))
    assert SegmentAnything(str(copied)).key == SegmentAnything(str(sam_folder)).key
    weights = load_file(copied / "model.safetensors")
    name = next(iter(weights))
    save_file({**weights, name: weights[name] + 1}, copied / "model.safetensors", metadata={"format": "pt"})
    assert SegmentAnything(str(copied)).key != SegmentAnything(str(sam_folder)).key
    assert SegmentAnything(str(sam_folder), points=8).key != SegmentAnything(str(sam_folder)).key


def test_what_cannot_work_is_refused_before_anything_loads(
    sam_folder: Path, mask2former_folder: Path, dino_folder: Path, tmp_path: Path
) -> None:
    check_proposals(f"sam:{sam_folder}")
    check_proposals(f"mask2former:{mask2former_folder}")
    check_proposals(f"grounded-sam:{dino_folder},{sam_folder}")
    check_proposals("oracle")
    check_proposals("edges")
    with pytest.raises(UnknownNameError, match=r"Did you mean 'mask2former:PATH'"):
        check_proposals("mask2formr:/x")
    with pytest.raises(MissingExtraError, match="there is no folder '/no/where'"):
        check_proposals("sam:/no/where")
    with pytest.raises(MissingExtraError, match="there is no folder ''"):
        check_proposals("sam:")
    with pytest.raises(KcError, match="expected two folders"):
        check_proposals(f"grounded-sam:{dino_folder}")
    with pytest.raises(MissingExtraError, match="holds a checkpoint of 'mask2former', expected sam"):
        check_proposals(f"sam:{mask2former_folder}")
    with pytest.raises(MissingExtraError, match=r"config.json cannot be read"):
        check_proposals(f"sam:{tmp_path}")
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "sam"}))
    with pytest.raises(MissingExtraError, match="has no weights"):
        check_proposals(f"sam:{tmp_path}")
    (tmp_path / "model.safetensors").write_bytes(b"")
    with pytest.raises(MissingExtraError, match="has no settings of its image processor"):
        check_proposals(f"sam:{tmp_path}")


def test_checks_load_neither_torch_nor_transformers(sam_folder: Path) -> None:
    code = (
        f"import sys; from kc.proposals.load import check_proposals; check_proposals('sam:{sam_folder}'); "
        "check_proposals('edges'); print([m for m in ('torch', 'transformers', 'skimage', 'h5py') if m in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_missing_transformers_is_named(monkeypatch: pytest.MonkeyPatch, sam_folder: Path) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"needs transformers: pip install 'kc-continual\[proposals\]'"):
        check_proposals(f"sam:{sam_folder}")


def test_incomplete_weights_are_refused(mask2former_folder: Path, photograph: np.ndarray, tmp_path: Path) -> None:
    """Not left random, as transformers would."""
    copied = Path(shutil.copytree(mask2former_folder, tmp_path / "copy"))
    weights = load_file(copied / "model.safetensors")
    del weights["class_predictor.weight"]
    save_file(weights, copied / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(MissingExtraError, match=r"1 tensors are missing or have another shape: class_predictor.weight"):
        load_proposer(f"mask2former:{copied}").propose(photograph)
    (copied / "model.safetensors").write_bytes(b"nothing")
    with pytest.raises(MissingExtraError, match="cannot read the checkpoint"):
        load_proposer(f"mask2former:{copied}").propose(photograph)
