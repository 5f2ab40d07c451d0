"""FC-CLIP as a base: pooling as CLIP, names in any order, images of any size, regions of anyone, a proposer."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from kc.errors import KcError
from kc.openvocab.base import DenseVocabulary, PanopticVocabulary, TwoHeaded
from kc.openvocab.fc_clip.base import FcClipBase
from kc.openvocab.fc_clip.checkpoint import convert
from kc.openvocab.fc_clip.geometry import Frame, cover, frame_of, overlaps, prepare, to_original
from kc.openvocab.fc_clip.network import FcClip, ensemble, levels, mask_pool, mixed, name_logits, project
from kc.openvocab.fc_clip.options import FcClipOptions, options_for
from kc.openvocab.load import base_family, check_base, load_base
from kc.proposals.base import as_masks, from_partition
from kc.types import VOID, Segments, UInt8Array

NAMES = (("person", "child"), ("sky", "blue sky"), ("unicorn",), ("tree", "trees", "a green tree"))
OPTIONS = FcClipOptions(short_side=64, long_side=96)


def picture(seed: int, height: int = 50, width: int = 70) -> UInt8Array:
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (5, 7, 3), dtype=np.uint8)
    return np.ascontiguousarray(coarse.repeat(-(-height // 5), 0).repeat(-(-width // 7), 1)[:height, :width])


@pytest.fixture(scope="module")
def weights(authors_file: Path, tiny_clip: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("converted") / "fc-clip.safetensors"
    convert(authors_file, path, tiny_clip)
    return path


@pytest.fixture(scope="module")
def base(weights: Path) -> FcClipBase:
    made = load_base(f"fc-clip@{weights}", torch.nn.Identity(), sides="64,96")
    assert isinstance(made, FcClipBase)
    return made


@pytest.fixture(scope="module")
def network(base: FcClipBase) -> FcClip:
    return base.network


@torch.no_grad()
@pytest.mark.parametrize("size", [(64, 64), (96, 160)])
def test_pooling_everything_is_encode_image(network: FcClip, size: tuple[int, int]) -> None:
    images = torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(0))
    _, dense = levels(network.clip.visual, images)
    pooled = mask_pool(dense, torch.ones(2, 1, size[0] // 4, size[1] // 4))
    wanted = network.clip.encode_image(images)
    torch.testing.assert_close(project(network.clip.visual, pooled)[:, 0], wanted, rtol=0, atol=1e-6)
    # A whole image as a region that somebody proposes.
    frame = Frame(size, size)
    whole = cover(Segments(size, np.ones(1, np.float32), masks=np.ones((1, *size), bool)), frame, dense.shape[-2:])
    assert abs(whole.toarray() - 1 / whole.shape[1]).max() < 1e-6


@torch.no_grad()
def test_pooling_reads_its_mask_only(network: FcClip) -> None:
    features = torch.arange(8.0).view(1, 1, 2, 4)
    masks = torch.full((1, 3, 2, 4), -1.0)
    masks[0, 0, 0, 1], masks[0, 0, 1, 2] = 0.5, 9.0  # features 1 and 6, however high the logits
    masks[0, 1, :, 0] = 1.0
    assert mask_pool(features, masks)[0, :, 0].tolist() == pytest.approx([3.5, 2.0, 0.0])


def test_contracts(base: FcClipBase) -> None:
    assert isinstance(base, DenseVocabulary)
    assert isinstance(base, TwoHeaded)
    assert isinstance(base, PanopticVocabulary)


@pytest.mark.parametrize("names", [NAMES, NAMES[::-1], NAMES[1:2], NAMES + (("sea",),) * 300])
def test_a_class_scores_the_same_in_any_vocabulary(base: FcClipBase, names: tuple[tuple[str, ...], ...]) -> None:
    output = base.image_output(picture(0))
    text, counts = base.text(NAMES)
    reference = name_logits(output.classes, text, counts, base.network.logit_scale)
    text, counts = base.text(names)
    found = name_logits(output.classes, text, counts, base.network.logit_scale)
    for position, synonyms in enumerate(names):
        if synonyms in NAMES:
            torch.testing.assert_close(found[:, position], reference[:, NAMES.index(synonyms)], rtol=0, atol=1e-5)


def test_order_of_names_permutes_every_answer(base: FcClipBase) -> None:
    image = picture(1)
    order = [2, 0, 3, 1]
    shuffled = [NAMES[i] for i in order]
    p, q = base.query_scores(base.image_output(image), NAMES), base.query_scores(base.image_output(image), shuffled)
    torch.testing.assert_close(q[:, 1:], p[:, 1:][:, order])
    torch.testing.assert_close(q[:, 0], p[:, 0])
    a = base.segment(image, "a", NAMES, None)
    b = base.segment(image, "a", shuffled, None)
    assert (np.asarray(order)[b] == a).mean() > 0.999
    ids = [7, 9, 300, 3]
    panoptic = base.panoptic(image, "a", NAMES, ids, [7, 300])
    again = base.panoptic(image, "a", shuffled, [ids[i] for i in order], [7, 300])
    assert (panoptic == again).mean() > 0.999
    assert set(np.unique(panoptic[..., 0])) <= {*ids, VOID}


def test_a_synonym_can_only_raise_its_class(base: FcClipBase) -> None:
    output = base.image_output(picture(2))
    text, counts = base.text(NAMES)
    each, ones = name_logits(output.classes, text, [1] * len(text), base.network.logit_scale), counts
    joined = name_logits(output.classes, text, ones, base.network.logit_scale)
    torch.testing.assert_close(joined[:, 3], each[:, -3:].amax(1))
    with pytest.raises(ValueError, match="do not divide"):
        name_logits(output.classes, text, [1, 2], base.network.logit_scale)


def test_the_ensemble_by_hand() -> None:
    """One seen and one unseen name; alpha 0.25 and beta 0.5, so that swapping them, or dropping void, shows."""
    head, clip = torch.tensor([0.5, 0.3, 0.2]).log(), torch.tensor([0.1, 0.9]).log()
    inside = torch.tensor([0.5, 0.3]) / 0.8
    a, b = inside[0] ** 0.75 * 0.1**0.25, inside[1] ** 0.5 * 0.9**0.5
    p = ensemble(head, clip, torch.tensor([True, False]), 0.25, 0.5)
    np.testing.assert_allclose(p, [0.2, 0.8 * a / (a + b), 0.8 * b / (a + b)], atol=1e-6)
    log = mixed(head[:2], clip, torch.tensor([True, False]), 0.25, 0.5)
    np.testing.assert_allclose(log.exp(), [a, b], atol=1e-6)


@pytest.mark.parametrize(
    ("size", "resized", "padded"),
    [
        ((480, 640), (800, 1067), (800, 1088)),
        ((640, 480), (1067, 800), (1088, 800)),
        ((300, 900), (444, 1333), (448, 1344)),
        ((801, 801), (800, 800), (800, 800)),
    ],
)
def test_sizes_as_detectron2_makes_them(
    size: tuple[int, int], resized: tuple[int, int], padded: tuple[int, int]
) -> None:
    frame = frame_of(size, 800, 1333)
    assert (frame.resized, frame.padded) == (resized, padded)


def test_masks_come_back_where_they_were() -> None:
    image = np.zeros((40, 60, 3), np.uint8)
    image[:20, 30:] = 255
    frame = frame_of((40, 60), 80, 200)
    seen = prepare(image, frame)
    assert tuple(seen.shape) == (3, 96, 128)
    assert float(seen[:, 80:].abs().max()) == float(seen[:, :, 120:].abs().max()) == 0  # padded after normalising
    logits = torch.nn.functional.avg_pool2d(seen[:1, None], 4)[0, 0][None]
    back = to_original(logits, frame)[0] > 0
    assert (back.numpy() == (image[..., 0] > 0)).mean() > 0.98


def test_regions_find_the_query_that_made_them(base: FcClipBase) -> None:
    image = picture(7)
    output = base.image_output(image)
    masks = (to_original(output.masks, output.frame) > 0).numpy()
    kept = np.flatnonzero(masks.reshape(len(masks), -1).any(1))
    own = Segments(image.shape[:2], np.ones(len(kept), np.float32), masks=masks[kept])
    weights = cover(own, output.frame, tuple(output.pixels.shape[-2:]))
    shares = overlaps(output.masks, own, output.frame, weights)
    best = shares.argmax(1).numpy()
    assert best.tolist() == kept.tolist()
    assert float(shares.amax(1).min()) > 0.5  # not 1: these masks are ragged at the scale of a cell


def test_overlap_by_hand() -> None:
    """A region of the left half, a mask of the upper half: a quarter in common of three quarters."""
    half = np.zeros((1, 32, 32), bool)
    half[0, :, :16] = True
    region = Segments((32, 32), np.ones(1, np.float32), masks=half)
    masks = torch.full((2, 8, 8), -1.0)
    masks[0, :4] = masks[1, :, :4] = 1
    frame = Frame((32, 32), (32, 32))
    found = overlaps(masks, region, frame, cover(region, frame, (8, 8)))
    np.testing.assert_allclose(found, [[1 / 3, 1.0]], atol=1e-5)


def test_probabilities_of_regions(base: FcClipBase) -> None:
    image = picture(8)
    y, x = np.mgrid[:50, :70]
    regions = from_partition(2 * (y >= 25) + (x >= 35))
    found = base.region_probabilities(image, "a", regions, NAMES, None)
    for p in (found.in_vocabulary, found.out_of_vocabulary):
        assert p.shape == (4, 4)
        assert p.dtype == torch.float32
        np.testing.assert_allclose(p.sum(1), 1, atol=1e-5)
    assert found.seen.tolist() == [True, True, False, True] == base.trained_on(NAMES).tolist()
    scores = base.region_scores(image, "a", regions, NAMES, None)
    weight = torch.tensor([0.4, 0.4, 0.8, 0.4])
    by_hand = found.in_vocabulary ** (1 - weight) * found.out_of_vocabulary**weight
    torch.testing.assert_close(scores, by_hand / by_hand.sum(1, keepdim=True))
    masks = Segments((50, 70), np.ones(4, np.float32), masks=as_masks(regions))
    torch.testing.assert_close(base.region_scores(image, "b", masks, NAMES, None), scores)
    none = Segments((50, 70), np.zeros(0, np.float32), masks=np.zeros((0, 50, 70), bool))
    assert base.region_scores(image, "a", none, NAMES, None).shape == (0, 4)
    assert base.region_probabilities(image, "a", none, NAMES, None).in_vocabulary.shape == (0, 4)
    with pytest.raises(KcError, match="regions of an image of"):
        base.region_scores(picture(8, 40, 40), "a", regions, NAMES, None)


@torch.no_grad()
def test_clip_pools_regions_as_it_pools_images(base: FcClipBase) -> None:
    """Cells of the coarse map are regions: CLIP's embedding is its projection of that one cell."""
    image = picture(9, 64, 96)
    cell = np.kron(np.arange(6).reshape(2, 3), np.ones((32, 32), int))
    found = base.region_probabilities(image, "a", from_partition(cell), NAMES, None).out_of_vocabulary
    output = base.image_output(image)
    net = base.network
    text, counts = base.text(NAMES)
    embedded = project(net.clip.visual, output.dense.flatten(1).T)
    wanted = name_logits(embedded, text, counts, net.clip.logit_scale).softmax(-1)
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)


def test_proposals(base: FcClipBase) -> None:
    image = picture(10)
    proposer = base.proposer()
    regions = proposer.propose(image)
    assert regions.masks is not None
    assert regions.size == (50, 70) == regions.masks.shape[1:]
    assert 0 < len(regions) <= base.network.config.queries
    assert (np.diff(regions.scores) <= 0).all()
    assert 0.05 <= regions.scores.min() <= regions.scores.max() <= 1
    assert regions.masks.reshape(len(regions), -1).any(1).all()
    proposer.min_score = 2.0
    assert len(proposer.propose(image)) == 0
    assert "/" not in proposer.key
    assert base.fingerprint in proposer.key


def test_one_pass_serves_many_questions(base: FcClipBase, monkeypatch: pytest.MonkeyPatch) -> None:
    image = picture(11)
    passes = []
    forward = base.network.forward
    monkeypatch.setattr(base.network, "forward", lambda *a, **k: passes.append(1) or forward(*a, **k))
    base.segment(image, "a", NAMES, None)
    base.segment(image, "a", NAMES[:2], None)
    regions = base.proposer().propose(image)
    base.region_scores(image, "a", regions, NAMES, None)
    base.panoptic(image, "a", NAMES, range(4), [0])
    assert len(passes) == 1


def test_what_is_kept_has_an_end(base: FcClipBase, monkeypatch: pytest.MonkeyPatch) -> None:
    first = base.image_output(picture(12))
    monkeypatch.setattr(base._outputs, "budget", first.nbytes)
    base.image_output(picture(13))
    assert base.image_output(picture(12)) is not first
    torch.testing.assert_close(base.image_output(picture(12)).masks, first.masks)


def test_instances_and_errors(base: FcClipBase) -> None:
    found = base.instances(picture(14), "a", NAMES, [4, 5, 6, 7], [4, 6])
    assert set(found.class_ids.tolist()) <= {4, 6}
    assert found.masks.shape[1:] == (50, 70)
    with pytest.raises(KcError, match="without a name"):
        base.segment(picture(14), "a", [("sky",), ()], None)
    with pytest.raises(KcError, match="a vocabulary without a name"):
        base.segment(picture(14), "a", [], None)
    with pytest.raises(KcError, match="empty class names"):
        base.segment(picture(14), "a", [("sky",), (" ",)], None)
    with pytest.raises(KcError, match="does not read pooled features"):
        base.scores_from(torch.zeros(1, 12), NAMES)


def test_names_of_bases(weights: Path) -> None:
    other = torch.nn.Identity()
    for name in (f"fc-clip@{weights}", f"fc-clip:convnext_large_kc_tiny@{weights}"):
        base_family(name)
        check_base(name, "lite0", "panoptic")
        assert load_base(name, other, sides="64,96").key.startswith(name)
    with pytest.raises(KcError, match="classification"):
        check_base(f"fc-clip@{weights}", "lite0", "classification")
    with pytest.raises(KcError, match="ask for fc-clip:convnext_large_kc_tiny@"):
        load_base(f"fc-clip:convnext_base@{weights}", other)


def test_options_by_benchmark() -> None:
    assert (options_for("cityscapes-19").short_side, options_for("cityscapes").long_side) == (1024, 2560)
    assert options_for("ade20k-150") == FcClipOptions()
    assert options_for("ade20k", 0.1, 0.2, "64,128") == FcClipOptions(0.1, 0.2, 64, 128)
    for values in ({"sides": "64"}, {"sides": "128,64"}, {"alpha": 1.5}):
        with pytest.raises(KcError):
            options_for("ade20k", **values)
