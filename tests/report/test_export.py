"""The table for LaTeX and for spreadsheets."""

from __future__ import annotations

import csv
import io
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from kc.files import csv_text
from kc.report.records import Results, metrics_csv
from kc.report.tables import escape_latex, escape_markdown, latex, markdown, table_csv

Make = Callable[..., Results]
TEX = next((p for n in ("tectonic", "pdflatex") if (p := shutil.which(n))), None)
EVIL = r"\input{x} & 50% $a_1^2$ #{~} [1] <b>|c"


def example(make_results: Make) -> Results:
    results = make_results(3, methods=(EVIL, "knn"), seeds=(0, 1))
    for m, average in zip(results.methods, (0.5, 0.6, 0.7, 0.7), strict=True):
        m.metrics.average = average
    return results


def test_special_characters_by_hand() -> None:
    assert escape_latex("a_b & 5% {x}") == r"a\_b \& 5\% \{x\}"
    assert escape_latex("\\~^$#") == r"\textbackslash{}\textasciitilde{}\textasciicircum{}\$\#"
    assert escape_latex("55.0 ± 7.1 –") == r"55.0 $\pm$ 7.1 --"
    assert escape_latex("−3.2") == "$-$3.2"
    assert escape_latex("Straße, naïve") == "Straße, naïve"


def test_latex_rows(make_results: Make) -> None:
    text = latex(example(make_results))
    lines = text.splitlines()
    rows = [line for line in lines if line.endswith(r"\\") and "multicolumn" not in line]
    assert [len(re.findall(r"(?<!\\)&", row)) for row in rows] == [9, 9, 9]  # one method escapes its own
    assert lines[1] == r"\begin{tabular}{l" + "r" * 9 + "}"
    assert lines[-1] == r"\end{tabular}"
    assert rows[1].startswith(escape_latex(EVIL) + r" & 55.0 $\pm$ 7.1 & ")
    assert rows[2].startswith(r"knn & \textbf{70.0 $\pm$ 0.0} & ")
    assert r"--\textsuperscript{1}" in rows[2]
    notes = [line for line in lines if "multicolumn" in line]
    assert all(line.startswith(r"\multicolumn{10}{l}{") for line in notes)
    assert r"\textsuperscript{1} forward transfer: the score before any training was not measured." in notes[1]
    depth = 0
    for token in re.findall(r"(?<!\\)[{}]", text):
        depth += 1 if token == "{" else -1
        assert depth >= 0
    assert depth == 0
    assert not set(text) - {chr(c) for c in range(32, 127)} - {"\n"}


@pytest.mark.skipif(TEX is None, reason="no TeX here")
def test_latex_compiles(make_results: Make, tmp_path: Path) -> None:
    head = "\\documentclass{article}\\usepackage{booktabs}\\begin{document}\n"
    (tmp_path / "table.tex").write_text(head + latex(example(make_results)) + "\\end{document}\n")
    assert TEX is not None
    quiet = [] if TEX.endswith("tectonic") else ["-interaction=nonstopmode", "-halt-on-error"]
    subprocess.run([TEX, *quiet, "table.tex"], cwd=tmp_path, check=True, capture_output=True, timeout=120)


def test_no_name_is_html_or_a_link_in_markdown(make_results: Make) -> None:
    results = make_results(2, methods=("<img src=x>|[a](b)\nc\x1b",))
    results.benchmark = "# <b>"
    results.methods[0].undefined["forward_transfer"] = "<script>"
    row = r"| \<img src=x\>\|\[a\](b) c\\x1b |"
    assert row in (text := markdown(results))
    assert text.count("\n\n") == 1
    assert "\n\\# \\<b\\>, 2 tasks" in text
    assert "<" not in text.replace("\\<", "")
    assert escape_markdown("wise_ft, a-b: 3.5 ± 1") == "wise\\_ft, a-b: 3.5 ± 1"


@pytest.mark.parametrize("name", ["=1+1", "+1+1", "-a", "@SUM(A1)", "\t=1"])
def test_no_name_is_a_formula_in_csv(name: str, make_results: Make, tmp_path: Path) -> None:
    results = make_results(2, methods=(name,))
    metrics_csv(results, tmp_path / "metrics.csv")
    for text in (table_csv(results), (tmp_path / "metrics.csv").read_text()):
        assert {row["method"] for row in csv.DictReader(io.StringIO(text))} == {f"'{name}"}
    assert csv_text([["-3.5", "-inf", -2, 'a"b,c', None]]) == '-3.5,-inf,-2,"a""b,c",\n'


def test_csv_is_numbers(make_results: Make) -> None:
    one, two = csv.DictReader(io.StringIO(table_csv(example(make_results))))
    assert one["method"] == EVIL
    assert float(one["average"]) == pytest.approx(0.55)
    assert float(one["average_deviation"]) == pytest.approx(0.0707107)
    assert (two["average"], two["forward_transfer"], two["forward_transfer_deviation"]) == ("0.7", "", "")
    assert "average" in two["best_in"].split()
    assert "average" not in one["best_in"].split()
    alone = next(csv.DictReader(io.StringIO(table_csv(make_results(2, methods=("knn",))))))
    assert alone["average_deviation"] == ""
