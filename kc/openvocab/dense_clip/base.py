"""A row of the table as an open-vocabulary base: dense scores for regions and pixels, CLIP's own for whole images."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from kc.budget import ANSWERS, BoundedCache, cache_bytes
from kc.encoders.base import Encoder
from kc.encoders.load import load_encoder
from kc.encoders.open_clip_model import OpenClipEncoder
from kc.errors import KcError
from kc.openvocab.base import Names
from kc.openvocab.dense_clip.model import DenseClip
from kc.openvocab.dense_clip.options import DenseClipOptions, DenseOptions, protocol_of, row_of
from kc.openvocab.dense_clip.rows import ROWS
from kc.openvocab.dense_clip.segmenter import Cells, Segmenter
from kc.openvocab.dense_clip.study import calibration_images, resolve
from kc.openvocab.dense_clip.text import TextBank, class_scores
from kc.spec import BaseSpec
from kc.types import Int64Array, Segments, UInt8Array


class DenseBase:
    """`Segmenter` as the framework needs it. What the network says of an image does not depend on the names, so it
    is kept by sample id."""

    spec = BaseSpec(
        "Training-free dense CLIP: the last block is read as the paper of the row says (docs/dense_clip.md).",
        form="ROW[:MODEL@FILE], ROW = clip, maskclip, sclip, clearclip, naclip, proxyclip or gclip",
        argument="(:.+)?",
        check="kc.openvocab.dense_clip.options:check_base",
        options=DenseClipOptions,
    )

    def __init__(self, name: str, segmenter: Segmenter, *, reads_pooled: bool) -> None:
        """`reads_pooled`: the run's encoder is this very CLIP, so that its pooled features can be classified."""
        self.name, self.segmenter, self.reads_pooled = name, segmenter, reads_pooled
        self._kept: BoundedCache[str, Cells] = BoundedCache(cache_bytes(ANSWERS), lambda cells: cells.nbytes)

    @property
    def key(self) -> str:
        s = self.segmenter
        proxy = [] if s.proxy is None else [f"proxy {s.proxy.fingerprint}"]
        return " | ".join([f"{self.name}: {s.model.row.key}", s.protocol.key, s.encoder.fingerprint, *proxy])

    @torch.no_grad()
    def scores_from(self, pooled: Tensor, names: Names) -> Tensor:
        """Probabilities (N, C) float32 over `names` (C) of CLIP's pooled features (N, D) of whole images.

        At CLIP's own logit scale; one softmax over all names, the best of each class, as probabilities again.
        """
        if not self.reads_pooled:
            raise KcError(f"base {self.name!r} has a CLIP of its own, so it cannot read another encoder's features")
        text, counts = self.segmenter.text(names)
        cosines = F.normalize(pooled.float(), dim=1) @ text.to(pooled.device).T
        scores = class_scores(cosines, counts, float(self.segmenter.encoder.network.logit_scale.exp()))
        return scores / scores.sum(1, keepdim=True)

    def region_scores(
        self, image: UInt8Array, sample_id: str, segments: Segments, names: Names, background: int | None
    ) -> Tensor:
        """Probabilities (N, C) float32 on the CPU: cosines averaged over each region, then the protocol's softmax."""
        s = self.segmenter
        text, counts = s.text(names, background)
        cosines = s.region_cosines(image, self._cells(image, sample_id), segments, text)
        return s.class_scores(cosines, counts).cpu()

    def segment(self, image: UInt8Array, sample_id: str, names: Names, background: int | None) -> Int64Array:
        return self.segmenter.segment(image, names, background, self._cells(image, sample_id))

    def _cells(self, image: UInt8Array, sample_id: str) -> Cells:
        return self._kept.get_or_make(sample_id, lambda: self.segmenter.cells(image))

    @classmethod
    def load(
        cls, name: str, encoder: Encoder, *, benchmark: str | None = None, cache: Path | None = None,
        device: str = "cpu", **options: Any,
    ) -> DenseBase:  # fmt: skip
        """The base `ROW` on the run's `encoder`, or `ROW:MODEL[@FILE]` on a CLIP of its own.

        Raises KcError where the encoder is no CLIP the row can read, MissingExtraError where weights cannot be had.
        """
        row_name, colon, model = name.partition(":")
        clip = load_encoder(f"open_clip:{model}") if colon else encoder
        if not isinstance(clip, OpenClipEncoder):
            what = "a CLIP (open_clip:MODEL@FILE) as the run's encoder"
            raise KcError(f"base {name!r} reads {what}, got {encoder.name!r}")
        proxy = encoder if colon and ROWS[row_name].attention == "proxy" else None
        chosen = DenseOptions(benchmark=benchmark, cache=cache, **options)
        return build(row_name, clip, chosen, proxy, name=name, reads_pooled=not colon)


def build(
    row_name: str, clip: OpenClipEncoder, options: DenseOptions, proxy: Encoder | None = None,
    *, name: str | None = None, reads_pooled: bool = True,
) -> DenseBase:  # fmt: skip
    """The row on `clip`, with the blocks that nobody chose found on four photographs. Raises KcError."""
    device = next(clip.parameters()).device
    wanted, visual = row_of(row_name, options, clip.architecture), clip.network.visual
    row = resolve(wanted, visual, lambda: calibration_images(clip.size, clip.preprocessing).to(device))
    protocol = protocol_of(row_name, options)
    bank = TextBank(clip, protocol.templates, options.cache)
    segmenter = Segmenter(clip, DenseClip(visual, row), bank, protocol, proxy)
    return DenseBase(name or row_name, segmenter, reads_pooled=reads_pooled)
