"""How a memory is searched, exactly or by an index, and the index that large memories are searched by."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from kc.memory.search import index_files
from kc.memory.search.exact import Search
from kc.memory.search.index import LEAST_DIM, ApproximateSearch, Index, build, extend, probe, segment_keys
from kc.memory.store.view import View
from kc.types import BoolArray

if TYPE_CHECKING:
    from kc.memory.search.gpu import DeviceRows


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
        return Plan("exact", f"{n_rows:,} of {n_stored:,} rows: a graph index misses rows where most are hidden")
    if options.index != "auto" and options.index != "ivf-pq":
        return Plan(options.index, f"{n_rows:,} rows: {options.index}, as asked, with rescoring from the mapped rows")
    if dim < (LEAST_DIM if options.index == "ivf-pq" else LEAST_AUTO_DIM):
        return Plan("ivf-sq8", f"{n_rows:,} rows of {dim} values: too few for product codes, so 8 bits a value")
    asked = ", as asked" if options.index == "ivf-pq" else ""
    return Plan("ivf-pq", f"{n_rows:,} rows: inverted lists of product codes{asked}, rescored from the mapped rows")


class Planner:
    """Searches of the memory in `root`."""

    def __init__(self, root: Path, options: SearchOptions) -> None:
        self.root = root
        self.options = options
        self._index: Index | None = None
        self._rows: DeviceRows | None = None

    def plan(self, view: View, mask: BoolArray) -> Plan:
        """How the rows of `mask` are searched; builds nothing."""
        dim = view.columns.segments[0].vectors.shape[1] if view.columns.segments else 0
        plan = choose(int(mask.sum()), len(view.columns), dim, self.options)
        index = self._index
        if plan.kind == "exact" or index is None or index.segments != segment_keys(view.columns):
            return plan
        if index.recall < self.options.recall:
            return Plan(
                "exact",
                f"{plan.reason}; but the index finds {index.recall:.3f} of the nearest rows at its limit, less than "
                f"{self.options.recall:.3f}",
            )
        return plan

    def search(self, view: View, mask: BoolArray, writes: bool) -> Search:
        """A search over the rows of `mask`; the first that needs an index loads, extends or builds it.

        writes: whether this process may store the index (the memory's writer); it serves this process only if not.
        """
        if self.options.device != "cpu":
            return self._on_device(view, mask)
        plan = self.plan(view, mask)
        if plan.kind == "exact":
            return Search(view, mask)
        index = self._current_index(view, plan.kind, writes)
        if index.recall < self.options.recall:
            return Search(view, mask)
        return ApproximateSearch(view, mask, index)

    def _on_device(self, view: View, mask: BoolArray) -> Search:
        from kc.memory.search import gpu  # torch, which readers on the CPU do without

        if self.options.engine == "faiss":
            return gpu.FaissGpuSearch(view, mask, self.options.device)
        if self._rows is None or self._rows.columns is not view.columns:
            self._rows = None  # the old ones first: both may not fit
            self._rows = gpu.DeviceRows(view.columns, self.options.device)
        return gpu.TorchSearch(view, mask, self._rows, self.options.gpu_bytes)

    def stats(self, view: View) -> dict[str, Any]:
        """Plan of an unfiltered search and its reason, and the index if one is in use."""
        plan = self.plan(view, view.visible)
        index = self._index
        shown = ("kind", "trained_rows", "effort", "recall")
        facts = None if index is None else {"rows": len(index)} | {name: getattr(index, name) for name in shown}
        return {"plan": plan.kind, "reason": plan.reason, "index": facts}

    def _current_index(self, view: View, kind: str, writes: bool) -> Index:
        """The index of these segments: as it is, with the new rows added, or trained anew where that has drifted."""
        columns, options = view.columns, self.options
        segments = segment_keys(columns)
        index, self._index = self._index, None  # not kept while it is being extended
        if index is None or index.kind != kind or index.segments != segments[: len(index.segments)]:
            index = index_files.load(self.root, kind, segments, columns.segments[0].vectors.shape[1], writes)
        if index is None or index.segments != segments or not (index.recall >= options.recall or index.exhausted):
            index = self._updated_index(view, kind, index)
            if writes:
                index_files.save(self.root, index)
                index_files.prune(self.root, index_files.folder(self.root, segments))
        self._index = index
        return index

    def _updated_index(self, view: View, kind: str, index: Index | None) -> Index:
        columns, options = view.columns, self.options
        rows = view.visible & (view.weight > 0)
        if index is not None:
            index = probe(view, rows, extend(index, columns), options.recall, options.seed, tune=False)
            if index.recall >= options.recall:
                return index
        if index is None or index.trained_rows < len(columns):
            index = build(columns, kind, options.seed)
        return probe(view, rows, index, options.recall, options.seed, tune=True)
