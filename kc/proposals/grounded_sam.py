"""grounded-sam:DINO_PATH,SAM_PATH: things that are named, by Grounding DINO, cut out by Segment Anything.

Grounding DINO (Liu et al. 2023, arXiv 2303.05499) finds boxes of what is named. The proposals of the training-free
variant of arXiv 2601.12779, and what its memory is built from.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from kc.errors import KcError
from kc.proposals.filters import MaskFilter, as_segments
from kc.proposals.pretrained import Checkpoint
from kc.proposals.sam import SegmentAnything
from kc.spec import ProposerSpec
from kc.types import Float32Array, Int64Array, Segments, UInt8Array


@dataclass(frozen=True)
class Boxes:
    """What was found in one image: `boxes` (N, 4) float32, x0 y0 x1 y1 in pixels; `scores` (N,) in [0, 1]; `name` (N,)
    int64, the position of the name in the list that was asked for."""

    boxes: Float32Array
    scores: Float32Array
    name: Int64Array


@dataclass(frozen=True)
class GroundingDino(Checkpoint):
    """Boxes of the checkpoint in the folder `path`, with a score of at least `min_score`."""

    family = "grounded-sam"
    kind = "grounding-dino"
    classes = ("GroundingDinoForObjectDetection", "GroundingDinoProcessor")

    min_score: float = 0.25

    @property
    def name(self) -> str:
        return f"grounded-sam:{self.path},SAM_PATH"

    @torch.no_grad()
    def find(self, image: UInt8Array, names: Sequence[str]) -> Boxes:
        """Boxes of any of `names` in `image` (H, W, 3) uint8 RGB.

        A sentence of names is as long as the network's text allows; several are asked one after the other. A box
        belongs to the name whose likeliest word it matches best. Raises KcError for a name that is too long, ValueError
        for an empty one.
        """
        parts = []
        for first, spans, text in self._sentences(names):
            probability, boxes = self._predict(image, text)
            of_name = torch.stack([probability[:, a:b].amax(1) for a, b in spans], dim=1)
            score, index = of_name.max(1)
            found = score > self.min_score
            parts.append((boxes[found], score[found], index[found] + first))
        if not parts:
            return Boxes(np.zeros((0, 4), np.float32), np.zeros(0, np.float32), np.zeros(0, np.int64))
        boxes, scores, index = (torch.cat(x).cpu() for x in zip(*parts, strict=True))
        return Boxes(boxes.float().numpy(), scores.float().numpy(), index.numpy())

    def _predict(self, image: UInt8Array, text: str) -> tuple[Tensor, Tensor]:
        """Probability of each token (Q, T) and boxes (Q, 4) in pixels, of every query."""
        model, processor = self.loaded
        inputs = processor(images=image, text=text, return_tensors="pt").to(model.device)
        out = model(**inputs)
        # Every query, for every word: which of them count is decided for each name.
        (every,) = processor.post_process_grounded_object_detection(
            out, inputs["input_ids"], threshold=-1.0, text_threshold=1.0, target_sizes=[image.shape[:2]]
        )
        return out.logits[0].sigmoid(), every["boxes"]

    def _sentences(self, names: Sequence[str]) -> list[tuple[int, list[tuple[int, int]], str]]:
        """(position of the first name, tokens [a, b) of each name, text "a. b. c.") of every text that is asked."""
        model, processor = self.loaded
        limit = int(model.config.max_text_len)
        tokens = [processor.tokenizer(_sentence(n), add_special_tokens=False)["input_ids"] for n in names]
        result: list[tuple[int, list[tuple[int, int]], str]] = []
        spans: list[tuple[int, int]] = []
        first, end = 0, 1  # a sentence opens with [CLS] and closes with [SEP]
        for i, ids in enumerate(tokens):
            if len(ids) + 2 > limit:
                raise KcError(f"name {names[i]!r} is longer than Grounding DINO reads ({limit} tokens)")
            if end + len(ids) + 1 > limit:
                result.append((first, spans, " ".join(map(_sentence, names[first:i]))))
                first, spans, end = i, [], 1
            spans.append((end, end + len(ids) - 1))  # without its full stop
            end += len(ids)
        if spans:
            result.append((first, spans, " ".join(map(_sentence, names[first:]))))
        return result


def _sentence(name: str) -> str:
    """The network separates names by full stops, so none may stand inside one."""
    words = " ".join(name.lower().replace(".", " ").split())
    if not words:
        raise ValueError(f"cannot look for the name {name!r}: it has no letters")
    return f"{words}."


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
