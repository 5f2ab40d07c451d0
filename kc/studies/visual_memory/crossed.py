"""Memory from one benchmark, queries from another: ImageNet's asked about ImageNet-A, -R, -Sketch and -V2."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from kc.data.manifest import Manifest
from kc.errors import KcError
from kc.studies.visual_memory.keys import Change, Keys, Source
from kc.types import Int64Array, SplitName

if TYPE_CHECKING:
    from collections.abc import Mapping

NOT_IN_MEMORY = -1
"""Label of a query whose class the memory's benchmark does not have."""


class Crossed(Source):
    """The training rows of one benchmark and the test rows of another, `queries`, under the classes of the first.

    Both keep the classes that both have, as the owners of ImageNet-A and -R evaluate. Arguments are those of `Source`;
    KcError where the two are of other kinds or share no class.
    """

    def __init__(self, benchmark: str, queries: str, **options: Any) -> None:
        super().__init__(benchmark, **options)
        self.asked = Source(queries, **options)
        self.same = shared_classes(self.asked.manifest, self.manifest)
        if self.kind != self.asked.kind or not self.same:
            what = "no class" if self.kind == self.asked.kind else f"no kind of rows ({self.kind}, {self.asked.kind})"
            raise KcError(f"--queries {queries}: {self.asked.manifest.name} shares {what} with {self.manifest.name}")

    def keys(self, encoder: str, split: SplitName, change: Change | None = None, tag: str = "") -> Keys:
        """Keys of every row of a class that both have: the memory's own, or of "test" those of the queries."""
        if split != "test":
            found = super().keys(encoder, split, change, tag)
            return found.take(np.isin(found.label, list(self.same.values())))
        theirs = self.asked.keys(encoder, split, change, tag)
        found = replace(theirs, label=renamed(theirs.label, self.same))
        return found.take(found.label != NOT_IN_MEMORY)


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


def renamed(label: Int64Array, same: Mapping[int, int]) -> Int64Array:
    """Labels (N,) under the ids that `same` says; NOT_IN_MEMORY for classes that it does not hold."""
    classes, at = np.unique(label, return_inverse=True)
    return np.array([same.get(int(c), NOT_IN_MEMORY) for c in classes], np.int64)[at]
