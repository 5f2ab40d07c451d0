"""How an image is cut, and how scores become classes: one named preset a paper, because they differ and move mIoU.

The values are those of the papers' public configurations: wangf3014/SCLIP@b56bd301, sinahmr/NACLIP@0cac3a65,
mc-lan/ClearCLIP@ad68a404, mc-lan/ProxyCLIP@e7b767fb. `whole-image` is ours.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, Literal

from kc.errors import KcError, unknown_name

SCENERY = (
    "sky", "wall", "tree", "wood", "grass", "road", "sea", "river", "mountain", "sands", "desk", "bed", "building",
    "cloud", "lamp", "door", "window", "wardrobe", "ceiling", "shelf", "curtain", "stair", "floor", "hill", "rail",
    "fence",
)  # fmt: skip
"""What SCLIP and NACLIP call the background of VOC and COCO-Object, and ProxyCLIP that of VOC."""


@dataclass(frozen=True)
class InferenceProtocol:
    """`short_side`: pixels of the shorter side after resizing (None: as it is), the longer at most `max_long`.
    `crop`, `stride`: side and step of square windows in pixels (crop None: the whole image is one window).
    `logit_scale`: factor on cosines before the softmax. `threshold`: a pixel whose best class scores less is
    background. `area_threshold`: a class that holds at most this share of all foreground pixels is background.
    `background`: what the background class is called (empty: its own name). `pad_to`: windows are padded with the mean
    colour to a multiple of so many pixels, or of the model's patch (0: pixels beyond the last patch are dropped and the
    map stretched).
    """

    name: str
    short_side: int | None
    crop: int | None
    stride: int | None
    logit_scale: float
    threshold: float = 0.0
    area_threshold: float = 0.0
    background: tuple[str, ...] = ()
    pad_to: int | Literal["patch"] = 0
    max_long: int = 2048
    templates: str = "imagenet80"
    pamr_steps: int = 0
    pamr_dilations: tuple[int, ...] = (8, 16)

    def __post_init__(self) -> None:
        if (self.crop is None) != (self.stride is None):
            raise KcError(f"protocol {self.name}: crop and stride go together, got {self.crop} and {self.stride}")
        positive = {"short_side": self.short_side, "crop": self.crop, "stride": self.stride, "max_long": self.max_long}
        bad = [field for field, value in positive.items() if value is not None and value < 1]
        padding = 1 if self.pad_to == "patch" else self.pad_to
        if bad or self.logit_scale <= 0 or min(padding, self.pamr_steps) < 0:
            raise KcError(f"protocol {self.name}: sizes and the logit scale must be above 0, got {self}")
        if self.crop is not None and self.stride is not None and self.stride > self.crop:
            raise KcError(f"protocol {self.name}: a stride of {self.stride} leaves gaps between crops of {self.crop}")

    @property
    def key(self) -> str:
        """Every value that is not a default, as one line."""
        changed = [
            f"{f.name}={getattr(self, f.name)}"
            for f in dataclasses.fields(self)
            if f.name != "name" and getattr(self, f.name) != f.default
        ]
        return " ".join([self.name, *changed])


PRESETS: dict[str, InferenceProtocol] = {
    "sclip": InferenceProtocol("sclip", 336, 224, 112, 40.0),
    "naclip": InferenceProtocol("naclip", 336, 224, 112, 40.0),
    "clearclip": InferenceProtocol("clearclip", 448, 448, 224, 50.0, pad_to="patch"),
    "proxyclip": InferenceProtocol("proxyclip", 336, 336, 112, 40.0, pad_to=56),
    "whole-image": InferenceProtocol("whole-image", 336, None, None, 40.0),
}

_WHOLE: dict[str, Any] = {"crop": None, "stride": None}
_ADJUSTED: dict[str, dict[str, dict[str, Any]]] = {
    "sclip": {
        "voc21": {"logit_scale": 65.0, "threshold": 0.1, "area_threshold": 0.1, "background": SCENERY},
        "context60": {"logit_scale": 50.0, "threshold": 0.1},
        "coco-object": {"logit_scale": 50.0, "threshold": 0.1, "background": SCENERY},
        "cityscapes": {"short_side": 560},
        "coco-stuff": {"short_side": 448},
    },
    "naclip": {
        "voc21": {**_WHOLE, "threshold": 0.1, "background": SCENERY},
        "context60": {"threshold": 0.1},
        "coco-object": {"threshold": 0.1, "background": SCENERY},
        "voc20": _WHOLE,
        "cityscapes": {"short_side": 560},
    },
    "clearclip": {
        "voc21": {"threshold": 0.5},
        "context60": {"threshold": 0.15},
        "coco-object": {"threshold": 0.4},
        "cityscapes": {"crop": 224},
    },
    "proxyclip": {
        "voc21": {"threshold": 0.2, "background": SCENERY},
        "context60": {"threshold": 0.15},
        "coco-object": {"threshold": 0.25, "background": (*SCENERY[:14], "floor", "hill", "rail")},
        "cityscapes": {"short_side": 448, "crop": 224},
        "ade20k": {"short_side": 448},
    },
}
"""What a paper's configuration of a benchmark (see `published.BENCHMARKS`) changes in its preset."""

DEFAULT_PRESET = {
    "clip": "clearclip", "maskclip": "clearclip", "sclip": "sclip", "clearclip": "clearclip", "naclip": "naclip",
    "proxyclip": "proxyclip", "gclip": "clearclip",
}  # fmt: skip
"""The preset whose figures a row's published ones are; GCLIP's are compared with ClearCLIP's."""


def preset(name: str, benchmark: str | None = None) -> InferenceProtocol:
    """The preset `name`, as its paper adjusts it for `benchmark` (a name of the table; None or another: unadjusted).

    Raises UnknownNameError for a preset that does not exist.
    """
    if name not in PRESETS:
        raise unknown_name("protocol", name, PRESETS)
    changes = _ADJUSTED.get(name, {}).get(benchmark or "", {})
    return dataclasses.replace(PRESETS[name], **changes)


BENCHMARKS = ("voc21", "context60", "coco-object", "voc20", "cityscapes", "context59", "ade20k", "coco-stuff")
"""The standard eight; the first three have a background class."""

_OTHER_NAMES = {
    "voc2012": "voc21", "pascal-context-60": "context60", "pascal-context-59": "context59", "ade20k-150": "ade20k",
}  # fmt: skip
"""Manifest name -> name in the table, where they differ."""

TOLERANCE = 0.5
"""Points of mIoU within which a figure counts as met (ours)."""


def table_name(benchmark: str | None) -> str | None:
    """The table's name of the benchmark of a manifest; its own name where the table has none of it."""
    return _OTHER_NAMES.get(benchmark or "", benchmark)


def _row(*values: float) -> dict[str, float]:
    return dict(zip(BENCHMARKS, values, strict=True))


PUBLISHED: dict[str, dict[str, float]] = {
    "clip": _row(18.6, 7.8, 6.5, 49.1, 6.7, 11.2, 3.2, 5.7),
    "maskclip": _row(43.4, 23.2, 20.6, 74.9, 24.9, 26.4, 11.9, 16.7),
    "sclip": _row(59.1, 30.4, 30.5, 80.4, 32.2, 34.2, 16.1, 22.4),
    "clearclip": _row(51.8, 32.6, 33.0, 80.9, 30.0, 35.9, 16.7, 23.9),
    "naclip": _row(58.9, 32.2, 33.2, 79.7, 35.5, 35.2, 17.4, 23.3),
    "proxyclip": _row(61.3, 35.3, 37.5, 80.3, 38.1, 39.1, 20.2, 26.5),
    "gclip": {"cityscapes": 33.7, "ade20k": 18.5, "coco-stuff": 24.8},
}


def verdict(row: str, benchmark: str, miou: float) -> str:
    """`pass` or `miss` by `TOLERANCE`, better counts as a pass; `no figure` where none is known. `miou` in percent."""
    figure = PUBLISHED.get(row, {}).get(table_name(benchmark) or "")
    if figure is None:
        return "no figure"
    return "pass" if miou >= figure - TOLERANCE else "miss"
