"""`ranpac` (McDonnell et al. 2023, arXiv 2307.02251): ridge regression on randomly projected frozen features."""

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
from kc.spec import Count, MethodSpec, Tunable
from kc.types import Batch, Prediction, Task

RIDGES = tuple(10.0**power for power in range(-8, 9))


def ridge_errors(x: Tensor, y: Tensor, held_x: Tensor, held_y: Tensor, ridges: Sequence[float]) -> list[float]:
    """Mean squared error on held-out rows of (x^T x + r I)^-1 x^T y, for each ridge r.

    Args:
        x, y: (n, M) and (n, C), the rows that are fitted. held_x, held_y: (m, M) and (m, C).

    One eigendecomposition serves all ridges, of whichever Gram matrix is smaller: for n < M the weights are
    x^T (x x^T + r I)^-1 y, which is the same.
    """
    if len(x) < x.shape[1]:
        left, values, right = _eigen(x @ x.T, held_x @ x.T, y)
    else:
        left, values, right = _eigen(x.T @ x, held_x, x.T @ y)
    return [((left / (values + r)) @ right - held_y).square().mean().item() for r in ridges]


def _eigen(gram: Tensor, left: Tensor, right: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """left U, the eigenvalues of `gram` = U S U^T (rounding below 0 removed), and U^T right."""
    values, vectors = torch.linalg.eigh(gram)
    return left @ vectors, values.clamp_min(0), vectors.T @ right


@dataclass(frozen=True)
class RanPacOptions:
    """Options of RanPAC.

    Args:
        dim: Width of the random projection; the paper's is 10000, which keeps 800 MB.
    """

    dim: Count = 2000


class RanPac(OnePassMethod):
    """h = relu(f W) with W drawn once; G = sum h h^T, Q = sum h y^T; scores h (G + r I)^-1 Q.

    The ridge r is the best of 10^-8 to 10^8 for the images of the newest task: fitted on the first 80 % of them,
    judged on the rest. The first-session adaptation of the paper is not part of it: the encoder stays as it is.
    """

    name = "ranpac"
    spec = MethodSpec(
        summary="Ridge regression on randomly projected frozen features.",
        keeps="a Gram matrix, a sum a class",
        paper="McDonnell et al. 2023, arXiv 2307.02251",
        formula=r"h = \max(0, f(x) W), \quad s = h (G + r I)^{-1} Q, \quad G = \sum h^T h, Q = \sum h^T y",
        family="statistics",
        options=RanPacOptions,
        kinds=("classification",),
        tune=Tunable("dim", 2, whole=True, high=10_000),
    )
    options: RanPacOptions

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        generator = torch.Generator().manual_seed(context.seed)
        width = self.options.dim
        self.sums = NamedTensors(int, moves=False)
        self.statistics = NamedTensors(str, moves=False)
        self.statistics["projection"] = torch.randn(context.encoder.pooled_dim, width, generator=generator)
        self.statistics["gram"] = torch.zeros(width, width, dtype=torch.float64)
        self.statistics["ridge"] = torch.ones((), dtype=torch.float64)
        self._solved: dict[int, Tensor] = {}
        self._rows: list[tuple[Tensor, Tensor]] = []

    def project(self, batch: Batch) -> Tensor:
        """(N, M) float32 hidden features."""
        return F.relu(self.context.encode(batch).pooled.cpu().float() @ self.statistics["projection"])

    def start_task(self, task: Task) -> None:
        """Forget the rows of a task that was interrupted."""
        super().start_task(task)
        self._rows = []

    def observe(self, batch: Batch) -> None:
        self._rows.append((self.project(batch), batch["label"].cpu()))

    def end_task(self, task: Task) -> None:
        x = torch.cat([rows for rows, _ in self._rows]).double()
        labels = torch.cat([labels for _, labels in self._rows])
        self._rows = []
        present = sorted(set(labels.tolist()))
        y = (labels[:, None] == torch.tensor(present)).double()
        cut = int(0.8 * len(x))
        if cut:
            errors = ridge_errors(x[:cut], y[:cut], x[cut:], y[cut:], RIDGES)
            self.statistics["ridge"] = torch.tensor(RIDGES[errors.index(min(errors))], dtype=torch.float64)
        self.statistics["gram"] += x.T @ x
        for column, class_id in enumerate(present):
            self.sums[class_id] = self.sums.get(class_id, 0) + x.T @ y[:, column]
        self._solve()

    def _solve(self) -> None:
        ids = sorted(self.sums)
        ridge = self.statistics["gram"].clone()
        ridge.diagonal().add_(self.statistics["ridge"])
        weights = torch.linalg.solve(ridge, torch.stack([self.sums[c] for c in ids], dim=1))
        self._solved = {c: weights[:, column] for column, c in enumerate(ids)}

    @torch.no_grad()
    def predict(self, batch: Batch, vocabulary: Sequence[int]) -> Prediction:
        x = self.project(batch).double()
        scores = torch.full((len(x), len(vocabulary)), -torch.inf, dtype=torch.float64)
        for column, class_id in enumerate(vocabulary):
            if class_id in self._solved:
                scores[:, column] = x @ self._solved[class_id]
        return Prediction(tuple(vocabulary), scores=scores)

    def load_state(self, tensors: Mapping[str, Tensor], meta: Mapping[str, Any]) -> None:
        super().load_state(tensors, meta)
        self._solve()
