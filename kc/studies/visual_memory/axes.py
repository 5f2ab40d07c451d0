"""Logarithmic axes that name decades only: labels between them run into each other."""

from __future__ import annotations

from matplotlib.axes import Axes
from matplotlib.ticker import NullFormatter


def log_axes(ax: Axes, *, x: bool = True, y: bool = False) -> None:
    """Make the chosen axes logarithmic."""
    if x:
        ax.set_xscale("log")
        ax.xaxis.set_minor_formatter(NullFormatter())
    if y:
        ax.set_yscale("log")
        ax.yaxis.set_minor_formatter(NullFormatter())
