"""Regions as crops: with their surroundings, and with everything outside the mask black."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from kc.files import atomic_path
from kc.methods.regions import cut_out, normalised
from kc.studies.regions import Benchmark
from kc.types import Float32Array, SplitName

NAMES = ("whole", "full", "masked")


@dataclass(frozen=True)
class Views:
    """Three views of N regions: their `whole` image, the `full` crop around them, the `masked` crop; of each the keys
    (N, D), L2-normalised pooled features, and the base's codes (N, E)."""

    keys: dict[str, Float32Array]
    codes: dict[str, Float32Array]


@torch.no_grad()
def views(bench: Benchmark, split: SplitName) -> Views:
    """Views of all regions of a split, in the order of `bench.train` or `bench.test`; encoded once, then cached."""
    regions, session = bench.regions, bench.session
    limit = str(bench.limit)
    parts = (session.encoder.fingerprint, bench.base.key, regions.source, split, limit, "crops-2")
    digest = hashlib.sha1("|".join(parts).encode(), usedforsecurity=False).hexdigest()
    path = bench.folder / f"{digest}.npz"
    if not path.exists():
        made: dict[str, list[Any]] = {f"{kind} {name}": [] for kind in ("keys", "codes") for name in NAMES}
        for _, batch, row in bench.images(split, "cropping"):
            segments = regions._segments(batch, row)
            crops, inside = cut_out(np.asarray(batch["raw"][row]), segments)
            pixels = torch.from_numpy(crops).float() / 255
            image = session.features.encode(batch["image"][row][None], [batch["sample_id"][row]]).pooled
            pooled = {
                "whole": image.expand(len(segments), -1),
                "full": session.encoder.encode(pixels).pooled,
                "masked": session.encoder.encode(pixels * torch.from_numpy(inside)[:, None]).pooled,
            }
            for name, values in pooled.items():
                made[f"keys {name}"].append(normalised(values))
                made[f"codes {name}"].append(bench.base.codes_from(values).float().numpy())
        joined: dict[str, Any] = {name: np.concatenate(values) for name, values in made.items()}
        with atomic_path(path, sync=False) as temporary, open(temporary, "wb") as file:
            np.savez(file, **joined)
    with np.load(path, allow_pickle=False) as stored:
        return Views({n: stored[f"keys {n}"] for n in NAMES}, {n: stored[f"codes {n}"] for n in NAMES})
