"""grounded-sam:DINO_PATH,SAM_PATH: things that are named, by Grounding DINO, cut out by Segment Anything.

The proposals of the training-free variant of arXiv 2601.12779, and what its memory is built from.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from kc.proposals.filters import MaskFilter, as_segments
from kc.proposals.grounding import GroundingDino
from kc.proposals.sam import SegmentAnything
from kc.spec import ProposerSpec
from kc.types import Int64Array, Segments, UInt8Array


@dataclass(frozen=True)
class GroundedSam:
    """Masks of `names` (asked for by name, given without it), each with the score of its box, those `keep` lets
    through."""

    spec = ProposerSpec(
        "Masks of what is named: boxes of Grounding DINO, masks of Segment Anything.",
        form="grounded-sam:DINO_PATH,SAM_PATH",
        argument=".*",
        check="kc.proposals.pretrained:check_grounded_sam",
        paper="Liu et al. 2023, arXiv 2303.05499",
        package="transformers",
        extra="proposals",
        reads_names=True,
    )

    dino: GroundingDino
    sam: SegmentAnything
    names: tuple[str, ...]
    keep: MaskFilter = field(default_factory=MaskFilter)

    @property
    def name(self) -> str:
        return f"grounded-sam:{self.dino.path},{self.sam.path}"

    @cached_property
    def key(self) -> str:
        """Contents of both checkpoints, settings, and the names in their order."""
        names = hashlib.sha256("\n".join(self.names).encode()).hexdigest()[:8]
        return f"grounded-sam-{self.dino.digest}-{self.sam.digest}-{self.dino.min_score:g}-{self.keep.key}-{names}"

    def propose(self, image: UInt8Array) -> Segments:
        """Masks of `image` (H, W, 3) uint8 RGB, best first; they may overlap."""
        return self.named(image, self.names)[0]

    def named(self, image: UInt8Array, names: Sequence[str]) -> tuple[Segments, Int64Array]:
        """The masks of `names` in `image`, best first, and the position (N,) of each one's name in `names`."""
        found = self.dino.find(image, names)
        rles, stable = self.sam.in_boxes(image, found.boxes)
        chosen = self.keep.kept(rles, found.scores, stable)
        return as_segments(rles, found.scores, chosen, (image.shape[0], image.shape[1])), found.name[chosen]

    @classmethod
    def load(cls, argument: str, names: Sequence[str] = (), **settings: Any) -> GroundedSam:
        """The two checkpoints of `DINO_PATH,SAM_PATH`. Raises MissingExtraError."""
        dino, _, sam = argument.partition(",")
        return cls(GroundingDino(dino), SegmentAnything(sam), tuple(names), **settings)
