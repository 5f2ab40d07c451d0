"""`ret-clip`: retrieval-augmented open-vocabulary panoptic segmentation (arXiv 2601.12779)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from torch import Tensor

from kc.memory.vote.fusion import restrict_to_known, ret_clip
from kc.methods.retrieval.base_outputs import BaseOutputs
from kc.methods.retrieval.calibration import Setting, ret_clip_grid
from kc.methods.retrieval.fused import FusedMemory
from kc.methods.retrieval.vote_options import FusedOptions
from kc.spec import Fraction, MethodSpec, Tunable


@dataclass(frozen=True)
class RetClipOptions(FusedOptions):
    """Options of RetCLIP.

    Args:
        alpha: Weight of retrieval and frozen CLIP, for names that the base was trained on.
        beta: The same for other names.
        gamma: Share of the memory beside the base's frozen CLIP.
    """

    alpha: Fraction = 0.4
    beta: Fraction = 0.7
    gamma: Fraction = 0.3


class RetClip(FusedMemory):
    """Retrieval and frozen CLIP joined by gamma, then with the trained head by alpha for names it was trained on and
    beta for others (METHODS 1.2). The probabilities of a base without heads stand for both."""

    name = "ret-clip"
    spec = MethodSpec(
        summary="Retrieval, frozen CLIP and a trained head joined linearly.",
        keeps="rows of a memory",
        paper="arXiv 2601.12779",
        formula=r"s = w (\gamma s_{ret} + (1 - \gamma) s_{clip}) + (1 - w) s_{head}, \quad "
        r"w = \alpha \text{ for names of the base's training, else } \beta",
        family="memory",
        options=RetClipOptions,
        base="required",
        by_name=True,
        tune=Tunable("beta", 3, odds=True),
    )

    def fixed(self) -> Setting:
        options = self.options
        return Setting(options.k, alpha=options.alpha, beta=options.beta, gamma=options.gamma)

    def fuse(self, setting: Setting, answers: BaseOutputs, known: Tensor, p_ret: Tensor, has_votes: Tensor) -> Tensor:
        said = answers.heads
        clip, trained = (restrict_to_known(p.to(p_ret), known) for p in (said.out_of_vocabulary, said.in_vocabulary))
        return ret_clip(p_ret, clip, trained, said.seen, setting.alpha, setting.beta, setting.gamma)

    def grid(self, answers: BaseOutputs) -> Iterable[Setting]:
        seen = answers.heads.seen
        return ret_clip_grid(bool(seen.any()), bool((~seen).any()))
