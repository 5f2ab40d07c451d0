"""Examples as a grid of pictures for the page, each embedded, with a legend of the classes in them."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Sequence
from html import escape
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from kc.report import words
from kc.report.examples import Answer, Example, class_color, render
from kc.types import VOID, ClassInfo, UInt8Array

_SIDE = 360  # pixels of the longer side: sharp at the size of the grid, and twelve examples stay below 2 MB
_SMALL = 160  # enlarged with hard edges below this, so that mask borders stay where they are

ERRORS = (
    ("right", (232, 236, 240)),
    ("missed: a class called background or left open", (0, 114, 178)),
    ("invented: background called a class", (230, 159, 0)),
    ("confused: another class", (204, 51, 17)),
    ("not labelled", (150, 150, 150)),
)
"""Kinds of pixels in an error map and their colours, which differ in lightness too."""
_MISSED, _INVENTED, _CONFUSED, _VOID_ERROR = 1, 2, 3, 4


def gallery(examples: Sequence[Example], methods: Sequence[str], limit: int) -> str:
    """HTML of up to `limit` examples: image, truth, each method's answer; empty without examples."""
    shown = list(examples[:limit])
    if not shown:
        return ""
    parts = []
    if len(shown) < len(examples):
        parts.append(f'<p class="soft">{len(shown)} of {len(examples)} stored examples.</p>')
    parts += [_legend(shown), _error_legend(shown)]
    labelled = []
    for example in shown:
        names = [m for m in methods if m in example.predictions]
        names += [m for m in example.predictions if m not in methods]
        if isinstance(example.truth, int):
            labelled.append(_labels(example, names))
        else:
            parts.append(_maps(example, names))
    if labelled:
        parts.append(f'<div class="strip few">{"".join(labelled)}</div>')
    return "\n".join(parts)


def _figure(picture: UInt8Array, caption: str, alt: str, below: str = "") -> str:
    """HTML of a picture with what stands `below` it."""
    image = _image(data_uri(picture), alt, max(picture.shape[:2]) < _SMALL)
    return f"<figure>{image}{below}<figcaption>{caption}</figcaption></figure>"


def _image(source: str, alt: str, small: bool) -> str:
    css = ' class="small"' if small else ""
    return f'<img src="{source}" alt="{escape(alt)}"{css}>'


def errors(
    truth: npt.NDArray[np.integer[Any]], answer: npt.NDArray[np.integer[Any]], infos: Sequence[ClassInfo]
) -> UInt8Array:
    """(H, W) uint8: which of `ERRORS` each pixel is, by class (instances are not compared)."""
    true, said = (m[..., 0] if m.ndim == 3 else m for m in (truth, answer))
    nothing = [info.id for info in infos if info.background] + [VOID]  # an answer may leave pixels open
    kind = np.select(
        [true == VOID, true == said, np.isin(said, nothing), np.isin(true, nothing)],
        [_VOID_ERROR, 0, _MISSED, _INVENTED],
        default=_CONFUSED,
    )
    return kind.astype(np.uint8)


def error_uri(kinds: UInt8Array) -> str:
    """A map of `errors` as a `data:` address: at most 360 pixels a side, four colours, so a few kilobytes."""
    image = Image.fromarray(kinds, mode="P")
    image.putpalette([part for _, color in ERRORS for part in color])
    image.thumbnail((_SIDE, _SIDE), Image.Resampling.NEAREST)
    buffer = io.BytesIO()
    image.save(buffer, format="PNG", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def _error_legend(examples: Sequence[Example]) -> str:
    if not any(not isinstance(answer, int) for e in examples for answer in e.predictions.values()):
        return ""
    items = "".join(f'<li><i style="--c:rgb{color}"></i>{name}</li>' for name, color in ERRORS)
    said = "Below each answer its errors, by class, and the share of pixels that is right:"
    return f'<p class="soft">{said}</p><ul class="key">{items}</ul>'


def data_uri(picture: UInt8Array) -> str:
    """An (H, W, 3) uint8 picture as a `data:` address: at most 360 pixels a side, PNG when tiny, else JPEG."""
    image = Image.fromarray(picture)
    buffer = io.BytesIO()
    if max(image.size) < _SMALL:
        image.save(buffer, format="PNG", optimize=True)
        kind = "png"
    else:
        image.thumbnail((_SIDE, _SIDE), Image.Resampling.LANCZOS)
        image.save(buffer, format="JPEG", quality=88, subsampling=0)
        kind = "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}"


def _maps(example: Example, names: Sequence[str]) -> str:
    figures = [_figure(example.image, "image", f"{example.name}: image")]
    for caption, answer in [("truth", example.truth), *((name, example.predictions[name]) for name in names)]:
        picture = example.image if isinstance(answer, int) else render(example.image, answer, example.infos)
        text = escape(caption)
        below = ""
        if caption in names and not isinstance(answer, int) and not isinstance(example.truth, int):
            wrong = errors(example.truth, answer, example.infos)
            counted = wrong[wrong != _VOID_ERROR]
            share = float((counted == 0).mean()) if counted.size else math.nan
            text += f", {words.points(share)} % right"
            below = _image(error_uri(wrong), f"{example.name}: errors of {caption}", max(wrong.shape) < _SMALL)
        figures.append(_figure(picture, text, f"{example.name}: {caption}", below))
    return f'<div class="example"><h3>{escape(example.name)}</h3><div class="strip">{"".join(figures)}</div></div>'


def _labels(example: Example, names: Sequence[str]) -> str:
    titles = {info.id: info.name for info in example.infos}

    def title(answer: Answer) -> str:
        return titles.get(answer, f"class {answer}") if isinstance(answer, int) else "a map"

    said = "".join(
        f'<br><span class="{"right" if example.predictions[m] == example.truth else "wrong"}">'
        f"{escape(m)}: {escape(title(example.predictions[m]))}</span>"
        for m in names
    )
    truth = escape(title(example.truth))
    return _figure(example.image, f"<b>{truth}</b>{said}", f"{example.name}: {title(example.truth)}")


def _legend(examples: Sequence[Example]) -> str:
    """Swatches of the classes that occur in a map of any shown example, in the order of their ids."""
    used: set[int] = set()
    infos: dict[int, ClassInfo] = {}
    for example in examples:
        infos |= {info.id: info for info in example.infos}
        for answer in (example.truth, *example.predictions.values()):
            if not isinstance(answer, int):
                used |= set(np.unique(answer[..., 0] if answer.ndim == 3 else answer).tolist())
    items = [
        f'<li><i style="--c:rgb{_swatch(infos[c])}"></i>{escape(infos[c].name)}</li>'
        for c in sorted(used) if c in infos
    ]  # fmt: skip
    if VOID in used:
        items.append('<li><i class="hatch"></i>not labelled</li>')
    return f'<ul class="key">{"".join(items)}</ul>' if items else ""


def _swatch(info: ClassInfo) -> tuple[int, int, int]:
    """As `render` paints it: the background is the image itself in grey."""
    return (112, 112, 112) if info.background else class_color(info)
