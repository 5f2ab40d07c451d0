"""SIGKILL at random moments while a memory is changed: nothing acknowledged is lost, nothing half done is seen.

A child process works through a seeded list of changes (add, remember and forget a name, retire, erase, reweight,
relabel, another label of known regions, a fit of the rows, compact, drop history, leave-one-out table, index, export,
migration) and says when each begins and ends; it is killed at a random time or before a random file operation. A twin
of plain dictionaries knows the memory after every change: what is found after the kill, at every version, key by key,
must be the state after the last acknowledged change or after the one that was under way, and nothing else; an export
and a migrated memory are whole or not there. A reader watches half of the children that are killed at a random time; it
must see such states only.

    python -m benchmarks.memory_crash --trials 200 --json crash.json
"""

from __future__ import annotations

import contextlib
import copy
import itertools
import json
import os
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from benchmarks.command import start
from kc.commands.memory_migrate import Plan, written
from kc.errors import EmptyMemoryError, KcError, RunError
from kc.memory.disk import Memory
from kc.memory.search.planner import SearchOptions
from kc.memory.store import exchange
from kc.memory.store.files import remove
from kc.memory.store.info import MemoryInfo
from kc.memory.vote import pruning as prune
from kc.memory.vote.background import Background
from kc.memory.vote.log_linear import LogLinear
from kc.spec import Count
from kc.types import Float32Array, Rows

DIM = 32
Row = tuple[int, float, bytes]
"""Class, weight and key of a row."""
State = dict[int | None, dict[str, Row]]
"""Visible rows by sample name, at the version of each task and now (None); at NAMES the ids of the classes' names."""
NAMES = -1
INFO = MemoryInfo("lite0", "classification", (8, 8), {})


# -- the changes, on a memory and on its twin --------------------------------------------------------------------------


@dataclass(frozen=True)
class Change:
    """One step of a history; `step` is its place in it, `target` the step whose rows it concerns."""

    kind: str
    step: int
    target: int
    n_rows: int
    seed: int


def keys_of(change: Change) -> Float32Array:
    x = np.random.default_rng([change.seed, change.step]).normal(size=(change.n_rows, DIM)).astype(np.float32)
    return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)


def names_of(change: Change) -> tuple[str, ...]:
    return tuple(f"{change.step}-{i}" for i in range(change.n_rows))


def add(memory: Memory, c: Change) -> None:
    n = c.n_rows
    rows = Rows(keys_of(c), np.full(n, c.step), names_of(c), np.zeros(n, np.int64), source=f"s{c.step}")
    memory.add(rows, c.step)
    memory.commit(c.step)


def add_twin(state: State, c: Change) -> None:
    state[None] |= {name: (c.step, 1.0, key.tobytes()) for name, key in zip(names_of(c), keys_of(c), strict=True)}
    state[c.step] = dict(state[None])


def remember(memory: Memory, c: Change) -> None:
    """A name and its rows in one commit, as `kc remember` stores them."""
    with memory.with_info(memory.info.with_names({**memory.class_names, c.step: f"name {c.step}"})):
        add(memory, c)


def remember_twin(state: State, c: Change) -> None:
    add_twin(state, c)
    state[NAMES][f"name {c.step}"] = (c.step, 0, b"")


def forget(memory: Memory, c: Change) -> None:
    """Rows and their name in one commit, as `kc forget` erases them."""
    names = {i: name for i, name in memory.class_names.items() if i != c.target}
    with memory.with_info(memory.info.with_names(names)):
        memory.erase(ids_of(memory, c, retired=True))


def forget_name_twin(state: State, c: Change) -> None:
    erase_twin(state, c)
    state[NAMES].pop(f"name {c.target}", None)


def export(memory: Memory, c: Change) -> None:
    memory.export(memory.path.with_suffix(".npz"))


def migrate(memory: Memory, c: Change) -> None:
    """Write a memory of the visible rows in another key space, once."""
    target, labels = memory.path.with_suffix(".migrated"), memory.labels()
    if len(labels.id) and not target.exists():
        keys = memory.keys(labels.id)
        plan = Plan(labels, memory.rows_of(labels.id), keys, keys, np.ones(len(keys), bool))
        written(target, memory, plan, keys, "lite1", "crash, moved", None, {})


def forget_twin(rows: dict[str, Row], c: Change) -> None:
    for name in [name for name in rows if name.startswith(f"{c.target}-")]:
        del rows[name]


def erase_twin(state: State, c: Change) -> None:
    for rows in state.values():
        forget_twin(rows, c)


def change_twin(state: State, c: Change, class_id: int | None, weight: float | None) -> None:
    for name, (old_class, old_weight, key) in state[None].items():
        if name.startswith(f"{c.target}-"):
            new = (old_class if class_id is None else class_id, old_weight if weight is None else weight, key)
            state[None][name] = new


def drop_history_twin(state: State, c: Change) -> None:
    tasks = [t for t in state if t is not None and t != NAMES]
    for task in tasks:
        del state[task]
    if tasks:
        state[max(tasks)] = dict(state[None])


def another_label(memory: Memory, c: Change) -> None:
    """The rows of one addition come again, in the task of this step, with another class: each replaces its row."""
    ids = ids_of(memory, c)
    if len(ids) == 0:
        return
    table, n = memory.rows_of(ids), len(ids)
    rows = Rows(memory.keys(ids), np.full(n, 2000 + c.step), table.sample_id, table.segment, source=f"s{c.target}")
    memory.add(rows, c.step)
    memory.commit(c.step)


def another_label_twin(state: State, c: Change) -> None:
    known = [name for name in state[None] if name.startswith(f"{c.target}-")]
    for name in known:
        state[None][name] = (2000 + c.step, 1.0, state[None][name][2])
    if known:
        state[c.step] = dict(state[None])


def fit(memory: Memory, c: Change) -> None:
    """Fit the log-linear vote and keep it, see that it is the same when read again."""
    if len(memory):
        kept, again = (LogLinear("log-linear", Background("keep")).fitted(memory)[1] for _ in range(2))
        assert np.array_equal(kept, again)


def index(memory: Memory, c: Change) -> None:
    """Build and store an index, however small the memory is, and search by it."""
    memory.configure(SearchOptions(index="ivf-sq8", exact_rows=0))
    try:
        with contextlib.suppress(EmptyMemoryError):
            memory.search(keys_of(c)[:4], 3)
    finally:
        memory.configure(SearchOptions())


def nothing(state: State, c: Change) -> None:
    """The twin of what changes no row."""


def ids_of(memory: Memory, c: Change, retired: bool = False) -> np.ndarray:
    return memory.ids(source=f"s{c.target}", retired=retired)


CHANGES: dict[str, tuple[Callable[[Memory, Change], object], Callable[[State, Change], None]]] = {
    "add": (add, add_twin),
    "remember": (remember, remember_twin),
    "forget": (forget, forget_name_twin),
    "export": (export, nothing),
    "migrate": (migrate, nothing),
    "retire": (lambda m, c: m.remove(source=f"s{c.target}"), lambda s, c: forget_twin(s[None], c)),
    "erase": (lambda m, c: m.erase(source=f"s{c.target}"), erase_twin),
    "reweight": (
        lambda m, c: m.reweight(ids_of(m, c), 1 / (2 + c.step % 7)),
        lambda s, c: change_twin(s, c, None, float(np.float32(1 / (2 + c.step % 7)))),
    ),
    "relabel": (
        lambda m, c: m.relabel(ids_of(m, c), 1000 + c.step),
        lambda s, c: change_twin(s, c, 1000 + c.step, None),
    ),
    "another label": (another_label, another_label_twin),
    "fit": (fit, nothing),
    "compact": (lambda m, c: m.compact(), nothing),
    "drop history": (lambda m, c: m.compact(history=False), drop_history_twin),
    "index": (index, nothing),
    "leave one out": (lambda m, c: len(m) > 1 and prune.leave_one_out(m, 3, block_rows=64), nothing),
}
"""Name -> what it does to a memory, and to its twin."""


def history(seed: int, n_rows: int, length: int) -> list[Change]:
    """Every second change adds rows, by turns with a name; the others come at random. Targets are earlier additions,
    gone or not."""
    rng = np.random.default_rng(seed)
    others = [kind for kind in CHANGES if kind not in ("add", "remember")]
    changes = []
    for step in range(length):
        kind = ("add", "remember")[step // 2 % 2] if step % 2 == 0 else str(rng.choice(others))
        changes.append(Change(kind, step, int(2 * rng.integers(0, step // 2 + 1)), n_rows, seed))
    return changes


def states_of(changes: list[Change]) -> list[State]:
    """The twin before the first change and after each."""
    states: list[State] = [{None: {}, NAMES: {}}]
    for change in changes:
        state = copy.deepcopy(states[-1])
        CHANGES[change.kind][1](state, change)
        states.append(state)
    return states


def observed(memory: Memory) -> State:
    """All that a memory shows, read from its files."""
    state: State = {NAMES: {name: (i, 0, b"") for i, name in memory.class_names.items()}}
    for at in (None, *(v.task for v in memory.versions())):
        state[at] = {}
        for table in memory.tables(at):
            columns = (table.sample, table.class_id.tolist(), table.weight.tolist(), table.vectors)
            for name, class_id, weight, key in zip(*columns, strict=True):
                assert name not in state[at], f"{name} is visible twice"
                state[at][name] = (class_id, weight, key.tobytes())
    return state


# -- a trial -----------------------------------------------------------------------------------------------------------


@dataclass
class Tally:
    """What was seen over all trials."""

    kills: Counter[str] = field(default_factory=Counter)
    """Changes that were under way when the child was killed."""
    by_clock: int = 0
    """Kills at a random time; the others came before a file operation."""
    acknowledged: int = 0
    finished_unheard: int = 0
    """Changes that were whole on disk though the child had no time to say so."""
    copies: int = 0
    """Exports and migrated memories that were read back."""
    watched: int = 0
    """States that a reader saw while a child worked."""
    open_ms: list[float] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)
    """How long the last change of each kind took."""


def work(path: Path, changes: list[Change], pipe: int, fatal: tuple[int, int]) -> None:
    """The child: says b for a change begun, d for one done. `fatal`: see `die_at`; from the change of that step on."""
    with Memory.open(path, write=True) as memory:
        for change in changes:
            os.write(pipe, b"b")
            if change.step == fatal[0]:
                die_at(fatal[1])
            CHANGES[change.kind][0](memory, change)
            os.write(pipe, b"d")


def die_at(n: int) -> None:
    """Have this process killed before the n-th file operation from now: moments that a clock seldom hits."""
    operations = itertools.count(1)

    def hook(event: str, _: tuple[object, ...]) -> None:
        if event in ("open", "os.rename", "os.remove", "os.mkdir", "os.rmdir") and next(operations) == n:
            os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)


def fork_worker(path: Path, changes: list[Change], fatal: tuple[int, int]) -> tuple[int, int]:
    """Fork a child that works; its id and the end of the pipe to read from."""
    out, into = os.pipe()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            os.close(out)
            work(path, changes, into, fatal)
            status = 0
        except BaseException as error:
            print(f"child: {error!r}", file=sys.stderr)
        finally:
            os._exit(status)
    os.close(into)
    return child, out


def watch(path: Path, states: list[State], until: float, tally: Tally) -> None:
    """Read as another process does, again and again: every state seen is one of the twin's."""
    while time.perf_counter() < until:
        try:
            seen = observed(Memory.open(path))
        except KcError as error:
            # Files that an erase or a compaction removed between opening and reading: said, not shown half.
            if not (isinstance(error, RunError) and "open it again" in str(error)):
                tally.wrong.append(f"{path.name}: a reader beside the writer: {error}")
            continue
        tally.watched += 1
        if seen not in states:
            tally.wrong.append(f"{path.name}: a reader saw a state that never was")


def life(path: Path, changes: list[Change], states: list[State], rng: np.random.Generator, tally: Tally) -> int:
    """Let a child work, kill it, compare; returns how many changes are on disk now."""
    begin = next(i for i, s in enumerate(states) if s == observed(Memory.open(path)))
    if begin == len(changes):  # the life before came to its end
        return begin
    # One change is chosen. The child is killed by itself before one of its file operations, or by us when it has begun
    # the change and had a part of the time that such a change takes.
    chosen = int(rng.integers(begin, len(changes)))
    by_clock, watched = bool(rng.integers(2)), bool(rng.integers(2))
    child, pipe = fork_worker(path, changes[begin:], (-1 if by_clock else chosen, int(rng.integers(1, 40))))
    heard = b""
    clock = time.perf_counter()
    while len(heard) < 2 * (chosen - begin) + 1:
        word = os.read(pipe, 1)
        if not word:
            break
        heard += word
        if word == b"d":
            tally.seconds[changes[begin + heard.count(b"d") - 1].kind] = time.perf_counter() - clock
        clock = time.perf_counter()
    moment = by_clock * float(rng.uniform(0, 1.2)) * tally.seconds.get(changes[chosen].kind, 0.01)
    if watched:
        watch(path, states[begin:], time.perf_counter() + moment, tally)
    else:
        time.sleep(moment)
    while not by_clock and (word := os.read(pipe, 4096)):
        heard += word
    with contextlib.suppress(ProcessLookupError):
        os.kill(child, signal.SIGKILL)
    while word := os.read(pipe, 4096):
        heard += word
    os.close(pipe)
    _, status = os.waitpid(child, 0)
    if os.WIFEXITED(status) and os.WEXITSTATUS(status):
        tally.wrong.append(f"{path.name}: the child failed by itself")
    done = begin + heard.count(b"d")
    tally.acknowledged += done - begin
    under_way = heard.count(b"b") > heard.count(b"d")
    tally.by_clock += by_clock
    tally.kills[changes[done].kind if under_way else "between two"] += 1

    try:
        clock = time.perf_counter()
        memory = Memory.open(path)
        tally.open_ms.append(1e3 * (time.perf_counter() - clock))
        found = observed(memory)
        memory.verify()
    except KcError as error:
        tally.wrong.append(
            f"{path.name}: killed in change {done} ({changes[min(done, len(changes) - 1)].kind}): {error}"
        )
        return done
    possible = states[done : done + 1 + under_way]
    if found not in possible:
        tally.wrong.append(
            f"{path.name}: killed in change {done} ({changes[min(done, len(changes) - 1)].kind}), the memory shows "
            f"neither what was acknowledged nor what was under way"
        )
        return done
    tally.finished_unheard += found != possible[0]
    with Memory.open(path, write=True) as writer:
        if writer.verify()["orphans"]:
            tally.wrong.append(f"{path.name}: a writer left orphans")
    return done + int(found != possible[0])


def check_erased(path: Path, changes: list[Change], tally: Tally) -> None:
    """Keys of every erased row are in no file."""
    data = [p.read_bytes() for p in path.rglob("*") if p.is_file()]
    by_step = {c.step: c for c in changes}
    for change in changes:
        if change.kind in ("erase", "forget") and change.target < change.step:
            for key in keys_of(by_step[change.target]):
                if any(key.tobytes() in content for content in data):
                    tally.wrong.append(f"{path.name}: bytes of an erased row are in a file")
                    return


def check_copies(path: Path, states: list[State], tally: Tally) -> None:
    """An export and a migrated memory are whole, or not there under their names."""
    try:
        if path.with_suffix(".npz").exists():
            exchange.read(path.with_suffix(".npz"))
            tally.copies += 1
        if path.with_suffix(".migrated").exists():
            moved = Memory.open(path.with_suffix(".migrated"))
            moved.verify()
            rows = observed(moved)[None]
            if not any({n: r[::2] for n, r in s[None].items()} == {n: r[::2] for n, r in rows.items()} for s in states):
                tally.wrong.append(f"{path.name}: a migrated memory holds a part of the rows")
            tally.copies += 1
    except KcError as error:
        tally.wrong.append(f"{path.name}: an export or a migrated memory is not whole: {error}")


def trial(path: Path, seed: int, quick: bool, tally: Tally) -> None:
    """One memory; two lives, the second one starting from what the first left."""
    changes = history(seed, n_rows=40 if quick else 200, length=12 if quick else 20)
    states = states_of(changes)
    rng = np.random.default_rng([seed, 1])
    Memory.create(path, dim=DIM, fingerprint="crash", info=INFO).close()
    for _ in range(2):
        done = life(path, changes, states, rng, tally)
        check_copies(path, states, tally)
        if tally.wrong:
            return
    check_erased(path, changes[:done], tally)


@dataclass(frozen=True, kw_only=True)
class Config:
    """Kill a process that changes a memory, at random moments; exit with 1 if anything was lost, torn or left behind.

    Args:
        trials: How often.
        seed: Seed of the changes and moments.
        quick: Smaller memories and shorter histories.
        folder: Make the memories there; default: the folder for temporary files.
        json: Write the result to this file.
    """

    trials: Count = 200
    seed: int = 0
    quick: bool = False
    folder: Path | None = None
    json: Path | None = None


def run(config: Config) -> int:
    """Run the trials; the exit status is 1 if anything was lost, torn or left behind."""
    tally = Tally()
    clock = time.perf_counter()
    folder = Path(tempfile.mkdtemp(prefix="kc-crash-", dir=config.folder))
    try:
        for i in range(config.trials):
            trial(folder / f"trial-{config.seed + i}", config.seed + i, config.quick, tally)
            if tally.wrong:
                break
            for path in [*folder.glob(f"trial-{config.seed + i}*"), *folder.glob(".*")]:
                remove(path)
    finally:
        if not tally.wrong:  # else it is evidence
            shutil.rmtree(folder)
    result = {
        "trials": i + 1,
        "kills": dict(sorted(tally.kills.items())),
        "kills_by_clock": tally.by_clock,
        "acknowledged": tally.acknowledged,
        "whole_but_unheard": tally.finished_unheard,
        "states_seen_by_readers": tally.watched,
        "copies_read": tally.copies,
        "open_ms_median": round(float(np.median(tally.open_ms or [np.nan])), 3),
        "open_ms_max": round(max(tally.open_ms, default=np.nan), 3),
        "wrong": tally.wrong,
        "seconds": round(time.perf_counter() - clock, 1),
    }
    print(json.dumps(result, indent=2))
    if config.json:
        config.json.write_text(json.dumps(result, indent=2) + "\n")
    if tally.wrong:
        print(f"the memory is left in {folder}", file=sys.stderr)
    return int(bool(tally.wrong))


if __name__ == "__main__":
    start(run, "memory_crash")
