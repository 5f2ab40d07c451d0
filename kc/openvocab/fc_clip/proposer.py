"""FC-CLIP's masks as class-agnostic regions, whatever the names."""

from __future__ import annotations

import numpy as np
import torch

from kc.openvocab.fc_clip.base import QUERIES_AT_ONCE, FcClipBase
from kc.openvocab.fc_clip.geometry import to_original
from kc.openvocab.fc_clip.scores import with_void
from kc.types import Segments, UInt8Array

MIN_SCORE = 0.05
"""Ours: under it a mask is almost surely no object. The authors' own path cuts nothing here, but knows the names."""


class FcClipProposer:
    """The mask of every query, where its logits are above 0.

    The score is the probability that the query is one of the names the head was trained on, not "no object", times the
    mean probability inside the mask. Masks that are empty or score below `min_score` are left out; masks may overlap.
    """

    def __init__(self, base: FcClipBase, min_score: float = MIN_SCORE) -> None:
        self.base = base
        self.min_score = min_score

    @property
    def name(self) -> str:
        """As given on the command line."""
        return "fc-clip"

    @property
    def key(self) -> str:
        """Name, settings and the network's fingerprint."""
        o = self.base.options
        return f"fc-clip-{o.short_side}-{o.long_side}-{self.min_score:g}-{self.base.fingerprint}"

    @torch.no_grad()
    def propose(self, image: UInt8Array) -> Segments:
        """Masks of `image` (H, W, 3) uint8 RGB at its own size, best first."""
        base, net = self.base, self.base.network
        look = base.look(image)
        text, counts = base.text(net.names)
        logits = with_void(look.classes, text, counts, net.logit_scale, net.void.weight)
        objects = 1 - logits.softmax(-1)[:, -1]
        masks, scores = [], []
        for start in range(0, len(objects), QUERIES_AT_ONCE):
            part = slice(start, start + QUERIES_AT_ONCE)
            full = to_original(look.masks[part], look.frame)
            inside = full > 0
            mean = (full.sigmoid() * inside).flatten(1).sum(1) / inside.flatten(1).sum(1).clamp_min(1)
            masks.append(inside.cpu().numpy())
            scores.append((objects[part] * mean).cpu().numpy())
        score = np.concatenate(scores).astype(np.float32)
        order = np.argsort(-score, kind="stable")
        order = order[(score[order] >= self.min_score) & (score[order] > 0)]  # an empty mask scores 0
        return Segments(look.frame.original, score[order], masks=np.concatenate(masks)[order])
