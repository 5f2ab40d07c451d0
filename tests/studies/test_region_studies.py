"""Every study on tiny data in the real formats: rows that say what they should, files that can be read, and a resume
that computes nothing again."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from kc.encoders.load import load_encoder
from kc.errors import KcError
from kc.openvocab.load import load_base
from kc.registry import STUDIES, load_class, spec_of
from kc.studies import transfer
from kc.studies.base import Record, run_study
from kc.studies.keys import memory_of
from kc.studies.other_domain import translation
from kc.studies.regions import Regions, median_cosines, near_keys, with_simulated
from kc.studies.spaces import kernel, mmd2, permutation_test
from kc.types import ClassInfo

pytestmark = pytest.mark.filterwarnings("error::UserWarning")
"""A figure whose panels do not fit is drawn without its layout, and matplotlib only warns."""


@pytest.fixture(scope="module", autouse=True)
def loaded_once() -> Iterator[None]:
    """Encoder and base, which no study changes, are loaded once for all of them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("kc.session.load_encoder", cache(load_encoder))
        base = cache(lambda name, encoder: load_base(name, encoder))
        patch.setattr("kc.session.load_base", lambda name, encoder, **_: base(name, encoder))
        yield


@pytest.fixture
def config(tiny_coco: SimpleNamespace, tiny_index_png: SimpleNamespace, tmp_path: Path) -> dict[str, Any]:
    return {
        "benchmark": str(tiny_coco.path), "other": str(tiny_index_png.path), "data_root": tiny_coco.root,
        "other_proposals": "oracle", "k": 3, "tasks": 2, "epochs": 1, "methods": "knn-clip,finetune,hybrid",
        "names": "5,9", "rows": "12,40", "out": tmp_path / "out",
    }  # fmt: skip


def run(config: dict[str, Any], name: str, **changed: Any) -> tuple[Record, dict[str, Any]]:
    """Run a study with those of the options that it has."""
    kind = spec_of("study", name).options
    names = {field.name for field in dataclasses.fields(kind)}
    options = kind(**{k: v for k, v in (config | changed).items() if k in names})
    record = run_study(name, options, Console(quiet=True))
    for suffix in ("csv", "json", "png", "svg"):
        assert (record.folder / f"{name}.{suffix}").stat().st_size > 0
    return record, json.loads((record.folder / f"{name}.json").read_text())


def test_growth_and_its_resume(config: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    study, record = run(config, "growth")
    rows = record["rows"]
    sizes = sorted({row["images"] for row in rows})
    assert sizes == [0, 1, 2, 4, 5]
    assert [row["answer"] for row in rows if row["images"] == 0] == ["base alone"]
    base = [row["pq"] for row in rows if row["answer"] == "base alone"]
    assert base == base[:1] * len(sizes)  # the base does not read the memory
    last = {row["answer"]: row for row in rows if row["images"] == 5}
    assert last["memory alone"]["accuracy"] > last["base alone"]["accuracy"]
    assert 1 <= last["fused, calibrated"]["k"] <= 32
    before = (study.folder / "rows.jsonl").read_bytes()
    monkeypatch.setattr("kc.studies.regions.Benchmark.score", lambda *_: pytest.fail("computed again"))
    again, _ = run(config, "growth")
    assert (again.folder / "rows.jsonl").read_bytes() == before


def test_sweep_finds_its_own_best(config: dict[str, Any]) -> None:
    _, record = run(config, "sweep")
    fixed = [row for row in record["rows"] if row["setting"] == "fixed"]
    (best,) = (row for row in record["rows"] if row["setting"] == "best of the sweep")
    assert len(fixed) == 4 * 3 * 10
    assert best["pq"] == max(row["pq"] for row in fixed)


def test_ann_compares_with_the_exact_answer(config: dict[str, Any]) -> None:
    second = {"benchmark": config["other"], "proposals": "oracle"}
    _, record = run(config | second, "ann")
    rows = record["rows"]
    exact = [row for row in rows if row["index"] == "exact"]
    assert [row["recall"] for row in exact] == [1.0, 1.0]
    assert {row["index"] for row in rows} == {"exact", "hnsw", "ivf-sq8", "ivf-pq"}
    assert all(row["simulated"] == max(0, row["rows"] - 12) for row in rows)


def test_domain_shift_and_spaces(config: dict[str, Any]) -> None:
    _, record = run(config, "domain-shift")
    assert [row["answer"] for row in record["rows"]] == [
        "base on the whole image", "base on the full crop", "base on the masked crop",
        "retrieval: full crops search full ones", "retrieval: masked crops search full ones",
        "retrieval: masked crops search masked ones", "retrieval: pooled from the map",
    ]  # fmt: skip
    _, record = run(config, "spaces")
    shifted = {row["compared"]: row for row in record["rows"]}
    assert shifted["masked against full"]["mmd2"] > shifted["retrieved against full"]["mmd2"]
    assert shifted["full against full (two halves)"]["cosine_of_pairs"] is None


def test_coverage_says_what_is_simulated(config: dict[str, Any]) -> None:
    _, record = run(config, "coverage")
    base, *rows = record["rows"]
    assert base["covered"] == "base alone"
    assert [(row["covered"], row["rows"]) for row in rows] == [
        (c, n) for c in ("50 %", "75 %", "100 %") for n in (12, 40)
    ]
    assert [row["classes"] for row in rows] == [2, 2, 4, 4, 5, 5]
    assert all(0 <= row["simulated"] <= row["rows"] for row in rows)
    assert rows[-1]["simulated"] > 0


def test_transfer_scores_all_weights_on_both(config: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    some = [s for s in transfer.fixed_settings() if s.k == 3 and s.lam in (0.1, 0.9)]
    monkeypatch.setattr(transfer, "fixed_settings", lambda: iter(some))
    _, record = run(config, "transfer")
    results = [row for row in record["rows"] if row["what"] == "result"]
    assert len(results) == 2 * 5
    for target, metric in (("tiny-coco", "pq"), ("tiny-index", "miou")):
        swept = [r[metric] for r in record["rows"] if r["what"] == "sweep" and r["target"] == target]
        (best,) = (r for r in results if r["target"] == target and r["origin"] == f"best on {target}")
        assert best[metric] == max(swept)


def test_continual_keeps_the_row_of_each_method(config: dict[str, Any]) -> None:
    study, record = run(config, "continual")
    rows = {row["method"]: row for row in record["rows"]}
    assert list(rows) == ["knn-clip", "finetune", "hybrid"]
    assert rows["finetune"]["never_trained"] is None
    assert 0 <= rows["knn-clip"]["never_trained"] <= 1
    assert rows["hybrid"]["stored_bytes"] > rows["finetune"]["stored_bytes"]
    figure = (study.folder / "continual.svg").read_text()
    assert figure.count("<!-- finetune -->") == 4  # a line in each panel, though a head cannot answer in one
    assert "<!--  cannot answer -->" in figure
    (results,) = study.folder.glob("run/*/results.json")
    matrix = json.loads(results.read_text())["methods"][1]["matrix"]
    assert rows["finetune"]["old"] == pytest.approx(matrix[1][0])
    assert rows["finetune"]["new"] == pytest.approx(matrix[1][1])


def test_vocabulary_grows_by_simulated_rows(config: dict[str, Any]) -> None:
    _, record = run(config, "vocabulary")
    few, many = record["rows"]
    assert (few["names"], many["names"]) == (5, 9)
    assert (few["simulated"], many["simulated"]) == (0, 40)
    assert many["bytes"] > few["bytes"]
    assert few["answered_with_another_name"] == 0
    with pytest.raises(KcError, match="there are 1"):
        run(config, "vocabulary", names="20000", out=config["out"] / "more")


def test_other_domain_translates_names(config: dict[str, Any], tmp_path: Path) -> None:
    _, record = run(config, "other-domain")
    rows = record["rows"]
    assert {row["queries"] for row in rows} == {"tiny-coco", "tiny-index"}
    assert all(row["shared_classes"] == 1 for row in rows)  # "sky"
    assert next(row["new_rows"] for row in rows if row["memory"].startswith("memory of")) == 0
    first, second = (
        SimpleNamespace(classes={c.id: c for c in classes})
        for classes in (
            [ClassInfo(1, "sky"), ClassInfo(2, "sofa", ("couch",)), ClassInfo(3, "cat")],
            [ClassInfo(7, "couch"), ClassInfo(8, "Sky"), ClassInfo(9, "dome", ("sky",))],
        )
    )
    assert translation(first, second) == {1: 8, 2: 7, 3: 13}  # type: ignore[arg-type]


def test_mistakes_are_named(config: dict[str, Any]) -> None:
    with pytest.raises(KcError, match="--other"):
        run(config, "transfer", other=config["benchmark"])
    with pytest.raises(KcError, match="--rows many"):
        run(config, "coverage", rows="many")


@pytest.mark.parametrize("name", ["visual_memory", "open_vocabulary"])
def test_the_scripts_are_the_command(name: str) -> None:
    script = str(Path(__file__).parents[2] / "experiments" / f"{name}.py")
    listed = subprocess.run([sys.executable, script], capture_output=True, text=True)
    assert listed.returncode == 0
    assert all(f"  {study} " in listed.stdout for study in STUDIES)
    mistyped = subprocess.run([sys.executable, script, "sweeep"], capture_output=True, text=True)
    assert mistyped.returncode == 2
    assert "'sweep'" in mistyped.stderr


def test_a_study_is_listed_and_explained_before_anything_heavy_loads() -> None:
    shown = "main(['study']); main(['study', 'spaces', '--help'])"
    code = f"import sys; from kc.cli import main; {shown}; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "False"
    assert "--proposals" in done.stdout
    assert "--wanted" not in done.stdout  # an option of another study


@pytest.mark.parametrize("name", STUDIES)
def test_what_a_study_says_of_itself_is_whole(name: str) -> None:
    spec = spec_of("study", name)
    assert spec.summary.endswith((".", "?"))
    assert spec.plots  # type: ignore[attr-defined]
    assert load_class("study", name).spec.options.__name__ == spec.options.__name__


# -- what they compute with ------------------------------------------------------------------------------------------


def test_mmd_by_its_definition() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(5, 3)), rng.normal(size=(4, 3)) + 1
    k, gamma = kernel(x, y, 0.5)
    assert gamma == 0.5

    def g(a: np.ndarray, b: np.ndarray) -> float:
        return float(np.exp(-0.5 * ((a - b) ** 2).sum()))

    xx = sum(g(x[i], x[j]) for i in range(5) for j in range(5) if i != j) / 20
    yy = sum(g(y[i], y[j]) for i in range(4) for j in range(4) if i != j) / 12
    xy = sum(g(a, b) for a in x for b in y) / 20
    assert mmd2(k, 5) == pytest.approx(xx + yy - 2 * xy, abs=1e-12)
    with pytest.raises(ValueError, match="two points"):
        mmd2(k, 8)


def test_permutations_tell_a_shift_from_none() -> None:
    rng = np.random.default_rng(1)
    x, y = rng.normal(size=(40, 2)), rng.normal(size=(30, 2))
    k, _ = kernel(x, y + 2)
    value, p = permutation_test(k, 40, 200, 0)
    assert value == pytest.approx(mmd2(k, 40))
    assert p == pytest.approx(1 / 201)
    assert permutation_test(kernel(x, y)[0], 40, 200, 0)[1] > 0.05


def test_simulated_rows_are_as_far_as_asked() -> None:
    rng = np.random.default_rng(0)
    keys = rng.normal(size=(50, 8)).astype(np.float32)
    keys /= np.linalg.norm(keys, axis=1, keepdims=True)
    near = near_keys(keys, 0.8, 3)
    assert (near * keys).sum(1) == pytest.approx(np.full(50, 0.8), abs=1e-5)
    assert np.linalg.norm(near, axis=1) == pytest.approx(np.ones(50), abs=1e-5)
    regions = Regions(keys, keys[:, :2], np.arange(50) % 5, np.arange(50))
    filled, simulated = with_simulated(regions, 70, 0)
    assert simulated == 20
    assert len(set(filled.image.tolist())) == 70
    own = {key.tobytes(): c for key, c in zip(keys, regions.label, strict=True)}
    assert sum(key.tobytes() in own and own[key.tobytes()] == c for key, c in zip(filled.keys, filled.label)) == 50  # noqa: B905
    few, none = with_simulated(regions, 10, 0)
    assert (len(few.label), none) == (10, 0)
    inner, outer = median_cosines(regions)
    cosine = keys @ keys.T - 3 * np.eye(50, dtype=np.float32)
    same = regions.label[:, None] == regions.label
    assert inner == pytest.approx(np.median(np.where(same, cosine, -2).max(1)))
    assert outer == pytest.approx(min(inner, np.median(np.where(same, -2, cosine).max(1))))
    with memory_of(regions.rows()) as memory:
        assert len(memory) == 50
