"""The table in a terminal and in Markdown, and the sentences."""

from __future__ import annotations

import io
import math
from collections.abc import Callable

import pytest
from rich.console import Console

from kc.report import tables, words
from kc.report.records import Results
from kc.report.sentences import sentences

Make = Callable[..., Results]


def printed(results: Results, width: int) -> str:
    file = io.StringIO()
    tables.show(results, Console(file=file, width=width))
    return file.getvalue()


def by_hand(make_results: Make) -> Results:
    """Two methods over three tasks with round numbers."""
    results = make_results(3, methods=("finetune", "knn"))
    fine, knn = results.methods
    fine.matrix = [[0.712, None, None], [0.5, 0.8, None], [0.034, 0.6, 0.9]]
    knn.matrix = [[0.6, None, None], [0.6, 0.6, None], [0.58, 0.6, 0.6]]
    for method, average, forgetting in ((fine, 0.5113, 0.439), (knn, 0.5933, 0.01)):
        method.metrics.average = average
        method.metrics.forgetting = forgetting
        for cost in method.cost:
            cost.seconds = 4.0
    return results


def test_sentences_by_hand(make_results: Make) -> None:
    text = sentences(by_hand(make_results))
    assert text[:3] == [
        "finetune forgot most, 43.9 points on average: task 1 (background, zero) fell from 71.2 to 3.4.",
        "knn forgot 1.0 points on average: task 1 (background, zero) fell from 60.0 to 58.0.",
        "knn ends with the highest average score, 59.3, and finetune with the lowest, 51.1.",
    ]
    assert "knn trained nothing in 12 s and keeps 879 KiB" in text[3]
    assert "finetune trained 1.2 M parameters in 12 s and keeps 4.7 MiB" in text[3]
    assert len(text) == 4


def test_sentences_when_old_tasks_gained_or_stayed(make_results: Make) -> None:
    results = by_hand(make_results)
    fine, knn = results.methods
    fine.metrics.forgetting = -0.02
    fine.matrix = [[0.7, None, None], [0.7, 0.8, None], [0.73, 0.81, 0.9]]
    knn.metrics.forgetting = 0.0
    knn.matrix = [[0.6, None, None], [0.6, 0.6, None], [0.6, 0.6, 0.6]]
    text = sentences(results)
    assert text[0] == "knn forgot nothing on average (0.0 points)."
    assert text[1] == "finetune did not forget: old tasks gained 2.0 points on average."


def test_sentence_of_a_mixed_change(make_results: Make) -> None:
    results = by_hand(make_results)
    results.methods[1].metrics.forgetting = -0.01
    assert sentences(results)[1] == (
        "knn did not forget: old tasks gained 1.0 points on average, "
        "but task 1 (background, zero) fell from 60.0 to 58.0."
    )


def test_undefined_forgetting_is_said(make_results: Make) -> None:
    results = by_hand(make_results)
    results.methods[0].metrics.forgetting = None
    results.methods[0].undefined["forgetting"] = "task 1 has no test image"
    assert "Forgetting of finetune is undefined: task 1 has no test image." in sentences(results)


def test_one_task_one_method(make_results: Make) -> None:
    text = sentences(make_results(1, methods=("knn",)))
    assert text[0] == "There is one task, so nothing can be forgotten."
    assert text[1].startswith("knn ends with an average score of ")


def test_best_values_and_notes(make_results: Make) -> None:
    results = by_hand(make_results)
    g = tables.grid(results)
    best = {c.key: [row[i].best for row in g.cells] for i, c in enumerate(g.columns)}
    assert best["average"] == [False, True]
    assert best["forgetting"] == [False, True]
    assert best["trained_parameters"] == [False, True]
    assert best["peak_rss_bytes"] == [False, False]  # they read the same
    assert best["seconds"] == [False, False]
    assert best["forward_transfer"] == [False, False]
    assert g.notes == ("forward transfer: the score before any training was not measured",)
    forward = [c.key for c in g.columns].index("forward_transfer")
    assert [row[forward].marked for row in g.cells] == ["–¹", "–¹"]


def test_notes_name_the_methods_they_are_about(make_results: Make) -> None:
    results = make_results(3)
    g = tables.grid(results, (*tables.COLUMNS, tables.INTRANSIGENCE))
    assert g.notes[1] == "intransigence of joint: joint training is its own reference"


@pytest.mark.parametrize("width", [200, 100, 80, 40])
@pytest.mark.parametrize("seeds", [(0,), (0, 1, 2)])
def test_no_number_is_cut_at_any_width(width: int, seeds: tuple[int, ...], make_results: Make) -> None:
    results = make_results(4, seeds=seeds)
    text = printed(results, width)
    flat = text.replace("\n", "")
    for row in tables.grid(results).cells:
        for cell in row:
            assert cell.marked in flat
    assert "…" not in text
    if width >= 80 and (len(seeds) == 1 or width > 100):
        assert max(len(line) for line in text.splitlines()) <= width


def test_markup_in_names_is_not_interpreted(make_results: Make) -> None:
    results = make_results(2, methods=("[red]a|b[/red]", "knn"))
    assert "[red]a|b[/red]" in printed(results, 160)
    assert "| \\[red\\]a\\|b\\[/red\\] |" in tables.markdown(results)


def test_markdown(make_results: Make) -> None:
    lines = tables.markdown(by_hand(make_results)).splitlines()
    assert lines[0].startswith("| Method | Average ↑ | Average incremental ↑ | Forgetting ↓ |")
    assert lines[1].count("---") == lines[0].count("|") - 1
    assert lines[3].startswith("| knn | **59.3** |")
    assert lines[5] == "digit-scenes, 3 tasks, overlapped, seed 0: mIoU × 100."
    assert lines[6] == "¹ forward transfer: the score before any training was not measured."


def test_deviation_over_seeds_is_shown(make_results: Make) -> None:
    results = make_results(3, methods=("knn",), seeds=(0, 1))
    results.methods[0].metrics.average, results.methods[1].metrics.average = 0.5, 0.6
    cell = tables.grid(results).cells[0][0]
    assert cell.text == "55.0 ± 7.1"
    assert "mean ± deviation" in tables.headline(results)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (words.points(0.7123), "71.2"),
        (words.points(-0.0004), "0.0"),
        (words.points(-0.021), "−2.1"),
        (words.points(0.021, signed=True), "+2.1"),
        (words.points(math.nan), "–"),
        (words.points(0.5, 0.012), "50.0 ± 1.2"),
        (words.seconds(0.42), "0.4 s"),
        (words.seconds(90), "90 s"),
        (words.seconds(119.6), "120 s"),
        (words.seconds(366), "6.1 min"),
        (words.seconds(12240), "3.4 h"),
        (words.seconds(36.24, 0.52), "36.2 ± 0.5 s"),
        (words.size(0), "0 B"),
        (words.size(812), "812 B"),
        (words.size(4.7 * 2**20), "4.7 MiB"),
        (words.size(3.25 * 2**30, 2**29), "3.2 ± 0.5 GiB"),
        (words.count(0), "0"),
        (words.count(812), "812"),
        (words.count(1_234_567), "1.2 M"),
        (words.count(123_456), "123 k"),
        (words.listing(["a"]), "a"),
        (words.listing(["a", "b", "c"]), "a, b and c"),
        (words.listing(["a", "b", "c", "d"]), "a, b, c and 1 more"),
        (words.task_title(0, ["background", "zero"]), "task 1 (background, zero)"),
        (words.metric_title("pq_things"), "PQ things"),
        (words.metric_title("miou"), "mIoU"),
        (words.metric_title("harmonic_mean"), "harmonic mean"),
    ],
)
def test_words(text: str, expected: str) -> None:
    assert text == expected


def test_joint_training_keeps_all_images_and_wins_no_column_by_it(make_results: Make) -> None:
    results = make_results(3)
    for method in results.methods:
        method.all_images = method.name == "joint"
    g = tables.grid(results)
    stored = [c.key for c in g.columns].index("stored_bytes")
    cell = g.cells[g.methods.index("joint")][stored]
    assert (cell.text, cell.best, math.isnan(cell.value)) == ("all images", False, True)
    assert "joint trained 1.2 M parameters in" in (last := sentences(results)[-1])
    assert "and keeps all images" in last


def test_methods_that_end_equal_are_not_ranked(make_results: Make) -> None:
    results = make_results(3, methods=("knn", "ncm"))
    for method in results.methods:
        method.metrics.average = 1.0
    assert "knn and ncm end with the same average score, 100.0." in sentences(results)


def test_intransigence_is_a_column_where_joint_training_ran(make_results: Make) -> None:
    results = make_results(3, methods=("knn",))
    assert tables.all_columns(results)[-1].key == "intransigence"
    results.methods[0].metrics.intransigence = None
    assert tables.all_columns(results) == tables.COLUMNS
