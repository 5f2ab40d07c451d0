"""`fecam` (Goswami et al. 2023, arXiv 2309.14062): Mahalanobis distance with a covariance of each class."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from kc.methods.base import Context
from kc.methods.module import OnePassMethod
from kc.methods.state import NamedTensors
from kc.spec import MethodSpec, NonNegative, Positive, Tunable
from kc.types import Batch, Prediction, Task


def shrunk(covariance: Tensor, diagonal: float, off: float) -> Tensor:
    """covariance + diagonal * V1 * I + off * V2 * (1 - I): V1 mean variance, V2 mean of the other entries."""
    n = len(covariance)
    eye = torch.eye(n, dtype=covariance.dtype)
    variance = covariance.diagonal().mean()
    others = (covariance.sum() - covariance.diagonal().sum()) / max(1, n * n - n)
    return covariance + diagonal * variance * eye + off * others * (1 - eye)


def correlation(covariance: Tensor) -> Tensor:
    """covariance_ij / (s_i s_j): every class gets the same scale, so that distances compare."""
    deviation = covariance.diagonal().sqrt()
    return covariance / (deviation[:, None] * deviation[None, :])


def tukey(x: Tensor, exponent: float) -> Tensor:
    """x ** exponent of features that are not negative; 1 changes nothing."""
    return x if exponent == 1 else x.clamp_min(0) ** exponent


@dataclass(frozen=True)
class FeCamOptions:
    """Options of FeCAM.

    Args:
        shrink: Share of the mean variance that is added to each diagonal.
        shrink_off: Share of the mean covariance that is added off the diagonal.
        tukey: Exponent of the transform of features that are not negative; 1 changes nothing.
    """

    shrink: NonNegative = 1.0
    shrink_off: NonNegative = 0.0
    tukey: Positive = 1.0


class FeCam(OnePassMethod):
    """Per class: mean and covariance of unit features; the class whose shrunk, normalised metric is nearest wins.

    The defaults are those of the authors' script for pretrained transformers; for networks that end in a ReLU they use
    shrinkage 1 and 1 and an exponent of 0.5. A class without spread gets the identity, one without images is last.
    """

    name = "fecam"
    spec = MethodSpec(
        summary="Mahalanobis distance with a covariance of each class.",
        keeps="a mean and a covariance a class",
        paper="Goswami et al. 2023, arXiv 2309.14062",
        formula=r"s_c = -(f(x) - \mu_c)^T \, \hat\Sigma_c^{-1} \, (f(x) - \mu_c)",
        family="statistics",
        options=FeCamOptions,
        kinds=("classification",),
        streams=("class", "task", "online", "long-tailed"),
        tune=Tunable("shrink"),
    )
    options: FeCamOptions

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self.means = NamedTensors(int, moves=False)
        self.covariances = NamedTensors(int, moves=False)
        self._inverse: dict[int, Tensor] = {}
        self._rows: dict[int, list[Tensor]] = {}

    def embed(self, batch: Batch) -> Tensor:
        pooled = self.context.encode(batch).pooled.cpu().double()
        return F.normalize(tukey(pooled, self.options.tukey), dim=1)

    def start_task(self, task: Task) -> None:
        """Forget the rows of a task that was interrupted."""
        super().start_task(task)
        self._rows = {}

    def observe(self, batch: Batch) -> None:
        for label, x in zip(batch["label"].tolist(), self.embed(batch), strict=True):
            self._rows.setdefault(label, []).append(x)

    def end_task(self, task: Task) -> None:
        for class_id, rows in self._rows.items():
            x = torch.stack(rows)
            self.means[class_id] = x.mean(0)
            self.covariances[class_id] = x.T.cov().float() if (x != x[0]).any() else torch.eye(x.shape[1])
            self._invert(class_id)
        self._rows = {}

    def _invert(self, class_id: int) -> None:
        metric = shrunk(self.covariances[class_id].double(), self.options.shrink, self.options.shrink_off)
        self._inverse[class_id] = torch.linalg.pinv(correlation(metric), hermitian=True)

    @torch.no_grad()
    def predict(self, batch: Batch, vocabulary: Sequence[int]) -> Prediction:
        x = self.embed(batch)
        scores = torch.full((len(x), len(vocabulary)), -torch.inf, dtype=torch.float64)
        for column, class_id in enumerate(vocabulary):
            if class_id in self.means:
                difference = x - self.means[class_id]
                scores[:, column] = -((difference @ self._inverse[class_id]) * difference).sum(1)
        return Prediction(tuple(vocabulary), scores=scores)

    def load_state(self, tensors: Mapping[str, Tensor], meta: Mapping[str, Any]) -> None:
        super().load_state(tensors, meta)
        for class_id in self.covariances:
            self._invert(class_id)
