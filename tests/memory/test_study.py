"""Accuracy against k from one search, and injected noise, against searches and sums done one by one."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from kc.memory.disk import Memory
from kc.memory.vote.evaluation import accuracies, detection, first_k, inject_label_noise, with_labels
from kc.memory.vote.pruning import disagreement, leave_one_out
from kc.memory.vote.votes import VOTES, decide
from kc.types import Neighbours, Rows


def clusters(n: int, spread: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """`n` unit keys of 16 values around 5 seeded centres, and their classes 0..4."""
    centres = np.random.default_rng(99).normal(size=(5, 16))
    rng = np.random.default_rng(seed)
    classes = np.arange(n) % 5
    keys = centres[classes] + spread * rng.normal(size=(n, 16))
    return (keys / np.linalg.norm(keys, axis=1, keepdims=True)).astype(np.float32), classes


@pytest.fixture
def memory(tmp_path: Path) -> Memory:
    keys, classes = clusters(200, 1.0, 0)
    made = Memory.create(tmp_path / "m", dim=16, fingerprint="f")
    made.add(Rows(keys, classes, tuple(map(str, range(200))), np.zeros(200, np.int64)), 0)
    made.commit(0)
    return made


def test_one_search_gives_every_k(memory: Memory) -> None:
    queries, truth = clusters(60, 1.2, 1)
    found = accuracies(memory.search(queries, 40), truth, [1, 4, 7, 40])
    assert set(found) == set(VOTES)
    for kind in VOTES:
        for k, value in zip([1, 4, 7, 40], found[kind], strict=True):
            alone = decide(memory.search(queries, k), range(5), kind).numpy()
            assert value == (alone == truth).mean()
    assert len({found["plurality"][i] for i in range(4)}) > 1
    assert all(math.isnan(v) for v in accuracies(memory.search(queries, 3), truth[:0], [1, 3])["rank"])
    with pytest.raises(ValueError, match="at least 1"):
        first_k(memory.search(queries, 3), 0)


def test_a_hand_solved_case_tells_the_votes_apart() -> None:
    """Class 0 is nearest, class 1 is more often: it takes three neighbours for 1 to win, and softmax never gives in."""
    found = Neighbours(
        np.array([[5, 6, 7]]), np.array([[0.9, 0.5, 0.5]], np.float32), np.array([[0, 1, 1]]),
        np.ones((1, 3), np.float32), np.zeros((1, 3), np.int64),
    )  # fmt: skip
    got = accuracies(found, np.array([0]), [1, 2, 3], tau=0.07, rank_offset=0.5)
    assert got["plurality"] == [1, 1, 0]  # at k = 2 a tie, which goes to whom reached it first
    assert got["distance"] == [1, 1, 0]  # exp(-0.1) = 0.905 against 2 exp(-0.5) = 1.213
    assert got["softmax"] == [1, 1, 1]
    assert got["rank"] == [1, 1, 1]  # 2 against 0.667 + 0.4
    assert accuracies(found, np.array([0]), [3], rank_offset=2.0)["rank"] == [0]  # 0.5 against 0.333 + 0.25
    assert accuracies(found, np.array([9]), [3])["rank"] == [0]  # a class that no neighbour has


@pytest.mark.parametrize("share", [0.0, 0.1, 0.35, 1.0])
def test_planted_labels_are_wrong_and_no_others(share: float) -> None:
    labels = np.array([3, 3, 7, 7, 7, 0] * 50)
    got, wrong = inject_label_noise(labels, share, seed=1)
    assert wrong.sum() == round(share * 300)
    assert np.array_equal(got != labels, wrong)
    assert set(got) <= {0, 3, 7}
    more, also = inject_label_noise(labels, min(share + 0.2, 1), seed=1)
    assert np.array_equal(more[wrong], got[wrong])
    assert also[wrong].all()


def test_planted_labels_are_drawn_evenly() -> None:
    got, _ = inject_label_noise(np.repeat(np.arange(4), 3000), 1.0, seed=0)
    table = np.array([np.bincount(got[i * 3000 : (i + 1) * 3000], minlength=4) for i in range(4)])
    assert (np.diag(table) == 0).all()
    assert np.abs(table[~np.eye(4, dtype=bool)] - 1000).max() < 120
    for share, labels in ((1.1, [0, 1]), (-0.1, [0, 1]), (0.5, [1, 1])):
        with pytest.raises(ValueError, match="share must lie"):
            inject_label_noise(np.array(labels), share, 0)


def test_detection_against_pairs() -> None:
    rng = np.random.default_rng(0)
    score, wrong = rng.integers(0, 6, 80), rng.random(80) < 0.3
    pairs = [(a > b) + 0.5 * (a == b) for a in score[wrong] for b in score[~wrong]]
    found = detection(score, score > 3, wrong)
    assert found.auroc == pytest.approx(np.mean(pairs))
    assert found.precision == (wrong & (score > 3)).sum() / (score > 3).sum()
    assert found.recall == (wrong & (score > 3)).sum() / wrong.sum()
    none = detection(score, score > 9, np.zeros(80, bool))
    assert math.isnan(none.auroc)
    assert math.isnan(none.precision)
    assert math.isnan(none.recall)


def test_relabelling_neighbours_equals_relabelling_the_memory(memory: Memory) -> None:
    """Accuracy under noise, and the rows that are suspected, without another search."""
    queries, truth = clusters(50, 1.0, 2)
    before, table = memory.search(queries, 9), leave_one_out(memory, 9)
    rows = memory.labels()
    labels, wrong = inject_label_noise(rows.class_id, 0.2, seed=4)
    got = accuracies(with_labels(before, rows.id, labels), truth, [1, 9])
    memory.relabel(rows.id, labels)
    assert got == accuracies(memory.search(queries, 9), truth, [1, 9])
    assert got["plurality"][0] < got["plurality"][1]
    again = leave_one_out(memory, 9)
    assert np.array_equal(again.neighbour_id, table.neighbour_id)
    against = disagreement(again, 9)
    found = detection(against, against > 4.5, wrong)
    assert found.auroc > 0.9
    assert found.recall > 0.9
