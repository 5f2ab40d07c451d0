"""Decoded samples kept in memory, because a stream evaluates on the same test images after every task."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from torch.utils.data import get_worker_info

from kc.budget import BoundedCache
from kc.types import Sample

if TYPE_CHECKING:
    from kc.data.readers.base import Reader


class SampleCache:
    """Decoded samples of one split, kept in memory compactly, as long as the budget that splits have together lasts.

    Images stay uint8; class ids and instance numbers become int8, int16 or int32, the first that holds them. Loader
    workers read what was kept before they started but keep nothing themselves.
    """

    def __init__(self, reader: Reader, kept: BoundedCache[tuple[int, int], Sample]) -> None:
        self.reader = reader
        self._kept = kept

    def read(self, index: int) -> Sample:
        """Sample `index` of the reader, from memory where it is kept."""
        key = id(self), index
        kept = self._kept.get(key)
        if kept is not None:
            return _widened(kept)
        sample = self.reader.read(index)
        # The budget cannot be shared between processes, so only the main one spends it.
        if get_worker_info() is None and self._kept.used < self._kept.budget:
            self._kept.put(key, _narrowed(sample))
        return sample


def sample_budget(n_bytes: int) -> BoundedCache[tuple[int, int], Sample]:
    """Room for the samples of several splits. What is read in the same order after every task is not replaced."""
    return BoundedCache(n_bytes, _n_bytes, evict=False)


def _narrowed(sample: Sample) -> Sample:
    # Sample's fields are typed for the callers of readers; inside the cache they are held narrower on purpose.
    panoptic: Any = sample.panoptic
    semantic: Any = sample.semantic
    if panoptic is not None:
        # The semantic map is the first channel, so it is not kept twice.
        panoptic = _smallest(panoptic)
        semantic = None
    elif semantic is not None:
        semantic = _smallest(semantic)
    return Sample(sample.id, sample.image, sample.label, semantic, panoptic, sample.crowd)


def _smallest(labels: Any) -> Any:
    top = int(labels.max(initial=0))
    return labels.astype(next(t for t in (np.int8, np.int16, np.int32) if top <= np.iinfo(t).max))


def _widened(sample: Sample) -> Sample:
    semantic, panoptic = sample.semantic, sample.panoptic
    if panoptic is not None:
        panoptic = panoptic.astype(np.int32)
        semantic = panoptic[..., 0].astype(np.int64)
    elif semantic is not None:
        semantic = semantic.astype(np.int64)
    return Sample(sample.id, sample.image, sample.label, semantic, panoptic, sample.crowd)


def _n_bytes(sample: Sample) -> int:
    return sum(a.nbytes for a in (sample.image, sample.semantic, sample.panoptic) if a is not None)
