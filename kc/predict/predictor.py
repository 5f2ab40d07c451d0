"""A stored memory or method that answers single images."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from kc.errors import KcError
from kc.memory.base import MemoryStore
from kc.memory.disk import Memory
from kc.memory.vote.background import nearest
from kc.memory.vote.evaluation import first_k
from kc.memory.vote.votes import contributions
from kc.methods.module import ContinualMethod
from kc.methods.predictions import posteriors
from kc.methods.regions import Regions, normalised
from kc.methods.retrieval.visual_memory import MemoryVotes
from kc.predict.answer import Answer, Area, Votes, mean_score, pixels_in, voters_of
from kc.predict.names import ids_of
from kc.proposals.merge import paint, semantic_to_panoptic
from kc.report.overlay import colors_of
from kc.session import Session
from kc.types import VOID, BoolArray, ClassInfo, Float32Array, Int32Array, Int64Array, Prediction, UInt8Array

VIEWS = ("answer", "base", "memory")
"""What may answer: memory and base together (or the method as it is), the base alone, the memory alone."""


class Predictor(Protocol):
    """Answers one image at a time."""

    @property
    def names(self) -> tuple[str, ...]:
        """What it knows."""

    @property
    def views(self) -> tuple[str, ...]:
        """Which of VIEWS it has."""

    def predict(self, image: UInt8Array, names: Sequence[str] | None = None, view: str = "answer") -> Answer:
        """What is on `image` (H, W, 3) uint8 RGB, among `names`, default all it knows.

        Raises KcError for a view that there is not, UnknownNameError for a name that nobody here knows.
        """


class MemoryPredictor:
    """k nearest neighbours vote for each region, or for the image, alone or with a base: what `knn` answers.

    Keeps the names of things apart from their ids, so that names beyond a benchmark's can be added; a base is queried
    about any name.
    """

    def __init__(self, session: Session, memory: MemoryStore) -> None:
        self.session, self.memory = session, memory
        self.context = session.context("knn")
        self.votes = MemoryVotes(self.context.options, self.context.seed)

    @property
    def classes(self) -> dict[int, ClassInfo]:
        """Id -> what the memory knows under it."""
        return self.session.facts.classes

    @property
    def names(self) -> tuple[str, ...]:
        """Names in the memory's table."""
        return tuple(info.name for info in self.classes.values())

    @property
    def views(self) -> tuple[str, ...]:
        """All three with a base, else the memory."""
        return VIEWS if self.context.base is not None else ("answer", "memory")

    def reopened(self) -> MemoryPredictor:
        """The same networks over what the memory holds now."""
        memory = Memory.open(self.memory.path, self.memory.fingerprint)
        return MemoryPredictor(self.session.with_classes(dict(memory.info.classes)), memory)

    def wanted(self, names: Sequence[str] | None) -> dict[int, ClassInfo]:
        """The classes to answer with. Raises UnknownNameError, KcError where there are none."""
        known = {id_: info.name for id_, info in self.classes.items()}
        if names is None:
            if not known:
                raise KcError(f"{self.memory.path} knows no name yet: add one with kc remember, or give --names")
            return dict(self.classes)
        where = f"the memory {self.memory.path}; for others give --base conse, or another base"
        found = ids_of(names, known, self.context.base is not None, where)
        return {id_: self.classes.get(id_, ClassInfo(id_, name)) for id_, name in found.items()}

    @torch.no_grad()
    def predict(self, image: UInt8Array, names: Sequence[str] | None = None, view: str = "answer") -> Answer:
        """See `Predictor`. A neighbour of a class that is not wanted keeps its rank and gives no vote."""
        if view not in self.views:
            raise KcError("there is no base model to show alone: give --base conse, or another base")
        classes = self.wanted(names)
        vocab = tuple(classes) or (VOID,)  # for no name it answers nothing, and its regions can still be added
        context = replace(self.context, classes=classes)
        batch = self.session.batch(image)
        regions: Regions | None = None
        base: Tensor | None = None
        if context.regions is None:
            pooled = context.encode(batch).pooled
            keys = normalised(pooled)
            if context.base is not None:
                base = context.base.scores_from(pooled, context.names(vocab))
        else:
            (regions,) = context.regions(batch)
            keys = regions.keys
            if context.base is not None and view != "memory" and classes:
                (base,) = posteriors(context, batch, [regions], vocab)
        votes: Votes | None = None
        if view == "base":
            scores = torch.zeros(len(keys), len(vocab)) if base is None else base
        else:
            scores, votes = self._vote(keys, vocab, None if view == "memory" else base)
        shares = _shares(scores)
        said = Answer(
            image=image,
            kind=context.kind,
            view=view,
            names={i: c.name for i, c in classes.items()},
            colors=colors_of(classes.values()),
            votes=votes,
        )
        if regions is None:
            return replace(said, scores=shares[0], voters=self.voters(said, np.ones(1, np.int64)))
        return self._map(said, regions, shares, vocab)

    def _vote(self, keys: Float32Array, vocab: tuple[int, ...], base: Tensor | None) -> tuple[Tensor, Votes | None]:
        options = self.context.options
        if len(self.memory) == 0:
            return (torch.zeros(len(keys), len(vocab)) if base is None else base), None
        found = self.votes.search(self.memory, keys)
        neighbours = nearest([first_k(n, options.k) for n in found], options.k)
        cast = contributions(neighbours, vocab, **options.rule()).numpy()
        return self.votes.scores(self.memory, keys, found, vocab, base), Votes(neighbours, cast)

    def _map(self, said: Answer, regions: Regions, shares: Float32Array, vocab: tuple[int, ...]) -> Answer:
        best = shares.argmax(axis=1)
        confidence: Float32Array = shares[np.arange(len(shares)), best]
        labels = np.where(confidence > 0, np.asarray(vocab, np.int64)[best], VOID)
        semantic = paint(regions.segments, labels)
        said = replace(said, semantic=semantic, regions=regions.segments, labels=labels, confidence=confidence)
        things = [i for i in vocab if i in self.classes and self.classes[i].is_thing]
        if said.kind == "panoptic":
            said = replace(said, panoptic=semantic_to_panoptic(semantic, things))
        found = []
        for area in areas_of(said, things):
            voters = self.voters(said, self._deciding(said, area.mask, area.class_id))
            found.append(replace(area, score=mean_score(regions.segments, confidence, area.mask), voters=voters))
        return replace(said, areas=tuple(found))

    def _deciding(self, said: Answer, mask: BoolArray, class_id: int) -> Int64Array:
        """Pixels in `mask` of the regions that were given the class."""
        assert said.regions is not None
        assert said.labels is not None
        weights: Int64Array = pixels_in(said.regions, mask) * (said.labels == class_id)
        return weights

    def voters(self, said: Answer, weights: Int64Array) -> Any:
        """The rows that decided the queries (regions, or the image) with these weights (N,), see `voters_of`."""
        if said.votes is None:
            return ()
        known = {id_: info.name for id_, info in self.classes.items()}
        return voters_of(said.votes, weights, self.memory, known)


class MethodPredictor:
    """A trained method, as its last checkpoint left it; it knows the classes it has learned and no other."""

    def __init__(self, session: Session, method: ContinualMethod, seen: Sequence[int]) -> None:
        self.session, self.method = session, method
        module: Any = method
        module.eval()
        self.classes = {id_: session.facts.classes[id_] for id_ in seen}

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the classes learned."""
        return tuple(info.name for info in self.classes.values())

    @property
    def views(self) -> tuple[str, ...]:
        """The method as it is."""
        return ("answer",)

    @torch.no_grad()
    def predict(self, image: UInt8Array, names: Sequence[str] | None = None, view: str = "answer") -> Answer:
        """See `Predictor`. A method that decides pixels gives no score to an area: it is NaN."""
        if view not in self.views:
            raise KcError(f"{self.method.name} is one model: there is no {view} in it to show alone")
        known = {id_: info.name for id_, info in self.session.facts.classes.items()}
        learned = {id_: info.name for id_, info in self.classes.items()}
        may_ask = known if self.method.open_vocabulary else learned
        asked = (
            learned
            if names is None
            else ids_of(names, may_ask, False, f"the classes that {self.method.name} has learned")
        )
        prediction = self.method.predict(self.session.batch(image), tuple(asked))
        said = Answer(
            image=image,
            kind=self.session.facts.kind,
            view=view,
            names=asked,
            colors=colors_of(self.session.facts.classes[i] for i in asked),
        )
        return self._answer(said, prediction)

    def _answer(self, said: Answer, prediction: Prediction) -> Answer:
        if prediction.scores is not None:
            return replace(said, scores=prediction.scores[0].float().cpu().numpy())
        said = replace(said, semantic=prediction.semantic[0])
        if prediction.panoptic:
            said = replace(said, panoptic=prediction.panoptic[0])
        things = [i for i in said.names if self.session.facts.classes[i].is_thing]
        return replace(said, areas=areas_of(said, things))


def areas_of(said: Answer, things: Sequence[int]) -> tuple[Area, ...]:
    """The segments of a map, the largest first: an instance of a thing, or all pixels of a class."""
    assert said.semantic is not None
    pairs: Int32Array | Int64Array = np.stack([said.semantic, np.zeros_like(said.semantic)], axis=-1)
    if said.panoptic is not None:
        pairs = said.panoptic
    code = pairs[..., 0].astype(np.int64) << 32 | pairs[..., 1].astype(np.int64)
    values, counts = np.unique(code, return_counts=True)
    found = []
    for value in values[np.argsort(-counts, kind="stable")].tolist():
        id_ = value >> 32
        found.append(Area(id_, said.name(id_), code == value, math.nan, id_ in things))
    return tuple(found)


def _shares(scores: Tensor) -> Float32Array:
    """Scores (N, C) at least 0 as shares of 1; rows without a score stay zero."""
    total = scores.sum(1, keepdim=True)
    shares = torch.where(total > 0, scores / total.clamp_min(torch.finfo(scores.dtype).tiny), scores)
    result: Float32Array = shares.cpu().numpy().astype(np.float32)
    return result
