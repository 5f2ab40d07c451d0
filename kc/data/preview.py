"""A contact sheet of a benchmark: images, what is labelled in them, and the names of the classes."""

from __future__ import annotations

import colorsys

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from kc.data.manifest import Manifest
from kc.data.readers.base import Reader
from kc.types import VOID, BoolArray, Sample, UInt8Array

_HEIGHT, _WIDTH, _GAP, _LINE = 192, 288, 10, 16
_VOID_COLOR = (24, 24, 24)
_OPACITY = 0.55


def contact_sheet(manifest: Manifest, reader: Reader, columns: int = 3) -> Image.Image:
    """Every sample of the reader in a grid of `columns`: the image and, in segmentation, beside it the image under its
    labels. Instances and classes have white outlines, void is dark. Below: the id, the classes with their colours.
    """
    colors = class_colors(manifest)
    cells = [_cell(manifest, reader.read(i), colors) for i in range(len(reader))]
    columns = min(columns, len(cells))
    rows = [cells[i : i + columns] for i in range(0, len(cells), columns)]
    width, heights = max(c.width for c in cells), [max(c.height for c in row) for row in rows]
    sheet = Image.new("RGB", (columns * (width + _GAP) + _GAP, sum(heights) + _GAP * (len(rows) + 1)), "white")
    top = _GAP
    for row, height in zip(rows, heights, strict=True):
        for column, cell in enumerate(row):
            sheet.paste(cell, (_GAP + column * (width + _GAP), top))
        top += height + _GAP
    return sheet


def class_colors(manifest: Manifest) -> dict[int, tuple[int, int, int]]:
    """Class id -> RGB: the manifest's colours, or evenly spread hues where it says none."""
    said = {c.id: c.color for c in manifest.classes}
    if len(set(said.values())) > 1 or len(said) == 1:
        return said
    n = len(said)
    hues = [colorsys.hsv_to_rgb(i / n, 0.75, (0.95, 0.65)[i % 2]) for i in range(n)]
    return {c: (round(255 * r), round(255 * g), round(255 * b)) for c, (r, g, b) in zip(said, hues, strict=True)}


def overlay(image: UInt8Array, sample: Sample, colors: dict[int, tuple[int, int, int]]) -> UInt8Array:
    """The image (H, W, 3) under the colours of its labels, with white outlines of classes and instances."""
    semantic = sample.semantic
    assert semantic is not None
    table = np.zeros((max(colors) + 2, 3), dtype=np.float32)
    table[VOID] = _VOID_COLOR  # the last entry, which the index -1 reads
    for class_id, color in colors.items():
        table[class_id] = color
    mixed = _OPACITY * table[semantic] + (1 - _OPACITY) * image
    segments = semantic if sample.panoptic is None else semantic + 1000 * sample.panoptic[..., 1].astype(np.int64)
    edge: BoolArray = np.zeros(segments.shape, dtype=np.bool_)
    edge[:, 1:] |= segments[:, 1:] != segments[:, :-1]
    edge[1:] |= segments[1:] != segments[:-1]
    mixed[edge] = 255
    shown: UInt8Array = np.rint(mixed).astype(np.uint8)
    return shown


def _cell(manifest: Manifest, sample: Sample, colors: dict[int, tuple[int, int, int]]) -> Image.Image:
    """One sample with its caption."""
    names = {c.id: c.name for c in manifest.classes}
    pictures = [Image.fromarray(sample.image)]
    if sample.semantic is None:
        held = [] if sample.label is None else [sample.label]
    else:
        pictures.append(Image.fromarray(overlay(sample.image, sample, colors)))
        values, areas = np.unique(sample.semantic, return_counts=True)
        held = [int(v) for v in values[np.argsort(-areas)]]
    pictures = [_fitted(p) for p in pictures]
    width = len(pictures) * (_WIDTH + 2) - 2
    lines = _lines([("void" if c == VOID else names[c], _VOID_COLOR if c == VOID else colors[c]) for c in held], width)
    height = max(p.height for p in pictures)
    cell = Image.new("RGB", (width, height + _LINE * (1 + len(lines))), "white")
    x = 0
    for picture in pictures:
        cell.paste(picture, (x, 0))
        x += picture.width + 2
    draw, font = ImageDraw.Draw(cell), ImageFont.load_default(size=11)
    draw.text((0, height + 2), sample.id, fill="black", font=font)
    for row, line in enumerate(lines, start=1):
        y = height + row * _LINE
        for left, name, color in line:
            draw.rectangle([left, y + 3, left + 9, y + 12], fill=color, outline="black")
            draw.text((left + 13, y + 1), name, fill="black", font=font)
    return cell


def _fitted(picture: Image.Image) -> Image.Image:
    """At the height of a cell, at most its width; small images are enlarged without smoothing: pixels stay pixels."""
    scale = min(_HEIGHT / picture.height, _WIDTH / picture.width)
    size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    return picture.resize(size, Image.Resampling.LANCZOS if scale < 1 else Image.Resampling.NEAREST)


def _lines(
    entries: list[tuple[str, tuple[int, int, int]]], width: int
) -> list[list[tuple[int, str, tuple[int, int, int]]]]:
    """The legend broken into lines of `width` pixels: (left, name, colour)."""
    font = ImageFont.load_default(size=11)
    lines: list[list[tuple[int, str, tuple[int, int, int]]]] = [[]]
    x = 0
    for name, color in entries:
        needed = 13 + int(font.getlength(name)) + 10
        if x + needed > width and lines[-1]:
            lines.append([])
            x = 0
        lines[-1].append((x, name, color))
        x += needed
    return lines
