"""The leave-one-out table against a twin, and pruning by hand."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from kc.errors import CorruptMemoryError
from kc.memory.disk import Memory
from kc.memory.vote import pruning as prune
from kc.memory.vote.votes import decide
from kc.types import Rows


def unit(x: np.ndarray) -> np.ndarray:
    return (x / np.linalg.norm(x, axis=-1, keepdims=True)).astype(np.float32)


def store(path: Path, keys: np.ndarray, classes: np.ndarray) -> Memory:
    memory = Memory.create(path, dim=keys.shape[1], fingerprint="f")
    names = tuple(f"s{i}" for i in range(len(keys)))
    memory.add(Rows(keys, classes, names, np.zeros(len(keys), np.int64)), 0)
    memory.commit(0)
    return memory


@pytest.fixture
def noisy(tmp_path: Path) -> Memory:
    """Three classes of 60, 50 and 40 rows around three directions; rows 0, 70 and 120 carry a wrong label."""
    rng = np.random.default_rng(0)
    truth = np.repeat([0, 1, 2], [60, 50, 40])
    keys = unit(unit(rng.normal(size=(3, 16)))[truth] + 0.15 * rng.normal(size=(150, 16)))
    labels = truth.copy()
    labels[[0, 70, 120]] = [1, 2, 0]
    return store(tmp_path / "m", keys, labels)


def twin(keys: np.ndarray, labels: np.ndarray, k: int) -> tuple[list[list[int]], list[int]]:
    """Neighbours and v, one pair of rows after the other."""
    lists, v = [], [0] * len(keys)
    for i, key in enumerate(keys.astype(np.float64)):
        others = [j for j in range(len(keys)) if j != i]
        others.sort(key=lambda j: (-round(float(key @ keys[j].astype(np.float64)), 12), j))
        lists.append(others[:k])
        for j in others[:k]:
            v[j] += int(labels[j] != labels[i])
    return lists, v


@pytest.mark.parametrize("block_rows", [7, 4096])
def test_twin(noisy: Memory, block_rows: int) -> None:
    labels = noisy.labels()
    lists, v = twin(noisy.keys(labels.id), labels.class_id, 12)
    table = prune.leave_one_out(noisy, 12, block_rows=block_rows)
    assert table.neighbour_id.tolist() == lists
    assert prune.wrong_votes(table, 12).tolist() == v
    assert prune.wrong_votes(table, 5).tolist() == twin(noisy.keys(labels.id), labels.class_id, 5)[1]
    assert np.allclose(table.score[3], noisy.keys([3]) @ noisy.keys(lists[3]).T, atol=1e-6)
    found = noisy.search(noisy.keys(labels.id), 12, exclude_ids=labels.id)
    again = table.neighbours()
    for name in ("id", "score", "class_id", "weight", "task"):
        assert np.array_equal(getattr(again, name), getattr(found, name))


def test_wrong_labels_stand_out(noisy: Memory) -> None:
    table = prune.leave_one_out(noisy, 20)
    assert set(np.argsort(-prune.wrong_votes(table, 20))[:3]) == {0, 70, 120}
    assert np.flatnonzero(prune.disagreement(table, 20) >= 15).tolist() == [0, 70, 120]
    # Each row's neighbours vote for it: the right label of every one, without held-out data.
    assert decide(table.neighbours(), [0, 1, 2], kind="rank").tolist() == [0] * 60 + [1] * 50 + [2] * 40
    noisy.reweight(table.id, table.weight * prune.hard(table, v_max=9, k=20))
    assert set(noisy.ids()) - set(noisy.search(noisy.keys([5]), 150).id[0]) == {0, 70, 120}
    pruned = prune.leave_one_out(noisy, 20)
    assert len(pruned) == 147
    assert prune.wrong_votes(pruned, 20).max() <= 1


def test_equal_rows_find_each_other(tmp_path: Path) -> None:
    """A row is left out by its id: without its distance of 0 to its copies they could not be told apart."""
    keys = unit(np.repeat([[1.0, 0], [0, 1]], [3, 2], axis=0))
    table = prune.leave_one_out(store(tmp_path / "m", keys, np.array([0, 0, 1, 2, 2])), 2)
    assert table.neighbour_id.tolist() == [[1, 2], [0, 2], [0, 1], [4, 0], [3, 0]]
    assert prune.wrong_votes(table, 2).tolist() == [3, 1, 2, 0, 0]
    assert prune.wrong_votes(table, 1).tolist() == [1, 0, 0, 0, 0]
    assert prune.disagreement(table, 2).tolist() == [1, 1, 2, 1, 1]


def test_pruning_by_hand(tmp_path: Path) -> None:
    keys = unit(np.repeat([[1.0, 0], [0, 1]], [3, 2], axis=0))
    table = prune.leave_one_out(store(tmp_path / "m", keys, np.array([0, 0, 1, 2, 2])), 2)
    # v = 3, 1, 2, 0, 0: g = 1.75 / (1 + v), and 1 where v = 0 (the formula alone would say 1.75).
    assert np.allclose(prune.soft(table, k=2), [0.4375, 0.875, 1.75 / 3, 1, 1])
    assert np.allclose(prune.soft(table, d=3, c=2, k=2), [0.6, 1, 0.75, 1, 1])
    assert prune.hard(table, v_max=2, k=2).tolist() == [0, 1, 0, 1, 1]  # v_max itself is pruned
    assert prune.hard(table, v_max=4, k=2).tolist() == [1] * 5
    with pytest.raises(ValueError, match="v_max"):
        prune.hard(table, v_max=0, k=2)
    for wrong in ({"d": 0.0}, {"c": 0.0}, {"d": float("nan")}):
        with pytest.raises(ValueError, match="above 0"):
            prune.soft(table, k=2, **wrong)
    with pytest.raises(ValueError, match=r"\[1, 2\]"):
        prune.soft(table, k=3)


def test_what_the_table_covers(three: Memory) -> None:
    """Rows that a search would not find neither ask nor answer; an old version answers as it was."""
    three.remove([0])
    three.reweight([1], [0.0])
    three.relabel([2], [2])
    table = prune.leave_one_out(three, 100)
    assert table.id.tolist() == list(range(2, 30))
    assert table.neighbour_id.shape == (28, 27)  # clamped to the others there are
    assert table.class_id[0] == 2
    assert all(i not in row for i, row in zip(table.id, table.neighbour_id, strict=True))
    assert prune.wrong_votes(table, 100).sum() == prune.disagreement(table, 100).sum()
    old = prune.leave_one_out(three, 3, at=0)
    assert old.id.tolist() == list(range(10))
    assert set(old.class_id) == {0}
    assert prune.wrong_votes(old, 3).tolist() == [0] * 10


def test_fewer_than_two_rows(memory: Memory, rows: Callable[..., Rows]) -> None:
    for n in range(2):
        table = prune.leave_one_out(memory, 5)
        assert table.neighbour_id.shape == (n, 0)
        assert prune.hard(table).tolist() == prune.soft(table).tolist() == [1.0] * n
        memory.add(rows(1), 0)
        memory.commit(0)
    for wrong in ({"k": 0}, {"k": 1, "block_rows": 0}):
        with pytest.raises(ValueError, match="at least 1"):
            prune.leave_one_out(memory, **wrong)


class Stop(Exception):
    pass


def count_searches(memory: Memory, monkeypatch: pytest.MonkeyPatch, stop_after: int = 99) -> list[int]:
    """Queries of each search from now on; the one after `stop_after` fails."""
    calls: list[int] = []
    search = Memory.search

    def counted(self: Memory, queries: np.ndarray, *args: object, **kwargs: object) -> object:
        if len(calls) == stop_after:
            raise Stop
        calls.append(len(queries))
        return search(self, queries, *args, **kwargs)

    monkeypatch.setattr(Memory, "search", counted)
    return calls


def test_an_interrupted_table_goes_on(noisy: Memory, monkeypatch: pytest.MonkeyPatch) -> None:
    want = prune.leave_one_out(Memory.open(noisy.path), 5)
    assert not (noisy.path / "cache").exists()  # a reader leaves nothing
    with monkeypatch.context() as patched:
        calls = count_searches(noisy, patched, stop_after=2)
        with pytest.raises(Stop):
            prune.leave_one_out(noisy, 5, block_rows=40)
    noisy.close()
    with Memory.open(noisy.path, write=True) as memory:
        calls = count_searches(memory, monkeypatch)
        table = prune.leave_one_out(memory, 5, block_rows=40)
        assert calls == [40, 30]
        assert np.array_equal(table.neighbour_id, want.neighbour_id)
        assert np.array_equal(table.score, want.score)
        prune.leave_one_out(memory, 5, block_rows=40)
        assert calls == [40, 30]
        blocks = sorted((noisy.path / "cache").rglob("*.npy"))
        assert len(blocks) == 4
        assert memory.verify()["orphans"] == []
        content = bytearray(blocks[1].read_bytes())
        content[-1] ^= 1
        blocks[1].write_bytes(content)
        with pytest.raises(CorruptMemoryError, match=blocks[1].name):
            memory.verify()
        table = prune.leave_one_out(memory, 5, block_rows=40)  # a damaged block is computed again, alone
        assert calls == [40, 30, 40]
        assert np.array_equal(table.neighbour_id, want.neighbour_id)
        memory.verify()


def test_tables_of_what_is_gone_are_gone(noisy: Memory) -> None:
    prune.leave_one_out(noisy, 5)
    prune.leave_one_out(noisy, 5, at=0)
    (before,) = (noisy.path / "cache" / "neighbours").iterdir()
    noisy.remove([3])
    prune.leave_one_out(noisy, 5)
    folders = sorted((noisy.path / "cache" / "neighbours").iterdir())
    assert len(folders) == 2  # the version's and that of now
    assert folders[0] == before
    noisy.remove([4])
    prune.leave_one_out(noisy, 5)
    assert folders[1] not in (noisy.path / "cache" / "neighbours").iterdir()
    noisy.erase([5])
    assert not (noisy.path / "cache").exists()
    assert 5 not in prune.leave_one_out(noisy, 149).neighbour_id
