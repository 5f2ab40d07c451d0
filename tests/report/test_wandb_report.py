"""The W&B report as the object that would be sent, and a sender that cannot reach anyone."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from wandb_workspaces.reports.v2 import interface

from kc.cli import main
from kc.errors import KcError
from kc.report.combine import Run
from kc.report.records import Results
from kc.report.wandb_report import build, send

Make = Callable[..., Results]


def test_the_report_has_a_run_set_a_folder_and_a_panel_a_curve(
    make_results: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The model that is sent asks the server for the project's number, and for nothing else.
    monkeypatch.setattr(interface, "_get_api", lambda: None)
    monkeypatch.setattr(interface, "execute_graphql", lambda *_: {"project": {"internalId": "7"}})
    results = make_results(3, methods=("finetune", "knn"))
    runs = [Run("first", tmp_path / "20260101 a, ü", results), Run("second", tmp_path / "b", results)]
    report = build(runs, results, "me", "continual")
    spec: dict[str, Any] = report._to_model().spec.model_dump(by_alias=True)
    grid = next(b for b in spec["blocks"] if b["type"] == "panel-grid")["metadata"]
    assert [s["name"] for s in grid["runSets"]] == ["first", "second"]
    for run_set, folder in zip(grid["runSets"], ("20260101 a, ü", "b"), strict=True):
        assert run_set["project"] == {"entityName": "me", "name": "continual", "id": run_set["project"]["id"]}
        assert folder in str(run_set["filters"])
        assert "group" in str(run_set["filters"]).lower()
    panels = grid["panelBankSectionConfig"]["panels"]
    keys = [p["config"]["metrics"][0] for p in panels]
    assert keys == [
        "score/seen",
        "forgetting/mean",
        "cost/stored_bytes",
        "cost/seconds",
        "final/average",
        "final/forgetting",
    ]
    assert all(p["config"]["xAxis"] == "task" for p in panels[:4])
    assert report.title == "digit-scenes: fine-tune or remember?"
    assert "| knn |" in str(spec)


def test_what_cannot_be_sent_is_one_error(
    make_results: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Away:
        url = "https://example.org/report"

        def save(self) -> None:
            raise ConnectionError("no network")

    with pytest.raises(KcError, match="cannot be sent"):
        send(Away())
    make_results(2, methods=("knn",)).save(tmp_path / "run" / "results.json")
    monkeypatch.setattr("kc.report.wandb_report.send", lambda report: report.title)
    assert main(["report", str(tmp_path / "run"), "--wandb", "me/continual"]) == 0
    assert "W&B report: digit-scenes" in capsys.readouterr().out
    assert main(["report", str(tmp_path / "run"), "--wandb", "continual"]) == 2
    assert "expected ENTITY/PROJECT" in capsys.readouterr().err
