"""What every continual method is given. No Lightning here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from kc.encoders.base import Encoder
from kc.encoders.cache import FeatureCache
from kc.errors import RunError
from kc.memory.store.info import MemoryInfo
from kc.methods.regions import RegionEncoder
from kc.methods.training_options import Training
from kc.openvocab.base import OpenVocabulary
from kc.types import Batch, ClassInfo, Features, TaskKind


@dataclass
class Context:
    """What one run shares between its methods: benchmark facts, the frozen encoder, proposals, the base model."""

    kind: TaskKind
    classes: Mapping[int, ClassInfo]
    encoder: Encoder
    features: FeatureCache
    training: Training
    """Training options, and how regions become keys."""
    seed: int
    folder: Path
    """Where this method keeps its files (its memory, its checkpoints)."""
    regions: RegionEncoder | None = None
    """Proposals and their keys, shared by all methods; None in classification."""
    base: OpenVocabulary | None = None
    info: MemoryInfo | None = None
    """What a memory that the method creates carries: how its keys are made and how it is asked."""
    options: Any = None
    """The method's own options, an instance of its spec's dataclass."""
    input_size: tuple[int, int] | None = None
    """(H, W) of the images whose features are all cached: then a batch need not carry images; None: it must."""

    @property
    def background_id(self) -> int | None:
        """Id of the benchmark's background class, or None where every pixel belongs to a named class."""
        return next((c.id for c in self.classes.values() if c.background), None)

    @property
    def thing_ids(self) -> tuple[int, ...]:
        """Ids of the countable classes."""
        return tuple(c.id for c in self.classes.values() if c.is_thing)

    def names(self, ids: Sequence[int]) -> list[list[str]]:
        """Name and synonyms of each class, for a text encoder."""
        return [[self.classes[i].name, *self.classes[i].synonyms] for i in ids]

    def encode(self, batch: Batch) -> Features:
        """Frozen features of a batch, from the cache where it has them; a batch without images has all of them there.

        Raises RunError where a batch without images meets a cache that lost one of its files.
        """
        ids = list(batch["sample_id"])
        if "image" in batch or self.input_size is None:
            return self.features.encode(batch["image"], ids)
        found = self.features.get(ids, self.input_size)
        if found is None:
            raise RunError(f"features in {self.features.folder} are gone or damaged: start the command again")
        device = batch["index"].device
        return Features(found.pooled.to(device), tuple(x.to(device) for x in found.levels), found.strides)


@runtime_checkable
class Remembers(Protocol):
    """A method that commits rows to a memory on disk; it is called in every process of a run."""

    def store(self, task: int, n_processes: int) -> None:
        """After each training batch: hand what was observed to the memory of rank 0."""

    def commit(self, task: int, n_processes: int) -> int:
        """When a task ends: commit its rows, all or none, once; returns how many are new."""


def as_map(semantic: Tensor) -> Any:
    """A class-id map on the host as int64 numpy."""
    return semantic.to("cpu", torch.int64).numpy()
