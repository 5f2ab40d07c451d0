"""`kc votes` as a user types it, on digits and a tiny benchmark."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from kc.cli import main


def votes(out: Path, *arguments: object) -> list[dict[str, Any]]:
    assert main(["votes", *map(str, arguments), "--out", str(out)]) == 0
    return json.loads((out / "votes.json").read_text())["encoders"]


def test_tables(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    wanted = ["--limit-images", 120, "--k", "4,1,200"]
    (found,) = votes(tmp_path, *wanted, "--noise", "0,20", "--prune")
    assert (found["rows"], found["queries"], found["k"]) == (120, 120, [1, 4, 200])
    assert set(found["accuracy"]) == {"plurality", "distance", "softmax", "rank", "tip"}
    assert len({values[0] for values in found["accuracy"].values()}) == 1  # one neighbour: no vote can differ
    assert found["accuracy"]["rank"][1] > 0.5
    clean, noisy = found["noise"]
    assert clean["accuracy"] == found["accuracy"]
    assert clean["auroc"] is clean["recall"] is None
    assert noisy["auroc"] > 0.7
    assert noisy["accuracy"]["rank"][0] < clean["accuracy"]["rank"][0]
    unpruned, soft, *hard = found["pruning"]
    assert (unpruned["name"], unpruned["kept"], unpruned["accuracy"]) == ("none", 120, found["accuracy"])
    assert soft["kept"] == 120
    kept = [h["kept"] for h in hard]
    assert kept == sorted(kept, reverse=True)
    assert kept[-1] < 120
    said = capsys.readouterr().out
    assert "k 200 is clamped to the 120 rows" in said

    loo, _ = votes(tmp_path / "loo", *wanted, "--queries", "leave-one-out", "--encoder", "lite0,mlp:32x1")
    assert capsys.readouterr().out.count("k 200 is clamped to the 119 rows") == 1
    assert loo["queries"] == 120
    assert loo["accuracy"]["rank"][0] < 1  # no row finds itself
    assert loo["accuracy"] != found["accuracy"]


def test_what_cannot_work(tiny_index_png: SimpleNamespace, capsys: pytest.CaptureFixture[str]) -> None:
    maps = ["--benchmark", str(tiny_index_png.path), "--data-root", str(tiny_index_png.root)]
    for arguments, said in (
        (["--k", "0,4"], "--k 0,4: whole numbers of at least 1"),
        (["--k", "x"], "--k x: expected numbers"),
        (["--noise", "120"], "--noise 120: 0 to 100"),
        (["--queries", "tests"], "Did you mean 'test'"),
        (["--alpha", "0"], "--alpha 0.0: must be above 0"),
        (["--tau", ".inf"], "--tau inf: must be above 0"),
        (["--beta", "-1"], "--beta -1.0: must be above 0"),
        (["--encoder", "lite00"], "Did you mean 'lite0'"),
        (["--encoders", "lite0"], "did you mean --encoder"),
        (maps, "kc votes reads benchmarks of images"),
    ):
        assert main(["votes", *arguments]) == 2
        assert said in capsys.readouterr().err
