"""What a run leaves for other tools: read back from the files of W&B, CSV and TensorBoard."""

from __future__ import annotations

import csv
import importlib.util
import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import wandb
import yaml

from kc.cli import main
from kc.config import RunConfig
from kc.report.records import Results
from kc.stream.resume import MethodState
from kc.tracking import Tracker, run_id


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

    assert main(["run", "--logger", "cvs"]) == 2

    # Another process goes on with a run that stopped after two tasks.
    config, other = RunConfig(methods="knn", wandb="offline", logger="csv"), tmp_path / "2026#1:x"
    state = MethodState.load(run / "methods" / "knn-s0")
    assert state is not None
    stopped = replace(state, rows=state.rows[:2], seen=state.seen[:2], cost=state.cost[:2])
    for part, more in ((stopped, 0), (state, 1), (state, 2)):
        tracker = Tracker(config, other, "knn", 0, {})
        assert (tracker.logger is None) == (more == 2)  # what was finished is not begun again
        if more == 0:
            tracker.task(part, 0)
            tracker.task(part, 1)
        else:
            tracker.finish(part, result, run / "examples")
        tracker.close()
        with (other / "csv" / "knn-s0" / "metrics.csv").open(newline="") as file:
            assert len([row for row in csv.DictReader(file) if row["score/seen"]]) == (3 if more else 2)
    wandb.teardown()
    parts = [list(records(place)) for place in sorted((other / "wandb").rglob("*.wandb"))]
    assert {r.run.run_id for part in parts for r in part if r.HasField("run")} == {run_id("2026#1:x-knn-s0")}
    steps = [[r.history.step.num for r in part if r.HasField("history")] for part in parts]
    assert sorted(steps, key=len) == [[0, 1], [0, 1, 2, 3]]


@pytest.fixture
def asked(
    tiny_folder: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[list[dict[str, Any]], str]]:
    """Runs `kc run` with a W&B that cannot start; gives what `wandb.init` was asked, and what was printed."""
    given = ["--benchmark", tiny_folder.path, "--data-root", tiny_folder.root, "--tasks", "3"]
    calls: list[dict[str, Any]] = []

    def init(**arguments: Any) -> None:
        calls.append(arguments | {"sweep": wandb.setup().settings.sweep_id})
        raise wandb.errors.UsageError("no such entity")

    monkeypatch.setattr(wandb, "init", init)

    def run(*more: str, status: int = 0) -> tuple[list[dict[str, Any]], str]:
        calls.clear()
        out = tmp_path / f"runs{len(list(tmp_path.glob('runs*')))}"
        assert main(["run", *map(str, given), "--out", str(out), *more]) == status
        assert len(list(out.glob("*/results.json"))) == (status == 0)
        return calls, "".join(capsys.readouterr())

    return run


def test_the_environment_counts_where_no_flag_is_given(
    asked: Callable[..., tuple[list[dict[str, Any]], str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {"MODE": "online", "PROJECT": "mine", "NAME": "try", "RUN_GROUP": "all"}.items():
        monkeypatch.setenv(f"WANDB_{name}", value)
    (call,), said = asked("--methods", "ncm")
    found = {name: call[name] for name in ("mode", "project", "name", "group")}
    assert found == {"mode": "online", "project": "mine", "name": "try-ncm-s0", "group": "all"}
    assert "--wandb offline" in said
    (call,), said = asked("--methods", "ncm", "--wandb", "offline", "--wandb-project", "other")
    assert (call["mode"], call["project"]) == ("offline", "other")
    assert "--wandb offline" not in said
    monkeypatch.setenv("WANDB_MODE", "disabled")
    assert asked("--methods", "ncm")[0] == []
    monkeypatch.setenv("WANDB_MODE", "sometimes")
    assert "WANDB_MODE is 'sometimes'" in asked(status=2)[1]
    monkeypatch.setenv("WANDB_MODE", "dryrun")
    for project in ("a/b", "a#b", "a:b", "x" * 129, ""):
        assert f"--wandb-project {project} (command line)" in asked("--wandb-project", project, status=2)[1]
    monkeypatch.setenv("WANDB_PROJECT", "a/b")
    assert "--wandb-project a/b (WANDB_PROJECT)" in asked(status=2)[1]


def test_methods_in_an_agent_never_share_an_id(
    asked: Callable[..., tuple[list[dict[str, Any]], str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wandb.setup().settings, "sweep_id", "sweep")
    calls, _ = asked("--methods", "ncm", "--seed", "0,1")
    assert [call["sweep"] for call in calls] == [None, None]
    assert len({call["id"] for call in calls}) == 2
    assert wandb.setup().settings.sweep_id == "sweep"
    assert asked("--methods", "ncm")[0][0]["sweep"] == "sweep"  # alone, it is the agent's run


def test_an_id_is_one_that_wandb_takes() -> None:
    assert run_id("20261201-005433-tiny-ncm-s0") == "20261201-005433-tiny-ncm-s0"
    odd = [run_id(name) for name in ("a#b", "a:b", "a/b", "x" * 200, "x" * 201)]
    assert len({*odd}) == 5
    for id_ in odd:
        assert wandb.Settings(run_id=id_).run_id == id_
        assert len(id_) <= 64


def test_what_wandb_cannot_do_costs_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    class Broken:
        def finish(self) -> None:
            raise OSError("disk quota")

    tracker = object.__new__(Tracker)
    tracker.logger, tracker.others, tracker.place = SimpleNamespace(experiment=Broken()), [], Path("knn-s0")
    tracker.close()
    assert "disk quota" in capsys.readouterr().out
    assert tracker.logger is None
