"""Published mIoU (percent) of the rows with OpenAI's ViT-B/16, to stand beside what is measured."""

from __future__ import annotations

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
