"""FC-CLIP as an open-vocabulary base: maps from its own masks, probabilities of given regions."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from kc.budget import ANSWERS, BoundedCache, cache_bytes
from kc.encoders.base import Encoder, digest
from kc.encoders.open_clip_model import OpenClipEncoder
from kc.errors import KcError
from kc.openvocab.base import BaseProbabilities, Names, plain_name, seen_in
from kc.openvocab.dense_clip.text import TextBank
from kc.openvocab.fc_clip.checkpoint import load_fc_clip
from kc.openvocab.fc_clip.geometry import Frame, cover, frame_of, overlaps, pool_regions, prepare, to_original
from kc.openvocab.fc_clip.network import FcClip, NetworkOutput, ensemble, mixed, name_logits, project, with_void
from kc.openvocab.fc_clip.options import FcClipBaseOptions, FcClipOptions, options_for, weights_of
from kc.openvocab.mask_inference import instances, panoptic_map
from kc.spec import DENSE, BaseSpec
from kc.types import Instances, Int32Array, Int64Array, Segments, UInt8Array

TEMPLATES = "vild14"
QUERIES_AT_ONCE = 32
"""Masks at the image's own size that are held together: 250 of them take 2 GB on a Cityscapes image."""
MIN_SCORE = 0.05
"""Ours: under it a mask is almost surely no object. The authors' own path cuts nothing here, but knows the names."""


@dataclass(frozen=True)
class ImageOutput:
    """The network's output for one image, which does not depend on names.

    `classes` and `clip` (Q, D): embeddings of each query by the trained head and by CLIP; `masks` (Q, h, w) logits;
    `states`, `pixels`, `dense` as in `NetworkOutput`, without the first axis.
    """

    frame: Frame
    classes: Tensor
    clip: Tensor
    masks: Tensor
    states: Tensor
    pixels: Tensor
    dense: Tensor

    @property
    def nbytes(self) -> int:
        return sum(part.nbytes for part in vars(self).values() if isinstance(part, Tensor))


class FcClipBase:
    """A `TwoHeaded` base that finds masks of its own.

    Names are embedded with ViLD's 14 prompts. `background` is a class like others, by its names, as in the authors'
    evaluation on Pascal VOC 21.
    """

    spec = BaseSpec(
        "FC-CLIP: panoptic segmentation by a frozen convolutional CLIP; weights made by `kc fc-clip convert`.",
        form="fc-clip[:MODEL]@FILE",
        argument="(:[^@]+)?(@.+)?",
        check="kc.openvocab.fc_clip.options:check_base",
        options=FcClipBaseOptions,
        paper="Yu et al. 2023, arXiv 2308.02487",
        package="transformers",
        extra="masks",
        kinds=DENSE,
    )

    def __init__(self, name: str, network: FcClip, options: FcClipOptions | None = None) -> None:
        self.name = name
        self.network = network.eval()
        self.options = options or FcClipOptions()
        self.encoder = OpenClipEncoder(network.config.clip, network.clip)
        network.to(self.options.device)  # the encoder above has read its tower on the CPU
        self.bank = TextBank(self.encoder, TEMPLATES, self.options.cache)
        self.trained = frozenset(plain_name(synonym) for synonyms in network.names for synonym in synonyms)
        big, small = cache_bytes(0.8 * ANSWERS), cache_bytes(0.2 * ANSWERS)
        self._outputs = BoundedCache[bytes, ImageOutput](big, lambda output: output.nbytes)
        self._regions = BoundedCache[bytes, tuple[Tensor, Tensor]](small, lambda pair: pair[0].nbytes + pair[1].nbytes)

    @cached_property
    def fingerprint(self) -> str:
        """16 hex digits over architecture, trained names and every weight."""
        return digest((dataclasses.astuple(self.network.config), self.network.names), self.network.state_dict())

    @property
    def key(self) -> str:
        o = self.options
        settings = f"alpha={o.alpha:g} beta={o.beta:g} sides={o.short_side},{o.long_side} score={o.score:g}"
        return f"{self.name}: {self.network.config.clip} | {settings} overlap={o.overlap:g} | {self.fingerprint}"

    @property
    def device(self) -> torch.device:
        return self.network.logit_scale.device

    def proposer(self) -> FcClipProposer:
        return FcClipProposer(self)

    def scores_from(self, pooled: Tensor, names: Names) -> Tensor:
        raise KcError(f"base {self.name!r} labels regions and pixels of images; it does not read pooled features")

    def image_output(self, image: UInt8Array) -> ImageOutput:
        """The network's output for `image` (H, W, 3) uint8 RGB, cached by its content."""
        return self._outputs.get_or_make(_digest(image), lambda: self._run(image))

    @torch.no_grad()
    def _run(self, image: UInt8Array) -> ImageOutput:
        frame = frame_of((image.shape[0], image.shape[1]), self.options.short_side, self.options.long_side)
        out: NetworkOutput = self.network(prepare(image, frame)[None].to(self.device))
        clip = self.network.clip_embed(out.dense, out.masks[-1])
        found = (out.classes[-1], clip, out.masks[-1], out.states, out.pixels, out.dense)
        return ImageOutput(frame, *(part[0] for part in found))

    def text(self, names: Names) -> tuple[Tensor, list[int]]:
        """Unit embeddings (M, D) of all names, class after class, and how many each class has.

        Raises KcError for a class without a name, an empty name, or no class at all.
        """
        empty = [i for i, synonyms in enumerate(names) if not synonyms]
        if empty or not names:
            raise KcError(f"classes without a name, by position: {empty}" if names else "a vocabulary without a name")
        flat = [synonym for synonyms in names for synonym in synonyms]
        return self.bank.embed(flat).to(self.device), [len(synonyms) for synonyms in names]

    @torch.no_grad()
    def query_scores(self, output: ImageOutput, names: Names) -> Tensor:
        """Probabilities (Q, 1 + C) of the queries: "no object" first, then `names` (C), by the ensemble."""
        text, counts = self.text(names)
        net = self.network
        inside = with_void(output.classes, text, counts, net.logit_scale, net.void.weight)
        outside = name_logits(output.clip, text, counts, net.clip.logit_scale)
        return ensemble(inside, outside, self.trained_on(names), self.options.alpha, self.options.beta)

    @torch.no_grad()
    def semantic_scores(self, output: ImageOutput, names: Names) -> Tensor:
        """(C, H, W) at the image's own size: sum over queries of probability times mask."""
        p = self.query_scores(output, names)[:, 1:]
        total = torch.zeros(p.shape[1], *output.frame.original, device=p.device)
        for some, masks in zip(*(torch.split(x, QUERIES_AT_ONCE) for x in (p, output.masks)), strict=True):
            total += torch.einsum("qc,qhw->chw", some, to_original(masks, output.frame).sigmoid())
        return total

    def segment(self, image: UInt8Array, sample_id: str, names: Names, background: int | None) -> Int64Array:
        return np.asarray(self.semantic_scores(self.image_output(image), names).argmax(0).cpu(), np.int64)

    @torch.no_grad()
    def panoptic(
        self, image: UInt8Array, sample_id: str, names: Names, class_ids: Sequence[int], thing_ids: Collection[int]
    ) -> Int32Array:
        output = self.image_output(image)
        p = self.query_scores(output, names)
        best, column = p.max(-1)
        sure = (column > 0) & (best > self.options.score)  # the others would only take memory at the full size
        masks = to_original(output.masks[sure], output.frame)
        return panoptic_map(p[sure], masks, class_ids, thing_ids, self.options.score, self.options.overlap)

    @torch.no_grad()
    def instances(
        self, image: UInt8Array, sample_id: str, names: Names, class_ids: Sequence[int], thing_ids: Collection[int]
    ) -> Instances:
        """Of the 100 best pairs of query and class those whose class is countable, at the image's own size."""
        output = self.image_output(image)
        masks = to_original(output.masks, output.frame)
        return instances(self.query_scores(output, names), masks, class_ids, thing_ids)

    def trained_on(self, names: Names) -> Tensor:
        return seen_in(names, self.trained)

    @torch.no_grad()
    def region_probabilities(
        self, image: UInt8Array, sample_id: str, segments: Segments, names: Names, background: int | None
    ) -> BaseProbabilities:
        """Probabilities of N regions of `image` (H, W, 3) uint8 RGB over `names` (C) by head and CLIP, on the CPU.

        The head also reads a query: that of the network's own mask with the highest intersection over union.
        """
        text, counts = self.text(names)
        inside, outside = self._embeddings(image, segments)
        net = self.network
        return BaseProbabilities(
            name_logits(inside, text, counts, net.logit_scale).softmax(-1).cpu(),
            name_logits(outside, text, counts, net.clip.logit_scale).softmax(-1).cpu(),
            self.trained_on(names),
        )

    def region_scores(
        self, image: UInt8Array, sample_id: str, segments: Segments, names: Names, background: int | None
    ) -> Tensor:
        """Probabilities (N, C) float32 on the CPU of N regions: the geometric ensemble of `region_probabilities`.

        Given regions are taken for objects, so "no object" has no part.
        """
        found = self.region_probabilities(image, sample_id, segments, names, background)
        logs = [p.clamp_min(torch.finfo(p.dtype).tiny).log() for p in (found.in_vocabulary, found.out_of_vocabulary)]
        return mixed(logs[0], logs[1], found.seen, self.options.alpha, self.options.beta).softmax(-1)

    def _embeddings(self, image: UInt8Array, segments: Segments) -> tuple[Tensor, Tensor]:
        if segments.size != image.shape[:2]:
            raise KcError(f"regions of an image of {segments.size} for an image of {image.shape[:2]}")
        regions = segments.partition if segments.partition is not None else segments.masks
        assert regions is not None
        key = _digest(image) + _digest(regions)
        return self._regions.get_or_make(key, lambda: self._embed(self.image_output(image), segments))

    def _embed(self, output: ImageOutput, segments: Segments) -> tuple[Tensor, Tensor]:
        """(N, D) embeddings by the head and by CLIP."""
        grid = (output.pixels.shape[1], output.pixels.shape[2])
        weights = cover(segments, output.frame, grid)
        meet = overlaps(output.masks, segments, output.frame, weights)
        inside = self.network.class_head(pool_regions(output.pixels, weights), output.states[meet.argmax(1)])
        coarse = cover(segments, output.frame, (output.dense.shape[1], output.dense.shape[2]))
        return inside, project(self.network.clip.visual, pool_regions(output.dense, coarse))

    @classmethod
    def load(
        cls, name: str, encoder: Encoder, *, benchmark: str = "", cache: Path | None = None, device: str = "cpu",
        **options: Any,
    ) -> FcClipBase:  # fmt: skip
        """The base `fc-clip@FILE` or `fc-clip:MODEL@FILE`, asked as published for `benchmark`.

        Raises MissingExtraError where weights or transformers are missing, KcError where the file does not fit.
        """
        clip, path = weights_of(name)
        chosen = dataclasses.replace(options_for(benchmark, **options), cache=cache, device=device)
        return cls(name, load_fc_clip(path, clip), chosen)


@dataclass(eq=False)
class FcClipProposer:
    """The mask of every query, where its logits are above 0.

    The score is the probability that the query is one of the names the head was trained on, not "no object", times the
    mean probability inside the mask. Masks that are empty or score below `min_score` are left out; masks may overlap.
    """

    base: FcClipBase
    min_score: float = MIN_SCORE
    name: str = "fc-clip"

    @property
    def key(self) -> str:
        o = self.base.options
        return f"fc-clip-{o.short_side}-{o.long_side}-{self.min_score:g}-{self.base.fingerprint}"

    @torch.no_grad()
    def propose(self, image: UInt8Array) -> Segments:
        """Masks of `image` (H, W, 3) uint8 RGB at its own size, best first."""
        base, net = self.base, self.base.network
        output = base.image_output(image)
        text, counts = base.text(net.names)
        logits = with_void(output.classes, text, counts, net.logit_scale, net.void.weight)
        objects = 1 - logits.softmax(-1)[:, -1]
        masks, scores = [], []
        for some, p in zip(*(torch.split(x, QUERIES_AT_ONCE) for x in (output.masks, objects)), strict=True):
            full = to_original(some, output.frame)
            inside = full > 0
            mean = (full.sigmoid() * inside).flatten(1).sum(1) / inside.flatten(1).sum(1).clamp_min(1)
            masks.append(inside.cpu().numpy())
            scores.append((p * mean).cpu().numpy())
        score = np.concatenate(scores).astype(np.float32)
        order = np.argsort(-score, kind="stable")
        order = order[(score[order] >= self.min_score) & (score[order] > 0)]  # an empty mask scores 0
        return Segments(output.frame.original, score[order], masks=np.concatenate(masks)[order])


def _digest(array: npt.NDArray[Any]) -> bytes:
    data = np.ascontiguousarray(array)
    return hashlib.blake2b(data.data, digest_size=16, salt=repr(data.shape).encode()[:16]).digest()
