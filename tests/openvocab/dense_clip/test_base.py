"""Dense CLIP as the framework sees it: names, options, and whole runs on tiny benchmarks with random weights."""

import dataclasses
import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from kc.cli import main
from kc.encoders.load import load_encoder
from kc.encoders.open_clip_model import OpenClipEncoder
from kc.errors import KcError, UnknownNameError
from kc.openvocab.base import DenseVocabulary
from kc.openvocab.dense_clip.base import DenseBase
from kc.openvocab.dense_clip.options import DenseOptions, protocol_of, row_of
from kc.openvocab.dense_clip.rows import ROWS
from kc.openvocab.load import base_family, check_base, load_base
from kc.types import Segments

pytestmark = pytest.mark.usefixtures("small_protocol")
OPTIONS = DenseOptions(protocol="whole-image", templates="name", fuse_layers="1", cs_layers="1,2")


def image_of(seed: int, height: int = 24, width: int = 32) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


# -- names and options -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["conse", "gclip", "clip", "naclip:ViT-B-16-quickgelu@file.safetensors"])
def test_names(name: str) -> None:
    base_family(name)


@pytest.mark.parametrize("name", ["gklip", "conse:ViT-B-16", "gclip:", "", "none"])
def test_names_that_do_not_exist(name: str) -> None:
    with pytest.raises(UnknownNameError):
        base_family(name)


@pytest.mark.parametrize(
    ("name", "encoder", "kind", "message"),
    [
        ("gclip", "lite0", "semantic", "--base gclip:MODEL@FILE"),
        ("proxyclip", "open_clip:ViT-B-16@x", "semantic", "the run's --encoder is its proxy"),
        ("gclip:ViT-B-16@x", "lite0", "classification", "use --base gclip --encoder open_clip:ViT-B-16@x"),
    ],
)
def test_combinations_that_cannot_work(name: str, encoder: str, kind: str, message: str) -> None:
    with pytest.raises(KcError, match=message):
        check_base(name, encoder, kind)


def test_combinations_that_work() -> None:
    check_base("conse", "lite0", "semantic")
    check_base("gclip", "open_clip:ViT-B-16@x", "classification")
    check_base("proxyclip:ViT-B-16@x", "timm:vit_base_patch8_224.dino", "panoptic")


def test_blocks_of_the_paper_or_found_or_given() -> None:
    own = row_of("gclip", DenseOptions(), "ViT-B-16-quickgelu")
    assert (own.fuse_layers, own.cs_layers) == ((6, 7), (6, 7, 8, 9, 10))
    other = row_of("gclip", DenseOptions(), "ViT-L-14")
    assert (other.fuse_layers, other.cs_layers) == (None, None)
    given = DenseOptions(fuse_layers="auto", cs_layers="none", fuse_weights="0.5,0.5", head_mode="averaged")
    row = row_of("gclip", given, "ViT-B-16-quickgelu")
    assert (row.fuse_layers, row.cs_layers, row.fuse_weights, row.head_mode) == (None, (), (0.5, 0.5), "averaged")
    assert row_of("clearclip", DenseOptions(cs_layers="3"), "x").cs_layers == (3,)
    with pytest.raises(KcError, match="block numbers separated by commas"):
        row_of("gclip", DenseOptions(fuse_layers="six"), "x")
    with pytest.raises(KcError, match="numbers separated by commas"):
        row_of("gclip", DenseOptions(fuse_weights="a,b"), "x")
    with pytest.raises(UnknownNameError, match="Did you mean 'gclip'"):
        row_of("glip", DenseOptions(), "x")


def test_protocol_of_a_row() -> None:
    assert protocol_of("gclip", DenseOptions()).name == "clearclip"
    assert protocol_of("sclip", DenseOptions(benchmark="voc2012")).threshold == 0.1
    changed = protocol_of("gclip", DenseOptions(protocol="naclip", pamr_steps=10, templates="photo"))
    assert (changed.name, changed.pamr_steps, changed.templates) == ("naclip", 10, "photo")
    with pytest.raises(UnknownNameError, match="unknown protocol"):
        protocol_of("gclip", DenseOptions(protocol="nope"))


# -- the base ----------------------------------------------------------------------------------------------------------


def test_regions_and_pixels(clip_encoder: OpenClipEncoder) -> None:
    base = load_base("gclip", clip_encoder, **vars(OPTIONS))
    assert isinstance(base, DenseBase)
    assert isinstance(base, DenseVocabulary)
    image = image_of(0)
    partition = (np.arange(32)[None] // 8 + np.zeros((24, 1))).astype(np.int32)
    segments = Segments((24, 32), np.ones(4, np.float32), partition=partition)
    names = [["sky"], ["car", "truck"]]
    scores = base.region_scores(image, "a", segments, names, None)
    assert scores.shape == (4, 2)
    torch.testing.assert_close(scores.sum(1), torch.ones(4))
    s = base.segmenter
    text, counts = s.text(names)
    cosines = s.region_cosines(image, s.cells(image), segments, text)
    torch.testing.assert_close(scores, s.class_scores(cosines, counts))
    assert np.array_equal(base.segment(image, "a", names, None), s.segment(image, names))


def test_an_image_is_encoded_once_whatever_the_names(clip_encoder: OpenClipEncoder) -> None:
    base = DenseBase.load("clearclip", clip_encoder, **vars(dataclasses.replace(OPTIONS, fuse_layers=None)))
    seen = []
    original = base.segmenter.cells
    base.segmenter.cells = lambda image: seen.append(1) or original(image)  # type: ignore[method-assign,func-returns-value]
    for names in ([["sky"]], [["sky"], ["car"]]):
        base.segment(image_of(0), "a", names, None)
    assert len(seen) == 1
    base._kept.budget = 0  # each new image drives the one before out
    for sample_id in ("b", "b", "a", "a"):
        base.segment(image_of(0), sample_id, [["sky"]], None)
    assert len(seen) == 3


def test_whole_images_by_clips_own_rule(clip_encoder: OpenClipEncoder) -> None:
    base = load_base("gclip", clip_encoder, **vars(OPTIONS))
    pooled = clip_encoder.encode(torch.rand(3, 3, 32, 32)).pooled
    text = clip_encoder.encode_text(["sky", "car", "truck"])
    scale = clip_encoder.network.logit_scale.exp().item()
    p = (F.normalize(pooled, dim=1) @ text.T * scale).softmax(1)
    wanted = torch.stack([p[:, 0], p[:, 1:].amax(1)], 1)
    found = base.scores_from(pooled, [["sky"], ["car", "truck"]])
    torch.testing.assert_close(found, wanted / wanted.sum(1, keepdim=True))


def test_a_clip_of_its_own_and_a_proxy(clip_encoder: OpenClipEncoder, tiny_clip: str) -> None:
    model = tiny_clip.removeprefix("open_clip:")
    lite0 = load_encoder("lite0")
    base = load_base(f"proxyclip:{model}", lite0, **vars(DenseOptions(protocol="whole-image", templates="name")))
    assert isinstance(base, DenseBase)
    assert base.segmenter.proxy is lite0
    assert lite0.fingerprint in base.key
    assert clip_encoder.fingerprint in base.key
    assert base.segment(image_of(0), "a", [["sky"], ["car"]], None).shape == (24, 32)
    with pytest.raises(KcError, match="a CLIP of its own"):
        base.scores_from(torch.zeros(1, 1280), [["sky"]])
    own = load_base(f"clearclip:{model}", lite0, **vars(DenseOptions(protocol="whole-image")))
    assert isinstance(own, DenseBase)
    assert own.segmenter.proxy is None
    with pytest.raises(KcError, match=r"reads a CLIP .* got 'lite0'"):
        load_base("gclip", lite0, **vars(OPTIONS))


def test_open_layers_are_found_and_said(clip_encoder: OpenClipEncoder) -> None:
    base = load_base("gclip", clip_encoder, **vars(DenseOptions()))
    assert isinstance(base, DenseBase)
    row = base.segmenter.model.row
    assert row.fuse_layers
    assert row.cs_layers is not None
    assert f"fuse={'+'.join(map(str, row.fuse_layers))}" in base.key
    assert load_base("gclip", clip_encoder, **vars(DenseOptions())).key == base.key


def test_key_tells_everything_apart(clip_encoder: OpenClipEncoder) -> None:
    given = [
        OPTIONS,
        dataclasses.replace(OPTIONS, protocol="naclip"),
        dataclasses.replace(OPTIONS, cs_layers="1"),
        dataclasses.replace(OPTIONS, head_mode="averaged"),
        dataclasses.replace(OPTIONS, templates="photo"),
        dataclasses.replace(OPTIONS, pamr_steps=1),
    ]
    assert len({load_base("gclip", clip_encoder, **vars(options)).key for options in given}) == len(given)


@pytest.mark.parametrize("row", [row for row in ROWS if row != "proxyclip"])
def test_every_row_is_a_base(row: str, clip_encoder: OpenClipEncoder) -> None:
    base = load_base(row, clip_encoder, **vars(DenseOptions(protocol="whole-image", templates="name")))
    assert isinstance(base, DenseBase)
    assert base.segment(image_of(1), "a", [["sky"], ["car"]], 0).max() <= 1


# -- whole runs --------------------------------------------------------------------------------------------------------


def run(manifest: SimpleNamespace, out: Path, *more: str) -> dict[str, object]:
    arguments = ["--benchmark", str(manifest.path), "--data-root", str(manifest.root), "--out", str(out),
                 "--accelerator", "cpu", "--wandb", "disabled", "--tasks", "2", *more]  # fmt: skip
    assert main(["run", *arguments]) == 0
    (folder,) = out.iterdir()
    found: dict[str, object] = json.loads((folder / "results.json").read_text())
    return found


def test_zeroshot_and_knn_on_pixels(
    tiny_index_png: SimpleNamespace, tmp_path: Path, tiny_clip: str, capsys: pytest.CaptureFixture[str]
) -> None:
    results = run(tiny_index_png, tmp_path / "runs", "--methods", "zeroshot,knn", "--encoder", tiny_clip,
                  "--base", "gclip", "--gclip.protocol", "whole-image",
                  "--gclip.fuse-layers", "1", "--gclip.cs-layers", "2")  # fmt: skip
    assert "base gclip: amf residual=0 ffn=0 fuse=1 weights=mean heads=per_head cs=2" in capsys.readouterr().out
    methods = results["methods"]
    assert isinstance(methods, list)
    assert [m["name"] for m in methods] == ["zeroshot", "knn"]
    assert "whole-image" in results["fingerprints"]["base"]  # type: ignore[index]
    assert results["config"]["gclip"]["fuse-layers"] == "1"  # type: ignore[index]


def test_panoptic_with_a_clip_of_its_own(tiny_coco: SimpleNamespace, tmp_path: Path, tiny_clip: str) -> None:
    model = tiny_clip.removeprefix("open_clip:")
    results = run(tiny_coco, tmp_path / "runs", "--methods", "zeroshot", "--encoder", "lite0",
                  "--base", f"naclip:{model}", "--naclip.protocol", "whole-image")  # fmt: skip
    assert str(results["fingerprints"]["base"]).startswith("naclip:kc-tiny-clip@")  # type: ignore[index]


def test_classification(tiny_folder: SimpleNamespace, tmp_path: Path, tiny_clip: str) -> None:
    run(tiny_folder, tmp_path / "runs", "--methods", "zeroshot,knn", "--encoder", tiny_clip, "--base", "clip")


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--base", "gclip"], "take one as the encoder"),
        (["--base", "gklip"], "Did you mean 'gclip'"),
        (["--base", "gclip:ViT-B-16-quickgelu@x", "--gclip.protocol", "skip"], "unknown protocol 'skip'"),
        (["--base", "gclip:ViT-B-16-quickgelu@x", "--gclip.cs-layers", "a"], "block numbers"),
        (["--base", "sclip:ViT-B-16-quickgelu@x", "--sclip.fuse-layers", "3"], "need attention 'amf'"),
        (["--base", "gclip:ViT-B-16-quickgelu@none.pt"], "no such file: none.pt"),
    ],
)
def test_mistakes_are_one_line(
    more: list[str], message: str, tiny_index_png: SimpleNamespace, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    where = ["--benchmark", str(tiny_index_png.path), "--data-root", str(tiny_index_png.root), "--out", str(tmp_path)]
    assert main(["run", *where, "--tasks", "2", "--methods", "knn", *more]) == 2
    said = capsys.readouterr()
    assert message in said.err
    assert "Traceback" not in said.err
