"""What is refused before anything is loaded, and what one line of it says."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
import yaml

from kc.cli import main
from kc.config import RunConfig, from_stored, stored
from kc.errors import KcError, MissingExtraError, UnknownNameError
from kc.parsing import parse
from kc.registry import METHODS, method_spec
from kc.resolve import resolve

DIGITS = ["--benchmark", "digits"]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["--methods", "er"], "method 'er' does classification; digit-scenes is panoptic"),
        (["--methods", "ranpac"], "does classification"),
        (["--encoder", "mlp:400x2"], "mlp:400x2 classifies images"),
        ([*DIGITS, "--encoder", "mlp:400"], "mlp:WIDTHxDEPTH"),
        ([*DIGITS, "--methods", "er,icarl", "--exemplars", "9"], "er: --exemplars 9 for the 10 classes of digits"),
        ([*DIGITS, "--patience", "2"], "needs a validation split; digits has only train, test"),
        (["--benchmark", "camvid", "--patience", "2", "--ema", "0.9"], "--patience and --ema"),
        ([*DIGITS, "--ema", "1"], "--ema 1: expected a number, at least 0 and below 1"),
        (["--methods", "ewc", "--ewc.lambda", "abc"], "--ewc.lambda abc: expected a number, at least 0"),
        ([*DIGITS, "--optimizer", "sdg"], "Did you mean 'sgd'"),
        ([*DIGITS, "--schedule", "cosin"], "Did you mean 'cosine'"),
        ([*DIGITS, "--precision", "fp16"], "16-mixed"),
        ([*DIGITS, "--epochs", "5,x"], "--epochs 5,x: expected"),
        ([*DIGITS, "--epochs", "2.5"], "--epochs 2.5: expected"),
        ([*DIGITS, "--lr", "0.01,0"], "--lr 0.01,0: expected above 0"),
        ([*DIGITS, "--devices", "3"], "--batch-size 16 is shared by --devices 3"),
        ([*DIGITS, "--accumulate", "0"], "--accumulate 0: expected whole, at least 1"),
        (["--stream", "blurry", "--blurry.leak", "1"], "--blurry.leak 1: expected a number, above 0 and below 1"),
        (["--stream", "blurry", "--blurry.leek", "0.1"], "Did you mean 'leak'"),
        (["--felzenszwalb.scale"], "a value is missing"),
        (["--superpixels.n-segments", "9"], "'superpixels' does not run"),
        (["--stream", "onlin"], "Did you mean 'online'"),
        (["--methods", "lora", "--decoder", "regions"], "lora changes the encoder"),
    ],
)
def test_what_cannot_work_is_refused(given: list[str], said: str) -> None:
    with pytest.raises(KcError) as caught:
        parse(given)
    assert said in str(caught.value)


def test_values_a_task_are_taken() -> None:
    config = parse([*DIGITS, "--epochs", "60,30", "--lr", "0.01,0.001"])
    assert (config.epochs, config.lr) == ("60,30", "0.01,0.001")
    assert parse(DIGITS).epochs == 5


def test_every_method_of_images_passes_on_images() -> None:
    parse([*DIGITS, "--methods", ",".join(n for n in METHODS if "classification" in method_spec(n).kinds)])


def test_lora_without_peft_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda n, *a: None if n == "peft" else find(n, *a))
    with pytest.raises(MissingExtraError, match=r"kc-continual\[lora\]"):
        parse([*DIGITS, "--methods", "lora"])


def test_values_come_from_flags_then_files_then_the_benchmark(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "own.yaml"
    file.write_text("tasks: 5\nstream: blurry\nblurry: {leak: 0.2, leak-to: all}\n")
    with pytest.raises(SystemExit) as done:
        parse(["--config", str(file), "--blurry.leak", "0.1", "--print-config"])
    assert done.value.code == 0
    shown = capsys.readouterr().out
    assert f"tasks: 5  # {file}" in shown
    assert "  leak: 0.1  # command line" in shown
    assert f"  leak-to: all  # {file}" in shown
    assert "keys: masked  # recommended by digit-scenes" in shown
    assert "batch_size: 16\n" in shown
    assert yaml.safe_load(shown)["blurry"] == {"classes": 0.5, "leak": 0.1, "leak-to": "all"}


def test_resolving_twice_changes_nothing() -> None:
    config = parse(["--stream", "blurry", "--blurry.leak", "0.1", "--methods", "knn"])
    assert resolve(config) == config
    assert from_stored(RunConfig, stored(config)).options == config.options


@pytest.mark.parametrize("given", [["--methods", "ewc", "--lambda", "4"], ["--methods=finetune,ewc", "--lambda=4"]])
def test_an_option_of_a_method_without_its_name(given: list[str]) -> None:
    with pytest.raises(UnknownNameError, match=r"unknown option --lambda of kc run: say --ewc\.lambda$"):
        parse(given)


def test_an_unknown_option_of_a_method_names_the_file(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("ewc: {lamda: 500}\n", encoding="utf-8")
    with pytest.raises(UnknownNameError) as caught:
        parse(["--methods", "ewc", "--config", str(tmp_path / "a.yaml")])
    assert f"{tmp_path / 'a.yaml'}: --ewc. 'lamda'" in str(caught.value)


@pytest.mark.parametrize(
    "given", [["predict", "x" * 300 + ".png"], ["run", "--resume", "x" * 300], ["report", "x" * 300]]
)
def test_a_name_that_no_file_system_takes(given: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*given, *(["--run", "."] if given[0] == "predict" else [])]) == 2
    assert f"a file name of {len(given[-1])} characters is longer" in capsys.readouterr().err
