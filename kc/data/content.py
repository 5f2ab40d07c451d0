"""What files a benchmark has here and now, as one short key: caches of anything derived from images hang on it."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from kc.data.manifest import Manifest
from kc.data.readers.detectron2_dicts import Detectron2Reader
from kc.data.readers.huggingface import HuggingFaceReader
from kc.data.readers.open import resolve_data_root
from kc.data.shards.store import open_store
from kc.data.sources import Detectron2Source, EmbeddedSource, HuggingFaceSource, ShardsSource


def content_key(manifest: Manifest, data_root: Path | None = None) -> str:
    """16 hex digits over the manifest and name, size and modification time of every file below its data folder.

    An image that is replaced, a folder of other images under the same names, another manifest: another key. Embedded
    benchmarks are composed from the manifest alone. Raises DataError where the data is missing.
    """
    digest = hashlib.sha256(manifest.fingerprint.encode())
    if isinstance(manifest.source, Detectron2Source):
        for split in manifest.splits:
            for file in Detectron2Reader.open(manifest, split).files():
                digest.update(f"{file} {os.stat(file).st_size} {os.stat(file).st_mtime_ns}\n".encode())
    elif isinstance(manifest.source, ShardsSource) and manifest.source.address:
        store = open_store(manifest.source.address)
        for part in manifest.splits.values():
            for index in part.paths():  # it holds the sizes and checksums of everything else
                digest.update(store.read_file(index))
    elif isinstance(manifest.source, HuggingFaceSource) and manifest.source.name:
        for split in manifest.splits:
            digest.update(HuggingFaceReader.open(manifest, split, None).table._fingerprint.encode())
    elif not isinstance(manifest.source, EmbeddedSource):
        root = resolve_data_root(manifest, data_root)
        for folder, subfolders, files in os.walk(root):
            subfolders.sort()
            for name in sorted(files):
                path = Path(folder) / name
                stat = path.stat()
                digest.update(f"{path.relative_to(root).as_posix()} {stat.st_size} {stat.st_mtime_ns}\n".encode())
    return digest.hexdigest()[:16]
