"""`tip-adapter` (Zhang et al. 2022, arXiv 2111.03930), training-free: a key-value cache beside a zero-shot model."""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from kc.methods.base import Context
from kc.methods.module import OnePassMethod
from kc.methods.state import TensorState
from kc.spec import Count, MethodSpec, NonNegative, Tunable
from kc.types import Batch, Prediction


def cache_logits(queries: Tensor, keys: Tensor, values: Tensor, beta: float) -> Tensor:
    """exp(-beta (1 - f F^T)) L: queries (Q, D) and keys (N, D) of norm 1, values (N, C) one-hot -> (Q, C)."""
    return torch.exp(-beta * (1 - queries @ keys.T)) @ values


class KeyCache(TensorState):
    """Keys (D,) by class and sample."""

    def __init__(self) -> None:
        super().__init__()
        self.keys: dict[int, dict[str, Tensor]] = {}

    def tensors(self) -> dict[str, Tensor]:
        return {str(c): torch.stack(list(held.values())) for c, held in self.keys.items()}

    def get_extra_state(self) -> dict[str, list[str]]:
        """The samples of each class."""
        return {str(c): list(held) for c, held in self.keys.items()}

    def set_extra_state(self, state: Mapping[str, Any]) -> None:
        """Samples without keys yet."""
        self.keys = {int(c): dict.fromkeys(samples, torch.empty(0)) for c, samples in state.items()}

    def load_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        self.keys = {c: dict(zip(held, tensors[str(c)].clone(), strict=True)) for c, held in self.keys.items()}


@dataclass(frozen=True)
class TipAdapterOptions:
    """Options of Tip-Adapter.

    Args:
        alpha: Weight of the cache beside the zero-shot logits.
        beta: Sharpness of the cache.
        shots: Images a class in the cache.
    """

    alpha: NonNegative = 1.17
    beta: NonNegative = 1.0
    shots: Count = 16


class TipAdapter(OnePassMethod):
    """Zero-shot logits + alpha * cache logits, with `shots` images a class in the cache.

    The zero-shot logits are the logarithm of the probabilities of the run's base (`--base`), if any. Which images a
    class keeps follows from seed and name, not from the order in which they come.
    """

    name = "tip-adapter"
    spec = MethodSpec(
        summary="A key-value cache beside a zero-shot model, without training.",
        keeps="keys of a few images a class",
        paper="Zhang et al. 2022, arXiv 2111.03930",
        formula=r"s = z_{base} + \alpha \exp(-\beta (1 - f F^T)) L",
        family="statistics",
        options=TipAdapterOptions,
        kinds=("classification",),
        base="optional",
        by_name=True,
        tune=Tunable("alpha", 10**0.5),
    )
    options: TipAdapterOptions

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self.open_vocabulary = context.base is not None
        self.cache = KeyCache()

    def _rank(self, sample_id: str) -> tuple[int, str]:
        return zlib.crc32(f"{self.context.seed}/{sample_id}".encode()), sample_id

    def observe(self, batch: Batch) -> None:
        """Let each image compete for a place in the cache of its class."""
        pooled = F.normalize(self.context.encode(batch).pooled.cpu().float(), dim=1)
        for label, sample_id, x in zip(batch["label"].tolist(), batch["sample_id"], pooled, strict=True):
            places = self.cache.keys.setdefault(label, {})
            places[sample_id] = x
            if len(places) > self.options.shots:
                del places[max(places, key=self._rank)]

    @torch.no_grad()
    def predict(self, batch: Batch, vocabulary: Sequence[int]) -> Prediction:
        vocab = tuple(vocabulary)
        pooled = self.context.encode(batch).pooled
        scores = torch.zeros(len(pooled), len(vocab))
        columns = [i for i, c in enumerate(vocab) for _ in self.cache.keys.get(c, {})]
        if columns:
            keys = torch.stack([x for c in vocab for x in self.cache.keys.get(c, {}).values()])
            values = F.one_hot(torch.tensor(columns), len(vocab)).float()
            queries = F.normalize(pooled.cpu().float(), dim=1)
            scores = self.options.alpha * cache_logits(queries, keys, values, self.options.beta)
        if self.context.base is not None:
            base = self.context.base.scores_from(pooled, self.context.names(vocab)).cpu()
            scores = scores + base.clamp_min(torch.finfo(base.dtype).tiny).log()
        return Prediction(vocab, scores=scores)
