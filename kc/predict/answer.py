"""What was said of one image, with what it rests on, and its form as JSON."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from pycocotools import mask as coco

from kc.memory.base import MemoryStore
from kc.types import VOID, BoolArray, Float32Array, Int32Array, Int64Array, Neighbours, Segments, TaskKind, UInt8Array

SHOWN = 12
"""Neighbours that are listed of an area or an image."""
UNKNOWN = "nothing known"
"""Name of pixels for which no neighbour voted."""


@dataclass(frozen=True)
class Voter:
    """A row of the memory that decided: `share` of all votes in [0, 1], `cosine` to the nearest region asked about."""

    row: int
    name: str
    share: float
    cosine: float
    sample: str
    segment: int
    task: int
    source: str


@dataclass(frozen=True)
class Votes:
    """Of N queries (regions, or the image): the neighbours found and what each added to the votes, (N, k) float64."""

    neighbours: Neighbours
    cast: np.ndarray[Any, np.dtype[np.float64]]


@dataclass(frozen=True)
class Area:
    """One segment of the answer: its class, its pixels `mask` (H, W) bool, its score in [0, 1] or NaN, who voted."""

    class_id: int
    name: str
    mask: BoolArray
    score: float
    is_thing: bool = False
    voters: tuple[Voter, ...] = ()


@dataclass(frozen=True)
class Answer:
    """What one view of a model says of `image` (H, W, 3) uint8 RGB.

    `names`: id -> name of what was asked for. Classification: `scores` (C,) in the order of `names`, the method's own
    (shares of the votes, probabilities, logits: higher is better). Otherwise
    `semantic` (H, W) int64 (VOID where no neighbour voted) and `areas`; `regions` (N) with `labels` (N,) and
    `confidence` (N,) where proposals decided.
    """

    image: UInt8Array
    kind: TaskKind
    view: str
    names: Mapping[int, str]
    colors: Mapping[int, tuple[int, int, int]]
    scores: Float32Array | None = None
    voters: tuple[Voter, ...] = ()
    semantic: Int64Array | None = None
    panoptic: Int32Array | None = None
    areas: tuple[Area, ...] = ()
    regions: Segments | None = None
    labels: Int64Array | None = None
    confidence: Float32Array | None = None
    votes: Votes | None = field(default=None, repr=False)

    def name(self, class_id: int) -> str:
        """Name of a class id of the maps."""
        return self.names.get(class_id, UNKNOWN)

    def ranked(self) -> list[tuple[str, float]]:
        """Classification: names and scores, best first."""
        assert self.scores is not None
        order = np.argsort(-self.scores, kind="stable")
        names = list(self.names.values())
        return [(names[i], float(self.scores[i])) for i in order]


def voters_of(
    votes: Votes, weights: Int64Array, memory: MemoryStore, names: Mapping[int, str], shown: int = SHOWN
) -> tuple[Voter, ...]:
    """The rows that decided N queries together, the largest share first.

    `weights` (N,): how much each query counts, its pixels; 0 leaves it out. The share of a row is the mean over the
    queries, so weighted, of what it gave to the votes of each; rows that were found and did not vote are left out.
    """
    total = votes.cast.sum(axis=1, keepdims=True)
    share = np.divide(votes.cast, total, out=np.zeros_like(votes.cast), where=total > 0)
    counted = share * (weights[:, None] * (total > 0))
    if not counted.any():
        return ()
    counted /= counted.sum()
    ids, place = np.unique(votes.neighbours.id, return_inverse=True)
    of_row = np.bincount(place.ravel(), counted.ravel(), len(ids))
    cosine = np.full(len(ids), -np.inf)
    asked = np.broadcast_to(weights[:, None] > 0, place.shape)
    np.maximum.at(cosine, place[asked].ravel(), votes.neighbours.score[asked].ravel())
    best = [i for i in np.argsort(-of_row, kind="stable")[:shown] if of_row[i] > 0]
    rows = memory.rows_of(ids[best])
    return tuple(
        Voter(
            row=int(rows.id[n]),
            name=names.get(int(rows.class_id[n]), str(int(rows.class_id[n]))),
            share=float(of_row[i]),
            cosine=float(cosine[i]),
            sample=rows.sample_id[n],
            segment=int(rows.segment[n]),
            task=int(rows.task[n]) + 1,
            source=rows.source[n],
        )
        for n, i in enumerate(best)
    )


def pixels_in(regions: Segments, mask: BoolArray) -> Int64Array:
    """(N,) int64: pixels of each region inside `mask` (H, W)."""
    if regions.partition is not None:
        return np.bincount(regions.partition[mask], minlength=len(regions)).astype(np.int64)
    assert regions.masks is not None
    found: Int64Array = (regions.masks & mask).reshape(len(regions), -1).sum(1, dtype=np.int64)
    return found


def mean_score(regions: Segments, confidence: Float32Array, mask: BoolArray) -> float:
    """Mean of the regions' confidence over the pixels of `mask`; NaN where no region lies in it."""
    weights = pixels_in(regions, mask)
    return float((weights * confidence).sum() / weights.sum()) if weights.any() else math.nan


def as_json(answers: Sequence[Answer], image: str) -> dict[str, Any]:
    """Answers about one image as plain values, one a view; `image` is what the picture is called.

    Segments have a mask as COCO's run-length code (`rle`, of pycocotools), `box` [x, y, width, height] in pixels,
    `area` in pixels, `score` in [0, 1] (null where the method has none) and `neighbours`.
    """
    first = answers[0]
    height, width = first.image.shape[:2]
    return {
        "kc": 1,
        "image": image,
        "size": {"height": height, "width": width},
        "kind": first.kind,
        "names": [{"id": id_, "name": name} for id_, name in first.names.items()],
        "answers": [{"view": a.view, **_said(a)} for a in answers],
    }


def _said(answer: Answer) -> dict[str, Any]:
    if answer.scores is not None:
        scores = [{"name": name, "score": _or_null(score)} for name, score in answer.ranked()]
        return {"scores": scores, "neighbours": [vars(v) for v in answer.voters]}
    segments = [
        {
            "id": number + 1,
            "class_id": area.class_id if area.class_id != VOID else None,
            "name": area.name,
            "is_thing": area.is_thing,
            "score": _or_null(area.score),
            "area": int(area.mask.sum()),
            "box": _box(area.mask),
            "rle": rle(area.mask),
            "neighbours": [vars(v) for v in area.voters],
        }
        for number, area in enumerate(answer.areas)
    ]
    return {"segments": segments}


def rle(mask: BoolArray) -> dict[str, Any]:
    """`mask` (H, W) as COCO's compressed run-length code: {"size": [H, W], "counts": text}."""
    code = coco.encode(np.asfortranarray(mask.astype(np.uint8)))
    return {"size": [int(n) for n in code["size"]], "counts": code["counts"].decode("ascii")}


def _box(mask: BoolArray) -> list[int]:
    y, x = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return [int(x[0]), int(y[0]), int(x[-1] - x[0] + 1), int(y[-1] - y[0] + 1)]


def _or_null(value: float) -> float | None:
    return None if math.isnan(value) else float(value)
