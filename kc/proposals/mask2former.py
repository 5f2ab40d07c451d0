"""mask2former:PATH: the masks of a trained Mask2Former (Cheng et al. 2022, arXiv 2112.01527), its classes left out."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from kc.proposals.filters import MaskFilter, as_segments, encode, stability
from kc.proposals.pretrained import Checkpoint
from kc.spec import ProposerSpec
from kc.types import Float32Array, Segments, UInt8Array


@dataclass(frozen=True)
class Mask2FormerMasks(Checkpoint):
    """One mask a query of the checkpoint in the folder `path`, those that `keep` lets through.

    The score is that of the paper's instance segmentation: the probability of the likeliest class, "no object" left
    out, times the mean mask probability inside the mask. Masks may overlap and leave pixels uncovered.
    """

    spec = ProposerSpec(
        "Masks of a trained Mask2Former, its classes left out.",
        form="mask2former:PATH",
        argument=".*",
        check="kc.proposals.pretrained:check_checkpoint",
        paper="Cheng et al. 2022, arXiv 2112.01527",
        package="transformers",
        extra="proposals",
    )
    family = "mask2former"
    kind = "mask2former"
    classes = ("Mask2FormerForUniversalSegmentation", "AutoImageProcessor")

    keep: MaskFilter = field(default_factory=lambda: MaskFilter(min_score=0.05))

    @property
    def key(self) -> str:
        """Contents of the checkpoint, and settings."""
        return f"mask2former-{self.digest}-{self.keep.key}"

    @torch.no_grad()
    def propose(self, image: UInt8Array) -> Segments:
        """Masks of `image` (H, W, 3) uint8 RGB, best first."""
        model, processor = self.loaded
        inputs = processor(images=image, input_data_format="channels_last", return_tensors="pt").to(model.device)
        out = model(**inputs)
        size = (image.shape[0], image.shape[1])
        logits = at_size(out.masks_queries_logits[0], inputs.get("pixel_mask"), inputs["pixel_values"].shape[-2:], size)
        scores = query_scores(out.class_queries_logits[0], logits)
        rles = encode((logits > 0).cpu().numpy())
        chosen = self.keep.kept(rles, scores, stability(logits) if self.keep.min_stability else None)
        return as_segments(rles, scores, chosen, size)


def at_size(logits: Tensor, valid: Tensor | None, padded: tuple[int, int], size: tuple[int, int]) -> Tensor:
    """Mask logits (Q, h, w) of a padded input at the original `size` (H, W), bilinear, the padding cut away first.

    `valid` (1, H', W') is 1 where the input of `padded` size (H', W') shows the image; None: everywhere.
    """
    full = torch.nn.functional.interpolate(logits[None], size=tuple(padded), mode="bilinear", align_corners=False)
    if valid is not None:
        rows, columns = int(valid[0].any(1).sum()), int(valid[0].any(0).sum())
        full = full[..., :rows, :columns]
    return torch.nn.functional.interpolate(full, size=size, mode="bilinear", align_corners=False)[0]


def query_scores(classes: Tensor, logits: Tensor) -> Float32Array:
    """(Q,) float32 in [0, 1] of class logits (Q, C + 1), the last of "no object", and mask logits (Q, H, W)."""
    best = classes.softmax(-1)[:, :-1].amax(1)
    inside = (logits > 0).flatten(1)
    mean = (logits.sigmoid().flatten(1) * inside).sum(1) / (inside.sum(1) + 1e-6)
    scores: Float32Array = (best * mean).float().cpu().numpy()
    return scores
