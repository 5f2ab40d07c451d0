"""Which search is chosen, by size and filter."""

from __future__ import annotations

import pytest

from kc.memory.search.index import factory, projected_dim
from kc.memory.search.planner import SearchOptions, choose


@pytest.mark.parametrize(
    ("n_rows", "n_stored", "dim", "options", "kind", "word"),
    [
        (200_000, 200_000, 768, SearchOptions(), "exact", "200,000"),
        (200_001, 200_001, 768, SearchOptions(), "ivf-pq", "product codes"),
        (200_001, 200_001, 63, SearchOptions(), "ivf-sq8", "63 values"),
        (5_000, 10**7, 768, SearchOptions(), "exact", "of 10,000,000"),
        (10**7, 10**7, 768, SearchOptions(index="exact"), "exact", "as asked"),
        (10**7, 10**7, 768, SearchOptions(device="cuda"), "exact", "cuda"),
        (10**6, 10**6, 768, SearchOptions(index="hnsw"), "hnsw", "as asked"),
        (10**6, 10**7, 768, SearchOptions(index="hnsw"), "exact", "graph"),
        (10**6, 10**6, 768, SearchOptions(index="ivf-sq8"), "ivf-sq8", "as asked"),
        (10**6, 10**6, 768, SearchOptions(index="ivf-pq"), "ivf-pq", "as asked"),
        (10**6, 10**6, 6, SearchOptions(index="ivf-pq"), "ivf-sq8", "6 values"),
        (10**7, 10**7, 96, SearchOptions(), "ivf-sq8", "96 values"),
        (10**7, 10**7, 96, SearchOptions(index="ivf-pq"), "ivf-pq", "as asked"),
        (10**7, 10**7, 192, SearchOptions(), "ivf-pq", "product codes"),
        (101, 101, 768, SearchOptions(exact_rows=100), "ivf-pq", "101"),
    ],
)
def test_choice(n_rows: int, n_stored: int, dim: int, options: SearchOptions, kind: str, word: str) -> None:
    plan = choose(n_rows, n_stored, dim, options)
    assert plan.kind == kind
    assert word in plan.reason


def test_factory() -> None:
    assert factory("ivf-pq", 1_000_000, 768) == "IVF2048,PQ256x4fs"
    assert factory("ivf-pq", 10_000_000, 96) == "IVF8192,PQ64x4fs"
    assert factory("ivf-sq8", 200_000, 30) == "IVF1024,SQ8"
    assert [projected_dim(d) for d in (64, 100, 192, 1280)] == [64, 64, 64, 424]
