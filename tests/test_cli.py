"""What is refused before anything is loaded, and what one line of it says."""

from __future__ import annotations

import importlib.util

import pytest

from kc.checks import check
from kc.errors import KcError, MissingExtraError
from kc.parsing import parse
from kc.registry import METHODS, PIXELS_ONLY

DIGITS = ["--benchmark", "digits"]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["--methods", "er"], "method 'er' classifies images; digit-scenes is panoptic"),
        (["--methods", "ranpac"], "classifies images"),
        (["--encoder", "mlp:400x2"], "mlp:400x2 classifies images"),
        ([*DIGITS, "--encoder", "mlp:400"], "mlp:WIDTHxDEPTH"),
        ([*DIGITS, "--methods", "er,icarl", "--exemplars", "9"], "er: --exemplars 9 for the 10 classes of digits"),
        ([*DIGITS, "--patience", "2"], "needs a validation split; digits has only train, test"),
        (["--benchmark", "camvid", "--patience", "2", "--ema", "0.9"], "--patience and --ema"),
        ([*DIGITS, "--ema", "1"], "--ema 1.0: must be at least 0 and below 1"),
        ([*DIGITS, "--optimizer", "sdg"], "Did you mean 'sgd'"),
        ([*DIGITS, "--schedule", "cosin"], "Did you mean 'cosine'"),
        ([*DIGITS, "--precision", "fp16"], "16-mixed"),
        ([*DIGITS, "--epochs", "5,x"], "expected a number or several"),
        ([*DIGITS, "--epochs", "2.5"], "epochs whole"),
        ([*DIGITS, "--lr", "0.01,0"], "every value must be above 0"),
        ([*DIGITS, "--devices", "3"], "--batch-size 16 is shared by --devices 3"),
        ([*DIGITS, "--accumulate", "0"], "--accumulate 0: must be above 0"),
        (["--eclipse-delta=-0.4,1.5"], "--eclipse-delta -0.4,1.5: every value must be between -1 and 1"),
        (["--mask-score", "1.5"], "--mask-score 1.5: must be between 0 and 1"),
        ([*DIGITS, "--ewc-fisher", "runing"], "Did you mean 'running'"),
        (["--eclipse-delta", "0.4,x"], "--eclipse-delta 0.4,x: expected a number or several"),
        (["--methods", "lora", "--decoder", "regions"], "lora changes the encoder"),
    ],
)
def test_what_cannot_work_is_refused(given: list[str], said: str) -> None:
    with pytest.raises(KcError) as caught:
        check(parse(given))
    assert said in str(caught.value)


def test_values_a_task_are_taken() -> None:
    config = parse([*DIGITS, "--epochs", "60,30", "--lr", "0.01,0.001"])
    check(config)
    assert (config.epochs, config.lr) == ("60,30", "0.01,0.001")
    assert parse(DIGITS).epochs == 5


def test_every_method_of_images_passes_on_images() -> None:
    check(parse([*DIGITS, "--methods", ",".join(sorted(set(METHODS) - PIXELS_ONLY))]))


def test_lora_without_peft_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda n, *a: None if n == "peft" else find(n, *a))
    with pytest.raises(MissingExtraError, match=r"kc-continual\[lora\]"):
        check(parse([*DIGITS, "--methods", "lora"]))
