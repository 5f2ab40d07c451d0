"""From images to region keys, and from region scores back to maps: shared by every method that reads masks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from scipy.ndimage import find_objects
from torch import Tensor
from torch.nn import functional as F

from kc.budget import REGIONS, BoundedCache, cache_bytes
from kc.encoders.base import Encoder, dense
from kc.encoders.cache import FeatureCache, packed, unpacked
from kc.errors import KcError
from kc.files import file_name, hashed_path, read_checked, write_checked
from kc.proposals.cache import PartitionCache
from kc.proposals.oracle import partition_from
from kc.proposals.pooling import pool, segment_labels
from kc.types import Batch, BoolArray, Float32Array, Int64Array, Segments, UInt8Array

MAGIC = b"KCK1"


@dataclass(frozen=True)
class KeyStore:
    """Keys (N, D) of one image by sample id, float32 as they were made, so that reading and making agree to the bit.

    An entry belongs to the encoder's weights, to `source`, which made the regions, and to `how` they became keys. One
    folder serves one benchmark: sample ids are unique in a benchmark only. A damaged file counts as absent.
    """

    folder: Path
    encoder: Encoder
    source: str

    def _path(self, sample_id: str, how: str) -> Path:
        folder = self.folder / file_name(self.encoder.fingerprint) / self.source / how
        return hashed_path(folder, sample_id, ".f32")

    def read(self, sample_id: str, how: str, shape: tuple[int, int]) -> Float32Array | None:
        """The keys of `shape` (N, D), or None where there are none such."""
        body = read_checked(self._path(sample_id, how), MAGIC)
        shapes, start = ((), 0) if body is None else unpacked(body)
        if body is None or shapes != (shape,):
            return None
        return np.frombuffer(body, np.float32, offset=start).reshape(shape).copy()

    def write(self, sample_id: str, how: str, keys: Float32Array) -> None:
        """Keep the keys (N, D). Raises RunError where the folder cannot be written."""
        body = packed((keys.shape,), np.ascontiguousarray(keys, np.float32).tobytes())
        write_checked(self._path(sample_id, how), MAGIC, body)


KEYS = ("pooled", "masked")
"""How a region becomes a key. pooled: the image is encoded once and the feature map averaged over the mask (kNN-CLIP,
arXiv 2404.09447). masked: the region is cropped, everything else blacked out, and the crop encoded (the masked
features of arXiv 2601.12779); slower, but it keeps shape, which an average over the mask loses."""
CROP = 64
"""Side of a masked crop in pixels."""
CROP_MARGIN = 0.1
"""Border left around the region's box, as a share of its longer side."""


@dataclass(frozen=True)
class Regions:
    """Proposals of one image with a key each: `keys` (N, D) float32, L2-normalised."""

    segments: Segments
    keys: Float32Array


class RegionEncoder:
    """Keys of proposals, see `KEYS`; one serves all methods of a run.

    Regions of an image stay in memory (up to `budget` bytes; None: their share in `kc.budget`), their keys also on
    disk. True segments are cached nowhere: they depend on which labels may be seen.

    Args:
        encoder: makes the keys.
        features: its features of whole images, for pooled keys.
        partitions: where regions come from; None: the true segments, as far as labels may be seen.
        keys: `pooled` or `masked`.
        folder: where keys are kept, of this benchmark only; None: nowhere.
    """

    def __init__(
        self, encoder: Encoder, features: FeatureCache, partitions: PartitionCache | None, keys: str,
        budget: int | None = None, folder: Path | None = None,
    ) -> None:  # fmt: skip
        self.encoder, self.features, self.partitions, self.keys = encoder, features, partitions, keys
        self._kept: BoundedCache[str, Regions] = BoundedCache(
            cache_bytes(REGIONS) if budget is None else budget,
            lambda regions: regions.keys.nbytes + int(np.prod(regions.segments.size)) * 4,
            evict=False,
        )
        self._store = None
        if folder is not None and partitions is not None:
            self._store = KeyStore(folder, encoder, partitions.proposer.key)

    @property
    def may_keep(self) -> bool:
        """False for true segments: they depend on which labels may be seen."""
        return self.partitions is not None

    @property
    def source(self) -> str:
        """What makes the regions: name and settings of the proposer, or `oracle`."""
        return "oracle" if self.partitions is None else self.partitions.proposer.key

    def missing(self, sample_ids: Sequence[str]) -> list[str]:
        """The ids whose regions are not kept, in order."""
        return [s for s in sample_ids if s not in self._kept]

    def __call__(self, batch: Batch) -> list[Regions]:
        """Regions of each image of a batch that carries `raw` images."""
        ids = list(batch["sample_id"])
        made = {s: kept for s in ids if (kept := self._kept.get(s)) is not None}
        new = [row for row, s in enumerate(ids) if s not in made]
        for row, regions in zip(new, self._make(batch, new), strict=True):
            made[ids[row]] = regions
            if self.may_keep:
                self._kept.put(ids[row], regions)
        return [made[s] for s in ids]

    def _segments(self, batch: Batch, row: int) -> Segments:
        """Proposals for one image of a batch, at its original size, from the cache where it has them."""
        if self.partitions is None:
            known = next((k for k in ("panoptic_raw", "labels_raw", "panoptic", "semantic") if k in batch), None)
            if known is None:
                raise KcError("the regions are true segments, and this image has no labels: give a labelled sample")
            return partition_from(batch[known][row])
        return self.partitions.propose(batch["raw"][row], batch["sample_id"][row])

    def _make(self, batch: Batch, rows: list[int]) -> list[Regions]:
        if not rows:
            return []
        segments = [self._segments(batch, row) for row in rows]
        ids = [batch["sample_id"][row] for row in rows]
        # Pooled keys depend on the size of the network's input, masked ones on how crops are cut.
        size = "x".join(map(str, batch["image"].shape[-2:]))
        how = f"pooled-{size}" if self.keys == "pooled" else f"masked-{CROP}-{CROP_MARGIN:g}"
        keys: list[Float32Array | None] = [None] * len(rows)
        if self._store is not None:
            keys = [self._store.read(i, how, (len(s), self.dim)) for i, s in zip(ids, segments, strict=True)]
        new = [i for i, known in enumerate(keys) if known is None]
        fresh = self.keys_of(batch, [rows[i] for i in new], [segments[i] for i in new])
        for i, made in zip(new, fresh, strict=True):
            keys[i] = made
            if self._store is not None:
                self._store.write(ids[i], how, made)
        return [Regions(s, k) for s, k in zip(segments, keys, strict=True) if k is not None]

    def keys_of(self, batch: Batch, rows: Sequence[int], segments: Sequence[Segments]) -> list[Float32Array]:
        """Keys (N, D) of the given regions of some images of a batch."""
        if not rows:
            return []
        if self.keys == "masked":
            pairs, device = zip(rows, segments, strict=True), batch["image"].device
            return [masked_keys(self.encoder, batch["raw"][row], s, device) for row, s in pairs]
        features = self.features.encode(batch["image"], list(batch["sample_id"]))
        maps = dense(features, self.encoder.strides[0])[list(rows)].cpu()
        return [pool(m, s) for m, s in zip(maps, segments, strict=True)]

    @property
    def dim(self) -> int:
        """Size of a key."""
        return key_dim(self.encoder, self.keys)


def key_dim(encoder: Encoder, keys: str) -> int:
    """Size of a key of `keys` (see `KEYS`)."""
    if keys == "pooled":
        return sum(encoder.channels)
    return 4 * sum(encoder.channels[i] for i in crop_levels(encoder))


def crop_levels(encoder: Encoder) -> list[int]:
    """The levels that still have a layout in a crop: at least 4 x 4 cells."""
    return [i for i, stride in enumerate(encoder.strides) if CROP // stride >= 4]


@torch.no_grad()
def masked_keys(encoder: Encoder, image: UInt8Array, segments: Segments, device: torch.device) -> Float32Array:
    """One key a region from its own crop with everything outside the mask black.

    Each level is L2-normalised per position, averaged over the four quarters of the crop, and L2-normalised again
    before the levels are joined, so that none outweighs another. Regions of one image are encoded together, so a key
    does not depend on other images.

    Args:
        image: (H, W, 3) uint8 RGB.
        segments: N regions of that image.

    Returns:
        (N, D) float32, L2-normalised.
    """
    if len(segments) == 0:
        return np.zeros((0, key_dim(encoder, "masked")), np.float32)
    crops, inside = cut_out(image, segments)
    pixels = torch.from_numpy(crops * inside[:, None]).to(device, torch.float32) / 255
    was_training = encoder.training
    features = encoder.eval()(pixels)
    encoder.train(was_training)
    parts = [
        F.normalize(F.adaptive_avg_pool2d(F.normalize(features.levels[i], dim=1), 2).flatten(1), dim=1)
        for i in crop_levels(encoder)
    ]
    return normalised(torch.cat(parts, dim=1))


def cut_out(image: UInt8Array, segments: Segments) -> tuple[UInt8Array, BoolArray]:
    """Square crops around N regions, (N, 3, CROP, CROP) uint8, and which of their pixels belong, (N, CROP, CROP) bool.

    Nearest-neighbour sampling of image and mask alike, so that no colour from outside bleeds over the border; what
    lies outside the image repeats its edge and is not inside.
    """
    height, width = segments.size
    boxes = segment_boxes(segments)
    centre = (boxes[:, :2] + boxes[:, 2:]) / 2
    side = (boxes[:, 2:] - boxes[:, :2]).max(1) * (1 + 2 * CROP_MARGIN)
    steps = (np.arange(CROP) + 0.5) / CROP - 0.5
    rows = np.floor(centre[:, 0, None] + side[:, None] * steps).astype(np.int64)
    columns = np.floor(centre[:, 1, None] + side[:, None] * steps).astype(np.int64)
    in_image = ((rows >= 0) & (rows < height))[:, :, None] & ((columns >= 0) & (columns < width))[:, None, :]
    y, x = rows.clip(0, height - 1)[:, :, None], columns.clip(0, width - 1)[:, None, :]
    number = np.arange(len(segments))[:, None, None]
    if segments.partition is not None:
        inside = segments.partition[y, x] == number
    else:
        assert segments.masks is not None
        inside = segments.masks[number, y, x]
    return np.ascontiguousarray(image[y, x].transpose(0, 3, 1, 2)), inside & in_image


def segment_boxes(segments: Segments) -> Int64Array:
    """(N, 4) int64 boxes: first row, first column, last row + 1, last column + 1; 0 0 1 1 if empty."""
    boxes = np.tile(np.array([0, 0, 1, 1], dtype=np.int64), (len(segments), 1))
    if segments.partition is not None:
        for i, found in enumerate(find_objects(segments.partition + 1, max_label=len(segments))):
            if found is not None:
                boxes[i] = (found[0].start, found[1].start, found[0].stop, found[1].stop)
        return boxes
    assert segments.masks is not None
    for i, mask in enumerate(segments.masks):
        y, x = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        if len(y):
            boxes[i] = (y[0], x[0], y[-1] + 1, x[-1] + 1)
    return boxes


def normalised(pooled: Tensor) -> Float32Array:
    """(N, D) features as L2-normalised float32 rows on the host."""
    return np.ascontiguousarray(F.normalize(pooled, dim=1).cpu().numpy().astype(np.float32))


def with_keys(batch: Batch, encoder: RegionEncoder, purity: float) -> Batch:
    """A training batch with `keys`, the keys (N_i, D) of the regions of each image, and `key_labels`, their classes.

    Classes (N_i,) are int64, VOID for regions of which no class holds the share `purity`.
    """
    device = batch["image"].device
    regions = encoder(batch)
    labels = [segment_labels(x, r.segments, purity) for x, r in zip(batch["labels_raw"], regions, strict=True)]
    return {
        **batch,
        "keys": [torch.from_numpy(r.keys).to(device) for r in regions],
        "key_labels": [torch.from_numpy(x).to(device) for x in labels],
    }


def best(scores: Tensor, vocabulary: Sequence[int]) -> Int64Array:
    """Class id of the highest score of each row of (N, C)."""
    return np.take(np.asarray(vocabulary, np.int64), scores.argmax(dim=1).cpu().numpy())
