"""`ncm`: nearest class mean, the prototype classifier (SimpleCIL, arXiv 2303.07338): cosine to the mean embedding."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from kc.errors import KcError
from kc.methods.base import Batch, Context, n_bytes
from kc.methods.retrieval.module import RetrievalModule
from kc.types import Prediction


class NearestClassMean(RetrievalModule):
    """One mean embedding a class, exact under any order of the samples up to float64 rounding."""

    name = "ncm"

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        if context.kind != "classification":
            raise KcError(f"ncm classifies images; this benchmark is {context.kind}: use knn")
        self.sums: dict[int, Tensor] = {}
        self.counts: dict[int, int] = {}

    def observe(self, batch: Batch) -> None:
        """Add each image's embedding to the mean of its class."""
        pooled = F.normalize(self.context.encode(batch).pooled.cpu().double(), dim=1)
        for label, x in zip(batch["label"].tolist(), pooled, strict=True):
            self.sums[label] = self.sums.get(label, torch.zeros_like(x)) + x
            self.counts[label] = self.counts.get(label, 0) + 1

    @torch.no_grad()
    def predict(self, batch: Batch, vocabulary: Sequence[int]) -> Prediction:
        """Cosine of each image with each class mean; a class without an image scores lowest."""
        x = F.normalize(self.context.encode(batch).pooled.cpu().double(), dim=1)
        scores = torch.full((len(x), len(vocabulary)), -1.0, dtype=torch.float64)
        for column, class_id in enumerate(vocabulary):
            if class_id in self.sums:
                scores[:, column] = x @ F.normalize(self.sums[class_id], dim=0)
        return Prediction(tuple(vocabulary), scores=scores)

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Sums and counts of each class."""
        return {f"sum.{c}": v for c, v in self.sums.items()}, {"counts": {str(c): n for c, n in self.counts.items()}}

    def load_state(self, tensors: Mapping[str, Tensor], meta: Mapping[str, Any]) -> None:
        """Read sums and counts."""
        self.sums = {int(k.removeprefix("sum.")): v.clone() for k, v in tensors.items()}
        self.counts = {int(c): int(n) for c, n in meta["counts"].items()}

    def stored_bytes(self) -> int:
        """Bytes of the class means."""
        return n_bytes(self.sums.values())
