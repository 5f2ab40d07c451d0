"""What changed between two versions of a memory."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from kc.memory.view import View
from kc.types import Float32Array, Int64Array


@dataclass(frozen=True)
class VersionDiff:
    """From one version to another. Ids ascend; the columns beside them have the same length.

    `added` (A,) rows that only the second shows, `retired` (R,) rows that only the first shows; `relabelled` (L,) rows
    that both show under another class, `class_before` and `class_after` (L,); `reweighted` (W,) rows that both show
    with another weight, `weight_before` and `weight_after` (W,). Erased rows are in no version.
    """

    added: Int64Array
    retired: Int64Array
    relabelled: Int64Array
    class_before: Int64Array
    class_after: Int64Array
    reweighted: Int64Array
    weight_before: Float32Array
    weight_after: Float32Array

    def __bool__(self) -> bool:
        """Whether anything differs."""
        return any(len(ids) for ids in (self.added, self.retired, self.relabelled, self.reweighted))


def difference(a: View, b: View) -> VersionDiff:
    """What leads from view `a` to view `b` of one memory, over the same columns."""
    ids = a.columns.ids
    both = a.visible & b.visible
    relabelled = np.flatnonzero(both & (a.class_id != b.class_id))
    reweighted = np.flatnonzero(both & (a.weight != b.weight))
    return VersionDiff(
        added=ids[b.visible & ~a.visible],
        retired=ids[a.visible & ~b.visible],
        relabelled=ids[relabelled],
        class_before=a.class_id[relabelled],
        class_after=b.class_id[relabelled],
        reweighted=ids[reweighted],
        weight_before=a.weight[reweighted],
        weight_after=b.weight[reweighted],
    )
