"""The memory beside other engines on the same rows, queries and machine: recall, speed, build, disk, RAM.

    OMP_NUM_THREADS=1 python -m benchmarks.memory_peers                     # 100,000 rows of 768 values
    OMP_NUM_THREADS=1 python -m benchmarks.memory_peers --quick --json FILE

Each engine runs in a process of its own. One that is not installed is named and left out
(`pip install hnswlib usearch lancedb qdrant-client`); `--python FILE` runs those with another interpreter, for
packages whose requirements contradict ours. "durable" says whether rows survive a crash after the call that added
them returned; "forgets" whether a row can be removed.
"""

from __future__ import annotations

import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from kc.errors import unknown_name
from kc.spec import Count

Search = Callable[[npt.NDArray[np.float32]], npt.NDArray[np.int64]]
"""(Q, D) queries -> (Q, 16) ids."""
K = 16
Built = tuple[Search, list[tuple[str, Callable[[], None]]]]
"""A search, and settings (name, how to choose it) from fast to accurate."""


def kc_memory(keys: npt.NDArray[np.float32], folder: Path, index: str) -> Built:
    """Ours: rows on disk, fsynced, then searched."""
    from kc.memory.disk import Memory
    from kc.memory.search.planner import SearchOptions
    from kc.types import Rows

    n = len(keys)
    with Memory.create(folder / "m", dim=keys.shape[1], fingerprint="f") as memory:
        for first in range(0, n, 65_536):
            part = np.arange(first, min(first + 65_536, n))
            memory.add(Rows(keys[part], part * 0, tuple(map(str, part)), part * 0), 0)
        memory.commit(0)
    memory = Memory.open(folder / "m")
    memory.configure(SearchOptions(index=index, exact_rows=min(1000, n // 2)))  # type: ignore[arg-type]
    memory.search(keys[:1], K)
    if memory.stats()["plan"] not in (index, "exact"):
        raise RuntimeError(f"planned {memory.stats()['plan']}")
    name = f"{memory.stats()['plan']}, as planned"
    return lambda q: memory.search(q, K).id, [(name, lambda: None)]


def faiss_flat(keys: npt.NDArray[np.float32], folder: Path) -> Built:
    """Raw FAISS, exact, with BLAS for batches."""
    import faiss

    index = faiss.IndexFlatIP(keys.shape[1])
    index.add(keys)
    faiss.write_index(index, str(folder / "flat.faiss"))

    def search(q: npt.NDArray[np.float32]) -> Any:
        faiss.cvar.distance_compute_blas_threshold = 4 * keys.shape[1] if len(q) > 1 else 2**31 - 1
        return index.search(q, K)[1]

    return search, [("exact", lambda: None)]


def hnsw_lib(keys: npt.NDArray[np.float32], folder: Path) -> Built:
    """hnswlib: the reference graph."""
    import hnswlib

    index = hnswlib.Index(space="ip", dim=keys.shape[1])
    index.init_index(max_elements=len(keys), ef_construction=200, M=32, random_seed=0)
    index.set_num_threads(1)
    index.add_items(keys, np.arange(len(keys)))
    index.save_index(str(folder / "hnsw.bin"))

    def chosen(ef: int) -> Callable[[], None]:
        return lambda: index.set_ef(ef)

    return lambda q: index.knn_query(q, k=K)[0].astype(np.int64), [(f"ef {e}", chosen(e)) for e in (32, 64, 128, 256)]


def u_search(keys: npt.NDArray[np.float32], folder: Path) -> Built:
    """USearch: a graph over half precision."""
    from usearch.index import Index

    index = Index(ndim=keys.shape[1], metric="ip", dtype="f16", connectivity=32, expansion_add=200)
    index.add(np.arange(len(keys)), keys, threads=1)
    index.save(str(folder / "index.usearch"))

    def chosen(expansion: int) -> Callable[[], None]:
        return lambda: setattr(index, "expansion_search", expansion)

    def search(q: npt.NDArray[np.float32]) -> Any:
        found = index.search(q, K, threads=1).keys
        return np.asarray(found).reshape(len(q), -1).astype(np.int64)

    return search, [(f"expansion {e}", chosen(e)) for e in (32, 64, 128, 256)]


def lance(keys: npt.NDArray[np.float32], folder: Path, index: bool) -> Built:
    """LanceDB: columns on disk; exact, or its IVF-PQ with refinement."""
    import lancedb
    import pyarrow as pa

    dim = keys.shape[1]
    vectors = pa.FixedSizeListArray.from_arrays(pa.array(keys.reshape(-1)), dim)
    table = lancedb.connect(str(folder)).create_table(
        "rows", pa.table({"id": pa.array(np.arange(len(keys))), "vector": vectors})
    )
    state = {"nprobes": 20, "refine": 10}
    if index:
        parts = max(1, round(len(keys) ** 0.5))
        table.create_index(metric="dot", num_partitions=parts, num_sub_vectors=dim // 8, index_type="IVF_PQ")

    def search(q: npt.NDArray[np.float32]) -> Any:
        out = []
        for one in q:
            query = table.search(one).distance_type("dot").limit(K).select(["id"])
            if index:
                query = query.nprobes(state["nprobes"]).refine_factor(state["refine"])
            out.append(query.to_arrow()["id"].to_numpy())
        return np.stack(out)

    def chosen(nprobes: int) -> Callable[[], None]:
        return lambda: state.update(nprobes=nprobes)

    settings = [(f"nprobes {n}, refine 10", chosen(n)) for n in (8, 16, 32, 64)]
    return search, settings if index else [("exact", lambda: None)]


def qdrant(keys: npt.NDArray[np.float32], folder: Path) -> Built:
    """qdrant's embedded engine (`QdrantClient(path=...)`): numpy over a SQLite file, exact."""
    from qdrant_client import QdrantClient, models

    client = QdrantClient(path=str(folder / "q"))
    client.create_collection(
        "rows", vectors_config=models.VectorParams(size=keys.shape[1], distance=models.Distance.DOT)
    )
    for first in range(0, len(keys), 1000):
        part = np.arange(first, min(first + 1000, len(keys)))
        client.upsert("rows", models.Batch(ids=part.tolist(), vectors=keys[part].tolist()))

    def search(q: npt.NDArray[np.float32]) -> Any:
        found = [client.query_points("rows", query=one.tolist(), limit=K).points for one in q]
        return np.array([[p.id for p in points] for points in found])

    return search, [("exact", lambda: None)]


ENGINES: dict[str, tuple[Callable[[npt.NDArray[np.float32], Path], Built], str, str]] = {
    "kc exact": (lambda x, f: kc_memory(x, f, "exact"), "yes", "yes"),
    "kc ivf-pq": (lambda x, f: kc_memory(x, f, "ivf-pq"), "yes", "yes"),
    "kc hnsw": (lambda x, f: kc_memory(x, f, "hnsw"), "yes", "yes"),
    "faiss flat": (faiss_flat, "no", "shifts ids"),
    "hnswlib": (hnsw_lib, "no", "marks"),
    "usearch": (u_search, "no", "marks"),
    "lancedb exact": (lambda x, f: lance(x, f, False), "no fsync", "yes"),
    "lancedb ivf-pq": (lambda x, f: lance(x, f, True), "no fsync", "yes"),
    "qdrant local": (qdrant, "yes", "yes"),
}


def one_engine(name: str, data: Path, folder: Path) -> list[dict[str, Any]]:
    """Build `name` over the keys in `data`, and measure each of its settings. Runs in a process of its own."""
    make, durable, forgets = ENGINES[name]
    with np.load(data) as stored:
        keys, queries, truth = stored["keys"], stored["queries"], stored["truth"]
    start, cpu = time.perf_counter(), time.process_time()
    search, settings = make(keys, folder)
    build, build_cpu = time.perf_counter() - start, time.process_time() - cpu
    disk = sum(p.stat().st_size for p in folder.rglob("*") if p.is_file())
    lines = []
    for setting, choose in settings:
        choose()
        found = search(queries[:100])
        recall = float(np.mean([len(np.intersect1d(a, b)) / K for a, b in zip(found, truth[:100], strict=True)]))
        batch = min(timed(lambda: search(queries[:100])) for _ in range(3)) / 100
        single = float(np.median([timed(lambda q=q: search(q[None])) for q in queries[:20]]))  # type: ignore[misc]
        lines.append(
            {
                "engine": name,
                "setting": setting,
                "recall": recall,
                "batch_ms": 1e3 * batch,
                "single_ms": 1e3 * single,
                "build_s": build,
                "build_core_s": build_cpu,
                "disk_mb": disk / 1e6,
                "rss_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3,
                "durable": durable,
                "forgets": forgets,
            }
        )
    return lines


def timed(call: Callable[[], object]) -> float:
    """Wall seconds of one call."""
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def prepare(rows: int, dim: int, path: Path) -> None:
    """Keys, queries that are not among them, and the true neighbours."""
    import faiss

    from benchmarks.synthetic import Synthetic

    data = Synthetic(rows, dim)
    keys = np.concatenate([part for _, part, _ in data.chunks()])
    queries = data.queries(100)
    truth = faiss.knn(queries, keys, K, metric=faiss.METRIC_INNER_PRODUCT)[1]
    np.savez(path, keys=keys, queries=queries, truth=truth)


@dataclass(frozen=True, kw_only=True)
class Config:
    """Compare the memory with other engines.

    Args:
        rows: Rows of each engine.
        dim: Values of a key.
        engine: Engine that is measured; may be given several times; default: all.
        python: Interpreter for the other engines; default: this one.
        folder: Where everything is built (removed afterwards).
        quick: Few rows.
        json: Write the figures to this file.
    """

    rows: Count = 100_000
    dim: Count = 768
    engine: tuple[str, ...] = ()
    python: str = sys.executable
    folder: Path | None = None
    quick: bool = False
    json: Path | None = None


def run(config: Config) -> int:
    """Run every engine, print, write. Returns the exit status."""
    for name in config.engine:
        if name not in ENGINES:
            raise unknown_name("engine", name, ENGINES)
    rows, dim = (5_000, 128) if config.quick else (config.rows, config.dim)
    place = Path(tempfile.mkdtemp(prefix="kc-peers-", dir=config.folder))
    lines: list[dict[str, Any]] = []
    missing: dict[str, str] = {}
    try:
        prepare(rows, dim, place / "data.npz")
        print(f"{rows:,} rows x {dim}, k {K}, load {os.getloadavg()[0]:.1f}")
        print(f"{'engine':<16}{'setting':<24}{'recall':>7}{'batch ms':>10}{'one ms':>9}{'build s':>9}{'disk MB':>9}"
              f"{'RSS MB':>8}  durable   forgets")  # fmt: skip
        for name in config.engine or ENGINES:
            folder = place / name.replace(" ", "-")
            folder.mkdir()
            python = sys.executable if name.startswith("kc") else config.python
            command = [python, "-m", "benchmarks.memory_peers", "--one", name, str(place / "data.npz"), str(folder)]
            done = subprocess.run(command, capture_output=True, text=True)
            shutil.rmtree(folder)
            if done.returncode:
                missing[name] = done.stderr.strip().splitlines()[-1]
                print(f"{name:<16}left out: {missing[name]}", flush=True)
                continue
            for line in json.loads(done.stdout.splitlines()[-1]):
                lines.append(line)
                print("{engine:<16}{setting:<24}{recall:7.3f}{batch_ms:10.3f}{single_ms:9.2f}{build_s:9.1f}"
                      "{disk_mb:9.0f}{rss_mb:8.0f}  {durable:<9} {forgets}".format(**line), flush=True)  # fmt: skip
    finally:
        shutil.rmtree(place, ignore_errors=True)
    if config.json:
        config.json.write_text(json.dumps({"rows": rows, "dim": dim, "lines": lines, "left_out": missing}, indent=1))
    return 0


if __name__ == "__main__":
    if sys.argv[1:2] == ["--one"]:  # the process of one engine
        name, data, folder = sys.argv[2:]
        print(json.dumps(one_engine(name, Path(data), Path(folder))))
    else:
        from benchmarks.command import start

        start(run, "memory_peers")
