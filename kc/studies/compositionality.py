"""Query minus its neighbour: does what is left of a composed scene find a second class that is really in it?"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache, partial

import numpy as np
import torch
from matplotlib.figure import Figure

from kc.data.transforms import image_to_tensor
from kc.encoders.base import dense
from kc.errors import KcError
from kc.proposals.pooling import pool
from kc.report.style import GREY, INK
from kc.studies.base import Row, column
from kc.studies.figures import legend, panels, style_axes
from kc.studies.keys import Keys, VoteStudy, memory_of, truth
from kc.studies.options import StudyOptions, StudySpec
from kc.types import BoolArray, Float32Array, Int64Array, Neighbours, Segments

WAYS = ("next", "subtract", "project")
QUERIES = ("union", "image")
LOOKED = 200
"""Neighbours that `next` looks through for another class."""


@dataclass(frozen=True)
class Scenes:
    """Composed scenes: `key` (Q, D) of each, and the set of classes that it holds."""

    key: Float32Array
    classes: tuple[frozenset[int], ...]


class Compositionality(VoteStudy[StudyOptions]):
    """A row a kind of query and way: how often the first answer, and the second where the first was right, is a class
    of the scene; the second by chance.

    union: the features of all objects of a scene averaged as one mask; image: of the whole image. next: the nearest row
    of another class than the first answer's. subtract: nearest to q - n; project: to q - (q n) n, where n is the
    nearest row (arXiv 2408.08172 leaves this open; both are our reading).
    """

    spec = StudySpec(
        summary="Query minus its neighbour: is the second answer also in the scene?",
        plots="how often the second answer is in the scene, a bar a way, a panel a kind of query",
        paper="arXiv 2408.08172",
        options=StudyOptions,
    )

    def run(self) -> Figure:
        if self.source.kind == "images":
            raise KcError(f"{self.of}: composed scenes need segments; take digit-scenes, for instance")
        things = sorted({c.id for c in self.source.manifest.info if c.is_thing} or self.source.names)

        @cache
        def memory_keys() -> Keys:
            train = self.keys(self.encoders[0], "train")
            return train.take(np.isin(train.label, things))

        scenes = cache(partial(self.scenes, things=things))

        def row(kind: str, way: str) -> Row:
            return scored(scenes(kind), memory_keys(), kind, way)

        for kind in QUERIES:
            for way in WAYS:
                self.row(f"{kind} {way}", partial(row, kind, way))
        figure, axes = panels(len(QUERIES), width=3.8)
        for ax, kind in zip(axes, QUERIES, strict=True):
            rows = [r for r in self.rows if r["query"] == kind]
            ax.bar(range(len(rows)), column(rows, "second"), 0.6, color=[GREY, "#0072b2", "#d55e00"])
            ax.plot(range(len(rows)), column(rows, "chance"), color=INK, linestyle="--", label="chance")
            ax.axhline(column(rows, "first")[0], color="#009e73", label="first answer in the scene")
            ax.set_xticks(range(len(rows)), [r["way"] for r in rows])
            ax.set_ylim(0, 119)
            legend(ax, loc="upper right")
            style_axes(ax, f"{self.of}, key of the {kind}", "", "second answer in the scene, %")
        return figure

    @torch.no_grad()
    def scenes(self, kind: str, things: list[int]) -> Scenes:
        """Test scenes with at least two classes of `things`. KcError if there is none."""
        source, reader = self.source, self.source.reader("test")
        session = source.session(self.encoders[0])
        keys, classes = [], []
        for i, name in enumerate(reader.sample_ids):
            sample = reader.read(i)
            segments, labels = truth(sample)
            wanted = np.isin(labels, things)
            held = frozenset(labels[wanted].tolist())
            if len(held) < 2:
                continue
            assert segments.masks is not None
            inside = segments.masks[wanted] if kind == "union" else np.ones((1, *segments.size), bool)
            whole: BoolArray = np.logical_or.reduce(inside)
            image = image_to_tensor(sample.image, session.facts.input_size)[None]
            found = dense(session.features.encode(image, [name]), session.encoder.strides[0])[0]
            keys.append(pool(found, Segments(segments.size, np.ones(1, np.float32), masks=whole[None])))
            classes.append(held)
        if not keys:
            raise KcError(f"no test scene of {source.manifest.name} holds two classes")
        return Scenes(np.concatenate(keys), tuple(classes))


def scored(test: Scenes, train: Keys, kind: str, way: str) -> Row:
    """How often the first and the second answer of a memory of `train` are in the scene."""
    with memory_of(train.rows()) as memory:
        found = memory.search(test.key, LOOKED)
        first = found.class_id[:, 0]
        if way == "next":
            second = next_class(found)
        else:
            left = residual(test.key, train.key[found.id[:, 0]], way)
            second = memory.search(left, 1).class_id[:, 0]
    hit = np.array([f in c for f, c in zip(first, test.classes, strict=True)])
    also = np.array([s != f and s in c for f, s, c in zip(first, second, test.classes, strict=True)])
    n = len(np.unique(train.label))
    chance = np.array([(len(c) - 1) / (n - 1) for c in test.classes])
    return {
        "query": kind, "way": way, "scenes": len(hit), "rows": len(train), "first": 100 * float(hit.mean()),
        "second": 100 * float(also[hit].mean()) if hit.any() else float("nan"),
        "repeats the first": 100 * float((second == first).mean()),
        "chance": 100 * float(chance[hit].mean()) if hit.any() else float("nan"),
    }  # fmt: skip


def residual(query: Float32Array, nearest: Float32Array, way: str) -> Float32Array:
    """What is left of unit queries (Q, D) without their neighbours (Q, D): q - n, or q - (q n) n; not normalised."""
    share = 1.0 if way == "subtract" else (query * nearest).sum(1, keepdims=True)
    return np.asarray(query - share * nearest, np.float32)


def next_class(found: Neighbours) -> Int64Array:
    """The class (Q,) of the nearest row whose class is not the nearest row's; that one's where there is no other."""
    other = found.class_id != found.class_id[:, :1]
    at = np.where(other.any(1), other.argmax(1), 0)
    return np.take_along_axis(found.class_id, at[:, None], 1)[:, 0]
