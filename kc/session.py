"""The only wiring: from a resolved config to data, encoder, regions, base model, memory and method.

Every command that encodes images or queries a method builds a `Session`: of a benchmark's images, whose features,
regions and keys are cached on disk, or of images that belong to no benchmark and leave nothing on disk.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, cast

import numpy as np
import torch

from kc.config import RunConfig, field_name, stored_options
from kc.data.manifest import Manifest
from kc.data.readers.open import content_key, data_key
from kc.data.transforms import image_to_tensor
from kc.encoders.base import Encoder
from kc.encoders.cache import FeatureCache, UncachedFeatures
from kc.encoders.load import load_encoder
from kc.files import cache_dir, shortened
from kc.memory.store.info import MemoryInfo
from kc.methods.base import Context
from kc.methods.module import ContinualMethod
from kc.methods.regions import RegionEncoder, normalised
from kc.methods.training_options import Training
from kc.openvocab.base import OpenVocabulary
from kc.openvocab.load import base_family, load_base
from kc.proposals.base import Proposer
from kc.proposals.cache import PartitionCache, UncachedPartitions
from kc.proposals.load import load_proposer
from kc.registry import load_class, method_spec
from kc.resolve import base_to_load, components, n_tasks, stream_of, with_options
from kc.types import Batch, ClassInfo, Float32Array, Sample, Segments, SplitName, TaskKind, UInt8Array
from kc.versions import versions_key

if TYPE_CHECKING:
    from kc.data.datamodule import IncrementalDataModule
    from kc.data.readers.base import Reader


@dataclass(frozen=True)
class Facts:
    """What a session knows of its benchmark without its images. `input_size`: (H, W) that networks see."""

    name: str
    kind: TaskKind
    input_size: tuple[int, int]
    classes: dict[int, ClassInfo]

    @classmethod
    def of_memory(cls, info: MemoryInfo) -> Facts:
        """Those that a memory carries."""
        return cls(info.benchmark, info.kind, info.input_size, dict(info.classes))

    @classmethod
    def of(cls, manifest: Manifest) -> Facts:
        """Those of a manifest."""
        height, width = map(int, manifest.input_size)
        return cls(manifest.name, manifest.task_kind, (height, width), {c.id: c for c in manifest.info})


@dataclass(frozen=True)
class Session:
    """What all methods of a run, or all images of a query, read and none changes."""

    config: RunConfig
    facts: Facts
    encoder: Encoder
    features: FeatureCache
    regions: RegionEncoder | None
    base: OpenVocabulary | None
    data: IncrementalDataModule | None = None
    data_key: str = ""
    """What the files of the benchmark hold (`kc.data.readers.open.data_key`)."""

    @classmethod
    def open(cls, config: RunConfig, facts: Facts, place: Path | None = None) -> Self:
        """Build what the resolved `config` names; caches lie in `place`, or nowhere.

        Raises what loading raises.
        """
        encoder = load_encoder(config.encoder).eval()
        features = UncachedFeatures(encoder) if place is None else FeatureCache(place / "features", encoder)
        base: OpenVocabulary | None = None
        if (wanted := base_to_load(config)) != "none":
            device = "cuda" if config.accelerator in ("auto", "gpu", "cuda") and torch.cuda.is_available() else "cpu"
            texts = cache_dir() / "derived" / "text"
            options = config.of(base_family(wanted))
            base = load_base(wanted, encoder, benchmark=facts.name, cache=texts, device=device, **options)
        if facts.kind == "classification":
            return cls(config, facts, encoder, features, None, base)
        partitions: PartitionCache | None = None
        if config.proposals != "oracle":
            made = proposer_of(config, base, facts.classes)
            partitions = UncachedPartitions(made) if place is None else PartitionCache(place / "proposals", made)
        keys = None if place is None else place / "keys"
        regions = RegionEncoder(encoder, features, partitions, str(config.keys), folder=keys)
        return cls(config, facts, encoder, features, regions, base)

    @classmethod
    def of_data(cls, config: RunConfig, data: IncrementalDataModule) -> Self:
        """Of the images of a benchmark, with caches on disk."""
        key = data_key(data.manifest, data.data_root)
        session = cls.open(config, Facts.of(data.manifest), cache_of(data.manifest, data.data_root, key))
        return dataclasses.replace(session, data=data, data_key=key)

    @property
    def stream(self) -> IncrementalDataModule:
        """The tasks of its benchmark. Only for a session that was opened by `of_data`."""
        assert self.data is not None
        return self.data

    def with_classes(self, classes: dict[int, ClassInfo]) -> Self:
        """The same networks asked about other classes."""
        return dataclasses.replace(self, facts=dataclasses.replace(self.facts, classes=classes))

    def memory_info(self, method: str) -> MemoryInfo:
        """How keys are made and how `method` searches them, as a memory carries it from its creation."""
        config, facts = self.config, self.facts
        whole = facts.kind == "classification"
        return MemoryInfo(
            encoder=config.encoder, kind=facts.kind, input_size=facts.input_size, classes=facts.classes,
            proposals="" if whole else str(config.proposals), keys=config.keys or "pooled", purity=config.purity,
            benchmark=config.benchmark if facts.name else "", base="" if config.base == "none" else config.base,
            method=method,
            options=stored_options(config.running(method) if method in config.method_names else config),
        )  # fmt: skip

    def context(self, name: str, seed: int = 0, folder: Path = Path(), config: RunConfig | None = None) -> Context:
        """What method `name` is given; `folder`: where it keeps its files; `config`: its own, where it has one."""
        config = config or self.config
        asked = config.base != "none" or method_spec(name).base == "required"
        return Context(
            kind=self.facts.kind, classes=self.facts.classes, encoder=self.encoder, features=self.features,
            training=Training(**{f.name: getattr(config, f.name) for f in dataclasses.fields(Training)}),
            options=method_spec(name).options(**config.of(name)), seed=seed, folder=folder, regions=self.regions,
            base=self.base if asked else None, info=dataclasses.replace(self, config=config).memory_info(name),
            input_size=None if isinstance(self.features, UncachedFeatures) else self.facts.input_size,
        )  # fmt: skip

    def method(
        self, name: str, seed: int = 0, folder: Path = Path(), config: RunConfig | None = None
    ) -> ContinualMethod:
        """The untrained method `name`."""
        return cast(ContinualMethod, load_class("method", name)(self.context(name, seed, folder, config)))

    @property
    def fingerprint(self) -> str:
        """What its keys are: encoder, proposals and way of making keys, as a memory stores it."""
        made = [] if self.regions is None else [self.regions.source, self.regions.keys]
        return "+".join([self.encoder.fingerprint, *made])

    @property
    def dim(self) -> int:
        """Size of a key."""
        return self.encoder.pooled_dim if self.regions is None else self.regions.dim

    @torch.no_grad()
    def keys_of(
        self, image: UInt8Array, segments: Segments | None = None, sample: Sample | None = None
    ) -> tuple[Float32Array, Segments | None]:
        """Keys (N, D) of the regions of an image (H, W, 3) uint8 RGB, and the regions; of the image (1, D) and None in
        classification.

        `segments`: these regions instead of those that are proposed. `sample`: the labels, where regions are true
        segments. Raises KcError where these are wanted and missing.
        """
        batch = self.batch(image, sample)
        if self.regions is None:
            return normalised(self.features.encode(batch["image"], batch["sample_id"]).pooled), None
        if segments is not None:
            return self.regions.keys_of(batch, [0], [segments])[0], segments
        (found,) = self.regions(batch)
        return found.keys, found.segments

    def batch(self, image: UInt8Array, sample: Sample | None = None) -> Batch:
        """A batch of one image (H, W, 3) uint8 RGB, as the stream gives it to methods; with the labels of `sample`."""
        labels = {} if sample is None else {"panoptic": sample.panoptic, "semantic": sample.semantic}
        return {
            **{name: [value] for name, value in labels.items() if value is not None},
            "image": image_to_tensor(image, self.facts.input_size)[None],
            "raw": [image],
            "sample_id": [name_of(image)],
            "index": torch.zeros(1, dtype=torch.int64),
            "original_size": [image.shape[:2]],
        }


def config_of_memory(info: MemoryInfo) -> RunConfig:
    """The resolved config by which the keys of a memory were made and by which it is asked."""
    method = info.method or "knn"
    config = RunConfig(
        benchmark=info.benchmark or RunConfig.benchmark, methods=method, encoder=info.encoder, keys=info.keys,
        proposals=info.proposals or "superpixels", decoder="fpn", purity=info.purity, base=info.base or "none",
    )  # fmt: skip
    running = components(config)
    options = {o: {field_name(k): v for k, v in values.items()} for o, values in info.options.items() if o in running}
    return with_options(dataclasses.replace(config, options=options))


def cache_of(manifest: Manifest, data_root: Path | None, key: str | None = None) -> Path:
    """The folder in which features, regions and keys of a benchmark's images are cached, of these versions of kc and
    the packages that compute them."""
    content = content_key(manifest, data_root, key)
    return cache_dir() / "derived" / f"{shortened(manifest.name)}-{content}-{versions_key()}"


def open_data(
    config: RunConfig, seed: int | None = None, readers: Mapping[SplitName, Reader] | None = None
) -> IncrementalDataModule:
    """The stream of tasks; every error of a benchmark shows here, before a network is built.

    `readers`: these splits, instead of those of the benchmark.
    """
    from kc.data.datamodule import IncrementalDataModule  # Lightning: a memory is asked without it

    data = IncrementalDataModule(
        config.benchmark, tasks=n_tasks(config), split=config.split, setting=config.setting,
        class_order=config.class_order, data_root=config.data_root, batch_size=config.batch_size,
        num_workers=config.num_workers, seed=config.seeds[0] if seed is None else seed, readers=readers,
        limit_images=config.limit_images, stream=stream_of(config), image_lists=config.image_lists,
        skip_bad=config.skip_bad, shard_order=config.shard_order,
    )  # fmt: skip
    data.setup()
    return data


def proposer_of(config: RunConfig, base: OpenVocabulary | None, classes: Mapping[int, ClassInfo]) -> Proposer:
    """The proposer of a resolved config; `fc-clip` is that of the run's base."""
    name = str(config.proposals)
    if name == "fc-clip":
        return cast(Proposer, cast(Any, base).proposer())  # `resolve` has checked that it is an FC-CLIP
    return load_proposer(name, [c.name for c in classes.values()], **config.of(name.partition(":")[0]))


def name_of(image: UInt8Array) -> str:
    """A name for an image: 16 hex digits of its size and pixels."""
    size = np.array(image.shape, np.int64).tobytes()
    return hashlib.sha256(size + np.ascontiguousarray(image).tobytes()).hexdigest()[:16]
