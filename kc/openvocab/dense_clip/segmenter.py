"""From an image and names to classes of pixels or scores of regions, by one protocol.

Sliding windows are linear algebra: upsampling a window's cells, adding it where it lies, dividing by how many windows
cover a pixel and resizing the whole are each linear and each a product over rows and columns. So all of it is two small
matrices: pixels = R cells C^T, exactly averaged.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from kc.encoders.base import Encoder, dense
from kc.encoders.open_clip_model import OpenClipEncoder
from kc.errors import KcError
from kc.openvocab.base import Names
from kc.openvocab.dense_clip.model import DenseClip
from kc.openvocab.dense_clip.protocol import InferenceProtocol
from kc.openvocab.dense_clip.text import TextBank, class_scores
from kc.proposals.base import as_masks
from kc.types import Int64Array, Segments, UInt8Array


@dataclass(frozen=True)
class Axis:
    """Windows along one side of an image of `length` pixels: `window` pixels each, beginning at `starts`, padded by
    `before` and `after` pixels where the network wants a multiple of something."""

    length: int
    window: int
    starts: tuple[int, ...]
    before: int
    after: int

    def counts(self) -> Tensor:
        """How many windows cover each pixel, (length,) float64, at least 1."""
        result = torch.zeros(self.length, dtype=torch.float64)
        for start in self.starts:
            result[start : start + self.window] += 1
        return result

    def matrix(self, cells: int, out: int) -> Tensor:
        """(out, windows * cells) float32: what each of `out` pixels takes from each cell of each window; rows add to 1.

        Cells are upsampled bilinearly (`align_corners=False`) to the padded window, the padding is cut, windows are
        averaged where they overlap and the result is resized to `out` pixels.
        """
        up = linear(cells, self.before + self.window + self.after)[self.before : self.before + self.window]
        rest = (self.length - self.window - start for start in self.starts)
        columns = [F.pad(up, (0, 0, start, after)) for start, after in zip(self.starts, rest, strict=True)]
        averaged = torch.cat(columns, 1) / self.counts()[:, None]
        return (linear(self.length, out) @ averaged).float()


def linear(n: int, m: int) -> Tensor:
    """Linear interpolation of n values to m as a matrix (m, n) float64, cell centres aligned as torch aligns them."""
    eye = torch.eye(n, dtype=torch.float64)
    return eye if n == m else F.interpolate(eye[None], size=m, mode="linear", align_corners=False)[0].T


def axis(length: int, crop: int | None, stride: int | None, pad_to: int = 0) -> Axis:
    """Windows of `crop` every `stride` pixels, the last moved back inside; one window where the side is not longer."""
    window, starts = length, [0]
    if crop is not None and stride is not None and crop < length:
        steps = -(-(length - crop) // stride)
        window, starts = crop, [min(i * stride, length - crop) for i in range(steps + 1)]
    missing = -window % pad_to if pad_to else 0
    return Axis(length, window, tuple(starts), missing // 2, missing - missing // 2)


def cut(images: Tensor, rows: Axis, columns: Axis) -> Tensor:
    """Windows (n_rows * n_columns, C, h, w) of one image (C, H, W), row after row, zero-padded."""
    padding = (columns.before, columns.after, rows.before, rows.after)
    places = [(y, x) for y in rows.starts for x in columns.starts]
    return torch.stack([F.pad(images[:, y : y + rows.window, x : x + columns.window], padding) for y, x in places])


def join(windows: Tensor, rows: Axis, columns: Axis) -> Tensor:
    """Cells (D, n_rows * h, n_columns * w) of all windows (n_rows * n_columns, D, h, w) side by side."""
    _, d, h, w = windows.shape
    ny, nx = len(rows.starts), len(columns.starts)
    return windows.view(ny, nx, d, h, w).permute(2, 0, 3, 1, 4).reshape(d, ny * h, nx * w)


def resized(image: UInt8Array, short_side: int | None, max_long: int) -> Tensor:
    """`image` (H, W, 3) uint8 as (3, h, w) float32 in [0, 1], its shorter side `short_side` pixels unless the longer
    would exceed `max_long`; None: as it is.

    Bilinear without antialiasing and rounded to whole grey levels, as the public evaluations resize.
    """
    pixels = torch.from_numpy(image).permute(2, 0, 1).float()
    height, width = image.shape[:2]
    if short_side is not None:
        factor = min(short_side / min(height, width), max_long / max(height, width))
        size = (int(height * factor + 0.5), int(width * factor + 0.5))
        if size != (height, width):
            pixels = F.interpolate(pixels[None], size=size, mode="bilinear", align_corners=False)[0].round()
    return pixels / 255


BAND = 1 << 24
"""Scores held at once when pixels are decided: vocabularies of hundreds of names do not fit at full size."""
MASKS = 64
"""Regions pooled at once."""


@dataclass(frozen=True)
class Cells:
    """Unit patch embeddings of all windows of one image, and how pixels are made of them.

    `values` (D, a, b) float32; `rows` (H, a), `columns` (W, b) float32. Whatever is linear in the embeddings (cosines
    with text, averages over regions) has at pixel (y, x) the value rows[y] values columns[x]^T.
    """

    values: Tensor
    rows: Tensor
    columns: Tensor

    @property
    def size(self) -> tuple[int, int]:
        """(H, W) of the original image."""
        return len(self.rows), len(self.columns)

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors."""
        return self.values.nbytes + self.rows.nbytes + self.columns.nbytes


@dataclass(eq=False)
class Segmenter:
    """Open-vocabulary segmentation of single images by a row of the table under a protocol.

    `proxy`: whose features row `proxyclip` reads. `batch`: windows a pass. Raises KcError where the row needs a proxy
    and has none, or has one and needs none.
    """

    encoder: OpenClipEncoder
    model: DenseClip
    bank: TextBank
    protocol: InferenceProtocol
    proxy: Encoder | None = None
    batch: int = 8

    def __post_init__(self) -> None:
        if (self.model.row.attention == "proxy") != (self.proxy is not None):
            raise KcError("row 'proxyclip', and no other, reads a second encoder as its proxy")

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device

    @torch.no_grad()
    def cells(self, image: UInt8Array) -> Cells:
        """What the network says of `image` (H, W, 3) uint8 RGB, whatever the names will be."""
        p = self.protocol
        pixels = resized(image, p.short_side, p.max_long).to(self.device)
        multiple = self.model.patch_size if p.pad_to == "patch" else (p.pad_to, p.pad_to)
        rows, columns = (axis(n, p.crop, p.stride, m) for n, m in zip(pixels.shape[1:], multiple, strict=True))
        windows = cut(self.normalised(pixels), rows, columns)
        found = torch.cat([self._patches(part) for part in torch.split(windows, self.batch)])
        sides = zip((rows, columns), found.shape[2:], image.shape[:2], strict=True)
        return Cells(join(found, rows, columns), *(side.matrix(n, out).to(self.device) for side, n, out in sides))

    def _norm(self) -> Tensor:
        """Mean and deviation (2, 3, 1, 1)."""
        return torch.tensor(self.encoder.preprocessing[:6], device=self.device).view(2, 3, 1, 1)

    def normalised(self, pixels: Tensor) -> Tensor:
        """RGB in [0, 1] (..., 3, H, W) as the network takes it."""
        mean, std = self._norm()
        return torch.div(pixels - mean, std)

    def proxy_features(self, images: Tensor) -> Tensor | None:
        """The proxy's dense features (N, C, h, w) of normalised images (N, 3, H, W), None without a proxy: of its
        levels joined at the stride nearest to a patch."""
        if self.proxy is None:
            return None
        mean, std = self._norm()
        found = self.proxy.encode(images * std + mean)
        stride = min(found.strides, key=lambda s: abs(s - self.model.patch_size[0]))
        return dense(found, stride)

    def _patches(self, windows: Tensor) -> Tensor:
        return F.normalize(self.model(windows, self.proxy_features(windows)).float(), dim=1)

    def text(self, names: Names, background: int | None = None) -> tuple[Tensor, list[int]]:
        """Unit embeddings (M, D) of all names, class after class, and how many each class has (C).

        The class at position `background` is called what the protocol calls it.
        """
        called = [list(synonyms) for synonyms in names]
        if background is not None and self.protocol.background:
            called[background] = list(self.protocol.background)
        rows = self.bank.embed([name for synonyms in called for name in synonyms])
        return rows.to(self.device), [len(synonyms) for synonyms in called]

    @torch.no_grad()
    def segment(
        self, image: UInt8Array, names: Names, background: int | None = None, cells: Cells | None = None
    ) -> Int64Array:
        """Position in `names` (C) of the class of each pixel, (H, W) int64.

        `background`: position of the class that pixels fall to by the protocol's thresholds; None: none apply.
        `cells`: of this image, where they are known already.
        """
        cells = self.cells(image) if cells is None else cells
        text, counts = self.text(names, background)
        maps = self._refined(image, cells, text)
        p = self.protocol
        kept = torch.ones(len(counts), device=self.device)
        if background is not None and p.area_threshold > 0:
            winners = torch.cat([scores.argmax(-1) for scores in self._bands(maps, cells, text, counts)])
            area = torch.bincount(winners.flatten(), minlength=len(counts)).float()
            area[background] = 0
            kept = (area > p.area_threshold * area.sum()).float()
            kept[background] = 1
        parts = []
        for scores in self._bands(maps, cells, text, counts):
            best, winner = (scores * kept).max(-1)
            if background is not None:
                winner[best < p.threshold] = background
            parts.append(winner)
        return np.asarray(torch.cat(parts).cpu(), np.int64)

    @torch.no_grad()
    def region_cosines(self, image: UInt8Array, cells: Cells, segments: Segments, text: Tensor) -> Tensor:
        """Mean cosine (N, M) over the pixels of each of N regions of `image` with each row of `text` (M, D).

        Regions without a pixel get zeros. Raises ValueError for regions of another image size.
        """
        if segments.size != cells.size:
            raise ValueError(f"regions of an image of {segments.size}, cells of one of {cells.size}")
        maps = self._refined(image, cells, text)
        pooled = []
        for some in torch.split(torch.from_numpy(as_masks(segments)), MASKS):
            masks = some.to(self.device).float()
            area = masks.sum((1, 2)).clamp_min(1)[:, None]
            if maps is None:
                # Pooling is linear too: how much of each cell a region holds, then one product with the cells.
                held = cells.rows.T @ masks @ cells.columns
                pooled.append((held.flatten(1) @ cells.values.flatten(1).T) / area @ text.T)
            else:
                pooled.append(masks.flatten(1) @ maps.flatten(1).T / area)
        return torch.cat(pooled) if pooled else torch.zeros(0, len(text), device=self.device)

    def class_scores(self, cosines: Tensor, counts: Sequence[int]) -> Tensor:
        """`text.class_scores` at the protocol's scale, as probabilities: (..., C) that add up to 1."""
        scores = class_scores(cosines, counts, self.protocol.logit_scale)
        return scores / scores.sum(-1, keepdim=True)

    def _refined(self, image: UInt8Array, cells: Cells, text: Tensor) -> Tensor | None:
        """Cosine maps (M, H, W) after PAMR, None where the protocol has none."""
        if self.protocol.pamr_steps == 0:
            return None
        pixels = torch.from_numpy(image).permute(2, 0, 1).to(self.device, torch.float32)
        maps = cells.rows @ torch.tensordot(text, cells.values, 1) @ cells.columns.T
        return pamr(pixels, maps, self.protocol.pamr_steps, self.protocol.pamr_dilations)

    def _bands(self, maps: Tensor | None, cells: Cells, text: Tensor, counts: Sequence[int]) -> Iterator[Tensor]:
        """Class scores (h, W, C) of the image, a band of rows at a time."""
        height, width = cells.size
        step = max(1, BAND // (len(text) * width))
        half = torch.tensordot(text, cells.values, 1) @ cells.columns.T
        for y in range(0, height, step):
            band = cells.rows[y : y + step] @ half if maps is None else maps[:, y : y + step]
            yield class_scores(band.permute(1, 2, 0), counts, self.protocol.logit_scale)


OFFSETS = tuple((dy, dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1) if (dy, dx) != (0, 0))


def pamr(image: Tensor, maps: Tensor, steps: int, dilations: Sequence[int] = (8, 16)) -> Tensor:
    """`maps` (C, H, W) refined on `image` (K, H, W): `steps` times, each pixel becomes a mean of its neighbours.

    Neighbours are the 8 around a pixel at each of the `dilations`, beyond the border the border's own pixels. Weights:
    softmax over all neighbours of the mean over channels of -|x_i - x_j| / (0.1 sigma_i), sigma_i the deviation
    (unbiased) over the same neighbours and the pixel itself, once a dilation. Raises ValueError for another size.
    """
    if image.shape[1:] != maps.shape[1:]:
        raise ValueError(f"an image of {tuple(image.shape[1:])} for maps of {tuple(maps.shape[1:])}")
    around = torch.stack(list(_neighbours(image, dilations)))
    centre = image.expand(len(dilations), *image.shape)
    sigma = torch.cat([around, centre]).std(0)
    weights = (-(image - around).abs() / (1e-8 + 0.1 * sigma)).mean(1).softmax(0)
    for _ in range(steps):
        # Summed one neighbour at a time: all at once would hold 16 copies of hundreds of class maps.
        refined = torch.zeros_like(maps)
        for weight, moved in zip(weights, _neighbours(maps, dilations), strict=True):
            refined += weight * moved
        maps = refined
    return maps


def _neighbours(maps: Tensor, dilations: Sequence[int]) -> Iterator[Tensor]:
    height, width = maps.shape[1:]
    for d in dilations:
        padded = F.pad(maps[None], (d, d, d, d), mode="replicate")[0]
        for dy, dx in OFFSETS:
            yield padded[:, d + dy * d : d + dy * d + height, d + dx * d : d + dx * d + width]
