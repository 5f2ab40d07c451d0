"""From ordered classes to tasks.

`kc.data.streams` lists the kinds of stream that these tasks can come in, `kc.data.selection` which images and labels
each of them sees.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from kc.data.lists import is_table, load_table, read_array
from kc.data.streams import Stream
from kc.errors import SplitError, nearest, unknown_name
from kc.outside import read_text
from kc.types import ClassInfo, Task

if TYPE_CHECKING:
    from kc.data.manifest import Manifest


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
    sampled = np.random.default_rng([seed, 1]).permutation(len(candidates))[:n_leaky]
    leaky = {candidates[i] for i in sampled}
    if not both:
        return tuple(replace(t, returning_ids=tuple(c for c in t.old_ids if c in leaky)) for t in tasks)
    result = []
    for t in tasks:
        early = tuple(c for c in tasks[-1].seen_ids if c in leaky and c not in set(t.seen_ids))
        others = tuple(c for c in tasks[-1].seen_ids if c in leaky and c not in set(t.class_ids))
        result.append(replace(t, seen_ids=(*t.seen_ids, *early), returning_ids=others))
    return tuple(result)


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
    path = Path(class_order).expanduser()
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
    both = (*background, *rest)
    lookup = {str(c.id): c for c in both} | {unicodedata.normalize("NFC", c.name): c for c in both}
    lines = [line.strip() for line in read_text(path, error=SplitError).splitlines()]
    order: list[ClassInfo] = []
    problems: list[str] = []
    taken: set[int] = set()
    for number, line in enumerate(lines, start=1):
        if not line:
            continue
        found = lookup.get(unicodedata.normalize("NFC", line))
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
