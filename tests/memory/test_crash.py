"""SIGKILL at random moments: no acknowledged change is lost, no half change is seen, and the memory opens at once."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from kc.errors import RunError
from kc.memory.rows import Memory

WORK = """if True:
    import sys
    import numpy as np
    from kc.memory.rows import Memory
    from kc.types import Rows
    rng = np.random.default_rng(int(sys.argv[2]))
    m = Memory.open(sys.argv[1], write=True)
    print("ready", flush=True)
    step = 1 + max((v.task for v in m.versions()), default=-1)
    while True:
        x = rng.normal(size=(500, 64)).astype("f4")
        x /= np.linalg.norm(x, axis=1, keepdims=True)
        names = tuple(f"{step}-{i}" for i in range(500))
        m.add(Rows(x, np.full(500, step), names, np.zeros(500, np.int64)), step)
        m.commit(step)
        print("commit", step, flush=True)
        if step % 3 == 2:
            m.remove(class_id=step - 1)
            print("retire", step - 1, flush=True)
            m.erase(class_id=step - 2)
            print("erase", step - 2, flush=True)
        step += 1
"""


@pytest.mark.parametrize("trial", range(6))
def test_kill_at_a_random_moment(tmp_path: Path, trial: int) -> None:
    path = tmp_path / "m"
    Memory.create(path, dim=64, fingerprint="f").close()
    rng = np.random.default_rng(trial)
    acknowledged: list[tuple[str, int]] = []
    for life in range(2):  # the second life starts from what the first one left
        with subprocess.Popen([sys.executable, "-c", WORK, str(path), str(life)], stdout=subprocess.PIPE) as worker:
            assert worker.stdout is not None
            assert worker.stdout.readline() == b"ready\n"
            time.sleep(float(rng.uniform(0.0, 0.25)))
            if trial % 2:  # a reader beside the writer never sees a torn state
                assert set(seen_meanwhile(path).values()) <= {500}
            worker.kill()
            lines = worker.stdout.read().decode().splitlines()
        acknowledged += [(kind, int(step)) for kind, step in map(str.split, lines)]
        with Memory.open(path) as reader:
            check(reader, acknowledged, life + 1)
            reader.verify()
    with Memory.open(path, write=True) as writer:
        check(writer, acknowledged, 2)
        assert writer.verify()["orphans"] == []


def seen_meanwhile(path: Path) -> dict[int, int]:
    """Rows a class; a reader whose files an erase removed before it read them is told to open again."""
    while True:
        try:
            return per_class(Memory.open(path))
        except RunError as error:
            if "open it again" not in str(error):
                raise


def per_class(memory: Memory) -> dict[int, int]:
    view = memory.rows_of(memory.ids())
    return dict(zip(*(a.tolist() for a in np.unique(view.class_id, return_counts=True)), strict=True))


def check(memory: Memory, acknowledged: list[tuple[str, int]], n_lives: int) -> None:
    """Every class is whole or gone; it is there if its commit was acknowledged and its removal was not even begun."""
    counts = per_class(memory)
    assert set(counts.values()) <= {500}
    committed = {step for kind, step in acknowledged if kind == "commit"}
    removed = {step for kind, step in acknowledged if kind != "commit"}
    assert removed.isdisjoint(counts)
    newest = max(committed, default=-1)
    begun = {c for step in range(newest + 2) if step % 3 == 2 for c in (step - 1, step - 2)}
    assert committed - begun <= set(counts)
    assert len(set(counts) - committed) <= n_lives  # a life may end between a commit and its word of it
    for step in {s for kind, s in acknowledged if kind == "erase"}:
        assert len(memory.ids(class_id=step, at=newest)) == 0
