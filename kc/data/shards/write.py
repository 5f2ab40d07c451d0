"""Write a split as tar shards: in parallel, each shard complete or not at all, going on where it was interrupted."""

from __future__ import annotations

import hashlib
import io
import tarfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import yaml

from kc.data.manifest import Manifest
from kc.data.parallel import in_order
from kc.data.readers.base import HasImageFiles, Reader
from kc.data.shards.fields import to_fields
from kc.data.shards.index import OldSchemaError, PackedIds, ShardIndex
from kc.data.shards.store import Store
from kc.errors import MissingExtraError
from kc.types import SplitName

PER_SHARD = 1000


@dataclass(frozen=True)
class Written:
    """What `write_shards` did: shards written now, shards that were there already, samples and bytes in all."""

    new: int
    kept: int
    samples: int
    bytes: int


def write_shards(
    manifest: Manifest,
    split: SplitName,
    reader: Reader,
    store: Store,
    content: str,
    *,
    per_shard: int = PER_SHARD,
    workers: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Written:
    """Write the samples of `reader`, `per_shard` in each shard and in their order, and `SPLIT.index.npz`.

    `content`: what the files are now (`kc.data.content.content_key`). A shard that an interrupted call finished from
    the same content is kept. Raises DataError for a sample that cannot be read, or a place that cannot be written.
    """
    tar_writer()
    count = -(-len(reader) // per_shard)
    plan = hashlib.sha256(f"{content} {split} {per_shard} {len(reader)}".encode())
    for sample_id in reader.sample_ids:
        plan.update(sample_id.encode() + b"\n")
    name = plan.hexdigest()
    index_name = f"{split}.index.npz"
    table, ids = reader.class_table, reader.sample_ids

    def one(number: int) -> tuple[ShardIndex, bool]:
        shard, part = f"{split}-{number:05d}.tar", f"{split}-{number:05d}.part.npz"
        found = _stored(store, part)
        if found is not None and found.plan == name and store.size(shard) == int(found.shard_bytes[0]):
            return found, False
        rows = range(number * per_shard, min((number + 1) * per_shard, len(reader)))
        body, columns = _tar(reader, rows)
        packed_ids = PackedIds.pack(ids[row] for row in rows)
        held = table[rows.start : rows.stop]
        index = ShardIndex(
            class_ids=np.asarray(manifest.class_ids(), dtype=np.int64),
            shard=np.zeros(len(rows), dtype=np.int32),
            packed=np.packbits(held, axis=1),
            id_text=packed_ids.text,
            id_ends=packed_ids.ends,
            names=np.array([shard]),
            shard_bytes=np.array([len(body)], dtype=np.int64),
            counts=held.sum(axis=0, dtype=np.int64)[None],
            plan=name,
            **columns,
        )
        store.write(shard, body)
        store.write(part, index.to_bytes())  # last: it says that its shard is whole
        return index, True

    if (old := _stored(store, index_name)) is not None:
        sizes = [store.size(str(shard)) for shard in old.names]
        if old.plan == name and sizes == old.shard_bytes.tolist():
            return Written(0, len(sizes), len(old), int(old.shard_bytes.sum()))
    parts: list[ShardIndex] = []
    new = 0
    for number, (part, written) in enumerate(in_order(one, count, workers)):
        parts.append(part)
        new += written
        if progress is not None:
            progress(number + 1, count)
    index = concatenated(parts)
    store.write(index_name, index.to_bytes())
    for number in range(count):
        store.remove(f"{split}-{number:05d}.part.npz")
    return Written(new, count - new, len(index), int(index.shard_bytes.sum()))


def _stored(store: Store, name: str) -> ShardIndex | None:
    """The index of this name; None where there is none, or one of an older schema, whose shards are written again."""
    if store.size(name) is None:
        return None
    try:
        return ShardIndex.from_bytes(store.read_file(name), f"{store.name}/{name}")
    except OldSchemaError:
        return None


def concatenated(parts: list[ShardIndex]) -> ShardIndex:
    """One index of shards that have one each."""
    first = np.cumsum([0, *(len(p.id_text) for p in parts[:-1])])
    return ShardIndex(
        class_ids=parts[0].class_ids,
        shard=np.repeat(np.arange(len(parts), dtype=np.int32), [len(p) for p in parts]),
        id_ends=np.concatenate([p.id_ends + start for p, start in zip(parts, first, strict=True)]),
        plan=parts[0].plan,
        **{
            k: np.concatenate([getattr(p, k) for p in parts])
            for k in ("offset", "size", "crc", "packed", "id_text", "names", "shard_bytes", "counts")
        },
    )


def manifest_of_shards(manifest: Manifest, folder: str, address: str | None) -> str:
    """The YAML of a benchmark that is read from its shards: the same classes, task splits and settings."""
    content: dict[str, Any] = manifest.model_dump(mode="json", exclude_defaults=True)
    for key in ("checksum", "download", "obtain", "ignore"):
        content.pop(key, None)
    content["source"] = {"reader": "shards", **({"address": address} if address else {"folder": folder})}
    content["splits"] = {split: {"index": f"{split}.index.npz"} for split in manifest.splits}
    for spec in content["classes"]:
        spec.pop("folder", None)
        spec.pop("values", None)
    return yaml.safe_dump(content, sort_keys=False, allow_unicode=True)


def tar_writer() -> Any:
    """webdataset's writer. Raises MissingExtraError."""
    try:
        from webdataset import TarWriter
    except ImportError as error:
        raise MissingExtraError("writing shards needs webdataset: pip install 'kc-continual[shards]'") from error
    return TarWriter


def _tar(reader: Reader, rows: range) -> tuple[bytes, dict[str, Any]]:
    """A tar file of some samples, and where in it each lies."""
    file = io.BytesIO()
    ends = [0]
    # Always the same bytes for the same samples: no time and no user.
    with tar_writer()(file, user="", group="", mtime=0, encoder=False, compress=False) as tar:
        for row in rows:
            image_file = reader.image_file(row) if isinstance(reader, HasImageFiles) else None
            fields = to_fields(reader.read(row), image_file)
            tar.write({"__key__": f"{row:09d}", **fields})
            ends.append(int(tar.tarstream.offset))
    body = file.getvalue()
    assert all(end % tarfile.BLOCKSIZE == 0 for end in ends)
    pairs = list(pairwise(ends))
    columns = {
        "offset": np.array(ends[:-1], dtype=np.int64),
        "size": np.diff(ends).astype(np.int64),
        "crc": np.array([zlib.crc32(body[a:b]) for a, b in pairs], dtype=np.uint32),
    }
    return body, columns
