"""Background shift: in a stream, regions of other tasks' classes are labelled background, and a memory stores them so.

`Background` answers for a memory by one of five rules. None changes a row: what `repair` infers is a function of the
rows that are there, made again where they change. So a version answers as it did, a removal undoes what its rows
caused, and an interrupted repair has changed nothing. What was inferred is kept among the memory's derived files.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from kc.memory.base import MemoryStore
from kc.memory.store import files
from kc.memory.store.table import Labels
from kc.memory.vote.discriminant import Float64Array, solved
from kc.memory.vote.votes import columns_of, vote
from kc.types import BoolArray, Float32Array, Int64Array, Neighbours

Rule = Literal["keep", "ignore", "last", "repair", "per-task"]

VOTERS, TAU = 16, 0.07
"""Neighbours in each other task that a background row is first judged by, and the temperature of their softmax vote."""
ASKED = 2_000
"""Background rows that are judged by neighbours; of more, an even sample. The discriminant judges all."""
ROUNDS = 2
"""Rounds of the discriminant. More change little."""
SHRINK = 0.1
"""Part of the mean variance that is added to every direction of the discriminant."""
_BLOCK = 4_096
_RECORD = np.dtype([("id", np.int64), ("class_id", np.int64), ("confidence", np.float32)])


@dataclass(frozen=True)
class Inferred:
    """Background rows whose class was inferred: `id` (N,) ascending and `class_id` (N,) int64, `confidence` (N,)
    float32, the probability of that class in [0, 1]."""

    id: Int64Array
    class_id: Int64Array
    confidence: Float32Array

    def classes_of(self, ids: Int64Array, own: Int64Array) -> Int64Array:
        """Classes of rows `ids` (any shape) whose own classes are `own`."""
        if len(self.id) == 0:
            return own
        place = np.searchsorted(self.id, ids).clip(max=len(self.id) - 1)
        return np.where(self.id[place] == ids, self.class_id[place], own)

    def confidence_of(self, ids: Int64Array) -> Float32Array:
        """(N,) confidence of each row's inferred class; NaN where the row has the class that it was stored with."""
        if len(self.id) == 0:
            return np.full(len(ids), np.nan, np.float32)
        place = np.searchsorted(self.id, ids).clip(max=len(self.id) - 1)
        return np.where(self.id[place] == ids, self.confidence[place], np.float32("nan"))


NOTHING = Inferred(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0, np.float32))


class Background:
    """Search in a memory where rows of its background class are taken by `rule`.

    keep: as they are stored. ignore: they are not found. last: only those of the newest task are found. repair: each
    has the class that `infer` gives it. per-task: the rows of each task answer on their own, see `combined`.
    """

    def __init__(self, rule: Rule = "repair") -> None:
        self.rule = rule
        self._known: dict[tuple[str, int, int | None], Inferred] = {}
        self._answering: dict[tuple[str, int, int | None], tuple[int, ...]] = {}

    def search(
        self,
        memory: MemoryStore,
        queries: Float32Array,
        k: int,
        classes: Iterable[int] | None = None,
        at: int | None = None,
        exclude_ids: Int64Array | None = None,
    ) -> list[Neighbours]:
        """What `MemoryStore.search` finds, once; a table a task where the rule is `per-task`. Raises what it raises."""
        background = memory.background_ids
        asked = None if classes is None else [int(c) for c in classes]
        tasks = self._tasks(memory, at) if self.rule == "per-task" else ()
        if not background or self.rule == "keep" or (self.rule == "per-task" and not tasks):
            return [memory.search(queries, k, asked, at, exclude_ids)]
        if self.rule == "per-task":
            return [memory.search(queries, k, asked, at, exclude_ids, tasks=[t]) for t in tasks]
        if self.rule == "repair":
            inferred = self.inferred(memory, at)
            wanted = asked if asked is None or len(inferred.id) == 0 else [*{*asked, *background}]
            found = memory.search(queries, k, wanted, at, exclude_ids)
            return [replace(found, class_id=inferred.classes_of(found.id, found.class_id))]
        rows = memory.labels(at)
        behind = np.isin(rows.class_id, background)
        named = np.unique(rows.class_id[~behind])
        parts = [memory.search(queries, k, named if asked is None else np.intersect1d(named, asked), at, exclude_ids)]
        if self.rule == "last" and (asked is None or set(asked) & set(background)):
            newest = int(rows.task.max(initial=0))
            if (behind & (rows.task == newest)).any():
                parts.append(memory.search(queries, k, background, at, exclude_ids, tasks=[newest]))
        return [nearest(parts, k)]

    def inferred(self, memory: MemoryStore, at: int | None = None) -> Inferred:
        """The rows that `repair` gives another class, now or at the version of task `at`; none under another rule."""
        if self.rule != "repair" or not memory.background_ids:
            return NOTHING
        key = (str(memory.path), memory._head, at)
        if key not in self._known:
            folder = memory.derived("background", at)
            stored = None if folder is None else files.read_sealed(folder, "inferred")
            if stored is None:
                found = infer(memory, at)
                stored = np.empty(len(found.id), _RECORD)
                stored["id"], stored["class_id"], stored["confidence"] = found.id, found.class_id, found.confidence
                if folder is not None:
                    files.write_sealed(folder, "inferred", stored)
            self._known = {key: Inferred(*(np.ascontiguousarray(stored[name]) for name in _RECORD.names or ()))}
        return self._known[key]

    def _tasks(self, memory: MemoryStore, at: int | None) -> tuple[int, ...]:
        """The tasks that answer on their own; none where background rows hide nothing."""
        key = (str(memory.path), memory._head, at)
        if key not in self._answering:
            tasks = np.unique(memory.labels(at).task).tolist() if memory.background_ids and _hides(memory, at) else ()
            self._answering = {key: tuple(tasks)}
        return self._answering[key]

    def labels(self, memory: MemoryStore, at: int | None = None) -> Labels:
        """The rows that are found under the rule, and what they vote for; under `per-task`, as they are stored."""
        rows = memory.labels(at)
        if self.rule in ("ignore", "last"):
            found = ~np.isin(rows.class_id, memory.background_ids)
            if self.rule == "last":
                found |= rows.task == rows.task.max(initial=0)
            return Labels(**{name: column[found] for name, column in vars(rows).items()})
        return replace(rows, class_id=self.inferred(memory, at).classes_of(rows.id, rows.class_id))


def nearest(parts: Sequence[Neighbours], k: int) -> Neighbours:
    """The `k` nearest of searches for the same queries in rows that differ, ties by lowest id."""
    if len(parts) == 1:
        return parts[0]
    joined = {name: np.concatenate([getattr(p, name) for p in parts], axis=1) for name in vars(parts[0])}
    order = np.lexsort((joined["id"], -joined["score"]), axis=1)[:, :k]
    return Neighbours(**{name: np.take_along_axis(values, order, axis=1) for name, values in joined.items()})


def combined(shares: Sequence[Tensor], ids: Sequence[int], background: Collection[int]) -> Tensor:
    """One answer (Q, C) of those of the tasks, each (Q, C) and summing to 1 or, where a task has no vote, to 0.

    A background row of a task is sure not to be a class of that task, so background is the product of what the tasks
    say of it; every other class has the sum. The columns are the classes `ids`; rows sum to 1.
    """
    if len(shares) == 1:
        return shares[0]
    stack = torch.stack(list(shares))
    joined = stack.sum(0)
    for column in (i for i, c in enumerate(ids) if c in background):
        said = stack[:, :, column]
        joined[:, column] = torch.where(stack.sum(2) > 0, said, 1.0).prod(0) * (said.sum(0) > 0)
    return joined / joined.sum(1, keepdim=True).clamp_min(torch.finfo(joined.dtype).tiny)


def infer(memory: MemoryStore, at: int | None = None) -> Inferred:
    """Classes of background rows that the other tasks' rows say are theirs.

    A background row of task t is background or a class that t does not label. Where some image was shown in two tasks,
    images are shown wherever they hold a class: then a row that no task labelled is background, and nothing is
    inferred; nor is it in panoptic data, whose hidden labels are void, nor with rows of a single task.

    First, `ASKED` background rows are judged by their `VOTERS` neighbours in each other task (`combined`): all in other
    images. From that and the rows with a class follows a linear discriminant (means, one covariance, priors), which
    judges all background rows; `ROUNDS` times (expectation maximisation with partial labels). Deterministic in the
    visible rows and their order.
    """
    if not _hides(memory, at):
        return NOTHING
    rows = memory.labels(at)
    live, behind = rows.weight > 0, np.isin(rows.class_id, memory.background_ids)
    class_ids = np.concatenate([memory.background_ids, np.unique(rows.class_id[~behind])]).astype(np.int64)
    n_background = len(memory.background_ids)
    tasks, task = np.unique(rows.task, return_inverse=True)
    column = columns_of(torch.from_numpy(rows.class_id), class_ids)[0].numpy()
    labelled = np.zeros((len(tasks), len(class_ids)), bool)
    labelled[task, column] = True
    open_ = ~labelled  # (T, C): what a background row of each task may be
    open_[:, :n_background] = True
    hidden, known = np.flatnonzero(live & behind), live & ~behind
    if len(hidden) == 0:
        return NOTHING
    asked = hidden[np.unique(np.linspace(0, len(hidden) - 1, min(len(hidden), ASKED)).astype(np.int64))]
    keys = memory.keys(rows.id[asked]).astype(np.float64)
    chance = _judged(memory, keys, task[asked], tasks, labelled, open_, class_ids, n_background, at)
    dim = keys.shape[1]
    seen, moment = np.zeros((dim, dim)), np.zeros((dim, dim))  # of rows with a class, and of all
    sums = np.zeros((len(class_ids), dim))
    counts = np.bincount(column[known], minlength=len(class_ids)).astype(np.float64)
    for part, block in _blocks(memory, rows.id, at):
        own = block[known[part]]
        seen += own.T @ own
        sums += _one_hot(column[part][known[part]], len(class_ids)).T @ own
        moment += block[live[part]].T @ block[live[part]]
    # The sample stands for all in every sum alike: a covariance made of both would not be one.
    share = len(hidden) / len(asked)
    weights, offset = solved(
        seen + share * keys.T @ keys, sums + share * chance.T @ keys, counts + share * chance.sum(0), SHRINK
    )
    best, confidence = np.zeros(len(rows.id), np.int64), np.zeros(len(rows.id), np.float32)
    for left in range(ROUNDS - 1, -1, -1):
        more, extra = np.zeros(len(class_ids)), np.zeros_like(sums)
        for part, block in _blocks(memory, rows.id, at):
            place = part.start + np.flatnonzero((live & behind)[part])
            judged = block[place - part.start]
            chance = posterior(judged @ weights + offset, open_[task[place]])
            extra, more = extra + chance.T @ judged, more + chance.sum(0)
            best[place], confidence[place] = chance.argmax(1), chance.max(1)
        if left:
            weights, offset = solved(moment, sums + extra, counts + more, SHRINK)
    changed = np.flatnonzero(best >= n_background)
    return Inferred(rows.id[changed], class_ids[best[changed]], confidence[changed])


def _one_hot(column: Int64Array, n: int) -> Float64Array:
    """(N, n) float64: 1 in each row's column."""
    result: Float64Array = (column[:, None] == np.arange(n)).astype(np.float64)
    return result


def posterior(logits: Float64Array, open_: BoolArray) -> Float64Array:
    """Softmax of `logits` (N, C) over the classes that are `open_` (N, C), at least one a row."""
    logits = np.where(open_, logits, -np.inf)
    chance = np.exp(logits - logits.max(1, keepdims=True))
    result: Float64Array = chance / chance.sum(1, keepdims=True)
    return result


def _judged(
    memory: MemoryStore,
    keys: Float64Array,
    task: Int64Array,
    tasks: Int64Array,
    labelled: BoolArray,
    open_: BoolArray,
    class_ids: Int64Array,
    n_background: int,
    at: int | None,
) -> Float64Array:
    """Probabilities (Q, C) of rows of `task` (Q,) by their neighbours in every other task."""
    shares = []
    for number, other in enumerate(tasks.tolist()):
        votes = vote(memory.search(keys, VOTERS, at=at, tasks=[other]), class_ids, "softmax", tau=TAU).numpy()
        votes[task == number] = 0
        shares.append(votes / np.maximum(votes.sum(1, keepdims=True), np.finfo(np.float64).tiny))
    stack = np.stack(shares)
    said = stack[:, :, :n_background].sum(2)
    voices = labelled.sum(0)[None] - labelled[task]  # tasks beside its own that label each class
    chance = stack.sum(0) / np.maximum(voices, 1)
    chance[:, :n_background] = 0
    chance[:, 0] = np.where(stack.sum(2) > 0, said, 1.0).prod(0)
    chance *= open_[task]
    total = chance.sum(1)
    chance[total == 0, 0] = 1
    result: Float64Array = chance / np.where(total == 0, 1, total)[:, None]
    return result


def _hides(memory: MemoryStore, at: int | None) -> bool:
    """Whether background rows may be classes of other tasks: see `infer`."""
    info = memory._about.info
    rows = memory.labels(at)
    if info is None or info.kind != "semantic" or len(np.unique(rows.task)) < 2:
        return False
    names: dict[str, int] = {}
    sample = np.fromiter((names.setdefault(s, len(names)) for s in memory.rows_of(rows.id).sample_id), np.int64)
    shown = np.unique(np.stack([sample, rows.task]), axis=1)
    return shown.shape[1] == len(names) and bool(np.isin(rows.class_id, memory.background_ids).any())


def _blocks(memory: MemoryStore, ids: Int64Array, at: int | None) -> Iterator[tuple[slice, Float64Array]]:
    """Keys of the rows `ids` (all that are visible, ascending), some at a time, and which rows they are."""
    for first in range(0, len(ids), _BLOCK):
        part = slice(first, min(first + _BLOCK, len(ids)))
        yield part, memory.keys(ids[part]).astype(np.float64)
