"""The images behind the rows of a memory, where the data of their benchmark is on this machine."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

from PIL import Image

from kc.config import RunConfig
from kc.data.manifest import Manifest, load_manifest
from kc.data.readers.base import Reader
from kc.data.readers.open import open_reader
from kc.errors import KcError
from kc.memory.base import MemoryStore as Memory
from kc.types import Sample


class Sources:
    """Images by the ids that rows carry; every file is found through the manifest of the benchmark.

    A memory that was made by `kc remember` keeps no image, nor does a run whose data is elsewhere: it shows none, and
    `missing` says why.
    """

    def __init__(self, readers: Sequence[Reader] = (), missing: str = "") -> None:
        self.readers, self.missing = tuple(readers), missing
        self._places = {name: (reader, i) for reader in readers for i, name in enumerate(reader.sample_ids)}
        self.small = lru_cache(maxsize=256)(self._small)

    @classmethod
    def open(cls, manifest: Manifest, data_root: Path | None) -> Sources:
        """Every split whose data is here."""
        found, missing = [], ""
        for split in manifest.splits:
            try:
                found.append(open_reader(manifest, split, data_root))
            except KcError as error:
                missing = str(error)
        return cls(found, missing)

    @classmethod
    def of(cls, memory: Memory, config: RunConfig, data_root: Path | None = None) -> Sources:
        """What is here of the benchmark on which the run of `memory` learned."""
        if not memory.info.benchmark:
            return cls()
        try:
            return cls.open(load_manifest(config.benchmark), data_root or config.data_root)
        except KcError as error:
            return cls(missing=str(error))

    def sample(self, sample_id: str) -> Sample | None:
        """The sample of this id; None where it is not here. Raises DataError where it cannot be read."""
        reader, index = self._places.get(sample_id, (None, 0))
        return None if reader is None else reader.read(index)

    def _small(self, sample_id: str, side: int = 96) -> Image.Image | None:
        """The image of a row, no side above `side` pixels; None where it is not here or cannot be read."""
        try:
            sample = self.sample(sample_id)
        except KcError:
            return None
        if sample is None:
            return None
        image = Image.fromarray(sample.image)
        image.thumbnail((side, side), Image.Resampling.BICUBIC)
        return image
