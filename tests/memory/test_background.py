"""Rules for background rows: hand-solved cases, twins written from the definitions, and what must not change."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from kc.cli import main
from kc.memory.base import MemoryStore
from kc.memory.disk import Memory
from kc.memory.store.info import MemoryInfo
from kc.memory.vote import background as rules
from kc.memory.vote.background import Background, combined, infer
from kc.memory.vote.discriminant import solved
from kc.types import ClassInfo, Rows, TaskKind

CLASSES = {c: ClassInfo(c, f"c{c}", background=c == 0) for c in range(4)}
TASKS = {0: (1,), 1: (2,), 2: (3,)}
DIM = 8


def info(kind: TaskKind = "semantic", background: bool = True) -> MemoryInfo:
    classes = CLASSES if background else {c: ClassInfo(c, f"c{c}") for c in CLASSES}
    return MemoryInfo("lite0", kind, (8, 8), classes, proposals="superpixels", method="knn", options={"knn": {"k": 3}})


def scenes(task: int, n: int = 6, spread: float = 0.12) -> tuple[Rows, np.ndarray]:
    """`n` images of two regions of every class, those of other tasks labelled background; and true classes."""
    rng = np.random.default_rng(task)
    centres = np.eye(4, DIM) + 1.5  # a strong common mean, as features have
    truth = np.tile(np.repeat(np.arange(4), 2), n)
    keys = centres[truth] + spread * rng.normal(size=(len(truth), DIM))
    keys = (keys / np.linalg.norm(keys, axis=1, keepdims=True)).astype(np.float32)
    labels = np.where(np.isin(truth, TASKS[task]), truth, 0)
    names = tuple(f"t{task}-{i // 8}" for i in range(len(truth)))
    return Rows(keys, labels, names, np.tile(np.arange(8), n), f"source{task}"), truth


def fill(memory: MemoryStore, tasks: Sequence[int] = (0, 1, 2)) -> np.ndarray:
    found = []
    for task in tasks:
        rows, truth = scenes(task)
        memory.add(rows, task)
        memory.commit(task)
        found.append(truth)
    return np.concatenate(found)


@pytest.fixture
def memory(tmp_path: Path):  # type: ignore[no-untyped-def]
    with Memory.create(tmp_path / "memory", dim=DIM, fingerprint="e", info=info()) as made:
        yield made


def twin(memory: MemoryStore) -> dict[int, tuple[int, float]]:
    """`infer` word by word, with all background rows judged by neighbours: row -> class and confidence."""
    rows = memory.labels()
    keys = memory.keys(rows.id).astype(np.float64)
    classes = [0, *sorted({*rows.class_id.tolist()} - {0})]
    labels = {t: {c for c, s in zip(rows.class_id, rows.task, strict=True) if s == t and c} for t in {*rows.task}}
    chance = np.zeros((len(rows.id), len(classes)))
    for i in range(len(rows.id)):
        if rows.class_id[i]:
            chance[i, classes.index(rows.class_id[i])] = 1
            continue
        behind, own = 1.0, rows.task[i]
        for task in sorted(labels):
            if task == own:
                continue
            near = sorted(np.flatnonzero(rows.task == task), key=lambda j: -float(keys[i] @ keys[j]))[: rules.VOTERS]
            weight = np.array([math.exp(float(keys[i] @ keys[j]) / rules.TAU) for j in near])
            weight /= weight.sum()
            for w, j in zip(weight, near, strict=True):
                if rows.class_id[j] and rows.class_id[j] not in labels[own]:
                    others = sum(rows.class_id[j] in labels[t] for t in labels if t != own)
                    chance[i, classes.index(rows.class_id[j])] += w / others
            behind *= sum(w for w, j in zip(weight, near, strict=True) if rows.class_id[j] == 0)
        chance[i, 0] = behind
        chance[i] /= chance[i].sum()
    for _ in range(rules.ROUNDS):
        count = chance.sum(0)
        mean = chance.T @ keys / count[:, None]
        within = np.zeros((DIM, DIM))
        for i in range(len(keys)):
            for c in range(len(classes)):
                within += chance[i, c] * np.outer(keys[i] - mean[c], keys[i] - mean[c])
        within /= len(keys)
        within += rules.SHRINK * np.trace(within) / DIM * np.eye(DIM)
        inverse = np.linalg.inv(within)
        for i in np.flatnonzero(rows.class_id == 0):
            may = [c == 0 or c not in labels[rows.task[i]] for c in classes]
            log = [
                math.log(count[c] / len(keys)) - 0.5 * (keys[i] - mean[c]) @ inverse @ (keys[i] - mean[c])
                for c in range(len(classes))
            ]
            p = np.array([math.exp(v - max(log)) * m for v, m in zip(log, may, strict=True)])
            chance[i] = p / p.sum()
    return {
        int(rows.id[i]): (classes[int(chance[i].argmax())], float(chance[i].max()))
        for i in range(len(keys))
        if rows.class_id[i] == 0 and chance[i].argmax()
    }


def test_hidden_classes_are_found_and_background_stays(memory: Memory) -> None:
    truth = fill(memory)
    before = memory.labels().class_id
    got = Background("repair").labels(memory).class_id
    assert (got == truth).all()
    assert (before != truth).sum() == 72
    assert (memory.labels().class_id == before).all()  # no row was changed


def test_naive_twin(memory: Memory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rules, "VOTERS", 5)
    for task in TASKS:
        memory.add(scenes(task, spread=0.45)[0], task)
        memory.commit(task)
    want, got = twin(memory), infer(memory)
    assert len(want) > 20
    assert got.id.tolist() == sorted(want)
    assert got.class_id.tolist() == [want[i][0] for i in got.id.tolist()]
    assert np.allclose(got.confidence, [want[i][1] for i in got.id.tolist()], atol=1e-4)


def test_a_task_knows_its_own_classes(memory: Memory) -> None:
    """What task 0 calls background looks like its class 1: it may become any class but that one."""
    fill(memory)
    key = scenes(0)[0].keys[2:3]
    memory.add(Rows(key, np.array([0]), ("t0-odd",), np.array([0])), 2)
    memory.add(Rows(key, np.array([0]), ("t0-0",), np.array([99])), 2)
    memory.commit(2)
    assert infer(memory).id.size == 0  # t0-0 was shown in two tasks
    memory.remove(sample_id="t0-0")
    found = infer(memory)
    odd = memory.ids(sample_id="t0-odd")
    assert found.classes_of(odd, np.zeros(1, np.int64)).tolist() == [1]  # of task 2, which does not label 1
    memory.erase(ids=odd)
    memory.rollback(1)
    memory.add(Rows(key, np.array([0]), ("t0-odd",), np.array([0])), 1)
    memory.commit(1)
    with Memory.create(memory.path.parent / "own", dim=DIM, fingerprint="e", info=info()) as own:
        own.add(scenes(0)[0], 0)
        own.add(Rows(key, np.array([0]), ("own",), np.array([0])), 0)
        own.commit(0)
        own.add(scenes(1)[0], 1)
        own.commit(1)
        assert 1 not in infer(own).classes_of(own.ids(sample_id="own"), np.zeros(1, np.int64))


def test_a_sample_is_enough(memory: Memory, monkeypatch: pytest.MonkeyPatch) -> None:
    """The covariance of the first round is that of the sample: with that of all rows it were not positive."""
    truth = fill(memory)
    monkeypatch.setattr(rules, "ASKED", 23)
    assert (Background("repair").labels(memory).class_id == truth).all()


@pytest.mark.parametrize("why", ["panoptic", "no background", "one task", "images return", "keep"])
def test_nothing_to_repair(tmp_path: Path, why: str) -> None:
    record = info("panoptic" if why == "panoptic" else "semantic", why != "no background")
    with Memory.create(tmp_path / "memory", dim=DIM, fingerprint="e", info=record) as memory:
        fill(memory, (0,) if why == "one task" else (0, 1, 2))
        if why == "images return":
            rows, truth = scenes(0)
            memory.add(Rows(rows.keys[4:5], truth[4:5], rows.sample_id[4:5], rows.segment[4:5]), 2)
            memory.commit(2)
        queries = scenes(1)[0].keys
        plain = memory.search(queries, 5)
        for rule in ("keep",) if why == "keep" else ("repair", "per-task"):
            (got,) = Background(rule).search(memory, queries, 5)  # type: ignore[arg-type]
            assert all(np.array_equal(getattr(got, n), getattr(plain, n)) for n in vars(plain))


@pytest.mark.parametrize("kind", ["disk", "milvus"])
def test_a_removal_undoes_what_its_rows_caused(tmp_path: Path, kind: str) -> None:
    if kind == "milvus":
        pytest.importorskip("milvus_lite")
        from kc.memory.milvus.memory import MilvusMemory as Store
    else:
        from kc.memory.disk import Memory as Store  # type: ignore[assignment]
    with (
        Store.create(tmp_path / "all", dim=DIM, fingerprint="e", info=info()) as memory,
        Store.create(tmp_path / "never", dim=DIM, fingerprint="e", info=info()) as never,
    ):
        fill(memory)
        fill(never, (0, 2))
        asker = Background("repair")
        assert set(asker.inferred(memory).class_id.tolist()) == {1, 2, 3}
        memory.remove(source="source1")
        got, want = asker.inferred(memory), Background("repair").inferred(never)
        assert set(want.class_id.tolist()) == {1, 3}
        assert len(want.id) > 20

        def told(m: MemoryStore, ids: np.ndarray) -> list[tuple[str, int]]:
            rows = m.rows_of(ids)
            return list(zip(rows.sample_id, rows.segment.tolist(), strict=True))

        assert told(memory, got.id) == told(never, want.id)
        assert got.class_id.tolist() == want.class_id.tolist()
        assert got.confidence.tobytes() == want.confidence.tobytes()


def test_versions_and_files(memory: Memory) -> None:
    fill(memory, (0, 1))
    asker = Background("repair")
    early = asker.inferred(memory)
    fill(memory, (2,))
    again = Background("repair").inferred(memory, at=1)
    assert early.id.tolist() == again.id.tolist()
    assert early.confidence.tobytes() == again.confidence.tobytes()
    now = asker.inferred(memory)
    assert len(now.id) > len(early.id)
    assert set(memory.labels(1).class_id.tolist()) == {0, 1, 2}
    (kept,) = (memory.path / "cache" / "background" / f"{memory._head:06d}").glob("inferred.*.npy")
    memory.verify()
    kept.write_bytes(kept.read_bytes()[:-1])  # a crash while it was written, or damage
    repaired = Background("repair").inferred(memory)
    assert repaired.id.tolist() == now.id.tolist()
    assert repaired.confidence.tobytes() == now.confidence.tobytes()
    memory.verify()


def test_ignore_and_last(memory: Memory) -> None:
    fill(memory)
    queries = scenes(1)[0].keys
    rows, keys = memory.labels(), memory.keys(memory.labels().id)
    for rule, kept in (
        ("ignore", rows.class_id != 0),
        ("last", (rows.class_id != 0) | (rows.task == 2)),
    ):
        (got,) = Background(rule).search(memory, queries, 7)  # type: ignore[arg-type]
        cosine = queries.astype(np.float64) @ keys.T.astype(np.float64)
        want = [sorted(np.flatnonzero(kept), key=lambda j: (-c[j], j))[:7] for c in cosine]
        assert got.id.tolist() == rows.id[np.array(want)].tolist()
        (one,) = Background(rule).search(memory, queries, 7, classes=[2])  # type: ignore[arg-type]
        assert set(one.class_id.ravel().tolist()) == {2}


def test_per_task(memory: Memory) -> None:
    fill(memory)
    found = Background("per-task").search(memory, scenes(1)[0].keys, 4)
    assert [set(n.task.ravel().tolist()) for n in found] == [{0}, {1}, {2}]


def test_combined_by_hand() -> None:
    """Background .5 x .8, class 1 from the first task, class 2 from the second; a task without a vote says nothing."""
    said = [torch.tensor([[0.5, 0.5, 0.0]]), torch.tensor([[0.8, 0.0, 0.2]]), torch.zeros(1, 3)]
    assert torch.allclose(combined(said, [0, 1, 2], [0]), torch.tensor([[0.4, 0.5, 0.2]]) / 1.1)
    assert torch.equal(combined(said[2:] * 2, [0, 1, 2], [0]), torch.zeros(1, 3))
    assert combined(said[:1], [0, 1, 2], [0]) is said[0]


def test_discriminant_by_hand() -> None:
    """Two classes of one value: means 0 and 2, variance 1 and a tenth of it; equal counts meet at 1."""
    x = np.array([-1.0, 1.0, 1.0, 3.0])
    weights, offset = solved(np.array([[(x**2).sum()]]), np.array([[0.0], [4.0]]), np.array([2.0, 2.0]), rules.SHRINK)
    assert np.allclose(weights, [[0, 2 / 1.1]])
    assert np.allclose(offset, [math.log(0.5), math.log(0.5) - 2 / 1.1])
    assert math.isclose(float(weights[0, 1] + offset[1]), float(offset[0]))


def test_on_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, record in (("empty", info()), ("plain", info(background=False)), ("full", info())):
        with Memory.create(tmp_path / name, dim=DIM, fingerprint="e", info=record) as memory:
            if name != "empty":
                fill(memory)
    for name in ("empty", "plain"):
        assert main(["memory", "repair", str(tmp_path / name), "--background", "repair"]) == 2
        assert str(tmp_path / name) in capsys.readouterr().err
    assert main(["memory", "repair", str(tmp_path / "full"), "--background", "often"]) == 2
    assert "per-task" in capsys.readouterr().err
    for _ in range(2):
        assert main(["memory", "repair", str(tmp_path / "full"), "--background", "repair"]) == 0
        assert "72" in capsys.readouterr().out
    with Memory.open(tmp_path / "full") as memory:
        assert memory.info.options["knn"] == {"k": 3, "background": "repair"}
        assert memory.labels().class_id.tolist().count(0) == 108
