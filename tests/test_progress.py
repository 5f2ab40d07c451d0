"""What a log says of work that took a while: one line with number and rate; nothing of what was quick."""

from __future__ import annotations

import io
import re
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from rich.console import Console

from kc import progress
from kc.cli import main
from kc.commands.console import bars
from kc.commands.report import ReportConfig
from kc.errors import stopped
from kc.stream.progress import RunProgress


def test_rates_and_durations() -> None:
    assert [progress.rate(n, 10) for n in (0, 4, 34, 1234, 99999)] == ["", "2.5 s each", "3.4/s", "123/s", "10,000/s"]
    assert [progress.duration(s) for s in (2.4, 59.4, 190, 7500)] == ["2 s", "59 s", "3 min 10 s", "2 h 5 min"]


@pytest.mark.parametrize(("late", "lines"), [(0.0, 1), (60.0, 0)])
def test_a_log_gets_one_line_of_what_took_long(monkeypatch: pytest.MonkeyPatch, late: float, lines: int) -> None:
    monkeypatch.setattr(progress, "LATE", late)
    console = Console(file=io.StringIO(), width=40)
    assert list(progress.track(range(3), "looking at [red], \u00fcber", console)) == [0, 1, 2]
    said = console.file.getvalue().splitlines()  # type: ignore[attr-defined]
    assert len(said) == lines
    assert all(line.startswith("looking at [red], \u00fcber: 3 images in 0 s (") for line in said)


def test_one_is_not_many() -> None:
    assert progress.summary("x", 1, "images", 3.0) == "x: 1 image in 3 s (3.0 s each)"
    assert progress.summary("x", 2000, "images", 4.0) == "x: 2,000 images in 4 s (500/s)"


def test_a_line_of_a_run_is_one_line_in_a_log() -> None:
    console = Console(file=io.StringIO(), width=20)
    RunProgress(console).line("  finetune, task 1 of 5 (background, [red], one): pq new 31.8")
    assert console.file.getvalue() == "  finetune, task 1 of 5 (background, [red], one): pq new 31.8\n"  # type: ignore[attr-defined]


def test_what_is_stopped_gets_no_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "LATE", 0.0)
    console = Console(file=io.StringIO())

    def stopped() -> None:
        for _ in progress.track(range(3), "x", console):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stopped()
    with pytest.raises(KeyboardInterrupt), progress.bars(console) as drawn, progress.one_bar(drawn, "x", 3, "images"):
        raise KeyboardInterrupt
    assert console.file.getvalue() == ""  # type: ignore[attr-defined]


def test_a_terminal_shows_rate_and_remaining_time() -> None:
    console = Console(file=io.StringIO(), force_terminal=True, width=120, color_system=None)
    drawn = progress.bars(console)
    task = drawn.add_task("encoding", total=10, unit="images")
    clock = iter(range(100))
    drawn.get_time = drawn.tasks[0]._get_time = lambda: float(next(clock))
    drawn.start_task(task)
    for _ in range(4):
        drawn.advance(task)
    console.print(drawn.make_tasks_table(drawn.tasks))
    shown = console.file.getvalue()  # type: ignore[attr-defined]
    assert "encoding" in shown
    assert "4/10" in shown.replace(" ", "")
    assert "images" in shown
    assert "1.0/s" in shown
    assert "0:00:0" in shown  # six at one a second remain


def test_data_commands_write_a_line_a_part(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(progress, "LATE", 0.0)
    with bars() as advance:
        for part, n in (("train", 4), ("test", 2)):
            for done in range(n):
                advance(part, done + 1, n)
    said = capsys.readouterr().err.splitlines()
    assert [line.split(" in ")[0] for line in said] == ["train: 4 images", "test: 2 images"]


def test_a_stopped_command_says_how_to_go_on(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def job(config: ReportConfig) -> int:
        with stopped("the same command goes on"):
            raise KeyboardInterrupt

    monkeypatch.setattr("kc.commands.report.run", job)
    assert main(["report", "x"]) == 130
    assert capsys.readouterr().err == "stopped; the same command goes on\n"


def test_shards_that_were_stopped_say_so(
    tiny_folder: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def read(self: object, index: int) -> None:
        raise KeyboardInterrupt

    out = tmp_path / "shards, \u00fcber uns"
    command = ["data", "shards", str(tiny_folder.path), "--data-root", str(tiny_folder.root), "--out", str(out)]
    with monkeypatch.context() as patch:
        patch.setattr("kc.data.readers.labelled_files.LabelledFiles.read", read)
        assert main(command) == 130
    assert "stopped; the same command goes on after the last whole shard" in capsys.readouterr().err
    assert main(command) == 0


def test_a_log_is_told_how_far_long_work_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "FIRST", 0.02)
    monkeypatch.setattr(progress, "EVERY", 60.0)
    console = Console(file=io.StringIO(), width=40)
    for line in (False, None):
        with progress.bars(console) as drawn, progress.one_bar(drawn, "encoding [x]", 8, "images", line=line) as bar:
            bar.advance(2)
            time.sleep(0.3)
    assert re.findall("^encoding .*$", console.file.getvalue(), re.M) == [  # type: ignore[attr-defined]
        "encoding [x]: 2 of 8 images in 0 s, 0 s left"
    ]


def test_one_batch_and_one_class() -> None:
    assert [progress.counted(1, unit) for unit in ("batches", "images", "shards")] == ["1 batch", "1 image", "1 shard"]
    assert progress.counted(0, "batches") == "0 batches"
