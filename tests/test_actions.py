"""Command lines that are made from dataclasses: places, flags, files, ranges; and that help costs nothing."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import pytest

from kc.actions import BY_PLACE, FLAG, read
from kc.cli import COMMANDS, main
from kc.config import RunConfig
from kc.errors import KcError, UnknownNameError
from kc.parsing import given
from kc.spec import Count


@dataclass(frozen=True, kw_only=True)
class Config:
    """Do something.

    Args:
        folder: Where.
        file: What.
        name: Whose.
        k: How many.
        kind: How.
        part: Of what.
        dry_run: Only say it.
        class_: Of which class.
        ratio: How much.
    """

    folder: Path
    file: Annotated[Path | None, BY_PLACE] = None
    name: Annotated[str, FLAG]
    k: Count = 3
    kind: Literal["soft", "hard"] | None = None
    part: tuple[Literal["train", "test"], ...] = ()
    dry_run: bool = False
    class_: str | None = None
    ratio: float | None = None


def test_places_and_flags_in_any_order() -> None:
    given = ["a", "--k=5", "--name", "x", "b.npz", "--part", "train", "--dry_run", "--part", "test", "--class", "7"]
    config = read(Config, [*given, "--ratio", "-1"], "kc x")
    assert config == Config(
        folder=Path("a"),
        file=Path("b.npz"),
        name="x",
        k=5,
        part=("train", "test"),
        dry_run=True,
        class_="7",
        ratio=-1.0,
    )
    assert read(Config, ["a", "--name", "x"], "kc x") == Config(folder=Path("a"), name="x")


def test_a_file_says_what_no_flag_says(tmp_path: Path) -> None:
    path = tmp_path / "ü, c.yaml"
    path.write_text("k: 7\nkind: hard\nclass: 3\npart: [test]\ndry_run: true\n", encoding="utf-8")
    config = read(Config, ["a", "--config", str(path), "--name", "x", "--k", "4"], "kc x")
    assert config == Config(folder=Path("a"), name="x", k=4, kind="hard", class_="3", part=("test",), dry_run=True)
    path.write_text("kinnd: hard\n", encoding="utf-8")
    with pytest.raises(UnknownNameError, match="'kind'"):
        read(Config, ["a", "--config", str(path), "--name", "x"], "kc x")
    for content in ("- a\n", "a: [\n"):
        path.write_text(content, encoding="utf-8")
        with pytest.raises(KcError, match="--config"):
            read(Config, ["a", "--config", str(path), "--name", "x"], "kc x")


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["--name", "x"], "FOLDER"),
        (["a"], "--name"),
        (["a", "b", "c", "--name", "x"], "c"),
        (["a", "--name", "x", "--k", "0"], "--k 0"),
        (["a", "--name", "x", "--k", "2.5"], "--k 2.5"),
        (["a", "--name", "x", "--ratio", "nan"], "--ratio nan"),
        (["a", "--name", "x", "--kind", "sof"], "'soft'"),
        (["a", "--name", "x", "--kin", "soft"], "--kind"),
        (["a", "--name", "x", "--part", "val"], "'val'"),
        (["a", "--name", "x", "--k"], "--k"),
    ],
)
def test_mistakes_name_the_option(given: list[str], said: str) -> None:
    with pytest.raises(KcError) as caught:
        read(Config, given, "kc x")
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_help_shows_every_option_and_its_range(capsys: pytest.CaptureFixture[str]) -> None:
    assert read(Config, ["--help"], "kc x") is None
    said = capsys.readouterr().out
    assert all(text in said for text in ("FOLDER", "[FILE]", "--name", "--k", "soft, hard", "default: 3", "--class"))


def test_help_of_every_command_loads_nothing_heavy() -> None:
    code = """
import sys
from collections.abc import Mapping
from importlib import import_module
from kc.cli import COMMANDS, main

def help_of(words, target):
    main([*words, "--help"])
    module, _, name = target.partition(":")
    found = getattr(import_module(module), name)
    if isinstance(found, Mapping):
        for action, (inner, _) in found.items():
            help_of([*words, action], inner)

for name, (target, _) in COMMANDS.items():
    try:
        help_of([name], target)
    except SystemExit as end:
        assert not end.code
heavy = {"torch", "lightning", "faiss", "timm", "skimage", "matplotlib", "wandb", "transformers"} & set(sys.modules)
assert not heavy, heavy
"""
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def test_an_unknown_command_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    shown = capsys.readouterr().out
    assert all(f"  {name} " in shown for name in COMMANDS)
    assert main(["memry"]) == 2
    said = capsys.readouterr()
    assert "'memory'" in said.err
    assert said.err.count("\n") == 1


@pytest.mark.parametrize(
    "text",
    ['dry_run: "false"\n', "dry_run: n\n", "dry_run: 0\n", "dry_run: null\n", "k: true\n", "k: 1\nk: 2\n", "k: .nan\n"],
)
def test_a_switch_is_a_switch_and_a_key_is_said_once(tmp_path: Path, text: str) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(KcError, match=r"dry.run|k\b"):
        read(Config, ["a", "--config", str(path), "--name", "x"], "kc x")


@pytest.mark.parametrize("value", ["nan", "inf", "-inf", "0.1,inf"])
@pytest.mark.parametrize("option", ["--lr", "--encoder-lr", "--weight-decay", "--momentum", "--epochs"])
def test_no_option_is_nan_or_infinite(option: str, value: str) -> None:
    with pytest.raises(KcError, match=option):
        given(RunConfig, "kc run", [option, value])


def test_the_command_line_wins_wherever_it_stands(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text("tasks: 3\newc: {lambda: 3}\n", encoding="utf-8")
    config = given(RunConfig, "kc run", ["--tasks", "2", "--ewc.lambda", "5", "--config", str(path)])
    assert (config.tasks, config.options["ewc"]["lambda_"]) == (2, "5")
