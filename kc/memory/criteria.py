"""What a caller may ask to change, checked the same way in every store."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from kc.memory.names import wanted
from kc.memory.view import Ids, as_ids
from kc.types import Float32Array, Int64Array


def check_criteria(given: Mapping[str, Any], salt: str, next_id: int) -> dict[str, Any]:
    """Those of ids, class_id, task (int64 arrays), source and sample_id (sets of names as they are stored under `salt`)
    that are not None; iterables are read once, here.

    ValueError if there is none, or for an id outside [0, next_id), which was never given out.
    """
    criteria: dict[str, Any] = {}
    for name, value in given.items():
        if value is not None:
            criteria[name] = wanted(value, salt) if name in ("source", "sample_id") else as_ids(value)
    if not criteria:
        raise ValueError("say which rows: give ids, class_id, source, task or sample_id")
    ids = criteria.get("ids")
    if ids is not None and len(ids) and (ids.min() < 0 or ids.max() >= next_id):
        raise ValueError(f"ids must lie in [0, {next_id}): others were never given out")
    return criteria


def distinct_ids(ids: Ids) -> Int64Array:
    """`ids` as (N,) int64; ValueError if one is given twice."""
    array = as_ids(ids)
    if len(np.unique(array)) != len(array):
        raise ValueError("an id is given twice")
    return array


def check_weights(weights: npt.ArrayLike, n: int) -> Float32Array:
    """One weight for all or one each, as (n,) float32; ValueError unless finite and at least 0."""
    values = np.broadcast_to(np.asarray(weights, np.float32), (n,))
    if not (np.isfinite(values).all() and (values >= 0).all()):
        raise ValueError("weights must be finite and at least 0")
    return values


def check_classes(class_ids: npt.ArrayLike, n: int) -> Int64Array:
    """One class for all or one each, as (n,) int64; ValueError below 0."""
    values = np.broadcast_to(np.asarray(class_ids, np.int64), (n,))
    if (values < 0).any():
        raise ValueError("class ids must be at least 0")
    return values
