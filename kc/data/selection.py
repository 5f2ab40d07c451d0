"""Which images and which labels each task sees. Pure numpy.

The four settings are those of the continual segmentation literature (Cermelli et al. 2020, "Modeling the Background";
Michieli and Zanuttigh 2019; `partition` after Maracani et al. 2021):

| setting    | images of step t                                        | labels kept in training      |
|------------|---------------------------------------------------------|------------------------------|
| overlapped | hold a class of step t                                  | step t, background           |
| disjoint   | the same, and no class of a later step                  | step t, background           |
| sequential | those of `disjoint`                                     | steps 0..t, background       |
| partition  | each image belongs to one of the steps of its classes   | step t, background           |

The background class belongs to task 0 by name, is labelled in every task, and never selects an image.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar, get_args

import numpy as np
import numpy.typing as npt

from kc.data.streams import Stream
from kc.errors import SplitError, unknown_name
from kc.types import VOID, BoolArray, Int32Array, Int64Array, Setting, Task, UInt8Array

SETTINGS: tuple[Setting, ...] = get_args(Setting)

_Int = TypeVar("_Int", bound=np.integer)


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
        if setting in ("disjoint", "sequential") and len(class_table):
            raise SplitError(
                f"task {t} ({names}) has no training image under setting {setting!r}, which needs images that hold a "
                f"class of the task and none of a later one; all {len(class_table)} hold later classes: use "
                "'overlapped' (the same labels), 'partition' (each image in one task), fewer tasks or another class "
                "order."
            )
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
            others = rng.integers(0, last, size=len(own))
            other = others + (others >= t)
        else:
            other = rng.integers(min(t + 1, last), last + 1, size=len(own))
        where = np.where(goes, other, t)
        if not (where == t).any():
            raise SplitError(f"task {t} keeps no training image: all of its images leak; use a smaller --blurry.leak.")
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


def held_out(class_table: BoolArray, fraction: float, seed: int) -> Int64Array:
    """Sorted row indices, int64, of the images to hold out of `class_table` (n, C) bool.

    Of a class with n_c images round(fraction * n_c) are held out, at least one where it has two. Where images hold
    several classes, the rarest class chooses first and images that are held out for it count for the others too, so a
    frequent class may give more than its fraction. Every class keeps a training image, whatever is asked for.
    `fraction` lies in (0, 1).
    """
    order = np.random.default_rng(seed).permutation(len(class_table))
    n_images = class_table.sum(axis=0)
    left = n_images.copy()
    held = np.zeros(len(class_table), dtype=np.bool_)
    for column in np.argsort(n_images, kind="stable"):
        wanted = max(1, int(fraction * n_images[column] + 0.5))
        for row in order[class_table[order, column]]:
            if n_images[column] - left[column] >= wanted:
                break
            if not held[row] and (left[class_table[row]] > 1).all():
                held[row] = True
                left -= class_table[row]
    return np.flatnonzero(held).astype(np.int64)


def visible_ids(task: Task, setting: Setting, background_id: int | None = None) -> tuple[int, ...]:
    """The class ids whose labels training on `task` alone may see (see the table at the top of this module)."""
    kept = task.seen_ids if setting == "sequential" else (*task.returning_ids, *task.class_ids)
    if background_id is None or background_id in kept:
        return tuple(kept)
    return (background_id, *kept)


def hide(labels: npt.NDArray[_Int], keep_ids: Iterable[int], fill: int) -> npt.NDArray[_Int]:
    """`labels` (any shape, ids >= 0 or VOID) with every class outside `keep_ids` replaced by `fill`; VOID stays."""
    top = int(labels.max(initial=0))
    table = np.full(top + 2, fill, dtype=labels.dtype)
    kept = np.asarray([c for c in keep_ids if c <= top], dtype=np.int64)
    table[kept] = kept
    table[VOID] = VOID  # the last entry, which the index -1 reads
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
