"""`kc sweep`: what is refused, what is tried, what a stop costs, and that the test split waits for the choice."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from kc.cli import main
from kc.commands import sweep_trials
from kc.commands.sweep_trials import SweepRecord, Trial, Tuning
from kc.compare import make_loop

SHORT = ["--encoder", "mlp:32x1", "--train", "full", "--encoder-lr", "1", "--epochs", "2", "--batch-size", "2",
         "--exemplars", "6", "--accelerator", "cpu", "--wandb", "disabled"]  # fmt: skip


def arguments(tiny: SimpleNamespace, out: Path, *more: str) -> list[str]:
    place = ["--benchmark", str(tiny.path), "--data-root", str(tiny.root), "--out", str(out)]
    return [*place, "--tasks", "3", *SHORT, *more]


def only(out: Path) -> Path:
    (folder,) = out.iterdir()
    return folder


def matrices(folder: Path) -> dict[str, Any]:
    results = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    return {m["name"]: m["matrix"] for m in results["methods"]}


def without_seconds(folder: Path) -> dict[str, Any]:
    content = json.loads((folder / "sweep.json").read_text(encoding="utf-8"))
    for method in content["methods"]:
        for score in (*method["trials"], *method["test"]):
            del score["seconds"]
    return dict(content)


@pytest.mark.parametrize(
    ("given", "grid", "said"),
    [
        (["--budget", "0"], None, "--budget 0"),
        (["--holdout", "1"], None, "--holdout 1"),
        (["--devices", "2"], None, "a sweep runs in one process"),
        (["--methods", "ecw"], None, "Did you mean 'ewc'"),
        (["--bugdet", "3"], None, "did you mean --budget"),
        (["--methods", "lwf", "--lwf.lambda", "0"], None, "lambda 0.0: no grid by factors around it"),
        (["--methods", "knn", "--budget", "30"], None, "--budget 30: k has"),
        (["--grid", "nowhere.yaml"], None, "cannot be read"),
        ([], "- ewc", "expected lines such as ewc"),
        ([], "ecw: {lambda: [1]}", "Did you mean 'ewc'"),
        ([], "ewc: {lamda: [1]}", "Did you mean 'lambda'"),
        ([], "knn: {votes: [rank]}", "Did you mean 'vote'"),
        ([], "ewc: [1, 2]", "expected one option with a list of values"),
        ([], "ewc: {lambda: [1, 1]}", "needs different numbers"),
        ([], "ewc: {lambda: [-1]}", "--ewc.lambda -1: expected a number, at least 0"),
        ([], "knn: {k: [2.5]}", "k"),
        (["--methods", "knn"], "knn: {k: [0, 1, 2, 3, 4]}", "--knn.k 0: expected"),
        (["--methods", "ewc"], "ewc: {lambda: [1, 2]}", "ewc has 2 values for --budget 5"),
    ],
)
def test_mistakes_are_one_line(
    given: list[str], grid: str | None, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if grid is not None:
        (tmp_path / "s.yaml").write_text(grid, encoding="utf-8")
        given = [*given, "--grid", str(tmp_path / "s.yaml")]
    assert main(["sweep", "--benchmark", "digits", "--out", str(tmp_path / "runs"), *given]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1
    assert not (tmp_path / "runs").exists()


def test_the_best_of_equal_trials_is_the_first() -> None:
    trials = [Trial(value=v, average=a) for v, a in ((1, None), (2, 0.5), (3, 0.7), (4, 0.7))]
    assert Tuning(method="ewc", option="ewc.lambda", trials=trials).best == trials[2]
    assert Tuning(method="ewc", option="ewc.lambda", trials=trials[:1]).best is None


def test_a_sweep_and_the_test_split_waits_for_the_choice(
    tiny_folder: SimpleNamespace, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    test, away = tiny_folder.folder / "test", tmp_path / "away"
    test.rename(away)
    given = arguments(tiny_folder, tmp_path / "runs", "--methods", "er,lwf,ncm", "--budget", "2", "--holdout", "0.25")
    assert main(["sweep", *given]) == 2  # all trials are done without the test images, which are missed only then
    assert str(test) in capsys.readouterr().err
    folder = only(tmp_path / "runs")
    before = SweepRecord.load(folder)
    assert [(t.method, t.option, t.values) for t in before.methods] == [
        ("er", "lr", [0.002, 0.00632]), ("lwf", "lwf.lambda", [1.0, 10.0]), ("ncm", None, [])
    ]  # fmt: skip
    for tuning in before.methods[:2]:
        assert [t.value for t in tuning.trials] == tuning.values
        assert all(t.average is not None and t.seconds > 0 for t in tuning.trials)
        assert tuning.chosen == tuning.best.value
        assert tuning.test == []
    held = before.validation
    assert (held.source, held.share, held.n_images) == ("held out of train", 0.25, 3)
    # One of the four images of each class.
    assert sorted(i.rpartition("/")[0] for i in held.sample_ids) == ["train/blue", "train/green_leaf", "train/red"]
    assert not (folder / "trials").exists()
    assert not (folder / "results.json").exists()

    away.rename(test)
    again = ["sweep", "--resume", str(folder), "--wandb", "disabled", "--accelerator", "cpu"]
    assert main(again) == 2  # the files are not those it was begun with
    assert "6 files new: test/blue/0.png" in capsys.readouterr().err
    assert main([*again, "--accept-changes"]) == 0
    after = SweepRecord.load(folder)
    assert [t.trials for t in after.methods] == [t.trials for t in before.methods]  # seconds too: nothing was repeated
    assert [len(t.test) for t in after.methods] == [1, 1, 1]
    shown = capsys.readouterr().out
    assert "ncm: nothing to tune, runs once" in shown
    assert "Hyperparameters chosen on 3 images, held out of train" in shown

    # The final run is `kc run` with the chosen value, on all training images.
    lwf = after.methods[1]
    alone = arguments(tiny_folder, tmp_path / "alone", "--methods", "lwf", "--lwf.lambda", str(lwf.chosen))
    assert main(["run", *alone]) == 0
    assert matrices(only(tmp_path / "alone"))["lwf"] == matrices(folder)["lwf"]
    assert lwf.test[0].average == pytest.approx(sum(matrices(folder)["lwf"][-1]) / 3)
    configs = {m["name"]: m["config"] for m in json.loads((folder / "results.json").read_text())["methods"]}
    assert (configs["er"]["lr"], configs["lwf"]["lwf"]["lambda"]) == (after.methods[0].chosen, lwf.chosen)


def test_a_stopped_sweep_goes_on_within_the_trial(
    tiny_folder: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    more = ["--methods", "ewc,er", "--budget", "2"]
    assert main(["sweep", *arguments(tiny_folder, tmp_path / "whole", *more)]) == 0
    begun: list[tuple[str, Any]] = []

    def stopping(config: Any, shared: Any, name: str, *rest: Any) -> Any:
        begun.append((name, config.of("ewc")["lambda_"] if name == "ewc" else config.lr))
        loop = make_loop(config, shared, name, *rest)

        def stop(state: Any, t: int) -> None:
            if begun == [("ewc", 100.0), ("ewc", 1000.0)] and t == 1:
                raise KeyboardInterrupt

        loop.publish = stop
        return loop

    monkeypatch.setattr(sweep_trials, "make_loop", stopping)
    assert main(["sweep", *arguments(tiny_folder, tmp_path / "the parts", *more)]) == 130
    folder = only(tmp_path / "the parts")
    assert f"go on after the last finished task with: kc sweep --resume '{folder}'\n" in capsys.readouterr().out
    assert [len(t.trials) for t in SweepRecord.load(folder).methods] == [1, 0]
    assert (folder / "trials" / "ewc-1" / "methods" / "ewc-s0" / "state.json").is_file()
    assert main(["sweep", "--resume", str(folder), "--wandb", "disabled", "--accelerator", "cpu"]) == 0
    assert begun == [("ewc", 100.0), ("ewc", 1000.0), ("ewc", 1000.0), ("er", 0.002), ("er", 0.00632)]
    assert without_seconds(folder) == without_seconds(only(tmp_path / "whole"))
    assert matrices(folder) == matrices(only(tmp_path / "whole"))


def test_trials_are_scored_on_the_split_val(tiny_index_png: SimpleNamespace, tmp_path: Path) -> None:
    # The test split is the val split here, so the chosen trial and the final run are one and the same.
    splits = tiny_index_png.content["splits"]
    tiny_index_png.path.write_text(
        yaml.safe_dump(tiny_index_png.content | {"splits": splits | {"test": dict(splits["val"])}})
    )
    given = ["--benchmark", tiny_index_png.path, "--data-root", tiny_index_png.root, "--out", tmp_path / "runs",
             "--tasks", "2", "--methods", "lwf,knn", "--budget", "2", "--epochs", "1", "--accelerator", "cpu",
             "--wandb", "disabled", "--seed", "3,4"]  # fmt: skip
    assert main(["sweep", *map(str, given)]) == 0
    record = SweepRecord.load(only(tmp_path / "runs"))
    assert record.validation.model_dump() == {"source": "val split", "share": None, "n_images": 2, "sample_ids": []}
    assert [t.option for t in record.methods] == ["lwf.pixel-kd", "knn.k"]
    assert record.tuning_seed == 3
    for tuning in record.methods:
        assert [s.seed for s in tuning.test] == [3, 4]
        assert (tuning.test[0].average, tuning.test[0].seen) == (tuning.best.average, tuning.best.seen)
    assert record.methods[1].best.average > 0.3


def test_a_task_that_nothing_validates_is_refused(
    tiny_index_png: SimpleNamespace, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["--benchmark", tiny_index_png.path, "--data-root", tiny_index_png.root, "--out", tmp_path / "runs",
             "--split", "2-1", "--methods", "lwf"]  # fmt: skip
    assert main(["sweep", *map(str, given)]) == 2
    assert "task 2 (road) has no image among the 2 that validate" in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()


def test_a_value_that_diverges_is_a_trial_without_a_score(
    tiny_folder: SimpleNamespace, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    grid = tmp_path / "s.yaml"
    grid.write_text("finetune: {lr: [1.0e+38, 0.01]}\nmib: {lr: [1]}\n")
    more = ["--methods", "finetune", "--optimizer", "sgd", "--grid", str(grid)]
    assert main(["sweep", *arguments(tiny_folder, tmp_path / "runs", *more, "--budget", "2")]) == 0
    (tuning,) = SweepRecord.load(only(tmp_path / "runs")).methods
    assert tuning.trials[0].average is None
    assert "the loss is nan at step" in tuning.trials[0].note
    assert tuning.chosen == 0.01
    assert main(["sweep", *arguments(tiny_folder, tmp_path / "none", *more, "--budget", "1")]) == 2
    assert "finetune: no lr has a score" in capsys.readouterr().err


def test_resume_refuses_what_is_not_this_sweep(
    tiny_folder: SimpleNamespace, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    grid = tmp_path / "s.yaml"
    grid.write_text("knn: {k: [1, 2]}\n")
    more = ["--methods", "knn", "--budget", "2", "--grid", str(grid)]
    assert main(["sweep", *arguments(tiny_folder, tmp_path / "runs", *more)]) == 0
    folder = only(tmp_path / "runs")
    assert main(["sweep", "--resume", str(folder), "--budget", "3"]) == 2
    assert "--budget would change them" in capsys.readouterr().err
    grid.write_text("knn: {k: [1, 3]}\n")
    assert main(["sweep", "--resume", str(folder)]) == 2
    assert "values or validation images are not those it was begun with" in capsys.readouterr().err
    assert main(["run", "--resume", str(folder)]) == 2
    assert "not the settings of a run" in capsys.readouterr().err
    assert main(["run", *arguments(tiny_folder, tmp_path / "plain", "--methods", "knn")]) == 0
    assert main(["sweep", "--resume", str(only(tmp_path / "plain"))]) == 2
    assert "expected the folder of a sweep" in capsys.readouterr().err
