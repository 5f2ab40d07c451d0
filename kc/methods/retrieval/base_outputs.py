"""The base's outputs for the regions or images of a batch, and what is kept of it for later."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from kc.errors import KcError
from kc.memory.store.staging import renormalize
from kc.methods.base import Context
from kc.methods.predictions import background_position, posteriors, region_posteriors
from kc.methods.regions import Regions
from kc.methods.state import TensorState
from kc.openvocab.base import BaseProbabilities, CodedVocabulary, Names, Trained, TwoHeaded
from kc.types import Batch, Float32Array


@dataclass(frozen=True)
class BaseOutputs:
    """The base's own probabilities `own` (N, C), and those of its two heads where it has two, else twice its own."""

    own: Tensor
    heads: BaseProbabilities


def single_head(own: Tensor, seen: Tensor) -> BaseOutputs:
    """The probabilities of a base without heads stand for both; `seen` (C,) bool."""
    return BaseOutputs(own, BaseProbabilities(own, own, seen))


def seen_names(base: object, names: Names) -> Tensor:
    """Which names a base was trained on, (C,) bool; none where it does not say."""
    return base.trained_on(names) if isinstance(base, Trained) else torch.zeros(len(names), dtype=torch.bool)


def base_predictions(
    context: Context, batch: Batch, regions: Sequence[Regions] | None, ids: Sequence[int]
) -> BaseOutputs:
    """The base's outputs for every region of a batch (joined in order), or of every image where there are no regions.

    Raises KcError for a region of another size than its image.
    """
    base, names = context.base, context.names(ids)
    assert base is not None
    if regions is None:
        own = base.scores_from(context.encode(batch).pooled, names)
        return single_head(own.cpu(), seen_names(base, names))
    for row, r in enumerate(regions):
        size = tuple(np.asarray(batch["raw"][row]).shape[:2])
        if r.segments.size != size:
            raise KcError(f"{batch['sample_id'][row]}: masks of {r.segments.size} for an image of {size}")
    own = torch.cat([p.cpu() for p in posteriors(context, batch, regions, ids)])
    if not isinstance(base, TwoHeaded):
        return single_head(own, seen_names(base, names))
    background = background_position(context, ids)
    each = [
        base.region_probabilities(batch["raw"][row], batch["sample_id"][row], r.segments, names, background)
        for row, r in enumerate(regions)
    ]
    joined = BaseProbabilities(
        torch.cat([o.in_vocabulary.cpu() for o in each]),
        torch.cat([o.out_of_vocabulary.cpu() for o in each]),
        each[0].seen.cpu(),
    )
    return BaseOutputs(own, joined)


def codes_of(context: Context, batch: Batch, regions: Sequence[Regions] | None) -> Tensor | None:
    """Codes (N, E) of the regions or images of a batch; None where the base has none."""
    base = context.base
    if not isinstance(base, CodedVocabulary):
        return None
    features = context.encode(batch)
    if regions is None:
        return base.codes_from(features.pooled).cpu()
    return base.codes_from_posterior(torch.cat(region_posteriors(base, features, regions))).cpu()


class BaseOutputCache(TensorState):
    """The base's outputs for each stored row, by the row's key, so that they are there again without the image.

    Codes (`CodedVocabulary`) where the base has them: 40 bytes a row for conse, for any names. Else its probabilities
    over the names known at that time, float16, three a name (its own and both heads'); a later name counts 0.
    """

    def __init__(self) -> None:
        super().__init__()
        self._values: dict[int, Tensor] = {}
        self._columns: list[int] = []
        self._seen: dict[int, bool] = {}

    def __len__(self) -> int:
        return len(self._values)

    def keep_codes(self, keys: Float32Array, codes: Tensor) -> None:
        """Codes (N, E) float16 of rows with `keys` (N, D)."""
        self._values.update(zip(digests(keys), codes.half(), strict=True))

    def keep_answers(self, keys: Float32Array, answers: BaseOutputs, ids: Sequence[int]) -> None:
        """Outputs over the classes `ids` of rows with `keys` (N, D)."""
        self._columns += [c for c in ids if c not in self._columns]
        self._seen.update(zip(ids, answers.heads.seen.tolist(), strict=True))
        at = [self._columns.index(c) for c in ids]
        heads = (answers.own, answers.heads.in_vocabulary, answers.heads.out_of_vocabulary)
        values = torch.zeros(len(keys), 3, len(self._columns), dtype=torch.float16)
        values[:, :, at] = torch.stack(heads, dim=1).half()
        self._values.update(zip(digests(keys), values, strict=True))

    def answers(self, base: object, keys: Float32Array, ids: Sequence[int], names: Names) -> BaseOutputs:
        """The base's outputs for stored rows with `keys` (N, D) over the classes `ids` with these `names`.

        Raises KcError for a row of which nothing was kept.
        """
        found = [self._values.get(d) for d in digests(keys)]
        kept = [v for v in found if v is not None]
        if len(kept) < len(found):
            raise KcError(
                f"{len(found) - len(kept)} of {len(found)} rows were stored without the base's outputs for them: "
                "a fusion that is fitted needs a memory that was learned with it"
            )
        if isinstance(base, CodedVocabulary):
            return single_head(base.scores_from_codes(torch.stack(kept), names), seen_names(base, names))
        values = torch.zeros(len(kept), 3, len(ids))
        for column, c in enumerate(ids):
            if c in self._columns:
                at = self._columns.index(c)
                of_rows = [v[:, at].float() if at < v.shape[1] else torch.zeros(3) for v in kept]
                values[:, :, column] = torch.stack(of_rows)
        seen = torch.tensor([self._seen.get(c, False) for c in ids], dtype=torch.bool)
        return BaseOutputs(values[:, 0], BaseProbabilities(values[:, 1], values[:, 2], seen))

    def tensors(self) -> dict[str, Tensor]:
        """Rows by the number of values kept of each."""
        result: dict[str, Tensor] = {}
        for width in sorted({v.shape for v in self._values.values()}):
            rows = {d: v for d, v in self._values.items() if v.shape == width}
            name = "x".join(map(str, width))
            result[f"rows.{name}"] = torch.tensor(list(rows))
            result[f"values.{name}"] = torch.stack(list(rows.values()))
        if self._columns:
            result["columns"] = torch.tensor(self._columns, dtype=torch.int64)
            result["seen"] = torch.tensor([self._seen[c] for c in self._columns], dtype=torch.bool)
        return result

    def load_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        """Read what `tensors` gave."""
        for name, rows in tensors.items():
            if name.startswith("rows."):
                values = tensors["values." + name.removeprefix("rows.")]
                self._values.update(zip(rows.tolist(), values.clone(), strict=True))
        if "columns" in tensors:
            self._columns = tensors["columns"].tolist()
            self._seen = dict(zip(self._columns, tensors["seen"].tolist(), strict=True))


def digests(keys: Float32Array) -> list[int]:
    """A 64-bit number of each key (N, D), by its bytes as a memory stores them."""
    rows = renormalize(keys)
    return [
        int.from_bytes(hashlib.blake2b(row.tobytes(), digest_size=8).digest(), "little", signed=True) for row in rows
    ]
