"""Numbers as people read them: the digits they deserve, and a unit."""

from __future__ import annotations

import math
from collections.abc import Sequence

UNDEFINED = "–"
_METRICS = {"miou": "mIoU", "pq": "PQ", "sq": "SQ", "rq": "RQ", "ap": "AP", "accuracy": "accuracy"}
_FACETS = {"all": "all classes", "things": "things", "stuff": "stuff", "old": "old classes", "new": "new classes"}


def metric_title(name: str) -> str:
    """`miou` -> `mIoU`, `pq_things` -> `PQ things`; a name we do not know stays as it is."""
    head, _, facet = name.partition("_")
    if head not in _METRICS:
        return name.replace("_", " ")
    return f"{_METRICS[head]} {_FACETS.get(facet, facet.replace('_', ' '))}".rstrip() if facet else _METRICS[head]


def points(value: float, deviation: float = math.nan, *, signed: bool = False) -> str:
    """A fraction as percentage points, one decimal: 0.712 -> `71.2`, with a deviation `71.2 ± 0.3`; `–` for NaN."""
    if math.isnan(value):
        return UNDEFINED
    text = f"{100 * value:+.1f}" if signed else f"{100 * value:.1f}"
    # "-0.0" reads like a loss that is not there.
    text = text.lstrip("+-") if text in ("-0.0", "+0.0") else text.replace("-", "−")
    return text if math.isnan(deviation) else f"{text} ± {100 * deviation:.1f}"


def _scaled(value: float, deviation: float, steps: Sequence[tuple[float, str]]) -> str:
    """Value and deviation in the largest unit the value reaches, three digits or so."""
    size, unit = next(((s, u) for s, u in steps if value >= s), steps[-1])
    value, deviation = value / size, deviation / size
    digits = 0 if value >= 100 or (size == 1 and float(value).is_integer()) else 1
    spread = "" if math.isnan(deviation) or deviation == 0 else f" ± {deviation:.{digits}f}"
    return f"{value:.{digits}f}{spread} {unit}".rstrip()


def seconds(value: float, deviation: float = math.nan) -> str:
    """`0.4 s`, `48.2 s`, `6.1 min`, `3.4 h`; `–` for NaN."""
    if math.isnan(value):
        return UNDEFINED
    # Seconds up to two minutes, minutes up to two hours: 90 s is easier to compare with 40 s than 1.5 min is.
    unit = (3600.0, "h") if value >= 7200 else (60.0, "min") if value >= 120 else (1.0, "s")
    return _scaled(value, deviation, (unit,))


def size(value: float, deviation: float = math.nan) -> str:
    """Bytes in binary units: `0 B`, `12.0 KiB`, `4.7 MiB`; `–` for NaN."""
    if math.isnan(value):
        return UNDEFINED
    return _scaled(value, deviation, ((2**40, "TiB"), (2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB"), (1, "B")))


def count(value: float, deviation: float = math.nan) -> str:
    """`0`, `812`, `12.3 k`, `1.2 M`, `3.4 G`; `–` for NaN."""
    if math.isnan(value):
        return UNDEFINED
    return _scaled(value, deviation, ((1e9, "G"), (1e6, "M"), (1e3, "k"), (1, "")))


def listing(names: Sequence[str], limit: int = 3) -> str:
    """`a`, `a and b`, `a, b and c`, `a, b, c and 4 more`."""
    shown = list(names[:limit])
    if len(names) > limit:
        return f"{', '.join(shown)} and {len(names) - limit} more"
    return " and ".join([", ".join(shown[:-1]), shown[-1]] if len(shown) > 1 else shown)


def task_title(index: int, class_names: Sequence[str]) -> str:
    """`task 1 (background, zero)`; `index` from 0, shown from 1."""
    few = ", ".join(class_names[:3]) + (f" and {len(class_names) - 3} more" if len(class_names) > 3 else "")
    return f"task {index + 1} ({few})"
