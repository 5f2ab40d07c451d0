"""Images and labels of hand-made tasks, index by index."""

from __future__ import annotations

import numpy as np
import pytest

from kc.data.selection import SETTINGS, hide, hide_panoptic, images_with, partition_of, samples_of_task, visible_ids
from kc.errors import SplitError, UnknownNameError
from kc.types import HIDDEN, VOID, Setting, Task

IDS = (0, 3, 5, 7)  # 0 is the background; ids need not be columns
TASKS = (
    Task(0, (0, 3), (0, 3), ("background", "cat")),
    Task(1, (5,), (0, 3, 5), ("dog",)),
    Task(2, (7,), (0, 3, 5, 7), ("cow",)),
)
TABLE = np.array(
    [  # background, cat, dog, cow
        [1, 1, 0, 0],
        [1, 1, 1, 0],
        [1, 0, 1, 1],
        [0, 0, 1, 0],
        [1, 0, 0, 1],
        [1, 0, 0, 0],
        [0, 1, 0, 1],
    ],
    dtype=bool,
)


@pytest.mark.parametrize(
    ("setting", "expected"),
    [
        ("overlapped", [[0, 1, 6], [1, 2, 3], [2, 4, 6]]),
        ("disjoint", [[0], [1, 3], [2, 4, 6]]),
        ("sequential", [[0], [1, 3], [2, 4, 6]]),
    ],
)
def test_images_of_each_task(setting: Setting, expected: list[list[int]]):
    found = [samples_of_task(TABLE, IDS, TASKS, t, setting, background_id=0).tolist() for t in range(3)]
    assert found == expected  # image 5 holds only background: never chosen


def test_partition_gives_every_image_to_one_of_its_tasks():
    # Images 0, 3 and 4 have one choice each; every task has 3 candidates, so the shares are then level at 1/3. The rest
    # are dealt in turn, ties to the first task: 2 to 1 (of 1, 2), then 6 to 0 (of 0, 2), then 1 to 0 (of 0, 1).
    for seed in range(3):
        assert partition_of(TABLE, IDS, TASKS, 0, seed).tolist() == [0, 0, 1, 1, 2, -1, 0]
    parts = [samples_of_task(TABLE, IDS, TASKS, t, "partition", background_id=0).tolist() for t in range(3)]
    assert parts == [[0, 1, 6], [2, 3], [4]]


def test_partition_is_level_and_seeded():
    table = np.ones((90, 3), dtype=bool)
    table[60:, 2] = False  # tasks 0 and 1 have 90 candidates, task 2 has 60: level shares are 33.75, 33.75, 22.5
    tasks = tuple(Task(t, (t,), tuple(range(t + 1)), (str(t),)) for t in range(3))
    owners = [partition_of(table, (0, 1, 2), tasks, None, seed) for seed in (0, 0, 1)]
    assert np.bincount(owners[0]).tolist() in ([34, 34, 22], [34, 33, 23], [33, 34, 23])
    assert (owners[0] == owners[1]).all()
    assert (owners[0] != owners[2]).any()
    assert (owners[0][60:] != 2).all()


def test_partition_with_more_tasks_than_bits_in_a_word():
    rng = np.random.default_rng(0)
    table = rng.random((500, 70)) < 0.05
    tasks = tuple(Task(t, (t,), tuple(range(t + 1)), (str(t),)) for t in range(70))
    owner = partition_of(table, range(70), tasks, None, 0)
    assert (owner == -1).tolist() == (~table.any(axis=1)).tolist()
    chosen = np.flatnonzero(owner >= 0)
    assert table[chosen, owner[chosen]].all()


@pytest.mark.parametrize("setting", SETTINGS)
def test_classification_takes_the_images_of_the_current_classes(setting: Setting):
    table = np.eye(4, dtype=bool)[[3, 1, 0, 2, 1]]
    tasks = (Task(0, (0, 3), (0, 3), ("a", "b")), Task(1, (5, 7), (0, 3, 5, 7), ("c", "d")))
    assert samples_of_task(table, IDS, tasks, 0, setting).tolist() == [1, 2, 4]
    assert samples_of_task(table, IDS, tasks, 1, setting).tolist() == [0, 3]


def test_an_empty_task_names_itself():
    with pytest.raises(SplitError, match=r"task 0 \(background, cat\) .*'disjoint'"):
        samples_of_task(TABLE[1:5], IDS, TASKS, 0, "disjoint", background_id=0)
    with pytest.raises(UnknownNameError, match="overlapped"):
        samples_of_task(TABLE, IDS, TASKS, 0, "overlaped")  # type: ignore[arg-type]


def test_images_with_equals_the_plain_formula():
    rng = np.random.default_rng(1)
    table = rng.random((200, 21)) < 0.1
    ids = np.arange(21) * 2
    for wanted in ([], [0], [2, 40], [14, 16, 38]):
        assert (images_with(table, ids, wanted) == table[:, np.isin(ids, wanted)].any(axis=1)).all()


@pytest.mark.parametrize(
    ("setting", "expected"),
    [("overlapped", (0, 5)), ("disjoint", (0, 5)), ("partition", (0, 5)), ("sequential", (0, 3, 5))],
)
def test_visible_labels(setting: Setting, expected: tuple[int, ...]):
    assert visible_ids(TASKS[1], setting, 0) == expected
    assert visible_ids(TASKS[0], setting, 0) == (0, 3)
    assert visible_ids(TASKS[1], "overlapped") == (5,)


def test_hide_keeps_void_and_the_kept():
    labels = np.array([[0, 3], [5, VOID]])
    assert hide(labels, (0, 5), 0).tolist() == [[0, 0], [5, VOID]]
    assert hide(labels, (5, 9), HIDDEN).tolist() == [[HIDDEN, HIDDEN], [5, VOID]]
    assert hide(np.array([[300, 301]]), (301,), 0).tolist() == [[0, 301]]
    assert labels.tolist() == [[0, 3], [5, VOID]]


def test_hide_panoptic_drops_segments_and_crowds():
    panoptic = np.array([[[3, 1], [3, 2], [5, 3]], [[5, 4], [0, 0], [VOID, 0]]], dtype=np.int32)
    hidden, crowd = hide_panoptic(panoptic, frozenset({2, 4}), (0, 5))
    assert hidden.dtype == np.int32
    assert hidden.tolist() == [[[VOID, 0], [VOID, 0], [5, 3]], [[5, 4], [0, 0], [VOID, 0]]]
    assert crowd == frozenset({4})
