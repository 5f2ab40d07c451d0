"""Figures: that they are written, complete and the same each time; their looks are for eyes."""

from __future__ import annotations

import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from kc.report import figures, style
from kc.report.records import Results

Make = Callable[..., Results]


def test_curves_and_heatmap_are_written_and_repeatable(make_results: Make, tmp_path: Path) -> None:
    results = make_results(5, methods=("finetune", "knn"), seeds=(0, 1))
    for draw in (figures.curves, figures.heatmap):
        draw(results, tmp_path / "a.png")
        draw(results, tmp_path / "b.png")
        assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
        with Image.open(tmp_path / "a.png") as image:
            assert image.width > 900
            assert np.array(image.convert("L")).std() > 10


def test_one_task_and_undefined_scores(make_results: Make, tmp_path: Path) -> None:
    results = make_results(3, methods=("knn",))
    results.methods[0].matrix = [[None] * 3 for _ in range(3)]
    results.methods[0].seen = [None] * 3
    for r in (results, make_results(1, methods=("knn",))):
        figures.curves(r, tmp_path / "curves.png")
        figures.heatmap(r, tmp_path / "heat.svg")
        assert "<svg" in (tmp_path / "heat.svg").read_text()


@pytest.mark.parametrize("n", range(1, 11))
def test_every_method_has_a_panel(n: int) -> None:
    figure, axes = figures._panels(n)
    assert len(axes) == len(figure.axes) == n


def test_heatmap_prints_the_numbers(make_results: Make, tmp_path: Path) -> None:
    results = make_results(2, methods=("knn",))
    results.methods[0].matrix = [[0.5, None], [0.25, 0.994]]
    figures.heatmap(results, tmp_path / "heat.svg")
    text = (tmp_path / "heat.svg").read_text()
    assert all(f"<!-- {number} -->" in text for number in (50, 25, 99))


def test_labels_are_spread_apart_and_stay_in_order() -> None:
    assert figures.spread_apart([10, 50], 5) == [10, 50]
    assert figures.spread_apart([10, 11], 4) == [8.5, 12.5]
    spread = figures.spread_apart([0, 0.1, 0.2, 30, 31, 32], 6)
    assert (np.diff(spread) >= 6 - 1e-9).all()
    assert spread[1] == pytest.approx(0.1)


def test_methods_keep_their_colours() -> None:
    alone, together = style.looks(["knn"]), style.looks(["finetune", "ewc", "knn", "lwf"])
    assert alone["knn"] == together["knn"]
    assert len(set(together.values())) == 4
    assert len(style.looks([f"m{i}" for i in range(20)])) == 20


def test_ink_contrasts() -> None:
    assert style.ink_on("#ffffff") == "#000000"
    assert style.ink_on("#0072b2") == "#ffffff"
    assert style.task_color(0, 1) == style.task_color(0, 10)


def test_the_room_needs_no_pyplot_and_no_torch() -> None:
    code = (
        "import sys; import kc.report.records, kc.report.tables, kc.report.merge; "
        "assert not {'torch', 'matplotlib', 'lightning'} & set(sys.modules); "
        "import kc.report.figures, kc.report.html, kc.report.examples, kc.report.wandb_log; "
        "assert not {'torch', 'matplotlib.pyplot', 'lightning', 'wandb'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_figures_for_a_paper_have_the_width_of_its_columns(make_results: Make, tmp_path: Path) -> None:
    names = ("finetune", "knn (k 8)", *(f"mask2former-replay #{n}" for n in (1, 2, 3)))
    results = make_results(3, methods=names, seeds=(0, 1))
    for cost in results.methods[0].cost:
        cost.stored_bytes = 0
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # matplotlib only warns where it cannot fit a figure into its size
        files = figures.paper(results, tmp_path / "figures")
    assert {f.name for f in files} == {f.name for f in (tmp_path / "figures").iterdir()}
    assert len(files) == 16
    for size in figures.PAPER_SIZES:
        for name in ("average", "curves", "matrices", "cost"):
            with Image.open(tmp_path / "figures" / f"{name}-{size.name}.png") as image:
                assert image.width == round(300 * size.width)
                assert image.height < 300 * 9.5  # a page
            text = (tmp_path / "figures" / f"{name}-{size.name}.svg").read_text()
            assert f'width="{72 * size.width:g}pt"' in text
    cost_text = (tmp_path / "figures" / "cost-one-column.svg").read_text()
    assert all(f"<!-- {words} -->" in cost_text for words in ("knn (k 8)", "seconds of learning", "0"))
