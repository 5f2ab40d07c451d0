"""Encoder, proposals and base of stored settings, ready for images that belong to no benchmark."""

from __future__ import annotations

import dataclasses
import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from kc.checks import dense_options
from kc.data.transforms import image_to_tensor
from kc.encoders.cache import Unstored
from kc.encoders.load import load_encoder
from kc.errors import KcError
from kc.methods.base import Batch, Context
from kc.methods.config import MethodConfig
from kc.methods.regions import RegionEncoder
from kc.openvocab.base import OpenVocabulary
from kc.openvocab.load import check_base, load_base
from kc.predict.settings import Settings
from kc.proposals.cache import UnstoredPartitions
from kc.proposals.load import load_proposer
from kc.types import UInt8Array

KEPT_BYTES = 1 << 26
"""Regions that are kept for images that are asked about again."""


@dataclass(frozen=True)
class Tools:
    """What is loaded once for many images; nothing of an image reaches the disk."""

    settings: Settings
    context: Context

    @classmethod
    def load(cls, settings: Settings, seed: int = 0, folder: Path = Path()) -> Tools:
        """Load what `settings` name. Raises KcError for regions that only a labelled image has, and what loading
        encoder, proposals or base raises."""
        config = settings.config
        encoder = load_encoder(config.encoder).eval()
        features = Unstored(encoder)
        regions = None
        if settings.kind != "classification":
            if config.proposals == "oracle":
                raise KcError(
                    "the regions of this run are true segments, which a new image has not: "
                    "give --proposals superpixels or felzenszwalb"
                )
            partitions = UnstoredPartitions(load_proposer(str(config.proposals)))
            regions = RegionEncoder(encoder, features, partitions, str(config.keys), KEPT_BYTES)
        knobs = MethodConfig(**{f.name: getattr(config, f.name) for f in dataclasses.fields(MethodConfig)})
        base: OpenVocabulary | None = None
        if config.base != "none":
            options = dense_options(config, config.benchmark)
            check_base(config.base, config.encoder, settings.kind, options)
            base = load_base(config.base, encoder, options)
        context = Context(
            kind=settings.kind,
            classes=settings.classes,
            encoder=encoder,
            features=features,
            config=knobs,
            seed=seed,
            folder=folder,
            regions=regions,
            base=base,
        )
        return cls(settings, context)

    @property
    def fingerprint(self) -> str:
        """What keys made with these tools are, as `VisualMemory` writes it."""
        parts = [self.context.encoder.fingerprint]
        if self.context.regions is not None:
            parts += [self.context.regions.source, self.context.regions.keys]
        return "+".join(parts)

    @property
    def dim(self) -> int:
        """Size of a key."""
        regions = self.context.regions
        return self.context.encoder.pooled_dim if regions is None else regions.dim

    def batch(self, image: UInt8Array) -> Batch:
        """A batch of one image (H, W, 3) uint8 RGB, as the stream gives it to methods."""
        pixels = image_to_tensor(image, self.settings.input_size)[None]
        batch: dict[str, Any] = {
            "image": pixels,
            "raw": [image],
            "sample_id": [name_of(image)],
            "index": torch.zeros(1, dtype=torch.int64),
            "original_size": [image.shape[:2]],
        }
        return batch


def name_of(image: UInt8Array) -> str:
    """A name for an image: 16 hex digits of its size and pixels."""
    size = np.array(image.shape, np.int64).tobytes()
    return hashlib.sha256(size + np.ascontiguousarray(image).tobytes()).hexdigest()[:16]
