"""Curves of forgetting and of what is kept: the numbers by hand, and the marks of their axes."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from kc.metrics.continual import forgetting_per_task
from kc.report.charts import Scale, Series, line_chart
from kc.report.html import write_report
from kc.report.merge import forgetting_curve, merge_seeds
from kc.report.records import Results

Make = Callable[..., Results]


def test_forgetting_by_hand_and_as_the_metric_says() -> None:
    nan = np.nan
    matrix = np.array([[0.8, nan, nan], [0.5, 0.6, nan], [0.7, 0.7, 0.9]])
    curve = forgetting_curve(matrix)
    assert math.isnan(curve[0])
    assert curve[1] == pytest.approx(0.3)
    assert curve[2] == pytest.approx(((0.8 - 0.7) + (0.6 - 0.7)) / 2)
    random = np.random.default_rng(0).random((6, 6))
    wanted = [np.nan, *(forgetting_per_task(random, t).mean() for t in range(1, 6))]
    np.testing.assert_allclose(forgetting_curve(random), wanted)
    random[3, 1] = nan  # a gap says nothing of what was lost later
    assert np.isnan(forgetting_curve(random)[3:]).all()


@pytest.mark.parametrize(
    ("most", "unit", "marks"),
    [
        (0, "B", ["0", "0.2"]),
        (900, "B", ["0", "200", "400", "600", "800", "1000"]),
        (4.7 * 2**20, "MiB", ["0", "1", "2", "3", "4", "5"]),
        (129 * 2**20, "MiB", ["0", "50", "100", "150"]),
    ],
)
def test_marks_of_bytes(most: float, unit: str, marks: list[str]) -> None:
    scale, said = Scale.of_bytes(most)
    assert said == unit
    assert [text for _, text in scale.marks] == marks
    assert scale.high >= most


def test_what_rose_lies_below_zero() -> None:
    scale = Scale.of_points(-3.2, 20)
    assert [text for _, text in scale.marks] == ["−10", "0", "10", "20"]
    assert scale.at(-0.1) > scale.at(0) > scale.at(0.2)
    values, nan = np.array([np.nan, -0.03, 0.1]), np.full(3, np.nan)
    svg = line_chart([Series("knn", "m0", values, nan, end="knn")], "label", 20, scale)
    heights = [float(h) for h in re.findall(r'cy="([\d.]+)"', svg)]
    assert heights == pytest.approx([scale.at(-0.03), scale.at(0.1)], abs=0.06)
    assert "knn, after task 2: −3.0" in svg


def test_the_page_says_what_old_classes_are_taken_for(make_results: Make, tmp_path: Path) -> None:
    results = make_results(3, methods=("finetune", "knn"), seeds=(0, 1))
    merged = merge_seeds(results)
    kept = np.array([[c.stored_bytes for c in m.cost] for m in results.methods if m.name == "knn"])
    np.testing.assert_allclose(merged[1].stored.mean, kept.mean(axis=0))
    assert merged[1].confusion["old_as_new"].mean == pytest.approx(0.3)
    write_report(tmp_path, results, tmp_path / "report.html")
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    table = text[text.index('id="confusion"') : text.index('id="final"')]
    row = re.search(r"knn</th><td>old classes</td>(.*?)</tr>", table)
    assert row is not None
    assert re.findall(r"<td>([^<]*)</td>", row[1]) == ["60.0 ± 0.0", "10.0 ± 0.0", "30.0 ± 0.0", "0.0 ± 0.0"]
    for method in results.methods:
        method.confusion = {}
    write_report(tmp_path, results, tmp_path / "report.html")
    assert 'id="confusion"' not in (tmp_path / "report.html").read_text(encoding="utf-8")
