"""Logarithmic axes whose labels are few enough not to run into each other, and never a single one."""

from __future__ import annotations

import math

from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

FEW = 2.5
"""Decades up to which 1, 2 and 5 of each are named; beyond, the decades alone."""


def log_axes(ax: Axes, *, x: bool = True, y: bool = False) -> None:
    """Make the chosen axes logarithmic, after everything is drawn on them."""
    if x:
        ax.set_xscale("log")
        _name(ax.xaxis, *ax.get_xlim())
    if y:
        ax.set_yscale("log")
        _name(ax.yaxis, *ax.get_ylim())


def _name(axis: Axis, low: float, high: float) -> None:
    axis.set_minor_formatter(NullFormatter())
    if math.log10(high / low) <= FEW:
        axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.6g}"))
