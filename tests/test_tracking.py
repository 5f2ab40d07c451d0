"""What a run leaves for other tools: read back from the files of W&B, CSV and TensorBoard."""

from __future__ import annotations

import csv
import importlib.util
import json
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import wandb
import yaml

from kc.cli import main
from kc.report.records import Results
from kc.tracking import Tracker


def records(path: Path) -> Iterator[Any]:
    place = Path(__file__).parent / "report" / "test_wandb_log.py"
    spec = importlib.util.spec_from_file_location("wandb_log_reader", place)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    yield from module.records(path)


@pytest.fixture
def run(tiny_folder: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("WANDB_CACHE_DIR", "WANDB_CONFIG_DIR"):
        monkeypatch.setenv(name, str(tmp_path / "elsewhere"))
    tiny_folder.path.write_text(yaml.safe_dump(tiny_folder.content | {"input_size": [64, 64]}))
    arguments = ["--benchmark", tiny_folder.path, "--data-root", tiny_folder.root, "--methods", "knn", "--tasks", "3"]
    more = ["--wandb", "offline", "--logger", "csv,tensorboard", "--out", tmp_path / "runs"]
    assert main(["run", *map(str, [*arguments, *more])]) == 0
    wandb.teardown()
    (folder,) = (tmp_path / "runs").iterdir()
    return folder


def test_every_logger_has_every_task(run: Path, tmp_path: Path) -> None:
    result = Results.load(run / "results.json").methods[0]
    with (run / "csv" / "knn-s0" / "metrics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["task"] for row in rows if row["score/seen"]] == ["1", "2", "3"]
    assert float(rows[1]["score/seen"]) == pytest.approx(result.seen[1])
    assert any(row["final/average"] for row in rows)

    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(run / "tensorboard" / "knn-s0")).Reload()
    assert [(e.step, e.value) for e in events.Scalars("cost/stored_bytes")] == [
        (t + 1, c.stored_bytes) for t, c in enumerate(result.cost)
    ]

    found = list(records(next((run / "wandb").rglob("*.wandb"))))
    (begun,) = [r.run for r in found if r.HasField("run")][:1]
    assert begun.run_group == run.name
    assert begun.job_type == "knn"
    assert {"tiny-folder", "knn", "overlapped", "lite0"} <= set(begun.tags)
    config = {item.key: json.loads(item.value_json) for item in begun.config.update}
    assert (config["method"], config["seed"], config["knn"]["k"]) == ("knn", 0, 16)
    metrics = {r.metric.glob_name: r.metric.step_metric for r in found if r.HasField("metric") and r.metric.glob_name}
    assert metrics == {f"{s}/*": "task" for s in ("score", "forgetting", "cost", "final", "confusion")}
    history = [
        {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in r.history.item}
        for r in found
        if r.HasField("history")
    ]
    assert [h["task"] for h in history] == [1, 2, 3, 3]
    assert [h["cost/stored_bytes"] for h in history[:3]] == [c.stored_bytes for c in result.cost]
    assert history[3]["confusion/old_right"] == result.confusion["old_right"]
    assert history[3]["examples/count"] >= 1
    assert any(r.HasField("stats") for r in found)  # system metrics
    logged = [r.request.log_artifact.artifact for r in found if r.HasField("request")]
    logged += [r.artifact for r in found if r.HasField("artifact")]
    artifacts = {a.type: a for a in logged if a.type}
    assert set(artifacts) >= {"results", "memory"}
    names = {e.path: Path(e.local_path) for e in artifacts["memory"].manifest.contents}
    assert "MANIFEST" in names
    assert all(p.is_file() and run in p.parents for p in names.values())
    assert result.confusion["old_right"] is not None
    assert sum(v or 0 for k, v in result.confusion.items() if k.startswith("new_")) == pytest.approx(1)

    # A second run of the loggers over finished tasks writes the same again.
    assert main(["run", "--resume", str(run), "--wandb", "disabled", "--logger", "csv"]) == 0
    assert main(["run", "--logger", "cvs"]) == 2


def test_what_wandb_cannot_do_costs_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    class Broken:
        def finish(self) -> None:
            raise OSError("disk quota")

    tracker = object.__new__(Tracker)
    tracker.logger, tracker.others, tracker.place = SimpleNamespace(experiment=Broken()), [], Path("knn-s0")
    tracker.close()
    assert "disk quota" in capsys.readouterr().out
    assert tracker.logger is None


@pytest.mark.parametrize("mode", ["offline", "online"])
def test_a_wandb_that_cannot_start_costs_nothing(
    tiny_folder: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: str
) -> None:
    def broken(**_: Any) -> None:
        raise wandb.errors.UsageError("no such entity")

    monkeypatch.setattr(wandb, "init", broken)
    given = ["--benchmark", tiny_folder.path, "--data-root", tiny_folder.root, "--methods", "ncm", "--tasks", "3"]
    assert main(["run", *map(str, given), "--wandb", mode, "--out", str(tmp_path / "runs")]) == 0
    (folder,) = (tmp_path / "runs").iterdir()
    assert len(Results.load(folder / "results.json").methods) == 1
