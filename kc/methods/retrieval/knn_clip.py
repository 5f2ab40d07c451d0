"""`knn-clip`: kNN-CLIP (arXiv 2404.09447): where the base is unsure, the nearest stored masks are fused with it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from torch import Tensor

from kc.memory.vote.fusion import knn_clip, restrict_to_known
from kc.methods.retrieval.base_outputs import BaseOutputs
from kc.methods.retrieval.calibration import Setting, knn_clip_grid
from kc.methods.retrieval.fused import FusedMemory
from kc.methods.retrieval.vote_options import BlendOptions, FusedOptions
from kc.spec import MethodSpec, Tunable


@dataclass(frozen=True)
class KnnClipOptions(BlendOptions, FusedOptions):
    """Options of kNN-CLIP."""


class KnnClip(FusedMemory):
    """lambda * P_ret + (1 - lambda) * P_base where max P_base < T, else P_base (METHODS 1.1)."""

    name = "knn-clip"
    spec = MethodSpec(
        summary="Where an open-vocabulary base is unsure, the nearest stored masks are fused with it.",
        keeps="rows of a memory",
        paper="Gui et al. 2024, arXiv 2404.09447",
        formula=r"P = \lambda P_{ret} + (1 - \lambda) P_{base} \text{ where } \max P_{base} < T",
        family="memory",
        options=KnnClipOptions,
        base="required",
        by_name=True,
        tune=Tunable("lambda_", 3, odds=True),
    )

    def fixed(self) -> Setting:
        return Setting(self.options.k, lam=self.options.lambda_, threshold=self.options.threshold)

    def fuse(self, setting: Setting, answers: BaseOutputs, known: Tensor, p_ret: Tensor, has_votes: Tensor) -> Tensor:
        base = restrict_to_known(answers.own.to(p_ret), known)
        return knn_clip(base, p_ret, has_votes, setting.lam, setting.threshold)

    def grid(self, answers: BaseOutputs) -> Iterable[Setting]:
        return knn_clip_grid()
