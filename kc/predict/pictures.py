"""The pictures behind the rows of a memory, where the data of its run is on this machine."""

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


class Pictures:
    """Pictures by the names that rows carry; every file is found through the manifest of the benchmark.

    A memory that was made by `kc remember` keeps no picture, nor does a run whose data is elsewhere: it shows none.
    """

    def __init__(self, readers: Sequence[Reader] = ()) -> None:
        self._places = {name: (reader, i) for reader in readers for i, name in enumerate(reader.sample_ids)}
        self.small = lru_cache(maxsize=256)(self._small)

    @classmethod
    def of(cls, memory: Memory, config: RunConfig, data_root: Path | None = None) -> Pictures:
        """What is there of the benchmark on which the run of `memory` learned."""
        if not memory.info.benchmark:
            return cls()
        try:
            manifest: Manifest = load_manifest(config.benchmark)
        except KcError:
            return cls()
        found = []
        for split in manifest.splits:
            try:
                found.append(open_reader(manifest, split, data_root or config.data_root))
            except KcError:
                continue
        return cls(found)

    def _small(self, sample_id: str, side: int = 96) -> Image.Image | None:
        """The picture of a row, no side above `side` pixels; None where it is not here or cannot be read."""
        if sample_id not in self._places:
            return None
        reader, index = self._places[sample_id]
        try:
            picture = Image.fromarray(reader.read(index).image)
        except KcError:
            return None
        picture.thumbnail((side, side), Image.Resampling.BICUBIC)
        return picture
