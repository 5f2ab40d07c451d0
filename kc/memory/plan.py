"""How a memory is searched: exactly or by an index, where, and why."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

LEAST_DIM = 64
"""Product codes need that many values."""
LEAST_AUTO_DIM = 192
"""They are chosen only where a third of the values are that many: of ten million keys of 96 values, codes for 64 find
.86 of the nearest rows and codes for all 96 find .93, however many lists are visited; 8 bits a value find .993."""
IndexKind = Literal["auto", "exact", "ivf-pq", "ivf-sq8", "hnsw"]


@dataclass(frozen=True)
class SearchOptions:
    """How to search. None of it changes what is stored.

    Args:
        index: `auto` decides by size; `exact` never approximates; the others name the index of large memories.
        exact_rows: up to this many rows a search is exact: a product with all of them takes milliseconds, and an
            index would have to be built. Also the size up to which a filter's rows are searched exactly.
        recall: share of the 16 nearest rows an index must find on sampled stored queries; below it, it is trained
            anew, and if that does not help, search is exact.
        device: `cpu`, or a torch device (`cuda`, `cuda:1`): exact search there, whatever the size.
        engine: on a GPU, `torch` or `faiss` (the extra `gpu`).
        gpu_bytes: what the scores of one step may take on the device.
        seed: of the training sample and of the sampled queries.
    """

    index: IndexKind = "auto"
    exact_rows: int = 200_000
    recall: float = 0.99
    device: str = "cpu"
    engine: Literal["torch", "faiss"] = "torch"
    gpu_bytes: int = 2**30
    seed: int = 0


@dataclass(frozen=True)
class Plan:
    """`kind` is exact, ivf-pq, ivf-sq8 or hnsw."""

    kind: Literal["exact", "ivf-pq", "ivf-sq8", "hnsw"]
    reason: str


def choose(n_rows: int, n_stored: int, dim: int, options: SearchOptions) -> Plan:
    """How to search `n_rows` of the `n_stored` rows of a memory."""
    if options.device != "cpu":
        return Plan("exact", f"exact on {options.device}: a GPU multiplies with all {n_rows:,} rows")
    if options.index == "exact":
        return Plan("exact", "exact, as asked")
    if n_rows <= options.exact_rows:
        part = "" if n_rows == n_stored else f" of {n_stored:,}"
        return Plan("exact", f"{n_rows:,} rows{part}: up to {options.exact_rows:,}, exact search costs milliseconds")
    if options.index == "hnsw" and 2 * n_rows < n_stored:
        return Plan("exact", f"{n_rows:,} of {n_stored:,} rows: a graph loses its way where most rows are hidden")
    if options.index != "auto" and options.index != "ivf-pq":
        return Plan(options.index, f"{n_rows:,} rows: {options.index}, as asked, with rescoring from the mapped rows")
    if dim < (LEAST_DIM if options.index == "ivf-pq" else LEAST_AUTO_DIM):
        return Plan("ivf-sq8", f"{n_rows:,} rows of {dim} values: too few for product codes, so 8 bits a value")
    asked = ", as asked" if options.index == "ivf-pq" else ""
    return Plan("ivf-pq", f"{n_rows:,} rows: inverted lists of product codes{asked}, rescored from the mapped rows")


def projected_dim(dim: int) -> int:
    """Values of a key that product codes keep: a third, but at least `LEAST_DIM`; a multiple of 8."""
    return min(dim // 8 * 8, max(LEAST_DIM, round(dim / 3 / 8) * 8))


def factory(kind: str, n_rows: int, dim: int) -> str:
    """The FAISS factory string of the index proper: about 2 sqrt(n) lists; 4 bits for each projected value, or 8 bits
    for each value."""
    lists = 1 << max(0, round(math.log2(2 * math.sqrt(n_rows))))
    codes = {"ivf-pq": f"IVF{lists},PQ{projected_dim(dim)}x4fs", "ivf-sq8": f"IVF{lists},SQ8", "hnsw": "HNSW32,SQ8"}
    return codes[kind]
