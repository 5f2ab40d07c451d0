"""Tasks of hand-made cases, class by class."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from kc.data.split import build_tasks
from kc.errors import SplitError, UnknownNameError
from kc.types import ClassInfo, Task


def benchmark(n: int, background: int | None = None, **splits: tuple[int, ...]) -> SimpleNamespace:
    names = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"]
    info = tuple(ClassInfo(i, names[i], background=i == background) for i in range(n))
    return SimpleNamespace(name="toy", info=info, task_splits=splits)


def class_ids(*arguments, **keywords):
    return [task.class_ids for task in build_tasks(*arguments, **keywords)]


def test_the_remainder_goes_to_the_first_tasks():
    assert class_ids(benchmark(7), 3) == [(0, 1, 2), (3, 4), (5, 6)]
    assert build_tasks(benchmark(3), 3)[1] == Task(1, (1,), (0, 1), ("one",))


def test_background_joins_task_0_and_does_not_count():
    assert class_ids(benchmark(11, background=10), 10) == [(10, 0), *((i,) for i in range(1, 10))]
    assert class_ids(benchmark(4, background=0), 2) == [(0, 1, 2), (3,)]


def test_a_named_split_counts_background_in_step_0():
    assert class_ids(benchmark(4, background=0, **{"3-1": (3, 1)}), split="3-1") == [(0, 1, 2), (3,)]
    assert class_ids(benchmark(4, **{"3-1": (3, 1)}), 2, "3-1") == [(0, 1, 2), (3,)]


def test_without_tasks_and_split_there_is_one_task():
    assert class_ids(benchmark(3)) == [(0, 1, 2)]


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((benchmark(3), 4), SplitError, "4 tasks were asked for, but toy has only 3"),
        ((benchmark(3, background=0), 3), SplitError, "only 2 classes"),
        ((benchmark(3), 0), SplitError, "at least 1"),
        ((benchmark(3, **{"2-1": (2, 1)}), None, "2-2"), UnknownNameError, "Did you mean '2-1'"),
        ((benchmark(3, **{"2-1": (2, 1)}), 3, "2-1"), SplitError, "has 2 tasks, but 3"),
        ((benchmark(3, **{"2-2": (2, 2)}), None, "2-2"), SplitError, "sum 4"),
        ((benchmark(3, background=0, **{"1-2": (1, 2)}), None, "1-2"), SplitError, "only the background"),
        ((benchmark(3), 1, None, "natrual"), SplitError, "neither 'natural'"),
        ((benchmark(3), 1, None, "shuffle:x"), SplitError, "whole number"),
    ],
)
def test_what_cannot_be_divided_is_one_clear_error(arguments, error, message):
    with pytest.raises(error, match=message):
        build_tasks(*arguments)


def test_shuffled_order_is_a_seeded_permutation_behind_the_background():
    toy = benchmark(11, background=4)
    orders = [build_tasks(toy, class_order=f"shuffle:{seed}")[0].class_ids for seed in (0, 0, 1)]
    assert orders[0] == orders[1] != orders[2]
    assert all(order[0] == 4 and sorted(order) == list(range(11)) for order in orders)


def test_order_of_a_file(tmp_path: Path):
    path = tmp_path / "order.txt"
    path.write_text("two\n\nzero\n3\n")  # names or ids; the background may be left out, and comes first
    assert class_ids(benchmark(4, background=1), 3, class_order=path) == [(1, 2), (0,), (3,)]
    path.write_text("two\nzero\n1\nthree\n")
    assert class_ids(benchmark(4, background=1), 3, class_order=str(path)) == [(1, 2), (0,), (3,)]


def test_every_problem_of_an_order_file_is_said_at_once(tmp_path: Path):
    path = tmp_path / "order.txt"
    path.write_text("two\ntwoo\ntwo\n")
    with pytest.raises(SplitError) as caught:
        build_tasks(benchmark(3), class_order=path)
    for part in ("line 2: unknown class 'twoo' (nearest: two", "line 3: class 'two' a second time", "zero, one"):
        assert part in str(caught.value)
