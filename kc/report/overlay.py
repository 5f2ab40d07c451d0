"""A picture of an answer: the image under the colours of what was said, and a legend beside it."""

from __future__ import annotations

import colorsys
import io
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from kc.files import write_atomic
from kc.types import VOID, ClassInfo, Int32Array, Int64Array, UInt8Array

Color = tuple[int, int, int]
VOID_COLOR: Color = (128, 128, 128)
OPACITY = 0.55
LEGEND = 24
"""Entries of a legend; the rest is counted."""
_TEXT, _GAP, _WIDEST = 15, 8, 260
_TONES = ((0.50, 0.85), (0.68, 0.75), (0.36, 0.80))
"""Lightness and saturation: names of one hue may still differ in these."""


@dataclass(frozen=True)
class Entry:
    """A line of a legend."""

    text: str
    color: Color


def color_of(name: str) -> Color:
    """The colour of a name: the same in every picture, whatever else is on it."""
    digest = zlib.crc32(name.encode())
    lightness, saturation = _TONES[digest % len(_TONES)]
    red, green, blue = colorsys.hls_to_rgb((digest // len(_TONES)) % 3600 / 3600, lightness, saturation)
    return round(255 * red), round(255 * green), round(255 * blue)


def colors_of(classes: Iterable[ClassInfo]) -> dict[int, Color]:
    """Id -> colour: the benchmark's where it has one, else that of the name."""
    return {c.id: c.color if any(c.color) else color_of(c.name) for c in classes}


def overlay(image: UInt8Array, semantic: Int64Array, colors: Mapping[int, Color], panoptic: Int32Array | None = None,
            opacity: float = OPACITY) -> UInt8Array:  # fmt: skip
    """`image` (H, W, 3) uint8 under the colours of `semantic` (H, W); borders between areas (or instances) are white.

    VOID stays as it is, in grey: nobody said anything of it.
    """
    shown = image.astype(np.float32)
    grey = shown.mean(axis=-1, keepdims=True)
    paint = np.broadcast_to(grey, shown.shape).copy()
    said = semantic != VOID
    for id_, color in colors.items():
        paint[semantic == id_] = (1 - opacity) * shown[semantic == id_] + opacity * np.array(color, np.float32)
    code = semantic if panoptic is None else panoptic[..., 0].astype(np.int64) * 65536 + panoptic[..., 1]
    border = np.zeros(semantic.shape, dtype=bool)
    border[:, 1:] |= code[:, 1:] != code[:, :-1]
    border[1:] |= code[1:] != code[:-1]
    paint[border & said] = 255
    result: UInt8Array = paint.clip(0, 255).astype(np.uint8)
    return result


def picture(panels: Sequence[tuple[str, UInt8Array]], legend: Sequence[Entry], out: Path) -> None:
    """Write `panels` (title, (H, W, 3) uint8 picture, all of one size) side by side with one legend, as PNG.

    The legend stands right of the panels; small images are enlarged so that it is not larger than they are.
    """
    save(compose(panels, legend), out)


def save(image: Image.Image, out: Path) -> None:
    """Write a PNG, whole or not at all."""
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    write_atomic(out, buffer.getvalue())


def compose(panels: Sequence[tuple[str, UInt8Array]], legend: Sequence[Entry]) -> Image.Image:
    """The picture that `picture` writes."""
    height, width = panels[0][1].shape[:2]
    scale = max(1, -(-256 // max(height, width)))
    height, width = height * scale, width * scale
    title = _TEXT + 2 * _GAP
    shown = [*legend[:LEGEND]]
    if len(legend) > LEGEND:
        shown.append(Entry(f"and {len(legend) - LEGEND} more", VOID_COLOR))
    lines = [(e, _fitting(e.text, _WIDEST)) for e in shown]
    aside = max([_width(text) for _, text in lines], default=0) + _TEXT + 3 * _GAP if lines else 0
    tall = max(title + height, 2 * _GAP + len(lines) * (_TEXT + _GAP))
    sheet = Image.new("RGB", (len(panels) * (width + _GAP) - _GAP + aside, tall), "white")
    draw = ImageDraw.Draw(sheet)
    for i, (text, pixels) in enumerate(panels):
        left = i * (width + _GAP)
        draw.text((left + 2, _GAP // 2 + 1), _fitting(text, width), fill="black", font=_font(text))
        panel = Image.fromarray(pixels).resize((width, height), Image.Resampling.NEAREST)
        sheet.paste(panel, (left, title))
    left = len(panels) * (width + _GAP)
    for i, (entry, text) in enumerate(lines):
        top = title + i * (_TEXT + _GAP)
        draw.rectangle((left, top, left + _TEXT, top + _TEXT), fill=entry.color, outline="black")
        draw.text((left + _TEXT + _GAP, top - 2), text, fill="black", font=_font(text))
    return sheet


@dataclass(frozen=True)
class Bar:
    """A line under an image of which the whole was classified: `length` in [0, 1]."""

    text: str
    length: float
    color: Color


def bars(image: UInt8Array, rows: Sequence[Bar], width: int = 320) -> UInt8Array:
    """`image` with what was said of the whole of it below."""
    high = max(1, round(image.shape[0] * width / image.shape[1]))
    row = _TEXT + 14
    sheet = Image.new("RGB", (width, high + _GAP + len(rows) * row), "white")
    sheet.paste(Image.fromarray(image).resize((width, high), Image.Resampling.BILINEAR), (0, 0))
    draw = ImageDraw.Draw(sheet)
    for i, bar in enumerate(rows):
        y = high + _GAP + i * row
        text = _fitting(bar.text, width - 4)
        draw.text((2, y), text, fill="black", font=_font(text))
        draw.rectangle((0, y + _TEXT + 4, max(1, round(bar.length * (width - 1))), y + _TEXT + 9), fill=bar.color)
    return np.asarray(sheet)


@lru_cache(maxsize=1)
def _fonts() -> tuple[Path, ...]:
    """DejaVu Sans, which matplotlib ships; then what this computer has for other scripts."""
    from matplotlib import font_manager

    shipped = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"
    return (shipped, *(Path(f) for f in sorted(font_manager.findSystemFonts()) if f.endswith((".ttf", ".otf", ".ttc"))))


@lru_cache(maxsize=256)
def _font(text: str) -> ImageFont.FreeTypeFont:
    """The first font that has every character of `text`; DejaVu Sans, with boxes, where none has."""
    from matplotlib.ft2font import FT2Font

    wanted = {ord(c) for c in text}
    for path in _fonts():
        try:
            if wanted <= set(FT2Font(str(path)).get_charmap()):
                return ImageFont.truetype(str(path), _TEXT)
        except (OSError, RuntimeError):
            continue  # a font file that cannot be read is none
    return ImageFont.truetype(str(_fonts()[0]), _TEXT)


def _width(text: str) -> int:
    return int(_font(text).getlength(text)) + 1


def _fitting(text: str, width: int) -> str:
    """`text`, shortened in the middle until it is at most `width` pixels wide."""
    if _width(text) <= width:
        return text
    for kept in range(len(text) - 1, 1, -1):
        short = text[: (kept + 1) // 2] + "…" + text[len(text) - kept // 2 :]
        if _font(text).getlength(short) <= width:
            return short
    return "…"
