"""`kc report` from its command line to its files."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from kc.cli import main
from kc.report.records import Results
from kc.report.tables import latex, markdown, table_csv

Make = Callable[..., Results]


def saved(folder: Path, results: Results) -> str:
    results.save(folder / "results.json")
    return str(folder)


def test_one_run_is_made_again_and_two_are_compared(
    make_results: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    a = saved(tmp_path / "a ü, b", make_results(3, methods=("finetune", "knn")))
    b = saved(tmp_path / "b", make_results(3, methods=("joint",), seeds=(0, 1)))
    assert main(["report", a]) == 0
    assert "finetune · knn" in (tmp_path / "a ü, b" / "report.html").read_text(encoding="utf-8")
    assert main(["report", a, b]) == 0
    assert "finetune · knn · joint" in (tmp_path / "comparison.html").read_text(encoding="utf-8")
    assert main(["report", a, b, "--out", "there/page.html"]) == 0
    assert (tmp_path / "there" / "page.html").read_bytes() == (tmp_path / "comparison.html").read_bytes()


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ([], "RUNS"),
        (["nothing"], "expected the results.json of a run"),
        (["run", "--table", "latx"], "Did you mean 'latex'?"),
        (["run", "--max-examples", "-1"], "--max-examples -1"),
        (["run", "--fig", "x"], "unknown option --fig"),
    ],
)
def test_what_cannot_be_done_is_one_line(
    given: list[str],
    said: str,
    make_results: Make,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    saved(tmp_path / "run", make_results(2))
    assert main(["report", *given]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert len(error.splitlines()) == 1


@pytest.mark.parametrize("kind", ["latex", "markdown", "csv"])
def test_a_table_is_all_that_is_printed(
    kind: str, make_results: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = saved(tmp_path / "run", make_results(2, methods=("finetune", "knn")))
    assert main(["report", run, "--table", kind]) == 0
    text = capsys.readouterr().out
    assert text.startswith({"latex": "% needs", "markdown": "| Method |", "csv": "method,average,"}[kind])
    assert text == {"latex": latex, "markdown": markdown, "csv": table_csv}[kind](
        Results.load(tmp_path / "run" / "results.json")
    )
    assert not (tmp_path / "run" / "report.html").exists()
    assert main(["report", run, "--table", kind, "--out", str(tmp_path / "page.html")]) == 0
    assert capsys.readouterr().out == text
    assert (tmp_path / "page.html").exists()


def test_it_needs_no_torch(make_results: Make, tmp_path: Path) -> None:
    run = saved(tmp_path / "run", make_results(2))
    code = (
        f"import sys; from kc.cli import main; assert main(['report', {run!r}]) == 0; "
        "assert not {'torch', 'lightning', 'wandb'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
