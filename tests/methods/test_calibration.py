"""Stored samples left out of their own search, against a naive twin; the choice of a setting by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from kc.memory.disk import Memory
from kc.memory.vote.fusion import knn_clip, retrieval_logits
from kc.memory.vote.left_out import leave_samples_out
from kc.methods.retrieval.calibration import (
    KS,
    SHARES,
    Setting,
    choose,
    hits,
    knn_clip_grid,
    ret_clip_grid,
)
from kc.types import Rows


def filled(path: Path, anonymous: bool = False) -> tuple[Memory, np.ndarray, np.ndarray, list[str]]:
    """40 rows of 4 classes from 9 samples; class 7 occurs in one sample only."""
    rng = np.random.default_rng(3)
    keys = rng.normal(size=(40, 6)).astype(np.float32)
    keys /= np.linalg.norm(keys, axis=1, keepdims=True)
    label = rng.integers(0, 3, 40)
    names = [f"s{i}" for i in sorted(rng.integers(0, 9, 40))]
    label[[i for i, n in enumerate(names) if n == names[0]][:2]] = 7
    memory = Memory.create(path, dim=6, fingerprint="f", anonymous=anonymous)
    memory.add(Rows(keys, label, tuple(names), np.arange(40)), 0)
    memory.commit(0)
    return memory, keys, label, names


@pytest.mark.parametrize("anonymous", [False, True])
def test_rows_of_the_same_sample_are_never_neighbours(tmp_path: Path, anonymous: bool) -> None:
    memory, keys, label, names = filled(tmp_path / "m", anonymous)
    asked = (7, 0, 1, 2)
    with memory:
        found = leave_samples_out(memory, asked, 5, seed=0)
    assert found.ids.tolist() == list(range(40))
    for i in range(40):
        others = [j for j in range(40) if names[j] != names[i]]
        nearest = sorted(others, key=lambda j: (-float(keys[i].astype(float) @ keys[j].astype(float)), j))[:5]
        assert found.neighbours.id[i].tolist() == nearest
        assert (found.neighbours.weight[i] == 1).all()
        elsewhere = {label[j] for j in others}
        assert found.known[i].tolist() == [c in elsewhere for c in asked]
    assert not found.known[label == 7, 0].any()  # its only sample was left out


def test_places_without_a_row_of_another_sample_vote_for_nothing(tmp_path: Path) -> None:
    memory, _, _, names = filled(tmp_path / "m")
    with memory:
        found = leave_samples_out(memory, (0, 1, 2, 7), 64, seed=0)
    for i, name in enumerate(names):
        assert int((found.neighbours.weight[i] > 0).sum()) == sum(n != name for n in names)


def test_a_sample_of_rows_and_of_classes(tmp_path: Path) -> None:
    memory, _, label, _ = filled(tmp_path / "m")
    with memory:
        some = leave_samples_out(memory, (0, 1), 3, seed=1, most=7)
        again = leave_samples_out(memory, (0, 1), 3, seed=1, most=7)
    assert len(some.ids) == 7
    assert some.ids.tolist() == again.ids.tolist()
    assert set(label[some.ids]) <= {0, 1}


def test_hits_by_hand() -> None:
    """Class 0: 3 of 4 right, class 1: 0 of 1; accuracy 3/5, mean over classes 3/8."""
    scores = torch.tensor([[2.0, 1, 0], [2, 1, 0], [2, 1, 0], [0, 0, 1], [1, 0, 0]])
    assert hits(scores, torch.tensor([0, 0, 0, 0, 1])) == pytest.approx((3 / 5 + 3 / 8) / 2)


def test_the_better_opinion_gets_the_weight(tmp_path: Path) -> None:
    """A memory of clusters and a base that is always wrong: all weight to the memory; and the other way round."""
    rng = np.random.default_rng(0)
    label = np.arange(30) % 3
    keys = (np.eye(3)[label] + rng.normal(size=(30, 3)) / 20).astype(np.float32)
    keys /= np.linalg.norm(keys, axis=1, keepdims=True)

    def chosen(stored: np.ndarray, base: torch.Tensor) -> Setting:
        memory = Memory.create(tmp_path / f"m{len(list(tmp_path.iterdir()))}", dim=3, fingerprint="f")
        with memory:
            memory.add(Rows(keys, stored, tuple(map(str, range(30))), np.zeros(30, np.int64)), 0)
            memory.commit(0)
            out = leave_samples_out(memory, (0, 1, 2), max(KS), 0)
            return choose(
                out,
                (0, 1, 2),
                knn_clip_grid(),
                lambda n: retrieval_logits(n, (0, 1, 2)),
                lambda s, p, has: knn_clip(base.to(p), p, has, s.lam, s.threshold),
            )[0]

    wrong = torch.full((30, 3), 0.2)
    wrong[range(30), (label + 1) % 3] = 0.6
    # The best wrong name has .6 and the right one .2: the memory wins from lambda .3 on, where the gate is open.
    setting = chosen(label, wrong)
    assert setting.lam >= 0.3
    assert setting.threshold > 0.6
    right = torch.full((30, 3), 0.2)
    shuffled = rng.permutation(label)  # keys say nothing of it
    right[range(30), shuffled] = 0.6
    assert chosen(shuffled, right) == Setting(1, 0.1, 0.1, 0, 0, 0)  # every setting that trusts the base is as good


def test_nothing_to_calibrate_on(tmp_path: Path) -> None:
    memory, *_ = filled(tmp_path / "m")
    with memory:
        out = leave_samples_out(memory, (99,), 3, seed=0)
    with pytest.raises(ValueError, match="no stored row"):
        choose(out, (99,), knn_clip_grid(), lambda n: (torch.empty(0), torch.empty(0)), lambda s, p, h: p)


def test_a_weight_of_names_that_are_not_there_is_not_varied() -> None:
    both = len(list(ret_clip_grid(True, True)))
    assert both == len(KS) * len(SHARES) ** 3
    assert len(list(ret_clip_grid(True, False))) == len(list(ret_clip_grid(False, True))) == both // len(SHARES)
