"""From an image to classes: a naive twin of the public evaluations, hand-solved thresholds, regions, proxies."""

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from kc.encoders.lite import Lite0
from kc.encoders.open_clip_model import OpenClipEncoder
from kc.errors import KcError
from kc.openvocab.dense_clip import segmenter as module
from kc.openvocab.dense_clip.model import DenseClip
from kc.openvocab.dense_clip.protocol import InferenceProtocol
from kc.openvocab.dense_clip.rows import ROWS
from kc.openvocab.dense_clip.segmenter import Cells, Segmenter, pamr
from kc.openvocab.dense_clip.text import TextBank
from kc.types import Segments, UInt8Array

SLIDE = InferenceProtocol("slide", 48, 32, 16, 40.0, templates="photo")
NAMES = [["car"], ["tree", "bush"], ["sky"]]


def picture(height: int, width: int, seed: int = 0) -> UInt8Array:
    coarse = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), dtype=np.uint8)
    return np.kron(coarse, np.ones((height // 6 + 1, width // 6 + 1, 1), dtype=np.uint8))[:height, :width].copy()


def build(encoder: OpenClipEncoder, protocol: InferenceProtocol, row: str = "clearclip") -> Segmenter:
    model = DenseClip(encoder.network.visual, dataclasses.replace(ROWS[row]))
    return Segmenter(encoder, model, TextBank(encoder, protocol.templates), protocol)


@torch.no_grad()
def cosine_maps(encoder: OpenClipEncoder, image: UInt8Array, text: Tensor, p: InferenceProtocol) -> Tensor:
    """(M, H, W) by loops: every window alone, upsampled, padded to the image, added and counted."""
    model = DenseClip(encoder.network.visual, ROWS["clearclip"])
    mean, std = torch.tensor(encoder.preprocessing[:6]).view(2, 3, 1, 1)
    pixels = torch.from_numpy(image).permute(2, 0, 1).float()
    height, width = image.shape[:2]
    assert p.short_side is not None
    factor = p.short_side / min(height, width)
    size = (int(height * factor + 0.5), int(width * factor + 0.5))
    x = (F.interpolate(pixels[None], size=size, mode="bilinear")[0].round() / 255 - mean) / std
    crop, stride = p.crop or max(size), p.stride or max(size)
    total, count = torch.zeros(len(text), *size), torch.zeros(size)
    for top in range(0, max(size[0] - crop + stride - 1, 0) // stride + 1):
        for left in range(0, max(size[1] - crop + stride - 1, 0) // stride + 1):
            y2, x2 = min(top * stride + crop, size[0]), min(left * stride + crop, size[1])
            y1, x1 = max(y2 - crop, 0), max(x2 - crop, 0)
            found = F.normalize(model(x[None, :, y1:y2, x1:x2]), dim=1)
            logits = torch.einsum("md,ndhw->nmhw", text, found)
            up = F.interpolate(logits, size=(y2 - y1, x2 - x1), mode="bilinear")[0]
            total[:, y1:y2, x1:x2] += up
            count[y1:y2, x1:x2] += 1
    return F.interpolate((total / count)[None], size=(height, width), mode="bilinear")[0]


@pytest.mark.parametrize("size", [(60, 90), (50, 47), (41, 77)])
@pytest.mark.parametrize("crop", [32, None])
def test_naive_twin(size: tuple[int, int], crop: int | None, clip_encoder: OpenClipEncoder) -> None:
    p = dataclasses.replace(SLIDE, crop=crop, stride=None if crop is None else 16)
    segmenter, image = build(clip_encoder, p), picture(*size)
    text, counts = segmenter.text(NAMES)
    maps = cosine_maps(clip_encoder, image, text, p)
    scores = (maps * 40).softmax(0)
    classes = torch.stack([scores[0], scores[1:3].amax(0), scores[3]])
    wanted = classes.argmax(0).numpy()
    cells = segmenter.cells(image)
    assert cells.size == size
    assert counts == [1, 2, 1]
    torch.testing.assert_close(cells.rows @ torch.tensordot(text, cells.values, 1) @ cells.columns.T, maps,
                               atol=1e-5, rtol=1e-5)  # fmt: skip
    found = segmenter.segment(image, NAMES)
    assert found.dtype == np.int64
    # Ties to the last digit may fall either way.
    top = classes.topk(2, 0).values
    clear = (top[0] - top[1] > 1e-5).numpy()
    assert clear.mean() > 0.9
    assert np.array_equal(found[clear], wanted[clear])
    assert len(np.unique(found)) > 1


def test_windows_of_the_images_own_size_are_the_whole_image(clip_encoder: OpenClipEncoder) -> None:
    image = picture(48, 48)
    whole = build(clip_encoder, dataclasses.replace(SLIDE, crop=None, stride=None)).cells(image)
    own = build(clip_encoder, dataclasses.replace(SLIDE, crop=48, stride=48)).cells(image)
    for field in ("values", "rows", "columns"):
        assert torch.equal(getattr(own, field), getattr(whole, field))


def test_batches_of_windows_do_not_matter(clip_encoder: OpenClipEncoder) -> None:
    one, many = build(clip_encoder, SLIDE), build(clip_encoder, SLIDE)
    one.batch, many.batch = 1, 5
    torch.testing.assert_close(one.cells(picture(60, 90)).values, many.cells(picture(60, 90)).values)


@pytest.mark.parametrize("pad_to", [8, "patch"])
def test_padding_is_the_mean_colour_and_is_cut(pad_to: int | str, clip_encoder: OpenClipEncoder) -> None:
    """An image of 30 x 30 padded to 32 equals one that has the mean colour there."""
    protocol = dataclasses.replace(SLIDE, short_side=None, crop=None, stride=None, pad_to=pad_to)
    segmenter, image = build(clip_encoder, protocol), picture(30, 30)
    cells = segmenter.cells(image)
    assert cells.values.shape[1:] == (4, 4)
    mean, std = torch.tensor(clip_encoder.preprocessing[:6]).view(2, 3, 1, 1)
    x = F.pad((torch.from_numpy(image).permute(2, 0, 1) / 255 - mean) / std, (1, 1, 1, 1))
    with torch.no_grad():
        found = F.normalize(segmenter.model(x[None])[0], dim=0)
    torch.testing.assert_close(cells.values, found)
    up = F.interpolate(found[None], size=(32, 32), mode="bilinear")[0, :, 1:31, 1:31]
    torch.testing.assert_close(cells.rows @ cells.values @ cells.columns.T, up, atol=1e-5, rtol=1e-5)


# -- thresholds by hand ------------------------------------------------------------------------------------------------


class Axes:
    """Names a, b, c are the three axes."""

    fingerprint = "axes:0"

    def encode_text(self, texts: Sequence[str]) -> Tensor:
        return torch.stack([torch.eye(3)["abc".index(text)] for text in texts])


def by_hand(encoder: OpenClipEncoder, protocol: InferenceProtocol, values: Tensor) -> np.ndarray:
    """Classes of pixels whose embeddings (3, H, W) are given, over names a (background), b, c."""
    segmenter = build(encoder, protocol)
    segmenter.bank = TextBank(Axes(), "name")
    height, width = values.shape[1:]
    cells = Cells(values, torch.eye(height), torch.eye(width))
    image = np.zeros((height, width, 3), dtype=np.uint8)
    return segmenter.segment(image, [["a"], ["b"], ["c"]], 0, cells)


def test_threshold_by_hand(clip_encoder: OpenClipEncoder) -> None:
    """Scale 1: e^0.9 / (e^0.9 + 2) = 0.5515; e^0.5 / (e^0.5 + 2) = 0.4519."""
    values = torch.zeros(3, 1, 4)
    values[1, 0, :2] = torch.tensor([0.9, 0.5])
    values[2, 0, 2:] = torch.tensor([0.5, 0.9])
    protocol = InferenceProtocol("t", None, None, None, 1.0, templates="name")
    assert by_hand(clip_encoder, protocol, values).tolist() == [[1, 1, 2, 2]]
    assert by_hand(clip_encoder, dataclasses.replace(protocol, threshold=0.5), values).tolist() == [[1, 0, 0, 2]]


def test_area_threshold_by_hand(clip_encoder: OpenClipEncoder) -> None:
    """Foreground: 9 pixels of b, 1 of c. At 0.1 c holds a tenth, which is not more than a tenth: it is background.

    The pixels of c score class a as much as class b: the background wins as the first.
    """
    values = torch.zeros(3, 2, 6)
    values[1].flatten()[:9] = 1.0
    values[2, 1, 5] = 1.0
    values[0, 1, 3:5] = 1.0
    protocol = InferenceProtocol("t", None, None, None, 5.0, templates="name")
    plain = by_hand(clip_encoder, protocol, values)
    assert np.bincount(plain.ravel()).tolist() == [2, 9, 1]
    found = by_hand(clip_encoder, dataclasses.replace(protocol, area_threshold=0.1), values)
    assert np.bincount(found.ravel()).tolist() == [3, 9]
    found = by_hand(clip_encoder, dataclasses.replace(protocol, area_threshold=0.09), values)
    assert np.bincount(found.ravel()).tolist() == [2, 9, 1]


def test_the_protocol_names_the_background(clip_encoder: OpenClipEncoder) -> None:
    segmenter = build(clip_encoder, dataclasses.replace(SLIDE, background=("sky", "wall")))
    text, counts = segmenter.text([["background"], ["car"]], 0)
    assert counts == [2, 1]
    torch.testing.assert_close(text, segmenter.bank.embed(["sky", "wall", "car"]))
    assert segmenter.text([["background"], ["car"]])[1] == [1, 1]


def test_bands_do_not_matter(clip_encoder: OpenClipEncoder, monkeypatch: pytest.MonkeyPatch) -> None:
    for changes in ({}, {"area_threshold": 0.3, "threshold": 0.26}, {"pamr_steps": 1, "pamr_dilations": (1, 2)}):
        segmenter, image = build(clip_encoder, dataclasses.replace(SLIDE, **changes)), picture(60, 90)
        monkeypatch.setattr(module, "BAND", 1 << 24)
        whole = segmenter.segment(image, NAMES, 0)
        monkeypatch.setattr(module, "BAND", 7 * 90 * 4)
        assert np.array_equal(segmenter.segment(image, NAMES, 0), whole)


# -- regions -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("steps", [0, 2])
def test_regions_are_means_over_pixels(steps: int, clip_encoder: OpenClipEncoder) -> None:
    p = dataclasses.replace(SLIDE, pamr_steps=steps, pamr_dilations=(1, 3))
    segmenter, image = build(clip_encoder, p), picture(60, 90)
    partition = np.arange(60)[:, None] // 25 * 4 + np.arange(90)[None] // 24
    partition[partition == 5] = 4  # region 5 has no pixel
    segments = Segments((60, 90), np.ones(12, np.float32), partition=partition.astype(np.int32))
    text, counts = segmenter.text(NAMES)
    cells = segmenter.cells(image)
    maps = cosine_maps(clip_encoder, image, text, p)
    if steps:
        maps = pamr(torch.from_numpy(image).permute(2, 0, 1).float(), maps, steps, (1, 3))
    found = segmenter.region_cosines(image, cells, segments, text)
    assert found.shape == (12, 4)
    for i in range(12):
        inside = torch.from_numpy(partition == i)
        wanted = maps[:, inside].mean(1) if inside.any() else torch.zeros(4)
        torch.testing.assert_close(found[i], wanted, atol=1e-5, rtol=1e-5)
    masks = Segments((60, 90), segments.scores, masks=partition[None] == np.arange(12)[:, None, None])
    torch.testing.assert_close(segmenter.region_cosines(image, cells, masks, text), found)
    scores = segmenter.class_scores(found, counts)
    torch.testing.assert_close(scores.sum(1), torch.ones(12))
    with pytest.raises(ValueError, match="regions of an image of"):
        segmenter.region_cosines(image, cells, Segments((60, 91), segments.scores), text)


def test_847_names_in_one_call(clip_encoder: OpenClipEncoder) -> None:
    segmenter, image = build(clip_encoder, dataclasses.replace(SLIDE, templates="name")), picture(60, 90)
    names = [[f"thing {i}", f"object {i}"] for i in range(847)]
    found = segmenter.segment(image, names)
    assert found.shape == (60, 90)
    text, _ = segmenter.text(names)
    maps = cosine_maps(clip_encoder, image, text, segmenter.protocol)
    scores = (maps * 40).softmax(0).view(847, 2, 60, 90).amax(1)
    best = scores.amax(0)
    chosen = scores.gather(0, torch.from_numpy(found)[None])[0]
    torch.testing.assert_close(chosen, best, atol=1e-7, rtol=1e-3)


# -- proxies -----------------------------------------------------------------------------------------------------------


@torch.no_grad()
def test_a_proxy_is_any_encoder(clip_encoder: OpenClipEncoder, make_features: Callable[..., Tensor]) -> None:
    """lite0's features at the stride nearest to a patch: 8 of 8, 16, 32; each level counts alike."""
    lite0 = Lite0.load()
    model = DenseClip(clip_encoder.network.visual, dataclasses.replace(ROWS["proxyclip"], beta=0.9))
    bank = TextBank(clip_encoder, "photo")
    segmenter = Segmenter(clip_encoder, model, bank, SLIDE, lite0)
    image = picture(48, 48)
    cells = segmenter.cells(image)
    assert cells.values.shape[1:] == (2 * 4, 2 * 4)
    window = torch.from_numpy(image[:32, 16:48]).permute(2, 0, 1)[None] / 255
    levels = [F.normalize(level, dim=1) for level in lite0.encode(window).levels]
    joined = torch.cat([F.interpolate(level, size=(4, 4), mode="bilinear") for level in levels], 1)
    mean, std = torch.tensor(clip_encoder.preprocessing[:6]).view(2, 3, 1, 1)
    wanted = F.normalize(model((window - mean) / std, joined), dim=1)[0]
    torch.testing.assert_close(cells.values[:, :4, 4:], wanted, atol=1e-4, rtol=1e-4)


def test_who_needs_a_proxy(clip_encoder: OpenClipEncoder) -> None:
    with pytest.raises(KcError, match="second encoder as its proxy"):
        build(clip_encoder, SLIDE, "proxyclip")
    model = DenseClip(clip_encoder.network.visual, ROWS["clip"])
    with pytest.raises(KcError, match="and no other"):
        Segmenter(clip_encoder, model, TextBank(clip_encoder, "name"), SLIDE, clip_encoder)
