"""`ret-clip`: retrieval-augmented open-vocabulary panoptic segmentation (arXiv 2601.12779)."""

from __future__ import annotations

from collections.abc import Iterable

from torch import Tensor

from kc.memory.vote.fusion import restrict_to_known, ret_clip
from kc.methods.retrieval.asking import Answers
from kc.methods.retrieval.calibration import Setting, ret_clip_grid
from kc.methods.retrieval.fused import FusedMemory


class RetClip(FusedMemory):
    """Retrieval and frozen CLIP joined by gamma, then with the trained head by alpha for names it was trained on and
    beta for others (METHODS 1.2). The probabilities of a base without heads stand for both."""

    name = "ret-clip"

    def fuse(self, setting: Setting, answers: Answers, known: Tensor, p_ret: Tensor, has_votes: Tensor) -> Tensor:
        """The paper's fusion over the names known to the memory."""
        said = answers.heads
        clip, trained = (restrict_to_known(p.to(p_ret), known) for p in (said.out_of_vocabulary, said.in_vocabulary))
        return ret_clip(p_ret, clip, trained, said.seen, setting.alpha, setting.beta, setting.gamma)

    def grid(self, answers: Answers) -> Iterable[Setting]:
        """k, alpha, beta and gamma."""
        seen = answers.heads.seen
        return ret_clip_grid(bool(seen.any()), bool((~seen).any()))
