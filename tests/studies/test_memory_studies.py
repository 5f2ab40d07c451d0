"""Every study of a memory of images or segments as a user types it, on tiny data; and the pure parts by hand."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from matplotlib.figure import Figure
from PIL import Image
from scipy.stats import linregress
from torch import Tensor

from kc.cli import main
from kc.memory.vote.evaluation import accuracy_gain
from kc.studies import corruptions
from kc.studies import rerank as reranking
from kc.studies.compositionality import next_class, residual
from kc.studies.corruptions import STRENGTHS, corrupted
from kc.studies.figures import log_axes
from kc.studies.keys import Keys, Source, memory_of
from kc.studies.scaling import fit_law, law_axis
from kc.types import Neighbours, UInt8Array

SMALL = ["--limit-images", 60, "--k", "5,1", "--encoder", "mlp:128x1"]
SEED = ["--seeds", 0]


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """No fsync: power does not fail in these tests."""
    monkeypatch.setattr("os.fsync", lambda fd: None)


class Colours:
    """A re-ranking model that knows what red, green and blue look like."""

    def similarity(self, images: Sequence[UInt8Array], names: Sequence[str]) -> Tensor:
        channel = [("red", "green leaf", "blue").index(name) for name in names]
        return torch.tensor(np.array([image.mean((0, 1))[channel] for image in images]))


def study(out: Path, name: str, *arguments: object) -> list[dict[str, Any]]:
    assert main(["study", name, *map(str, arguments), "--out", str(out)]) == 0
    (folder,) = out.glob(f"*/{name}")
    for suffix in ("csv", "json", "png", "svg"):
        assert (folder / f"{name}.{suffix}").stat().st_size > 0
    rows = json.loads((folder / f"{name}.json").read_text())["rows"]
    with open(folder / f"{name}.csv", newline="") as file:
        assert len(list(csv.DictReader(file))) == len(rows)
    return rows


@pytest.fixture
def other(tiny_folder: SimpleNamespace) -> Path:
    """A benchmark of test images alone: blue and green leaf of `tiny_folder` under other ids, and noise."""
    top = tiny_folder.root / "tiny-other"
    for name in ("blue", "green_leaf"):
        shutil.copytree(tiny_folder.root / "tiny-folder" / "test" / name, top / name)
    (top / "noise").mkdir()
    for i in range(3):
        pixels = np.random.default_rng(i).integers(0, 256, (20, 24, 3)).astype(np.uint8)
        Image.fromarray(pixels).save(top / "noise" / f"{i}.png")
    classes = [{"id": 5, "name": "blue"}, {"id": 0, "name": "leaf", "folder": "green_leaf"}, {"id": 2, "name": "noise"}]
    # At 16 x 16 pixels the plain colours have features of length 0.
    content = {k: v for k, v in tiny_folder.content.items() if k != "task_splits"} | {"input_size": [64, 64]}
    tiny_folder.path.write_text(yaml.safe_dump(content))
    content |= {"name": "tiny-other", "classes": classes, "splits": {"test": {"path": "."}}}
    content["source"] = {"reader": "folder", "folder": "tiny-other"}
    path: Path = tiny_folder.path.with_name("tiny-other.yaml")
    path.write_text(yaml.safe_dump(content))
    return path


def test_votes_and_noise(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = study(tmp_path, "votes", *SMALL)
    assert [r["k"] for r in rows] == [1, 5]
    assert rows[0]["plurality"] == rows[0]["rank"] == rows[0]["tip"]
    assert rows[1]["rank"] > 30
    folder = tmp_path / "digits" / "votes"
    before = (folder / "rows.jsonl").read_bytes()
    assert study(tmp_path, "votes", *SMALL) == rows  # nothing is computed twice
    assert (folder / "rows.jsonl").read_bytes() == before
    assert "clamped" not in capsys.readouterr().out
    noise = study(tmp_path, "noise", *SMALL, *SEED)
    assert [r["noise"] for r in noise] == list(range(0, 61, 10))
    assert noise[0]["auroc"] is None
    assert noise[0]["rank"] == rows[1]["rank"]
    assert noise[-1]["rank"] < noise[0]["rank"]
    few = study(tmp_path / "few", "noise", *SMALL, *SEED, "--shares", "0,20.5")
    assert [r["noise"] for r in few] == [0, 20.5]
    left_out = study(tmp_path / "loo", "votes", *SMALL, "--leave-one-out")
    assert [r["queries"] for r in left_out] == [60, 60]
    assert left_out[0]["rank"] < 100  # no row finds itself
    record = json.loads((folder / "votes.json").read_text())
    assert (record["study"], record["settings"]["k"]) == ("votes", "5,1")
    assert {"kc", "torch"} <= set(record["versions"])
    assert list(record["fingerprints"]) == ["encoder mlp:128x1"]


@pytest.mark.parametrize("name", ["votes", "unknowns", "dimensions", "deletion"])
def test_a_k_beyond_the_rows_is_said_once(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    told = ["--limit-images", 20, "--encoder", "mlp:128x1", "--k", "99,98"]
    told += [] if name == "votes" else ["--seeds", "0,1"]
    study(tmp_path, name, *told, *(["--size", 300] if name == "deletion" else []))
    said = " ".join(capsys.readouterr().out.split())
    assert said.count("k 99 is clamped to the ") == 1
    assert said.count("clamped") == 1


def test_pruning(tmp_path: Path) -> None:
    rows = study(tmp_path, "pruning", *SMALL, *SEED)
    of = {(r["pruning"], r["vote"], r["k"]): r for r in rows}
    none = of["none", "rank", 5]
    assert (none["kept"], none["change"], none["low"], none["high"]) == (60, 0, 0, 0)
    soft = of["soft", "rank", 5]
    assert soft["kept"] == 60
    assert soft["low"] <= soft["change"] <= soft["high"]
    assert soft["accuracy"] == pytest.approx(none["accuracy"] + soft["change"])
    assert of["k-centre, 0.5", "rank", 5]["kept"] == of["random 0, 0.5", "rank", 5]["kept"] == 30
    kept = [of[f"hard, v < {v}", "rank", 5]["kept"] for v in (8, 4, 2, 1)]
    assert kept == sorted(kept, reverse=True)


def test_scaling_and_dimensions(tmp_path: Path) -> None:
    rows = study(tmp_path, "scaling", *SMALL, *SEED, "--limit-images", 400)
    measured = [r for r in rows if "seed" in r]
    assert [r["rows"] for r in measured] == [100, 316, 400]
    law = rows[-1]
    assert law["slope low"] < law["slope"] < law["slope high"]
    assert law["encoder parameters"] > 1000
    held = law["encoder parameters"] * 4 + law["rows for 5 %"] * 128 * 4
    assert law["MiB for 5 %"] == pytest.approx(held / 2**20)
    rows = study(tmp_path, "dimensions", *SMALL, *SEED)
    of = {(r["keys"], r["dim"]): r for r in rows}
    assert of["full", 128]["bytes"] == 512
    assert of["int8", 128]["bytes"] == 128
    assert of["binary", 128]["bytes"] == 16
    assert of["random projection", 64]["bytes"] == 256
    assert ("PCA", 64) not in of  # more directions than rows
    assert abs(of["int8", 128]["change"]) < 10


def test_unknowns_and_migration(tmp_path: Path) -> None:
    rows = study(tmp_path, "unknowns", *SMALL, *SEED, "--limit-images", 200)
    nearest = next(r for r in rows if r["score"] == "nearest")
    assert nearest["unknown classes"] == 2
    assert nearest["known"] + nearest["unknown"] == 200
    assert 0.5 < nearest["auroc"] < 1
    assert nearest["risk at 50 %"] <= nearest["risk at 100 %"]
    assert 0 <= nearest["known called unknown"] < nearest["unknown called unknown"] <= 100
    rows = study(tmp_path, "migrate", *SMALL, *SEED, "--limit-images", 80, "--encoder", "mlp:128x1,mlp:64x1")
    of = {(r["share"], r["memory"]): r["accuracy"] for r in rows}
    assert len({of[s, "old"] for s in (0.02, 0.5)}) == 1
    assert of[0.5, "ridge"] > 20


def test_queries_of_another_benchmark(
    tiny_folder: SimpleNamespace,
    other: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    told = ["--benchmark", tiny_folder.path, "--queries", other, "--data-root", tiny_folder.root]
    told += ["--k", "3,1"]
    rows = study(tmp_path, "votes", *told)
    # Red is in the memory's benchmark alone, noise in the other: four rows a class and two queries are left of each.
    assert [(r["rows"], r["queries"], r["rank"]) for r in rows] == [(8, 4, 100), (8, 4, 100)]
    assert (tmp_path / "tiny-folder-tiny-other" / "votes").is_dir()
    rows = study(tmp_path, "unknowns", *told, "--seeds", "0,1")
    assert {(r["known"], r["unknown"], r["unknown classes"]) for r in rows} == {(6, 3, 1)}
    assert next(r["auroc"] for r in rows if r["score"] == "nearest") == 1  # noise is near no colour
    for arguments, said in (
        (["rerank", *map(str, told)], "unknown option --queries"),
        (["unknowns", *map(str, told), "--queries", str(tiny_folder.path)], "tiny-folder has all of its classes"),
        (["votes", "--benchmark", "digits", "--queries", str(other)], "tiny-other shares no class with digits"),
    ):
        if arguments[0] == "votes":
            monkeypatch.setattr("kc.studies.keys.Source.keys", lambda *_: pytest.fail("encoded before the refusal"))
        assert main(["study", *arguments, "--out", str(tmp_path / "not")]) == 2, arguments
        assert said in " ".join(capsys.readouterr().err.split()), arguments


def test_corruptions_and_reranking(
    tiny_folder: SimpleNamespace, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(corruptions, "STRENGTHS", {"blur": STRENGTHS["blur"]})
    tiny_folder.path.write_text(yaml.safe_dump(tiny_folder.content | {"input_size": [64, 64]}))
    told = ["--benchmark", tiny_folder.path, "--data-root", tiny_folder.root, "--k", "3,1", "--encoder", "mlp:128x1"]
    rows = study(tmp_path, "corruptions", *told)
    assert len(rows) == 1 + 5 * 3
    of = {(r["corruption"], r["strength"], r["memory"]): r for r in rows}
    assert of["blur", 5, "added"]["rows"] == 24
    assert of["blur", 5, "swapped"]["rows"] == 12
    monkeypatch.setattr(reranking, "load_reranker", lambda name, size: Colours())
    (tmp_path / "published.yaml").write_text("published: {a paper: 88.5}\n")
    rows = study(tmp_path, "rerank", *told, "--config", tmp_path / "published.yaml")
    assert "published: a paper: 88.5" in capsys.readouterr().out
    assert {r["order"] for r in rows} == {"memory", "model", "only the model", "possible"}
    accuracy = {(r["order"], r["k"]): r["accuracy"] for r in rows}
    # All twelve rows are ordered again, by a model that is always right.
    assert accuracy["only the model", 1] == accuracy["model", 1] == accuracy["model", 3] == 100
    assert accuracy["memory", 1] == accuracy["possible", 1] <= accuracy["possible", 3]
    (lines,) = tmp_path.glob("*/rerank/prompts.jsonl")
    assert len(lines.read_text().splitlines()) == 6


def test_studies_search_exactly() -> None:
    keys = Keys(np.eye(3, dtype=np.float32), np.arange(3), ("a", "b", "c"), np.zeros(3, np.int64))
    with memory_of(keys.rows()) as memory:
        assert memory.stats()["reason"] == "exact, as asked"


def test_segments(tiny_coco: SimpleNamespace, tiny_index_png: SimpleNamespace, tmp_path: Path) -> None:
    told = ["--benchmark", tiny_index_png.path, "--data-root", tiny_index_png.root, "--k", "3,1"]
    rows = study(tmp_path, "compositionality", *told[:4])
    assert {(r["query"], r["way"]) for r in rows} == {
        (q, w) for q in ("union", "image") for w in ("next", "subtract", "project")
    }
    # Sky and one of three others in every scene: by chance the second of four classes is right in a third.
    assert all(r["scenes"] == 3 and r["chance"] == pytest.approx(100 / 3) for r in rows if r["chance"] is not None)
    source = Source(str(tiny_coco.path), tiny_coco.root)
    keys = source.keys("lite0", "train")
    # Sky, grass and two animals an image, but for the crowd of image 1.
    assert len(keys) == 5 * 4 - 1
    assert np.allclose(np.linalg.norm(keys.key, axis=1), 1, atol=1e-5)
    cells = Source(str(tiny_index_png.path), tiny_index_png.root, rows="cells", dim=16).keys("lite0", "test")
    assert cells.key.shape[1] == 16
    assert set(cells.label) <= {0, 1, 2, 3}
    rows = study(tmp_path, "deletion", *told, "--size", 3000, "--dim", 16)
    assert all(r["equal"] for r in rows)
    assert rows[-1]["kind"] == "simulated"
    assert rows[-1]["removed"] == 101


def test_what_cannot_work(tiny_index_png: SimpleNamespace, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    maps = ["--benchmark", str(tiny_index_png.path), "--data-root", str(tiny_index_png.root)]
    for arguments, said in (
        (["vote"], "Did you mean 'votes'"),
        (["votes", "--k", "0"], "--k 0"),
        (["votes", "--k", "x"], "--k x"),
        (["votes", "--tau", "0"], "--tau 0: expected a number, above 0"),
        (["votes", "--tau", ".inf"], "--tau .inf"),
        (["votes", "--rank-offset", "-1"], "--rank-offset -1"),
        (["votes", "--encoder", "lite00"], "Did you mean 'lite0'"),
        (["votes", "--encoders", "lite0"], "did you mean --encoder"),
        (["votes", "--seeds", "0"], "unknown option --seeds of kc study votes"),
        (["votes", "--rows", "segments"], "digits is classification"),
        (["votes", "--rows", "pixels"], "Valid: cells, images, segments"),
        (["noise", "--shares", "120"], "--shares 120"),
        (["migrate"], "migrate needs 2"),
        (["scaling", "--wanted", "0"], "--wanted 0"),
        (["compositionality"], "composed scenes need segments"),
        (["rerank", *maps], "rerank reads whole images"),
        (["rerank", "--model", "clip"], "open_clip:MODEL"),
        (["--k", "3"], "NAME"),
    ):
        assert main(["study", *arguments, "--out", str(tmp_path / "out")]) == 2, arguments
        assert said in " ".join(capsys.readouterr().err.split()), arguments
        assert not (tmp_path / "out").exists(), arguments


@pytest.mark.parametrize(
    ("values", "names"),
    [
        ([0.5, 20], ["0.5", "1", "2", "5", "10", "20"]),
        ([21, 40], ["22.5", "25", "27.5", "30", "32.5", "35", "37.5", "40"]),
        ([1, 1000], [f"$\\mathdefault{{10^{{{e}}}}}$" for e in range(4)]),
    ],
)
def test_a_logarithmic_axis_has_names(values: list[float], names: list[str]) -> None:
    ax = Figure().add_subplot()
    ax.plot(values, [1, 2])
    log_axes(ax)
    low, high = ax.get_xlim()
    name = ax.xaxis.get_major_formatter()
    assert [name(t) for t in ax.get_xticks() if low <= t <= high] == names


def test_the_law_is_scipys_line() -> None:
    rows = np.array([100, 1e3, 1e4, 1e5])
    error = 10 ** (2 - 1.5 * law_axis(rows) + 0.01 * np.array([1, -1, 0.5, -0.5]))
    law, want = fit_law(rows, error), linregress(law_axis(rows), np.log10(error))
    assert law is not None
    assert (law.slope, law.intercept, law.r2) == pytest.approx((want.slope, want.intercept, want.rvalue**2))
    assert (law.slope_high - law.slope) / want.stderr == pytest.approx(4.302653)  # Student, 2 degrees, 97.5 %
    low, high = law.band(rows)
    assert (low < law.error(rows)).all()
    assert (law.error(rows) < high).all()
    assert law.rows(float(law.error(12345.0))) == pytest.approx(12345.0)
    assert fit_law(rows[:2], error[:2]) is None
    rising = fit_law(rows, error[::-1].copy())
    assert rising is not None
    assert np.isnan(rising.rows(1.0))


def test_gain_by_hand() -> None:
    before, after = np.array([1, 1, 0, 0], bool), np.array([1, 1, 1, 0], bool)
    mean, low, high = accuracy_gain(before, after, z=2)
    spread = 2 * np.std([0, 0, 1, 0]) / 2
    assert (mean, low, high) == pytest.approx((0.25, 0.25 - spread, 0.25 + spread))


def test_residuals_by_hand() -> None:
    q, n = np.array([[0.6, 0.8]], np.float32), np.array([[1, 0]], np.float32)
    assert np.allclose(residual(q, n, "project"), [[0, 0.8]])
    assert np.allclose(residual(q, n, "subtract"), [[-0.4, 0.8]])
    found = Neighbours(*(np.array([[3, 3, 5, 1], [2, 2, 2, 2]]) for _ in range(5)))
    assert next_class(found).tolist() == [5, 2]


def test_corruptions_by_hand() -> None:
    image = torch.rand(3, 32, 32, generator=torch.Generator().manual_seed(0))
    for kind in STRENGTHS:
        off = [float((corrupted(image, kind, s, "a") - image).abs().mean()) for s in (1, 3, 5)]
        assert 0 < off[0] < off[1] < off[2], kind
        assert torch.equal(corrupted(image, kind, 2, "a"), corrupted(image, kind, 2, "a"))
    low = corrupted(image, "contrast", 5, "a")
    mean = image.mean((1, 2), keepdim=True)
    torch.testing.assert_close(low, ((image - mean) * 0.05 + mean).clamp(0, 1))
    assert not torch.equal(corrupted(image, "noise", 2, "a"), corrupted(image, "noise", 2, "b"))
    with pytest.raises(ValueError, match="strengths 1 to 5"):
        corrupted(image, "fog", 1, "a")
