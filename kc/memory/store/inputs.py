"""Arguments of the stores: ids, names, criteria, weights and classes, checked in the same way on disk and in Milvus.

In an anonymous memory, names of samples and sources are stored as HMAC-SHA-256 under a random salt that the memory's
manifest holds, 128 bits of it. What this protects: no file name, person or place can be read from the files of the
memory, nor matched with another memory's. What it does not protect: whoever has the manifest, and so the salt, can test
a guess; keys, classes, tasks and the order of rows stay what they are, and a key may tell much of its image. It is a
pseudonym, not the absence of personal data.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from kc.types import Float32Array, Int64Array

Ids = int | Iterable[int]


Names = str | Iterable[str]


MOST_VALUES = 2**20
"""Values of the longest key."""
MOST_TASK = 2**62
"""Tasks are below it."""


def as_ids(values: Ids, what: str = "ids") -> Int64Array:
    """One id or many, as (N,) int64; ValueError for what is not stored exactly as that."""
    if isinstance(values, int | np.integer):
        values = [int(values)]
    array = np.asarray(values if isinstance(values, np.ndarray) else list(values))
    if array.size and (array.dtype.kind not in "iu" or int(array.max()) >= 2**63):
        raise ValueError(f"{what} must be integers below 2**63, got {array.dtype}")
    return array.astype(np.int64).reshape(-1)


def new_salt() -> str:
    """256 random bits, as hexadecimal digits."""
    return secrets.token_hex(32)


def hashed(names: Iterable[str], salt: str) -> list[str]:
    """Each name as 32 hexadecimal digits; as it is where there is no salt."""
    if not salt:
        return list(names)
    names, key = list(names), bytes.fromhex(salt)
    # File names may hold bytes that are no UTF-8; Python carries them as lone surrogates.
    digests = {
        name: hmac.new(key, name.encode(errors="surrogatepass"), hashlib.sha256).hexdigest()[:32] for name in set(names)
    }
    return [digests[name] for name in names]


def stored_names(names: Names, salt: str) -> frozenset[str]:
    """One name or many, as they are stored under `salt`."""
    return frozenset(hashed([names] if isinstance(names, str) else names, salt))


def stored_criteria(given: Mapping[str, Any], salt: str) -> dict[str, Any]:
    """Those of ids, class_id, task (as int64 arrays), source and sample_id (as sets of names as they are stored under
    `salt`) that are not None; iterables are read once, here."""
    return {
        name: stored_names(value, salt) if name in ("source", "sample_id") else as_ids(value)
        for name, value in given.items()
        if value is not None
    }


def check_criteria(given: Mapping[str, Any], salt: str, next_id: int) -> dict[str, Any]:
    """`stored_criteria`; ValueError if there is none, or for an id outside [0, next_id), which was never given out."""
    criteria = stored_criteria(given, salt)
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
    """One weight for all or one each, as (n,) float32; ValueError unless finite and at least 0, also as float32."""
    given = np.asarray(weights)
    if given.dtype.kind not in "fiu":
        raise ValueError(f"weights must be numbers, got {given.dtype}")
    with np.errstate(over="ignore"):
        values = np.broadcast_to(given.astype(np.float32), (n,))
    if not (np.isfinite(values).all() and (values >= 0).all()):
        raise ValueError("weights must be finite and at least 0, and at most 3.4e38")
    if ((values == 0) & np.broadcast_to(given > 0, (n,))).any():
        raise ValueError(
            "weights above 0 must be at least 1e-45: a smaller one would be stored as 0, which hides a row"
        )
    return values


def check_classes(class_ids: Ids, n: int) -> Int64Array:
    """One class for all or one each, as (n,) int64; ValueError below 0."""
    values = np.broadcast_to(as_ids(class_ids, "class ids"), (n,))
    if (values < 0).any():
        raise ValueError("class ids must be at least 0")
    return values


def check_task(task: int) -> int:
    """The task as int; ValueError for what is no integer from 0 to below MOST_TASK."""
    if isinstance(task, bool) or not isinstance(task, int | np.integer) or not 0 <= task < MOST_TASK:
        raise ValueError(f"task must be an integer from 0 to below 2**62, got {task}")
    return int(task)
