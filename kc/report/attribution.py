"""The picture of one decision: the query, the rows that voted, and the votes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from kc.report.style import GREY, INK, looks, write_figure
from kc.types import BoolArray, UInt8Array

_COLUMNS = 4
_BARS = 6


@dataclass(frozen=True)
class Voter:
    """A row that voted: its image (H, W, 3) uint8 where the source is present, the cosine, its share of all votes."""

    image: UInt8Array | None
    sample_id: str
    class_name: str
    task: int
    score: float
    share: float


def attribution(
    query: UInt8Array,
    title: str,
    voters: Sequence[Voter],
    votes: Sequence[tuple[str, float]],
    caption: str,
    n_more: int,
    path: Path,
) -> None:
    """Draw the query, its voters nearest first, and the share of each class.

    query: (H, W, 3) uint8. votes: (class, share of 1), the winner first; beyond six classes the rest is one bar.
    n_more: voters that are not drawn. The suffix of `path` chooses the format. RunError when it cannot be written.
    """
    rows = max(math.ceil(len(voters) / _COLUMNS), 2)
    figure = Figure(figsize=(2.9 + 1.45 * _COLUMNS, 0.6 + 1.75 * rows), layout="constrained", facecolor="white")
    left, right = np.ravel(figure.subfigures(1, 2, squeeze=False, width_ratios=[2.9, 1.45 * _COLUMNS]))
    top, bottom = left.subplots(2, 1)
    _picture(top, query)
    top.set_title("query", fontsize=9, loc="left", color=INK)
    shown = list(votes[:_BARS])
    if len(votes) > _BARS:
        shown.append((f"{len(votes) - _BARS} more", sum(share for _, share in votes[_BARS:])))
    look = looks([name for name, _ in shown])
    bottom.barh(range(len(shown)), [100 * s for _, s in shown], color=[look[n].color for n, _ in shown])
    bottom.set_yticks(range(len(shown)), [name for name, _ in shown])
    bottom.set_ylim(max(len(shown), 4) - 0.5, -0.5)
    bottom.set_xlim(0, 100)
    bottom.set_xlabel("% of the votes", fontsize=8, color=INK)
    bottom.set_title(caption, fontsize=9, loc="left", color=INK)
    bottom.tick_params(labelsize=8, colors=INK, length=0)
    bottom.spines[["top", "right"]].set_visible(False)
    grid = list(right.subplots(rows, _COLUMNS, squeeze=False).flat)
    for ax, voter in zip(grid, voters, strict=False):
        _voter(ax, voter, look[voter.class_name].color if voter.class_name in look else GREY)
    for ax in grid[len(voters) :]:
        ax.set_axis_off()
    right.suptitle("rows that voted, nearest first" + (f" (and {n_more} more)" if n_more else ""), fontsize=9)
    figure.suptitle(title, fontsize=10, x=0.01, ha="left", color=INK)
    write_figure(figure, path)


def region_crop(image: UInt8Array, mask: BoolArray, margin: float = 0.15, fade: float = 0.75) -> UInt8Array:
    """The part of `image` (H, W, 3) uint8 around `mask` (H, W), with what is outside the mask faded to white.

    margin: border around the mask's box, as a share of its longer side. An empty mask gives the faded image.
    """
    faded = np.where(mask[..., None], image, image + (255.0 - image) * fade).astype(np.uint8)
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    if len(rows) == 0:
        return faded
    border = round(margin * max(rows[-1] - rows[0], columns[-1] - columns[0])) + 1
    top, left = max(0, rows[0] - border), max(0, columns[0] - border)
    return faded[top : rows[-1] + border + 1, left : columns[-1] + border + 1]


def _picture(ax: Axes, image: UInt8Array) -> None:
    """An image in the middle of a grey square, so that all cells have one size."""
    height, width = image.shape[:2]
    side = max(height, width)
    ax.set_facecolor("#eeeeee")
    ax.imshow(image, interpolation="nearest" if side < 160 else "antialiased")
    ax.set(xlim=(width / 2 - side / 2 - 0.5, width / 2 + side / 2 - 0.5))
    ax.set(ylim=(height / 2 + side / 2 - 0.5, height / 2 - side / 2 - 0.5), xticks=[], yticks=[])


def _voter(ax: Axes, voter: Voter, color: str) -> None:
    if voter.image is None:
        ax.set(xticks=[], yticks=[], aspect="equal", xlim=(0, 1), ylim=(0, 1))
        ax.text(0.5, 0.5, "no image\nhere", ha="center", va="center", fontsize=8, color="#777777")
    else:
        _picture(ax, voter.image)
    ax.spines[:].set(edgecolor=color, linewidth=2.5)
    ax.set_title(f"{voter.class_name}, task {voter.task}", fontsize=8, color=INK, pad=3)
    sample = voter.sample_id if len(voter.sample_id) <= 22 else "…" + voter.sample_id[-21:]
    ax.set_xlabel(f"{sample}\n{voter.score:.3f}, {100 * voter.share:.1f} %", fontsize=7, color=INK, labelpad=2)
