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


def as_ids(values: Ids) -> Int64Array:
    """One id or many, as (N,) int64."""
    if isinstance(values, int | np.integer):
        return np.array([values], np.int64)
    array = np.asarray(values if isinstance(values, np.ndarray) else list(values))
    if array.size and array.dtype.kind not in "iu":
        raise ValueError(f"ids must be integers, got {array.dtype}")
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


def check_task(task: int) -> None:
    """ValueError for a task below 0."""
    if task < 0:
        raise ValueError(f"task must be at least 0, got {task}")
