"""Stored rows as queries to the rest of the memory: what can be chosen of a memory without a validation image.

A row is a query to the memory without the rows of its own image, which would make the memory look better than it is.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from kc.memory.base import MemoryStore
from kc.memory.vote.background import Background, nearest
from kc.memory.vote.votes import ClassIds, columns_of
from kc.types import Int64Array, Neighbours

MOST_ROWS = 2_000
"""Rows that are asked; of more, an even sample."""


@dataclass(frozen=True)
class LeftOut:
    """M stored rows as queries to the rest of the memory.

    `ids` (M,): the rows. `truth` (M,): their classes. `sample` (M,): a number for the image of each. `neighbours`:
    (M, k) rows of other images; places left empty have weight 0. `known` (M, C) bool: whether a row of another image
    has each class asked for. `whole` (N,): all rows of these images, ascending, `whole_sample` (N,) and `whole_class`
    (N,) the image and class of each.
    """

    ids: Int64Array
    truth: Int64Array
    sample: Int64Array
    neighbours: Neighbours
    known: Tensor
    whole: Int64Array
    whole_sample: Int64Array
    whole_class: Int64Array


def leave_samples_out(
    memory: MemoryStore,
    class_ids: ClassIds,
    k: int,
    seed: int,
    most: int | None = MOST_ROWS,
    background: Background | None = None,
    at: int | None = None,
) -> LeftOut:
    """Up to `most` (None: all) stored rows of the classes asked for, each with its `k` nearest rows of other images.

    Rows of weight 0 are neither asked nor found. Which rows are asked is drawn by `seed`, from the order of the rows
    and not from their ids: a memory that lost rows draws as one that never had them. `background`: how rows of the
    background class are taken. `at`: the version of that task.
    """
    wanted = np.asarray(class_ids, dtype=np.int64)
    background = background or Background("keep")
    rows = background.labels(memory, at)
    named = memory.rows_of(rows.id)
    sample = _numbers(zip(named.source, named.sample_id, strict=True))
    live = rows.weight > 0
    asked = np.flatnonzero(live & np.isin(rows.class_id, wanted))
    if most is not None and len(asked) > most:
        asked = np.sort(np.random.default_rng(seed).choice(asked, most, replace=False))
    ids = rows.id[asked]
    own = int(np.bincount(sample[live])[sample[asked]].max(initial=0))
    found = nearest(background.search(memory, memory.keys(ids), k + own, at=at), k + own)
    same = sample[np.searchsorted(rows.id, found.id)] == sample[asked][:, None]
    order = np.argsort(same, axis=1, kind="stable")[:, :k]
    kept = {name: np.take_along_axis(values, order, axis=1) for name, values in vars(found).items()}
    kept["weight"] = np.where(np.take_along_axis(same, order, axis=1), np.float32(0), kept["weight"])
    column, has = (t.numpy() for t in columns_of(torch.from_numpy(rows.class_id), wanted))
    counts = np.zeros((int(sample.max(initial=-1)) + 1, len(wanted)), np.int64)
    np.add.at(counts, (sample[live & has], column[live & has]), 1)
    known = counts.sum(axis=0)[None] - counts[sample[asked]] > 0
    whole = np.flatnonzero(live & np.isin(sample, sample[asked]))
    return LeftOut(
        ids,
        rows.class_id[asked],
        sample[asked],
        Neighbours(**kept),
        torch.from_numpy(known),
        rows.id[whole],
        sample[whole],
        rows.class_id[whole],
    )


def _numbers(names: Iterable[tuple[str, ...]]) -> Int64Array:
    """A number for each name, equal for equal names."""
    seen: dict[tuple[str, ...], int] = {}
    return np.array([seen.setdefault(name, len(seen)) for name in names], dtype=np.int64)
