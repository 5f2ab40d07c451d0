"""One sample <-> the members that stand for it in a shard. Nothing is ever unpickled.

| member         | what it holds                                                                             |
|----------------|-------------------------------------------------------------------------------------------|
| KEY.jpg, .png ... | the image file as its owner distributes it; PNG where the benchmark has no image files |
| KEY.json       | `id`; `label` of an image; of a panoptic map `segments` ([class id, instance]) and `crowd`  |
| KEY.labels.png | semantic: class ids and void (`kc.label_png`); panoptic: each pixel's segment number   |
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from kc.data.readers.files import IMAGE_SUFFIXES, decode_image, decode_mask
from kc.data.readers.mask_values import UNKNOWN, ByteTable
from kc.errors import DataError
from kc.label_png import from_pixels, to_pixels
from kc.types import Int32Array, Int64Array, Sample

Fields = dict[str, bytes]
"""Ending of the member (without the key and the first dot) -> its content."""

LABELS = "labels.png"
PICKLED = frozenset({"pkl", "pickle", "pyd", "pt", "pth", "ckpt", "joblib", "npy", "npz", "pyc", "dill"})
_BLOCK = 512
_IMAGES = frozenset(suffix[1:] for suffix in IMAGE_SUFFIXES)


def to_fields(sample: Sample, image_file: Path | None) -> Fields:
    """The members of a sample; `image_file` is copied as it is, where there is one. Raises DataError."""
    meta: dict[str, Any] = {"id": sample.id}
    fields: Fields = {}
    if sample.panoptic is not None:
        pairs = sample.panoptic.reshape(-1, 2)
        segments, number = np.unique(pairs, axis=0, return_inverse=True)
        fields[LABELS] = _png(_numbers(number.reshape(sample.panoptic.shape[:2])))
        meta |= {"segments": segments.tolist(), "crowd": sorted(sample.crowd)}
    elif sample.semantic is not None:
        fields[LABELS] = _png(to_pixels(sample.semantic))
    else:
        meta["label"] = sample.label
    if image_file is None:
        fields["png"] = _png(sample.image)
    else:
        try:
            fields[image_file.suffix[1:].lower()] = image_file.read_bytes()
        except OSError as error:
            raise DataError(f"{image_file}: cannot read the image ({error.strerror})") from error
    fields["json"] = json.dumps(meta, ensure_ascii=False).encode()
    return fields


def from_fields(fields: Mapping[str, bytes], where: str, known: frozenset[int] | None = None) -> Sample:
    """The sample that `to_fields` took apart; `where` names it in errors. `known`: labels that there may be.

    Raises:
        DataError: a member is missing, unknown, pickled or damaged, or a label is not known.
    """
    for ending in fields:
        if ending.rpartition(".")[2].lower() in PICKLED:
            raise DataError(f"{where}: member .{ending} is a format that can run code when it is read: refused")
    images = [ending for ending in fields if ending in _IMAGES]
    unknown = sorted(set(fields) - {*images, "json", LABELS})
    if unknown or len(images) != 1 or "json" not in fields:
        raise DataError(
            f"{where}: members {', '.join('.' + e for e in fields) or '(none)'}; expected one image (.jpg, .png ...), "
            f".json, and .{LABELS} where the benchmark has masks"
        )
    image = decode_image(io.BytesIO(fields[images[0]]), f"{where}.{images[0]}")
    try:
        meta = json.loads(fields["json"])
        sample_id = str(meta["id"])
        if LABELS not in fields:
            _check_known(np.asarray([int(meta["label"])]), known, where)
            return Sample(sample_id, image, label=int(meta["label"]))
        pixels = decode_mask(io.BytesIO(fields[LABELS]), f"{where}.{LABELS}", channels=1)
        if "segments" not in meta:
            if pixels.dtype != np.uint8 or known is None or not _bytes(known).knows(pixels.view(np.uint8)):
                _check_known(from_pixels(pixels), known, where)
            return _fitting(Sample(sample_id, image, semantic=from_pixels(pixels)), pixels, where)
        table = np.array(meta["segments"], dtype=np.int32).reshape(-1, 2)
        _check_known(table[:, 0], known, where)
        # Both numbers of a pixel in one step, as eight bytes.
        panoptic: Int32Array = table.view(np.int64)[:, 0].take(pixels).view(np.int32).reshape(*pixels.shape, 2)
        semantic: Int64Array = table[:, 0].astype(np.int64).take(pixels)
        crowd = frozenset(int(c) for c in meta["crowd"])
    except (ValueError, KeyError, TypeError, IndexError, OverflowError, RecursionError) as error:
        raise DataError(f"{where}: its members do not fit together ({type(error).__name__}: {error})") from error
    return _fitting(Sample(sample_id, image, semantic=semantic, panoptic=panoptic, crowd=crowd), pixels, where)


def _check_known(labels: npt.NDArray[np.integer], known: frozenset[int] | None, where: str) -> None:
    if known is None:
        return
    if strange := set(np.unique(labels).tolist()) - known:
        raise DataError(f"{where}: labels {sorted(strange)[:5]} are of no class of the benchmark")


@lru_cache(maxsize=8)
def _bytes(known: frozenset[int]) -> ByteTable:
    """What there may be in 8-bit label maps: several times faster to check than by sorting their labels."""
    meaning = np.full(256, UNKNOWN, dtype=np.int64)
    of_bytes = [label for label in known if label < 255]
    meaning[of_bytes] = of_bytes  # VOID, -1, is the last byte
    return ByteTable.of(meaning)


def _fitting(sample: Sample, pixels: npt.NDArray[np.integer], where: str) -> Sample:
    if pixels.shape != sample.image.shape[:2]:
        raise DataError(f"{where}: the mask is {pixels.shape}, the image {sample.image.shape[:2]} (H, W)")
    return sample


def members(content: bytes, where: str) -> Fields:
    """The members of one sample in `content`, a piece of a tar file from its first header to the end of its last.

    Raises:
        DataError: this is no piece of a tar file, or it ends too early, or it holds anything but plain files.
    """
    return dict(_members(content, where))


def _members(content: bytes, where: str) -> Iterator[tuple[str, bytes]]:
    position, keys = 0, set()
    while position < len(content):
        header = content[position : position + _BLOCK]
        if len(header) < _BLOCK or header[257:262] != b"ustar":
            raise DataError(f"{where}: no tar header where the index says one is; the shard was changed or truncated")
        if header[156:157] not in (b"0", b"\0"):
            raise DataError(f"{where}: a member that is no plain file (type {header[156:157]!r}): refused")
        name = header[:100].rstrip(b"\0").decode("utf-8", "replace")
        octal = header[124:136].strip(b"\0 ")
        if octal.strip(b"01234567"):
            raise DataError(f"{where}: member {name} has the size {octal!r}; the shard was changed or truncated")
        size = int(octal or b"0", 8)
        start = position + _BLOCK
        if start + size > len(content):
            raise DataError(f"{where}: member {name} ends beyond the sample; the shard was changed or truncated")
        key, _, ending = name.partition(".")
        keys.add(key)
        if len(keys) > 1:
            raise DataError(f"{where}: members of two samples, {' and '.join(sorted(keys))}; the index does not fit")
        yield ending, content[start : start + size]
        position = start + -(-size // _BLOCK) * _BLOCK


def _numbers(number: npt.NDArray[np.integer]) -> npt.NDArray[np.integer]:
    if int(number.max(initial=0)) > 65535:
        raise DataError(f"{int(number.max())} segments in one image; a shard holds 65536")
    return number.astype(np.uint8 if int(number.max(initial=0)) <= 255 else np.uint16)


def _png(pixels: npt.NDArray[Any]) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG", compress_level=6)
    return file.getvalue()
