"""detectron2:CONFIG.yaml,WEIGHTS.pth as a base: a model with a fixed list of classes, asked for the names it knows."""

from __future__ import annotations

from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from kc.budget import ANSWERS, BoundedCache, cache_bytes
from kc.encoders.base import Encoder
from kc.errors import KcError
from kc.openvocab.base import Names, plain_name
from kc.proposals.base import pixels_of
from kc.proposals.detectron2_model import Detectron2Model
from kc.spec import DENSE, BaseSpec
from kc.types import Int64Array, Segments, UInt8Array

THINGS = "things"
"""The class that stands for all things among the stuff classes of detectron2's panoptic models."""


class Detectron2Base:
    """A `DenseVocabulary` over the names in the model's metadata; every other name has probability 0.

    Evidence for a class at a pixel: the softmax of the semantic answer; for things the score of the best instance (or
    panoptic segment) that covers it. Names are matched without regard to case, synonyms too. A background that the
    model does not know by name gets what is left of 1.
    """

    spec = BaseSpec(
        "A model of detectron2, for the names it knows.",
        form="detectron2:CONFIG.yaml,WEIGHTS.pth",
        argument=":.+",
        check="kc.proposals.detectron2_files:check_base",
        package="detectron2",
        extra="detectron2",
        kinds=DENSE,
    )

    def __init__(self, places: str) -> None:
        self.model = Detectron2Model(places)
        self.name = self.model.name
        self._seen: BoundedCache[str, Tensor] = BoundedCache(cache_bytes(ANSWERS), lambda t: t.nbytes)

    @property
    def key(self) -> str:
        return f"{self.name} | {self.model.digest}"

    @cached_property
    def class_names(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Names of the model's things and of its stuff, in the order of its class numbers."""
        metadata, keys = self.model.metadata, ("thing_classes", "stuff_classes")
        things, stuff = (tuple(str(n) for n in metadata.get(key, None) or ()) for key in keys)
        if not things and not stuff:
            raise KcError(f"{self.name}: the metadata of {metadata.name!r} has neither {' nor '.join(keys)}")
        return things, stuff

    def scores_from(self, pooled: Tensor, names: Names) -> Tensor:
        raise KcError(f"base {self.name!r} labels regions and pixels of images; it does not read pooled features")

    def trained_on(self, names: Names) -> Tensor:
        return self._matches(names).any(0)

    def evidence(self, image: UInt8Array, sample_id: str) -> Tensor:
        """(T + S, H, W) in [0, 1], things first; kept for the next call with the same sample."""
        return self._seen.get_or_make(f"{sample_id} {image.shape}", lambda: self._look(image))

    def _look(self, image: UInt8Array) -> Tensor:
        things, stuff = self.class_names
        found = torch.zeros(len(things) + len(stuff), *image.shape[:2])
        answer = self.model(image)
        if "sem_seg" in answer:
            p = answer["sem_seg"].float().softmax(0).cpu()
            if len(p) != len(stuff):
                raise KcError(f"{self.name}: {len(p)} semantic classes, but its metadata names {len(stuff)}")
            found[len(things) :] = p
        instances = answer.get("instances")
        if instances is not None and instances.has("pred_masks"):
            for mask, k, score in zip(
                instances.pred_masks.cpu(), instances.pred_classes.tolist(), instances.scores.tolist(), strict=True
            ):
                found[k] = torch.maximum(found[k], mask.float() * score)
        elif "panoptic_seg" in answer:
            self._add_segments(found, *answer["panoptic_seg"])
        return found

    def _add_segments(self, found: Tensor, numbers: Tensor, segments: Any) -> None:
        things, stuff = self.class_names
        if segments is None:
            raise KcError(f"{self.name}: its panoptic answer does not say the classes of its segments")
        # Models with one list for both kinds (Mask2Former) number stuff in it too.
        shift = 0 if things == stuff else len(things)
        for s in segments:
            k = int(s["category_id"]) + (0 if s["isthing"] else shift)
            mask = (numbers.cpu() == s["id"]).float() * float(s.get("score", 1.0))
            found[k] = torch.maximum(found[k], mask)

    def _matches(self, names: Names) -> Tensor:
        """(T + S, C) bool: which of the model's classes a name or synonym of each class means."""
        things, stuff = self.class_names
        own = [plain_name(n) for n in (*things, *stuff)]
        wanted = [{plain_name(n) for n in synonyms} for synonyms in names]
        hits = [[n in w and not (n == THINGS and i >= len(things)) for w in wanted] for i, n in enumerate(own)]
        return torch.tensor(hits, dtype=torch.bool).reshape(len(own), len(wanted))

    def _over_names(self, evidence: Tensor, names: Names, background: int | None) -> Tensor:
        """Evidence (T + S, M) as probabilities (M, C): rows sum to 1, and are uniform where nothing matches."""
        match = self._matches(names)
        scores = evidence.T @ match.float()
        if background is not None and not match[:, background].any():
            scores[:, background] = (1 - scores.sum(1)).clamp(min=0)
        total = scores.sum(1, keepdim=True)
        return torch.where(total > 0, scores / total.clamp(min=torch.finfo(scores.dtype).tiny), 1 / len(names))

    def region_scores(
        self, image: UInt8Array, sample_id: str, segments: Segments, names: Names, background: int | None
    ) -> Tensor:
        flat = self.evidence(image, sample_id).flatten(1)
        region, pixel = (torch.from_numpy(a) for a in pixels_of(segments))
        n = torch.bincount(region, minlength=len(segments)).clamp(min=1)
        total = torch.zeros(len(flat), len(segments)).index_add_(1, region, flat[:, pixel])
        return self._over_names(total / n, names, background)

    def segment(self, image: UInt8Array, sample_id: str, names: Names, background: int | None) -> Int64Array:
        """Position in `names` (C) of the class of each pixel, (H, W) int64; the first where nothing is known."""
        evidence = self.evidence(image, sample_id)
        best = self._over_names(evidence.flatten(1), names, background).argmax(1)
        return np.asarray(best, np.int64).reshape(evidence.shape[1:])

    @classmethod
    def load(cls, name: str, encoder: Encoder, **_: Any) -> Detectron2Base:
        return cls(name.partition(":")[2])
