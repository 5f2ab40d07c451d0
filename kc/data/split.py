"""From ordered classes to tasks: which classes, which images and which labels each step sees. Pure numpy.

The four settings are those of the continual segmentation literature (Cermelli et al. 2020, "Modeling the Background";
Michieli and Zanuttigh 2019; `partition` after Maracani et al. 2021):

| setting    | images of step t                                        | labels kept in training      |
|------------|---------------------------------------------------------|------------------------------|
| overlapped | hold a class of step t                                  | step t, background           |
| disjoint   | the same, and no class of a later step                  | step t, background           |
| sequential | those of `disjoint`                                     | steps 0..t, background       |
| partition  | each image belongs to one of the steps of its classes   | step t, background           |

The background class belongs to task 0 by name, is labelled in every task, and never selects an image.
`kc.data.streams` lists the kinds of stream that these tasks can come in.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar, get_args

import numpy as np
import numpy.typing as npt

from kc.data.lists import is_table, load_table, read_array
from kc.data.streams import Stream
from kc.errors import SplitError, nearest, unknown_name
from kc.types import VOID, BoolArray, ClassInfo, Int32Array, Int64Array, Setting, Task, UInt8Array

if TYPE_CHECKING:
    from kc.data.manifest import Manifest

SETTINGS: tuple[Setting, ...] = get_args(Setting)

_Int = TypeVar("_Int", bound=np.integer)


def build_tasks(
    manifest: Manifest,
    n_tasks: int | None = None,
    split: str | None = None,
    class_order: str | Path = "natural",
    stream: Stream | None = None,
    seed: int = 0,
) -> tuple[Task, ...]:
    """The stream of tasks of a benchmark.

    `n_tasks` divides the classes evenly, the remainder to the first tasks; the background class is not counted and
    joins task 0. `split` names one of the manifest's `task_splits`, whose first count includes the background; with
    both, they must agree. With neither, one task holds every class. `class_order` is "natural", "shuffle:SEED" or a
    file; the background always comes first. `kc.data.lists` says which files `class_order` and `split` may be. In a
    domain-incremental `stream` its domains are the tasks; `seed` draws the classes that leak in a blurry one.

    Raises `UnknownNameError` for a split the manifest does not have, `SplitError` for what cannot be divided.
    """
    order = ordered_classes(manifest.info, class_order)
    stream = Stream() if stream is None else stream
    if stream.kind == "domain":
        if n_tasks is not None or split is not None:
            raise SplitError("a domain-incremental stream has one task a domain: give --domains, no --tasks or --split")
        ids, names = tuple(c.id for c in order), tuple(c.name for c in order)
        return tuple(Task(t, ids, ids, names) for t in range(len(stream.domain_list())))
    n_background = sum(c.background for c in order)
    if split is not None:
        if is_table(split):
            table = load_table(split, manifest.info)
            if table.counts is None:
                raise SplitError(f"{split} says an order and no steps: give it as --class-order")
            if str(class_order) != "natural":
                raise SplitError(f"{split} says the class order too: leave --class-order out")
            order, counts = _by_ids(manifest.info, table.order), list(table.counts)
            counts[0] += len(order) - sum(counts)  # a table may leave the background out
        elif split not in manifest.task_splits:
            raise unknown_name(f"split of {manifest.name}", split, manifest.task_splits)
        else:
            counts = [int(n) for n in manifest.task_splits[split]]
        if n_tasks is not None and n_tasks != len(counts):
            raise SplitError(
                f"split {split!r} of {manifest.name} has {len(counts)} tasks, but {n_tasks} tasks were asked for: "
                "give one of the two."
            )
        if sum(counts) != len(order) or min(counts) < 1:
            raise SplitError(
                f"split {split!r} of {manifest.name} is {counts} (sum {sum(counts)}), but it has {len(order)} classes."
            )
        if counts[0] <= n_background:
            raise SplitError(f"split {split!r} of {manifest.name}: step 0 holds only the background class.")
    else:
        counts = _even_counts(len(order) - n_background, 1 if n_tasks is None else n_tasks, manifest.name)
        counts[0] += n_background
    tasks: list[Task] = []
    start = 0
    for index, n in enumerate(counts):
        new = order[start : start + n]
        start += n
        tasks.append(
            Task(index, tuple(c.id for c in new), tuple(c.id for c in order[:start]), tuple(c.name for c in new))
        )
    return with_leaks(tasks, manifest.background_id, stream, seed) if stream.kind == "blurry" else tuple(tasks)


def with_leaks(tasks: Sequence[Task], background_id: int | None, stream: Stream, seed: int) -> tuple[Task, ...]:
    """Tasks that say which classes of other ones they show too. Raises `SplitError` for a stream of one task.

    Where classes leak into earlier tasks, they are seen from the first task on.
    """
    if len(tasks) < 2:
        raise SplitError("a blurry stream needs at least 2 tasks: a class leaks into other ones.")
    both = stream.leak_to == "all"
    candidates = [c for task in (tasks if both else tasks[:-1]) for c in task.class_ids if c != background_id]
    n_leaky = max(1, round(stream.blurry_classes * len(candidates)))
    drawn = np.random.default_rng([seed, 1]).permutation(len(candidates))[:n_leaky]
    leaky = {candidates[i] for i in drawn}
    if not both:
        return tuple(replace(t, returning_ids=tuple(c for c in t.old_ids if c in leaky)) for t in tasks)
    result = []
    for t in tasks:
        early = tuple(c for c in tasks[-1].seen_ids if c in leaky and c not in set(t.seen_ids))
        others = tuple(c for c in tasks[-1].seen_ids if c in leaky and c not in set(t.class_ids))
        result.append(replace(t, seen_ids=(*t.seen_ids, *early), returning_ids=others))
    return tuple(result)


def leaked(
    rows: Sequence[Int64Array],
    class_table: ClassTable,
    class_ids: Sequence[int],
    tasks: Sequence[Task],
    stream: Stream,
    seed: int,
) -> tuple[Int64Array, ...]:
    """The training images of every task of a blurry stream, from those (`rows`) of the stream that is not blurred.

    Of the images of a task that hold a leaky class of it, each comes with probability `stream.leak` in another task
    instead, drawn evenly from all others or from the later ones, as `stream.leak_to` says (Bang et al. 2021, "Rainbow
    Memory", and Koh et al. 2022, i-Blurry, leak into all; into later ones alone, a class never comes before its task).

    Raises `SplitError` where a task keeps no image.
    """
    rng = np.random.default_rng([seed, 2])
    result: list[list[Int64Array]] = [[] for _ in tasks]
    last = len(tasks) - 1
    both = stream.leak_to == "all"
    for t, own in enumerate(rows):
        leaky = set(tasks[t].class_ids) & {c for other in tasks for c in other.returning_ids}
        goes = images_with(class_table, class_ids, leaky)[own] & (rng.random(len(own)) < stream.leak)
        if both:
            drawn = rng.integers(0, last, size=len(own))
            other = drawn + (drawn >= t)
        else:
            other = rng.integers(min(t + 1, last), last + 1, size=len(own))
        where = np.where(goes, other, t)
        if not (where == t).any():
            raise SplitError(f"task {t} keeps no training image: all of its images leak; use a smaller --leak.")
        for other_task in range(last + 1):
            result[other_task].append(own[where == other_task])
    return tuple(np.unique(np.concatenate(parts)) for parts in result)


def long_tailed(class_table: BoolArray, imbalance: float, seed: int) -> Int64Array:
    """The images, sorted rows, that a long-tailed stream keeps of a training split of single-label images.

    The class of rank r of C keeps the share imbalance ^ (-r / (C - 1)) of its images, at least one (Cui et al. 2019,
    "Class-Balanced Loss"); ranks are a seeded shuffle, so that rare classes come in any task ("shuffled", Liu et al.
    2022, "Long-Tailed Class Incremental Learning").
    """
    n_classes = class_table.shape[1]
    rng = np.random.default_rng([seed, 3])
    rank = rng.permutation(n_classes)
    share = imbalance ** (-rank / max(1, n_classes - 1))
    kept = []
    for column in range(n_classes):
        members = np.flatnonzero(class_table[:, column])
        n = max(1, int(share[column] * len(members) + 0.5)) if len(members) else 0
        kept.append(rng.permutation(members)[:n])
    rows: Int64Array = np.sort(np.concatenate(kept)).astype(np.int64)
    return rows


def _even_counts(n_classes: int, n_tasks: int, benchmark: str) -> list[int]:
    if n_tasks < 1:
        raise SplitError(f"{n_tasks} tasks were asked for: at least 1 is needed.")
    if n_tasks > n_classes:
        raise SplitError(f"{n_tasks} tasks were asked for, but {benchmark} has only {n_classes} classes to divide.")
    quotient, remainder = divmod(n_classes, n_tasks)
    return [quotient + (t < remainder) for t in range(n_tasks)]


def ordered_classes(classes: Sequence[ClassInfo], class_order: str | Path) -> tuple[ClassInfo, ...]:
    """The classes in the order in which they are learned, background first.

    Raises `SplitError` where the order is not "natural", "shuffle:SEED" or a file naming every class exactly once.
    """
    background = [c for c in classes if c.background]
    rest = [c for c in classes if not c.background]
    text = str(class_order)
    if text == "natural":
        return (*background, *rest)
    if text.startswith("shuffle:"):
        seed = text.removeprefix("shuffle:")
        if not seed.isdecimal():
            raise SplitError(f"class order {text!r}: the seed after 'shuffle:' must be a whole number, not {seed!r}.")
        return (*background, *(rest[i] for i in np.random.default_rng(int(seed)).permutation(len(rest))))
    if is_table(text):
        return _by_ids(classes, load_table(text, classes).order)
    path = Path(class_order)
    if not path.is_file():
        raise SplitError(f"class order {text!r} is neither 'natural', nor 'shuffle:SEED', nor a file that exists.")
    if path.suffix == ".npy":
        ids = read_array(path).ravel().tolist()
        known = {c.id for c in classes}
        if not {c.id for c in rest} <= set(ids) <= known or len(set(ids)) < len(ids):
            raise SplitError(f"class order {path} must hold every class id once; these are {sorted(ids)[:20]}.")
        return _by_ids(classes, ids)
    return (*background, *_order_of_file(path, background, rest))


def _by_ids(classes: Sequence[ClassInfo], ids: Iterable[int]) -> tuple[ClassInfo, ...]:
    """The classes in the order of `ids`, background first."""
    by_id = {c.id: c for c in classes}
    background = [c for c in classes if c.background]
    return (*background, *(by_id[i] for i in ids if not by_id[i].background))


def _order_of_file(path: Path, background: list[ClassInfo], rest: list[ClassInfo]) -> list[ClassInfo]:
    # Names win over ids, so that a benchmark whose classes are called "7" and "8" is read as a person would.
    lookup = {str(c.id): c for c in (*background, *rest)} | {c.name: c for c in (*background, *rest)}
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise SplitError(f"class order {path}: cannot be read as text ({error}).") from error
    order: list[ClassInfo] = []
    problems: list[str] = []
    taken: set[int] = set()
    for number, line in enumerate(lines, start=1):
        if not line:
            continue
        found = lookup.get(line)
        if found is None:
            close = nearest(line, [c.name for c in rest])
            problems.append(
                f"line {number}: unknown class {line!r}" + (f" (nearest: {', '.join(close)})" if close else "")
            )
        elif found.id in taken:
            problems.append(f"line {number}: class {found.name!r} a second time")
        else:
            taken.add(found.id)
            if not found.background:
                order.append(found)
    missing = [c.name for c in rest if c.id not in taken]
    if missing:
        problems.append(f"missing: {', '.join(missing)}")
    if problems:
        raise SplitError(f"class order {path} must name every class once; {'; '.join(problems)}.")
    return order


def samples_of_task(
    class_table: ClassTable,
    class_ids: Sequence[int],
    tasks: Sequence[Task],
    t: int,
    setting: Setting,
    background_id: int | None = None,
    seed: int = 0,
) -> Int64Array:
    """The training images of task `t`: sorted row indices, int64.

    `class_table` (n, C) bool says which class (column j is `class_ids[j]`) each image holds; `seed` only matters for
    `partition`. Raises `SplitError` where no image is left, naming the task, its classes and the setting.
    """
    if setting not in SETTINGS:
        raise unknown_name("setting", setting, SETTINGS)
    if setting == "partition":
        chosen = partition_of(class_table, class_ids, tasks, background_id, seed) == t
    else:
        chosen = images_with(class_table, class_ids, set(tasks[t].class_ids) - {background_id})
        if setting != "overlapped":
            future = set(class_ids) - set(tasks[t].seen_ids) - {background_id}
            chosen &= ~images_with(class_table, class_ids, future)
    indices = np.flatnonzero(chosen).astype(np.int64)
    if not len(indices):
        names = ", ".join(tasks[t].class_names)
        raise SplitError(
            f"task {t} ({names}) has no training image under setting {setting!r} among {len(class_table)} images: use "
            "another setting, fewer tasks, another class order or more images."
        )
    return indices


@dataclass(frozen=True)
class BitTable:
    """A class table (n, C) as (n, ceil(C / 8)) uint8, eight classes a byte: an eighth of the memory to touch."""

    bits: UInt8Array

    def __len__(self) -> int:
        return len(self.bits)


ClassTable = BoolArray | BitTable


def images_with(class_table: ClassTable, class_ids: Sequence[int], wanted: Iterable[int]) -> BoolArray:
    """(n,) bool: which images hold at least one of the `wanted` classes. `class_table` (n, C)."""
    # Eight classes a byte: a million rows then cost a few byte operations instead of a strided walk over every column.
    mask = np.packbits(np.isin(np.asarray(class_ids, dtype=np.int64), np.fromiter(wanted, dtype=np.int64)))
    rows = class_table.bits if isinstance(class_table, BitTable) else np.packbits(class_table, axis=1)
    found = np.zeros(len(class_table), dtype=np.bool_)
    for byte in np.flatnonzero(mask):
        found |= (rows[:, byte] & mask[byte]) != 0
    return found


def partition_of(
    class_table: ClassTable, class_ids: Sequence[int], tasks: Sequence[Task], background_id: int | None, seed: int
) -> Int64Array:
    """(n,) int64: the one task each image belongs to, -1 for an image without a class of any task.

    Images whose classes lie in one task go there. The others go, those with the fewest choices first, to the task
    that has the smallest share of its candidate images so far; which image goes where is a seeded shuffle.
    """
    can = np.stack([images_with(class_table, class_ids, set(k.class_ids) - {background_id}) for k in tasks], axis=1)
    owner = np.full(len(can), -1, dtype=np.int64)
    n_candidates = can.sum(axis=0).astype(np.float64)
    assigned = np.zeros(len(tasks), dtype=np.int64)
    shuffled = np.random.default_rng(seed).permutation(len(can))
    # Images with the same choices are interchangeable, so they are dealt out together.
    packed = np.ascontiguousarray(np.packbits(can, axis=1))
    _, first, group = np.unique(_as_keys(packed), return_index=True, return_inverse=True)
    members = np.split(
        shuffled[np.argsort(group[shuffled], kind="stable")], np.cumsum(np.bincount(group, minlength=len(first)))[:-1]
    )
    n_choices = can[first].sum(axis=1)
    for g in np.lexsort((np.arange(len(first)), n_choices)):
        choices = np.flatnonzero(can[first[g]])
        if not len(choices):
            continue
        quota = _level(assigned[choices], n_candidates[choices], len(members[g]))
        owner[members[g]] = np.repeat(choices, quota)
        assigned[choices] += quota
    return owner


def _as_keys(packed: npt.NDArray[np.uint8]) -> npt.NDArray[np.generic]:
    """One sortable key a row of bytes: integers where they fit (fast), else raw bytes."""
    n, width = packed.shape
    if width <= 8:
        wide = np.zeros((n, 8), dtype=np.uint8)
        wide[:, :width] = packed
        return wide.view(np.uint64)[:, 0]
    return packed.view(np.dtype((np.void, width)))[:, 0]


def _level(assigned: Int64Array, n_candidates: npt.NDArray[np.float64], n: int) -> Int64Array:
    """How many of `n` images each task gets so that the shares assigned / n_candidates end as level as they can."""
    share = assigned / n_candidates
    quota: Int64Array = np.zeros(len(share), dtype=np.int64)
    if n == 1:  # the usual case of many tasks, where choices hardly repeat
        quota[int(np.argmin(share))] = 1
        return quota
    by_share = np.argsort(share, kind="stable")
    # The water level that `n` images reach: raise it over the emptiest tasks, one more task at a time.
    filled, capacity = np.cumsum(assigned[by_share]), np.cumsum(n_candidates[by_share])
    levels = (n + filled) / capacity
    level = levels[np.flatnonzero(levels >= share[by_share])[-1]]
    quota = np.clip(np.floor(level * n_candidates - assigned), 0, n).astype(np.int64)
    while (over := int(quota.sum()) - n) > 0:  # only rounding of the level can cause this
        quota[int(np.argmax(quota))] -= min(over, int(quota.max()))
    for _ in range(n - int(quota.sum())):
        quota[int(np.argmin((assigned + quota) / n_candidates))] += 1
    return quota


def visible_ids(task: Task, setting: Setting, background_id: int | None = None) -> tuple[int, ...]:
    """The class ids whose labels training on `task` alone may see (see the table at the top of this module)."""
    kept = task.seen_ids if setting == "sequential" else (*task.returning_ids, *task.class_ids)
    if background_id is None or background_id in kept:
        return tuple(kept)
    return (background_id, *kept)


def hide(labels: npt.NDArray[_Int], keep_ids: Iterable[int], fill: int) -> npt.NDArray[_Int]:
    """`labels` (any shape, ids >= 0) with every class outside `keep_ids` replaced by `fill`; VOID stays VOID."""
    top = max(int(labels.max(initial=0)), VOID, fill)
    table = np.full(top + 1, fill, dtype=labels.dtype)
    kept = np.asarray([c for c in {*keep_ids, VOID} if c <= top], dtype=np.int64)
    table[kept] = kept
    hidden: npt.NDArray[_Int] = table[labels]
    return hidden


def hide_panoptic(
    panoptic: Int32Array, crowd: frozenset[int], keep_ids: Iterable[int]
) -> tuple[Int32Array, frozenset[int]]:
    """A panoptic map (H, W, 2) and its crowd set without the segments of classes outside `keep_ids`.

    Their pixels become VOID with instance 0; crowds that are no longer in the map leave the set.
    """
    category = hide(panoptic[..., 0], keep_ids, VOID)
    instance = np.where(category == VOID, 0, panoptic[..., 1])
    left = frozenset(c for c in crowd if (instance == c).any())
    return np.stack([category, instance], axis=-1).astype(np.int32, copy=False), left
