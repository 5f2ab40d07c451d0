"""Corrupted queries against a clean memory, a memory of equally corrupted images, and both together.

Noise, blur, JPEG and contrast at five strengths (ImageNet-C, Hendrycks and Dietterich 2019, arXiv 1903.12261).
"""

from __future__ import annotations

import io
import zlib
from dataclasses import replace
from functools import partial

import numpy as np
import torch
from matplotlib.figure import Figure
from PIL import Image
from scipy.ndimage import gaussian_filter
from torch import Tensor

from kc.memory.vote.evaluation import accuracies
from kc.report.style import looks
from kc.studies.base import Row, column
from kc.studies.figures import curve, legend, panels, style_axes
from kc.studies.keys import Keys, VoteStudy, concatenate
from kc.studies.options import KeyOptions, StudySpec
from kc.types import SplitName

MEMORIES = ("clean", "swapped", "added")
STRENGTHS: dict[str, tuple[float, ...]] = {
    "noise": (0.08, 0.12, 0.18, 0.26, 0.38),
    "blur": (1, 2, 3, 4, 6),
    "jpeg": (25, 18, 15, 10, 7),
    "contrast": (0.4, 0.3, 0.2, 0.1, 0.05),
}
"""Standard deviation of Gaussian noise, that of a Gaussian blur in pixels, JPEG quality, contrast kept; the values of
the benchmark's public code for images of 224 pixels, applied here to the images as the encoder sees them."""
# Not `kc.data.corruptions`, which has the same values: it rounds to 8 bits, and the numbers of this study do not.


class Corruptions(VoteStudy[KeyOptions]):
    """A row a corruption, strength and memory: accuracy of the rank vote. Strength 0 is the clean test set."""

    spec = StudySpec(
        summary="Clean memory, corrupted queries: what swapping or adding memory recovers.",
        plots="accuracy against strength, a line a memory, a panel a corruption",
        paper="arXiv 1903.12261",
        options=KeyOptions,
    )

    def run(self) -> Figure:
        for kind in STRENGTHS:
            for strength in range(6):
                for memory in MEMORIES[: 1 if strength == 0 else 3]:
                    self.row(f"{kind} {strength} {memory}", partial(self.scored, kind, strength, memory))
        figure, axes = panels(len(STRENGTHS), columns=4, width=2.9)
        look = looks(list(MEMORIES))
        for ax, kind in zip(axes, STRENGTHS, strict=True):
            rows = [r for r in self.rows if r["corruption"] == kind]
            for memory in MEMORIES:
                mine = [r for r in rows if r["memory"] == memory or r["strength"] == 0]
                mine.sort(key=lambda row: row["strength"])
                curve(ax, column(mine, "strength"), column(mine, "accuracy"), look[memory], f"{memory} memory")
            ax.set_ylim(0, 100)
            style_axes(ax, kind, "strength", "accuracy, %")
        legend(axes[0], fontsize=7)
        return figure

    def corrupted_keys(self, split: SplitName, kind: str, strength: int) -> Keys:
        """Keys of a split whose images are corrupted; of the clean images at strength 0."""
        if strength == 0:
            return self.keys(self.encoders[0], split)

        def change(image: Tensor, sample_id: str) -> Tensor:
            return corrupted(image, kind, strength, sample_id)

        return self.keys(self.encoders[0], split, change, f"{kind}-{strength}")

    def scored(self, kind: str, strength: int, memory: str) -> Row:
        """One corruption, strength and memory."""
        test, train = self.corrupted_keys("test", kind, strength), self.corrupted_keys("train", kind, 0)
        if memory != "clean":
            noisy = self.corrupted_keys("train", kind, strength)
            other = replace(noisy, sample_id=tuple(f"{s}|{kind}-{strength}" for s in noisy.sample_id))
            train = other if memory == "swapped" else concatenate([train, other])
        scores = accuracies(self.answers(train, test.key, self.k), test.label, [self.k], ["rank"], **self.votes)
        return {
            "corruption": kind, "strength": strength, "memory": memory, "rows": len(train), "queries": len(test),
            "accuracy": 100 * scores["rank"][0],
        }  # fmt: skip


def corrupted(image: Tensor, kind: str, strength: int, name: str) -> Tensor:
    """An image (3, H, W) float32 in [0, 1] made worse, same shape and range; `strength` from 1 to 5.

    The noise follows from `name` and strength alone, so that an image is always corrupted in the same way. ValueError
    for another kind or strength.
    """
    if kind not in STRENGTHS or not 1 <= strength <= 5:
        raise ValueError(f"corruptions are {', '.join(STRENGTHS)} with strengths 1 to 5, got {kind!r}, {strength}")
    value, pixels = STRENGTHS[kind][strength - 1], image.numpy().astype(np.float64)
    if kind == "noise":
        rng = np.random.default_rng([zlib.crc32(name.encode()), strength])
        pixels = pixels + rng.normal(scale=value, size=pixels.shape)
    elif kind == "blur":
        pixels = gaussian_filter(pixels, sigma=(0, value, value), mode="nearest")
    elif kind == "contrast":
        mean = pixels.mean(axis=(1, 2), keepdims=True)
        pixels = (pixels - mean) * value + mean
    else:
        buffer = io.BytesIO()
        whole = (pixels.transpose(1, 2, 0) * 255).round().astype(np.uint8)
        Image.fromarray(whole).save(buffer, format="JPEG", quality=int(value))
        with Image.open(buffer) as decoded:
            pixels = np.asarray(decoded, np.float64).transpose(2, 0, 1) / 255
    return torch.from_numpy(np.ascontiguousarray(pixels.clip(0, 1).astype(np.float32)))
