"""Turns a view and a filter into a search, and keeps the index that large memories are searched by."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from kc.memory import index_files
from kc.memory.approximate import ApproximateSearch, probe
from kc.memory.index import Index, build, extend, segment_keys
from kc.memory.plan import Plan, SearchOptions, choose
from kc.memory.search import Search
from kc.memory.view import View
from kc.types import BoolArray

if TYPE_CHECKING:
    from kc.memory.gpu import DeviceRows


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
        index = self._ready(view, plan.kind, writes)
        if index.recall < self.options.recall:
            return Search(view, mask)
        return ApproximateSearch(view, mask, index)

    def _on_device(self, view: View, mask: BoolArray) -> Search:
        from kc.memory import gpu  # torch, which readers on the CPU do without

        if self.options.engine == "faiss":
            return gpu.FaissGpuSearch(view, mask, self.options)
        if self._rows is None or self._rows.columns is not view.columns:
            self._rows = None  # the old ones first: both may not fit
            self._rows = gpu.DeviceRows(view.columns, self.options.device)
        return gpu.TorchSearch(view, mask, self.options, self._rows)

    def stats(self, view: View) -> dict[str, Any]:
        """Plan of an unfiltered search and its reason, and the index if one is in use."""
        plan = self.plan(view, view.visible)
        index = self._index
        return {
            "plan": plan.kind,
            "reason": plan.reason,
            "index": None
            if index is None
            else {
                "kind": index.kind,
                "rows": len(index),
                "trained_rows": index.trained_rows,
                "effort": index.effort,
                "recall": index.recall,
            },
        }

    def _ready(self, view: View, kind: str, writes: bool) -> Index:
        """The index of these segments: as it is, with the new rows added, or trained anew where that has drifted."""
        columns, options = view.columns, self.options
        segments = segment_keys(columns)
        index, self._index = self._index, None  # an index that is being extended belongs to nobody
        if index is None or index.kind != kind or index.segments != segments[: len(index.segments)]:
            index = index_files.load(self.root, kind, segments, columns.segments[0].vectors.shape[1], writes)
        if index is None or index.segments != segments or not (index.recall >= options.recall or index.exhausted):
            index = self._improved(view, kind, index)
            if writes:
                index_files.save(self.root, index)
                index_files.prune(self.root, index_files.folder(self.root, segments))
        self._index = index
        return index

    def _improved(self, view: View, kind: str, index: Index | None) -> Index:
        columns, options = view.columns, self.options
        rows = view.visible & (view.weight > 0)
        if index is not None:
            index = probe(view, rows, extend(index, columns), options.recall, options.seed, tune=False)
            if index.recall >= options.recall:
                return index
        if index is None or index.trained_rows < len(columns):
            index = build(columns, kind, options.seed)
        return probe(view, rows, index, options.recall, options.seed, tune=True)
