"""Base and memory together, as kNN-CLIP fuses them: with default weights, calibrated ones, or any fixed ones."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cache, partial
from itertools import product

import numpy as np
import torch
from torch import Tensor

from kc.memory.disk import Memory
from kc.memory.vote.evaluation import first_k
from kc.memory.vote.fusion import fuse_known_names, knn_clip, restrict_to_known, retrieval_logits
from kc.memory.vote.left_out import leave_samples_out
from kc.memory.vote.votes import decide
from kc.methods.regions import best
from kc.methods.retrieval.calibration import KS, LAMBDAS, Setting, choose, knn_clip_grid
from kc.studies.base import Row
from kc.studies.regions import Benchmark, Regions
from kc.types import Int64Array, Neighbours

SWEPT_THRESHOLDS = (0.2, 0.5, 1.01)
SWEPT_K = (1, 3, 9, 16)


def fuse(base: Tensor, known: Tensor, setting: Setting, memory: Tensor, has: Tensor) -> Tensor:
    """kNN-CLIP's scores (Q, C), as the method gives them.

    Args:
        base: the base's probabilities (Q, C).
        known: names that the memory holds, (C,) or (Q, C) bool.
        setting: its weights.
        memory: the memory's probabilities (Q, C).
        has: queries (Q,) that have any.
    """
    own = base.to(memory)
    together = knn_clip(restrict_to_known(own, known), memory, has, setting.lam, setting.threshold)
    return torch.where(has[:, None], fuse_known_names(together, own, known), own)


def voted_class(neighbours: Neighbours, ids: Sequence[int]) -> Int64Array:
    """The memory alone: the winner (Q,) of the softmax vote of `knn`."""
    return np.asarray(decide(neighbours, ids), np.int64)


def in_memory(memory: Memory, ids: Sequence[int]) -> Tensor:
    """Which of the classes `ids` the memory holds, (C,) bool."""
    return torch.from_numpy(np.isin(np.asarray(ids), memory.labels().class_id))


class Target:
    """A benchmark whose memory was searched once: any fixed setting is scored from that."""

    def __init__(self, bench: Benchmark, memory: Memory, base: Tensor) -> None:
        self.bench, self.base, self.known = bench, base, in_memory(memory, bench.ids)
        self._neighbours = memory.search(bench.test.keys, 32)
        self._retrieved = cache(lambda k: retrieval_logits(first_k(self._neighbours, k), bench.ids))

    def row(self, setting: Setting) -> Row:
        """The setting and its scores on the test images."""
        scores = fuse(self.base, self.known, setting, *self._retrieved(setting.k))
        return {**values_of(setting), **self.bench.score(best(scores, self.bench.ids))}


def default_setting(k: int) -> Setting:
    """The defaults of the command line, with `k`."""
    return Setting(k, lam=0.7, threshold=1.01, alpha=0.4, beta=0.7, gamma=0.3)


def fixed_settings() -> Iterator[Setting]:
    """The settings among which the best on the test images is looked for."""
    for k, threshold, lam in product(SWEPT_K, SWEPT_THRESHOLDS, LAMBDAS):
        yield Setting(k, lam, threshold, 0, 0, 0)


def calibrated_setting(bench: Benchmark, memory: Memory, regions: Regions, seed: int) -> Setting:
    """What `--fusion calibrated` chooses from a memory of `regions`; `default_setting(1)` for an empty one."""
    if len(memory) == 0:
        return default_setting(1)
    out = leave_samples_out(memory, bench.ids, max(KS), seed)
    base = bench.base_scores(regions.at(out.ids - memory.labels().id[0]))

    read = partial(retrieval_logits, class_ids=bench.ids)

    return choose(out, bench.ids, knn_clip_grid(), read, lambda s, p, has: fuse(base, out.known, s, p, has))[0]


def score_base(bench: Benchmark, base: Tensor) -> dict[str, float]:
    """Scores on the test images of the base alone, from its probabilities (N, C)."""
    return bench.score(best(base, bench.ids))


def score_memory(bench: Benchmark, memory: Memory, k: int) -> dict[str, float]:
    """Scores on the test images of the memory alone."""
    return bench.score(voted_class(memory.search(bench.test.keys, k), bench.ids))


def score_fused(bench: Benchmark, memory: Memory, base: Tensor, setting: Setting) -> Row:
    """A setting of kNN-CLIP and the scores on the test images of base and memory together."""
    found = retrieval_logits(memory.search(bench.test.keys, setting.k), bench.ids)
    scores = fuse(base, in_memory(memory, bench.ids), setting, *found)
    return {**values_of(setting), **bench.score(best(scores, bench.ids))}


def values_of(setting: Setting) -> Row:
    """k, threshold and lambda of a setting."""
    return {"k": setting.k, "threshold": setting.threshold, "lambda": setting.lam}
