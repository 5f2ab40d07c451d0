"""What studies of a memory share: keys of two splits, exact search, and the arguments of the votes."""

from __future__ import annotations

from dataclasses import replace
from functools import cached_property
from typing import Any

import numpy as np
from rich.console import Console

from kc.data.manifest import Manifest
from kc.encoders.load import check_encoder_name
from kc.errors import KcError
from kc.studies.base import Options, Study, whole_numbers
from kc.studies.keys import Change, Keys, Source, memory_of
from kc.studies.options import KeyOptions, VoteOptions
from kc.types import Float32Array, Int64Array, Neighbours, SplitName

NOT_IN_MEMORY = -1
"""Label of a query whose class the memory's benchmark does not have."""


class VoteStudy(Study[Options]):
    """A study of a memory of the training rows of one benchmark, and queries from its test rows.

    With `--queries`, the test rows are those of another benchmark, under the classes of the first; both keep the
    classes that both have, as the owners of ImageNet-A and -R evaluate. KcError where the two share no class.

    `ks`, `seeds`: as given; `encoders`: their names; `source`: the benchmark; `queries`: the other one, if any.
    """

    N_ENCODERS = 1
    """Encoders that are needed at least."""

    def __init__(self, name: str, options: Options, console: Console) -> None:
        super().__init__(name, options, console)
        votes = options if isinstance(options, VoteOptions) else VoteOptions()
        self.ks = whole_numbers("k", votes.k)
        self.votes: dict[str, Any] = {"tau": votes.tau, "rank_offset": votes.rank_offset, "sharpness": votes.sharpness}
        self.seeds = whole_numbers("seeds", getattr(options, "seeds", "0"), 0)
        self.encoders = tuple(part.strip() for part in options.encoder.split(",") if part.strip())
        for encoder in self.encoders:
            check_encoder_name(encoder)
        if len(self.encoders) < self.N_ENCODERS:
            raise KcError(f"--encoder {options.encoder}: {name} needs {self.N_ENCODERS}")
        self.source = self._open(options.benchmark)
        self.queries = self._open(options.queries) if isinstance(options, KeyOptions) and options.queries else None
        if self.queries and self.queries.kind != self.source.kind:
            theirs, ours = (f"{s.manifest.name} has {s.kind}" for s in (self.queries, self.source))
            raise KcError(f"--queries: both benchmarks need the same kind of rows; {theirs}, {ours}")
        self._clamped = False

    def _open(self, benchmark: str) -> Source:
        options = self.options
        rows, dim = (options.rows, options.dim) if isinstance(options, KeyOptions) else (None, 64)
        return Source(benchmark, options.data_root, rows, options.limit_images, dim, self.console)

    @property
    def of(self) -> str:
        return "-".join(s.manifest.name for s in (self.source, self.queries) if s)

    def fingerprints(self) -> dict[str, str]:
        return {f"encoder {name}": self.source.session(name).encoder.fingerprint for name in self.encoders}

    @property
    def k(self) -> int:
        """The number of neighbours where one is enough."""
        return self.ks[0]

    @cached_property
    def same(self) -> dict[int, int]:
        """Class id in `--queries` -> id of the same class in the memory's benchmark. KcError if there is none."""
        assert self.queries is not None
        theirs, ours = self.queries.manifest, self.source.manifest
        if found := shared_classes(theirs, ours):
            return found
        raise KcError(f"--queries: {theirs.name} shares no class with {ours.name}")

    def keys(self, encoder: str, split: SplitName, change: Change | None = None, tag: str = "") -> Keys:
        """Keys of the rows of a split, of "test" those of `--queries`; see `Source.keys`."""
        if self.queries is None:
            return self.source.keys(encoder, split, change, tag)
        same = self.same  # before anything is encoded: benchmarks without a common class are refused here
        if split != "test":
            found = self.source.keys(encoder, split, change, tag)
            return found.take(np.isin(found.label, list(same.values())))
        theirs = self.queries.keys(encoder, split, change, tag)
        found = replace(theirs, label=renamed(theirs.label, same))
        return found.take(found.label != NOT_IN_MEMORY)

    def both(self, encoder: str | None = None) -> tuple[Keys, Keys]:
        """Keys of the training and of the test rows, under the first encoder if none is named."""
        name = encoder or self.encoders[0]
        return self.keys(name, "train"), self.keys(name, "test")

    def clamp(self, k: int, n_rows: int) -> int:
        """At most the rows that there are; a k that is larger is reported once."""
        if k > n_rows and not self._clamped:
            self.console.print(f"k {k} is clamped to the {n_rows} rows that there are", highlight=False)
            self._clamped = True
        return min(k, n_rows)

    def answers(self, train: Keys, queries: Float32Array, k: int) -> Neighbours:
        """The k nearest rows of each query, exactly; see `clamp`."""
        with memory_of(train.rows()) as memory:
            return memory.search(queries, self.clamp(k, len(train)))


def shared_classes(queries: Manifest, memory: Manifest) -> dict[int, int]:
    """Class id in `queries` -> id of the same class in `memory`: of the same name in the files, else the same name.

    ImageNet's classes are its WordNet ids; the folders of ImageNet-V2 are numbers, and its classes known by name.
    """
    by_name = {c.name: c.id for c in memory.classes}
    by_file = dict(zip(memory.names_in_files(), memory.class_ids(), strict=True))
    found = {
        c.id: by_file.get(name, by_name.get(c.name, NOT_IN_MEMORY))
        for c, name in zip(queries.classes, queries.names_in_files(), strict=True)
    }
    return {theirs: ours for theirs, ours in found.items() if ours != NOT_IN_MEMORY}


def renamed(label: Int64Array, same: dict[int, int]) -> Int64Array:
    """Labels (N,) under the ids of `same`; NOT_IN_MEMORY for classes that it does not hold."""
    classes, at = np.unique(label, return_inverse=True)
    return np.array([same.get(int(c), NOT_IN_MEMORY) for c in classes], np.int64)[at]
