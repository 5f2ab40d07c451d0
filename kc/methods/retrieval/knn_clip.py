"""`knn-clip`: kNN-CLIP (arXiv 2404.09447): where the base is unsure, the nearest stored masks speak too."""

from __future__ import annotations

from collections.abc import Iterable

from torch import Tensor

from kc.memory.vote.fusion import knn_clip, restrict_to_known
from kc.methods.retrieval.asking import Answers
from kc.methods.retrieval.calibration import Setting, knn_clip_grid
from kc.methods.retrieval.fused import FusedMemory


class KnnClip(FusedMemory):
    """lambda * P_ret + (1 - lambda) * P_base where max P_base < T, else P_base (METHODS 1.1)."""

    name = "knn-clip"

    def fuse(self, setting: Setting, answers: Answers, known: Tensor, p_ret: Tensor, has_votes: Tensor) -> Tensor:
        """The paper's fusion over the names known to the memory."""
        base = restrict_to_known(answers.own.to(p_ret), known)
        return knn_clip(base, p_ret, has_votes, setting.lam, setting.threshold)

    def grid(self, answers: Answers) -> Iterable[Setting]:
        """k, lambda and T."""
        return knn_clip_grid()
