"""The study of background shift on a tiny benchmark with a background class."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from rich.console import Console

from kc.errors import KcError
from kc.studies.background import RULES, BackgroundOptions
from kc.studies.base import run_study


@pytest.fixture
def options(tiny_index_png: SimpleNamespace, tmp_path: Path) -> dict[str, object]:
    content = yaml.safe_load(tiny_index_png.path.read_text())
    content["classes"].append({"id": 9, "name": "void", "background": True})
    content["ignore"] = 255
    del content["task_splits"]
    path = tmp_path / "void.yaml"
    path.write_text(yaml.safe_dump(content))
    return {
        "benchmark": str(path), "data_root": tiny_index_png.root, "proposals": "oracle", "k": 2, "tasks": 2,
        "epochs": 1, "settings": "overlapped", "methods": "mib", "out": tmp_path / "out",
    }  # fmt: skip


def test_rows_are_every_rule_and_method_beside_the_full_labels(options: dict[str, object]) -> None:
    record = run_study("background", BackgroundOptions(**options), Console(quiet=True))  # type: ignore[arg-type]
    rows = json.loads((record.folder / "background.json").read_text())["rows"]
    assert [(row["setting"], row["background"] or row["method"]) for row in rows] == [
        ("full labels", "keep"),
        *(("overlapped", rule) for rule in RULES),
        ("overlapped", "mib"),
    ]
    joint, kept, *others = (row["miou"] for row in rows)
    assert joint >= max(kept, *others)
    for row in rows[2:]:
        if joint == kept:
            assert row["gap_closed"] is None
        else:
            assert row["gap_closed"] == pytest.approx((row["miou"] - kept) / (joint - kept))
    (stored,) = record.folder.glob("overlapped-2-ignore/*/results.json")
    assert json.loads(stored.read_text())["methods"][0]["seen"][-1] == rows[2]["miou"]
    before = (record.folder / "rows.jsonl").read_bytes()
    run_study("background", BackgroundOptions(**options), Console(quiet=True))  # type: ignore[arg-type]
    assert (record.folder / "rows.jsonl").read_bytes() == before


def test_what_cannot_be_studied(options: dict[str, object], tiny_index_png: SimpleNamespace) -> None:
    for changed, said in (
        ({"benchmark": str(tiny_index_png.path)}, "no background class"),
        ({"settings": "overlaped"}, "--settings overlaped"),
        ({"methods": "mob"}, "mob"),
    ):
        with pytest.raises(KcError, match=said):
            run_study("background", BackgroundOptions(**options | changed), Console(quiet=True))  # type: ignore[arg-type]
