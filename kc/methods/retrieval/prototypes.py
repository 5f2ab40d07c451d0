"""`ncm`: nearest class mean, the prototype classifier (SimpleCIL, arXiv 2303.07338): cosine to the mean embedding."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch.nn import functional as F

from kc.methods.base import Context
from kc.methods.module import OnePassMethod
from kc.methods.state import NamedTensors
from kc.spec import MethodSpec
from kc.types import Batch, Prediction


class NearestClassMean(OnePassMethod):
    """One mean embedding a class, exact under any order of the samples up to float64 rounding."""

    name = "ncm"
    spec = MethodSpec(
        summary="Cosine to the mean embedding of each class.",
        keeps="a mean a class",
        paper="SimpleCIL: Zhou et al. 2023, arXiv 2303.07338",
        formula=r"s_c = \cos(f(x), \mu_c)",
        family="statistics",
        kinds=("classification",),
    )

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self.sums = NamedTensors(int, moves=False)

    def observe(self, batch: Batch) -> None:
        pooled = F.normalize(self.context.encode(batch).pooled.cpu().double(), dim=1)
        for label, x in zip(batch["label"].tolist(), pooled, strict=True):
            self.sums[label] = self.sums.get(label, torch.zeros_like(x)) + x

    @torch.no_grad()
    def predict(self, batch: Batch, vocabulary: Sequence[int]) -> Prediction:
        """Cosine of each image with each class mean; a class without an image scores lowest."""
        x = F.normalize(self.context.encode(batch).pooled.cpu().double(), dim=1)
        scores = torch.full((len(x), len(vocabulary)), -1.0, dtype=torch.float64)
        for column, class_id in enumerate(vocabulary):
            if class_id in self.sums:
                scores[:, column] = x @ F.normalize(self.sums[class_id], dim=0)
        return Prediction(tuple(vocabulary), scores=scores)
