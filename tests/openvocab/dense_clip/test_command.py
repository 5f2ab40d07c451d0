"""`kc dense` as a user types it, on tiny benchmarks with random weights."""

import dataclasses
import json
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image
from safetensors import safe_open

from kc.actions import read
from kc.cli import main
from kc.commands.dense import EvaluateConfig
from kc.commands.dense_measure import masks_of, variants
from kc.commands.dense_options import listed
from kc.data.readers.open import open_reader
from kc.encoders.open_clip_model import OpenClipEncoder
from kc.metrics.confusion import ConfusionMatrix
from kc.openvocab.base import names_of
from kc.openvocab.dense_clip.base import build
from kc.openvocab.dense_clip.options import DenseOptions
from kc.openvocab.dense_clip.protocol import BENCHMARKS, PUBLISHED, table_name
from kc.openvocab.dense_clip.rows import ROWS
from kc.types import VOID, Sample

pytestmark = pytest.mark.usefixtures("small_protocol")
ROOT = Path(__file__).parents[3]


def dense(
    manifest: SimpleNamespace | None, clip: str, out: Path, *more: str, action: str = "evaluate", status: int = 0
) -> dict[str, Any]:
    where = [] if manifest is None else ["--benchmarks", str(manifest.path), "--data-root", str(manifest.root)]
    arguments = ["dense", action, *where, "--model", clip, "--out", str(out), "--templates", "name", *more]
    assert main(arguments) == status
    found = sorted(out.glob("*.json"))
    return json.loads(found[0].read_text()) if found else {}


def renamed(manifest: SimpleNamespace, name: str) -> SimpleNamespace:
    path = manifest.path.with_name(f"{name}.yaml")
    path.write_text(yaml.safe_dump(manifest.content | {"name": name}))
    return SimpleNamespace(path=path, root=manifest.root)


def test_evaluate(
    tiny_index_png: SimpleNamespace, tmp_path: Path, tiny_clip: str, clip_encoder: OpenClipEncoder
) -> None:
    found = dense(tiny_index_png, tiny_clip, tmp_path / "out", "--split", "test", "--rows", "naclip,gclip",
                  "--protocol", "whole-image", "--fuse-layers", "auto")  # fmt: skip
    assert [(r["row"], r["benchmark"], r["images"], r["verdict"]) for r in found["rows"]] == [
        ("naclip", "tiny-index", 3, "no figure"),
        ("gclip", "tiny-index", 3, "no figure"),
    ]
    assert found["rows"][0]["published"] is None
    base = build("naclip", clip_encoder, DenseOptions(protocol="whole-image", templates="name"))
    manifest = tiny_index_png.manifest
    reader = open_reader(manifest, "test", tiny_index_png.root)
    matrix = ConfusionMatrix(manifest.class_ids())
    for i in range(3):
        sample = reader.read(i)
        matrix.update(sample.semantic, base.segmenter.segment(sample.image, names_of(manifest.info)))
    assert found["rows"][0]["miou"] == pytest.approx(100 * matrix.compute()["miou"])
    assert found["rows"][0]["key"] == base.key


@pytest.mark.parametrize(("figure", "verdict", "status"), [(0.0, "pass", 0), (99.0, "miss", 1)])
def test_check_published(
    figure: float, verdict: str, status: int, tiny_index_png: SimpleNamespace, tmp_path: Path, tiny_clip: str,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.setitem(PUBLISHED["naclip"], "cityscapes", figure)
    found = dense(renamed(tiny_index_png, "cityscapes"), tiny_clip, tmp_path / "out", "--rows", "naclip",
                  "--check-published", status=status)  # fmt: skip
    (row,) = found["rows"]
    assert (row["verdict"], row["published"]) == (verdict, figure)
    assert "short_side=560" in row["key"]  # the protocol of that benchmark
    assert f"published figures met: {1 - status} of 1" in capsys.readouterr().out


def test_what_cannot_run_is_said_and_counts_as_not_met(
    tiny_index_png: SimpleNamespace, tmp_path: Path, tiny_clip: str, capsys: pytest.CaptureFixture[str]
) -> None:
    both = f"{tiny_index_png.path},nowhere"
    found = dense(None, tiny_clip, tmp_path / "out", "--rows", "clearclip", "--benchmarks", both, "--data-root",
                  str(tiny_index_png.root), "--check-published", status=1)  # fmt: skip
    assert [r["verdict"] for r in found["rows"]] == ["no figure", "not run"]
    assert found["rows"][1]["miou"] is None
    assert "unknown benchmark 'nowhere'" in found["rows"][1]["error"]
    assert "not run: clearclip on nowhere" in capsys.readouterr().out


def test_ablate(tiny_index_png: SimpleNamespace, tmp_path: Path, tiny_clip: str) -> None:
    found = dense(tiny_index_png, tiny_clip, tmp_path / "out", "--protocol", "whole-image",
                  "--fuse-layers", "1,2", "--cs-layers", "2", "--limit-images", "1", action="ablate")  # fmt: skip
    rows = {r["label"]: r for r in found["rows"]}
    assert list(rows) == list(variants((1, 2), (2,)))
    assert "fuse=none" in rows["neither"]["key"]
    assert "fuse=1+2 weights=0.25+0.25+0.5" in rows["AMF + CS, half from the last block"]["key"]
    assert "heads=averaged cs=2" in rows["AMF + CS, heads averaged"]["key"]
    assert {r["verdict"] for r in found["rows"]} == {"no figure"}


def test_variants() -> None:
    found = variants((6, 7), (6, 8))
    assert found["neither"] == {"fuse_layers": "none", "cs_layers": "none"}
    assert found["AMF of block 7 + CS"] == {"fuse_layers": "7", "cs_layers": "6,8"}
    assert found["AMF + CS of block 8"] == {"fuse_layers": "6,7", "cs_layers": "8"}
    assert len(found) == 6 + 2 + 2
    assert len(variants((6,), ())) == 6
    assert variants((6,), ())["CS"] == {"fuse_layers": "none", "cs_layers": "none"}


def test_similarity(tiny_coco: SimpleNamespace, tmp_path: Path, tiny_clip: str) -> None:
    found = dense(tiny_coco, tiny_clip, tmp_path / "out", "--split", "test", "--protocol", "whole-image",
                  "--fuse-layers", "1", "--cs-layers", "1", action="similarity")  # fmt: skip
    assert (found["benchmark"], found["images"]) == ("tiny-coco", 3)
    plain, suppressed = found["blocks"]["clip"], found["blocks"]["with CS"]
    assert len(plain) == len(suppressed) == 4
    assert plain[:2] == suppressed[:2]
    assert plain[2:] != suppressed[2:]
    assert all(-1 <= block[kind] <= 1 for block in plain for kind in ("inside", "across"))
    assert (tmp_path / "out" / "similarity-tiny-coco.png").stat().st_size > 5000


def test_masks_of_panoptic_samples_are_their_segments() -> None:
    panoptic = np.zeros((2, 300, 2), dtype=np.int32)
    panoptic[0, :, 0] = 1
    panoptic[0, :, 1] = np.arange(300)  # 300 instances: numbers beyond VOID
    panoptic[1, :, 0] = VOID
    found = masks_of(Sample("a", np.zeros((2, 300, 3), np.uint8), semantic=panoptic[..., 0].astype(np.int64),
                          panoptic=panoptic))  # fmt: skip
    assert len(np.unique(found[0])) == 300
    assert VOID not in found[0]
    assert (found[1] == VOID).all()


def test_look(tmp_path: Path, tiny_clip: str, capsys: pytest.CaptureFixture[str]) -> None:
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)).save(tmp_path / "a.png")
    dense(None, tiny_clip, tmp_path / "out", "--image", str(tmp_path / "a.png"), "--protocol",
          "whole-image", "--save-attention", str(tmp_path / "attention.safetensors"), action="look")  # fmt: skip
    with safe_open(tmp_path / "attention.safetensors", framework="pt") as file:
        assert file.metadata()["grid"] == "6x9"
        assert file.get_tensor("attention_00").shape == (1, 2, 1 + 6 * 9, 1 + 6 * 9)
    assert {p.name for p in (tmp_path / "out").iterdir()} == {"global-tokens-a.png", "norms-kc-tiny-clip.png"}
    said = capsys.readouterr().out
    assert said.count("written: ") == 3
    assert "gclip: amf" in said
    assert "found: fuse (" in said


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--rows", "gklip"], "Did you mean 'gclip'"),
        (["--precision", "fp8"], "unknown --precision"),
        (["--image", "x"], "unknown option --image of kc dense evaluate"),
        (["--rows", "clip,naclip", "--head-mode", "averaged"], "--head-mode: for row gclip"),
        (["--rows", "proxyclip"], "--proxy timm:"),
        (["--benchmarks", "digits"], "labels of whole images"),
        (["--model", "lite0"], "expected a CLIP"),
        (["--row", "gclip"], "did you mean --rows"),
    ],
)
def test_mistakes_are_one_line(
    more: list[str],
    message: str,
    tiny_index_png: SimpleNamespace,
    tiny_clip: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    where = ["--benchmarks", str(tiny_index_png.path), "--data-root", str(tiny_index_png.root)]
    assert main(["dense", "evaluate", *where, "--model", tiny_clip, *more]) == 2
    said = capsys.readouterr().err
    assert message in said
    assert said.count("\n") == 1


@pytest.mark.parametrize(
    ("given", "message"),
    [(["evalute"], "'evaluate'"), (["look"], "--image"), (["look", "--image", "x", "--row", "clap"], "'clip'")],
)
def test_mistaken_actions(given: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["dense", *given]) == 2
    assert message in capsys.readouterr().err


def test_configs_ask_for_the_published_rows() -> None:
    folder = ROOT / "experiments" / "configs" / "dense_clip"
    configs = {
        path.stem: read(EvaluateConfig, ["--config", str(path)], "kc dense evaluate") for path in folder.glob("*.yaml")
    }
    assert set(configs) == {*ROWS, "table"}
    for name, config in configs.items():
        assert config is not None
        benchmarks = tuple(table_name(b) for b in listed(config.benchmarks))
        assert benchmarks == (BENCHMARKS if name == "table" else tuple(PUBLISHED[name]))
        assert config.rows == ("all" if name == "table" else name)
        assert config.check_published
        assert config.model == "open_clip:ViT-B-16-quickgelu@openai"
        if name != "table":
            text = (folder / f"{name}.yaml").read_text()
            assert all(f"{b} {figure}" in text for b, figure in PUBLISHED[name].items())


def test_nan_is_null_in_json(tmp_path: Path, tiny_index_png: SimpleNamespace, tiny_clip: str) -> None:
    found = dense(tiny_index_png, tiny_clip, tmp_path / "out", "--rows", "clip", "--limit-images", "1",
                  "--protocol", "whole-image", "--precision", "bf16")  # fmt: skip
    assert found["rows"][0]["published"] is None
    assert not any(isinstance(v, float) and math.isnan(v) for v in found["rows"][0].values())
    assert found["config"]["precision"] == "bf16"
    assert set(found["config"]) == {f.name for f in dataclasses.fields(EvaluateConfig)}
