"""Votes of several k, the nearest cosine, the discriminant and a base as one: a log-linear rule fitted on stored rows.

logit(c) = sum_k a_k log(vote_k(c) + 0.01) + a_s 10 max-cosine(c) + a_d log-discriminant(c) + a_b log(base(c) + 0.001)

over k in `KS` (softmax vote): six weights, seven with a base. They are the most likely ones of stored rows as queries
to the memory without their own image (`kc.memory.vote.left_out`): convex, and no validation image. The method is ours.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from scipy.optimize import minimize
from torch import Tensor

from kc.memory.base import MemoryStore
from kc.memory.store import files
from kc.memory.store.table import Labels
from kc.memory.vote.background import Background
from kc.memory.vote.discriminant import SHRINKS, Discriminant, Moments, left_out_log_posterior
from kc.memory.vote.evaluation import first_k
from kc.memory.vote.left_out import LeftOut, leave_samples_out
from kc.memory.vote.votes import ClassIds, columns_of, neighbour_tensors, vote
from kc.types import BoolArray, Fitted, Float32Array, Int64Array, Neighbours

Float64Array = npt.NDArray[np.float64]

KS = (1, 5, 16, 32)
TAU = 0.07
N_FEATURES = len(KS) + 2
"""Without a base."""
_PRIOR_ROWS = 10.0
"""The weights are held to their default as if by about this many rows: with few rows they stay near it."""
_LEAST = -50.0
"""Least log probability of the discriminant that the rule reads: one far-off class decides nothing more."""
_BLOCK = 1 << 14


def default_weights(base: float = 0.0) -> Float64Array:
    """The weights (F,) before any row is seen: the softmax vote of 16 neighbours, and the base's share of the rule."""
    weights = np.zeros(N_FEATURES + (base > 0))
    weights[KS.index(16)] = 1 - base
    if base > 0:
        weights[-1] = base
    return weights


def features(
    neighbours: Neighbours, class_ids: ClassIds, discriminant: Float64Array, base: Tensor | None = None
) -> Float64Array:
    """(Q, C, F) what the rule weighs. neighbours: of max(`KS`), nearest first; discriminant (Q, C) log probabilities;
    base (Q, C) probabilities. The max-cosine of a class without a neighbour is the lowest cosine that was found."""
    parts = []
    for k in KS:
        votes = vote(first_k(neighbours, k), class_ids, "softmax", tau=TAU)
        parts.append(torch.log(votes / votes.sum(1, keepdim=True).clamp_min(1e-300) + 0.01))
    score, class_id, weight = neighbour_tensors(neighbours)
    column, known = columns_of(class_id, class_ids)
    counts = weight > 0
    least = score.masked_fill(~counts, 1.0).amin(dim=1, keepdim=True)
    nearest = least.expand(-1, len(class_ids)).clone()
    nearest.scatter_reduce_(1, column, torch.where(known & counts, score, least), "amax")
    parts += [10 * nearest, torch.from_numpy(discriminant.clip(min=_LEAST))]
    if base is not None:
        parts.append(torch.log(base.to(torch.float64) + 0.001))
    result: Float64Array = torch.stack(parts, dim=2).numpy()
    return result


def probabilities(values: Float64Array, weights: Float64Array, known: BoolArray) -> Float64Array:
    """(Q, C) of the rule with `weights` (F,), over the classes that are `known` ((C,) or (Q, C)); 0 for others."""
    logits = np.where(known, values @ weights, -np.inf)
    best = logits.max(axis=1, keepdims=True, initial=-np.inf)
    chance = np.exp(logits - np.where(np.isfinite(best), best, 0))
    result: Float64Array = chance / np.maximum(chance.sum(axis=1, keepdims=True), 1e-300)
    return result


def fit(values: Float64Array, truth: Int64Array, known: BoolArray, default: Float64Array) -> Float64Array:
    """The most likely weights (F,) for rows with features (Q, C, F) and true columns (Q,), by L-BFGS.

    known (Q, C) bool: the classes that may be answered; rows whose own class may not are passed over. The penalty
    `_PRIOR_ROWS` |a - default|^2 / 2 makes the least unique.
    """
    rows = np.flatnonzero(known[np.arange(len(truth)), truth])
    values, truth, known = values[rows], truth[rows], known[rows]
    own = values[np.arange(len(truth)), truth]

    def loss(weights: Float64Array) -> tuple[float, Float64Array]:
        logits = np.where(known, values @ weights, -np.inf)
        best = logits.max(axis=1, keepdims=True, initial=-np.inf)
        chance = np.exp(logits - best)
        total = chance.sum(axis=1, keepdims=True)
        away = weights - default
        value = float((np.log(total[:, 0]) + best[:, 0] - own @ weights).sum() + _PRIOR_ROWS / 2 * away @ away)
        slope = np.einsum("qc,qcf->f", chance / total, values) - own.sum(0) + _PRIOR_ROWS * away
        return value, slope

    if len(truth) == 0:
        return default
    found: Float64Array = minimize(loss, default, jac=True, method="L-BFGS-B", options={"gtol": 1e-6 * len(truth)}).x
    return found


def choose_shrink(left_out: Float64Array, truth: Int64Array) -> int:
    """Which of `SHRINKS` gives left-out rows (S, Q, C log probabilities) their true columns (Q,) the most likely."""
    own = left_out[:, np.arange(len(truth)), truth]
    own = own[:, np.isfinite(own).all(axis=0)]
    return int(own.mean(axis=1).argmax()) if own.shape[1] else len(SHRINKS) // 2


class LogLinear:
    """The fitted votes of a memory: `discriminant` alone, or the `log-linear` rule, as `kind` says.

    Moments, shrinkage and weights are functions of the rows that are visible, kept among the memory's derived files and
    made again where rows change: a removal undoes what its rows did to them.
    """

    def __init__(self, kind: Fitted, background: Background, seed: int = 0) -> None:
        self.kind, self.background, self.seed = kind, background, seed
        self._known: dict[tuple[str, int, int | None], tuple[Discriminant, Float64Array]] = {}

    @property
    def k(self) -> int:
        """Neighbours that it reads; 0: none."""
        return max(KS) if self.kind == "log-linear" else 0

    def fitted(self, memory: MemoryStore, at: int | None = None) -> tuple[Discriminant, Float64Array]:
        """The discriminant and the weights (F,) of the rows visible now, or at the version of task `at`."""
        key = (str(memory.path), memory._head, at)
        if key not in self._known:
            rows = self.background.labels(memory, at)
            moments = self.moments(memory, rows, at)
            folder = memory.derived(f"{self.kind}-{self.background.rule}", at)
            stored = None if folder is None else files.read_sealed(folder, f"fit{self.seed}")
            if stored is None:
                stored = self._fit(memory, moments, at)
                if folder is not None:
                    files.write_sealed(folder, f"fit{self.seed}", stored)
            self._known = {key: (Discriminant.of(moments, float(stored[0])), stored[1:])}
        return self._known[key]

    def discriminant(self, memory: MemoryStore, shrink: float) -> Discriminant:
        """That of the rows visible now, with a given shrinkage."""
        key = (str(memory.path), memory._head, None)
        if key not in self._known:
            moments = self.moments(memory, self.background.labels(memory))
            self._known = {key: (Discriminant.of(moments, shrink), np.zeros(0))}
        return self._known[key][0]

    def moments(self, memory: MemoryStore, rows: Labels, at: int | None = None) -> Moments:
        """The sums over the `rows` that have a weight above 0."""
        folder = memory.derived(f"moments-{self.background.rule}", at)
        names = ("class_id", "count", "total", "square")
        if folder is not None:
            stored = [files.read_sealed(folder, name) for name in names]
            if all(array is not None for array in stored):
                return Moments(*stored)  # type: ignore[arg-type]
        live = rows.weight > 0
        moments = Moments.of(np.zeros((0, memory.dim), np.float32), np.zeros(0, np.int64))
        for first in range(0, int(live.sum()), _BLOCK):
            part = np.flatnonzero(live)[first : first + _BLOCK]
            moments += Moments.of(memory.keys(rows.id[part]), rows.class_id[part])
        if folder is not None:
            for name in names:
                files.write_sealed(folder, name, getattr(moments, name))
        return moments

    def _fit(self, memory: MemoryStore, moments: Moments, at: int | None) -> Float64Array:
        """Shrinkage and weights in one array (1 + F,)."""
        classes = moments.class_id
        if len(classes) == 0:
            return np.array([SHRINKS[0], *default_weights()])
        left_out = leave_samples_out(memory, classes, self.k or 1, self.seed, background=self.background, at=at)
        said, shrink = left_out_discriminant(memory, moments, left_out, classes)
        weights = default_weights()
        if self.kind == "log-linear":
            truth = np.searchsorted(classes, left_out.truth)
            weights = fit(features(left_out.neighbours, classes, said), truth, left_out.known.numpy(), weights)
        return np.array([shrink, *weights])

    def probabilities(
        self,
        memory: MemoryStore,
        keys: Float32Array,
        neighbours: Neighbours | None,
        class_ids: Sequence[int],
        at: int | None = None,
    ) -> Tensor:
        """(Q, C) float64 of queries (Q, D) over `class_ids`; 0 for classes without rows. neighbours: `self.k` nearest
        of each, where it reads any. at: the version of that task."""
        discriminant, weights = self.fitted(memory, at)
        wanted = np.asarray(class_ids, np.int64)
        said = discriminant.log_posterior(keys, wanted)
        if self.kind == "discriminant":
            return torch.from_numpy(np.exp(said))
        assert neighbours is not None
        known = np.isin(wanted, discriminant.class_id)
        return torch.from_numpy(probabilities(features(neighbours, wanted, said), weights, known))

    def lead(
        self,
        memory: MemoryStore,
        key: Float32Array,
        neighbours: Neighbours,
        pair: tuple[int, int],
        at: int | None = None,
    ) -> tuple[float, float]:
        """What the votes and what the discriminant add to the lead in logits of the first class of `pair` over the
        second, for a query (1, D); both have rows."""
        discriminant, weights = self.fitted(memory, at)
        said = discriminant.log_posterior(key, np.asarray(pair, np.int64))
        if self.kind == "discriminant":
            return 0.0, float(said[0, 0] - said[0, 1])
        values = features(neighbours, pair, said)[0]
        parts = (values[0] - values[1]) * weights
        return float(parts[:-1].sum()), float(parts[-1])


def left_out_discriminant(
    memory: MemoryStore, moments: Moments, left_out: LeftOut, class_ids: ClassIds
) -> tuple[Float64Array, float]:
    """Log probabilities (Q, C) that the discriminant gives left-out rows without their image, and its shrinkage."""
    columns = np.asarray(class_ids, np.int64)
    asked = np.isin(left_out.whole, left_out.ids)
    each = left_out_log_posterior(
        moments, memory.keys(left_out.whole), left_out.whole_class, left_out.whole_sample, asked
    )
    truth = np.searchsorted(moments.class_id, left_out.truth)
    best = choose_shrink(each, truth)
    place = np.searchsorted(moments.class_id, columns).clip(max=len(moments.class_id) - 1)
    return np.where(moments.class_id[place] == columns, each[best][:, place], -np.inf), SHRINKS[best]
