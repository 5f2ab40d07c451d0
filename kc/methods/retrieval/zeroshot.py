"""`zeroshot`: the open-vocabulary base model alone; it learns nothing and is asked for every name."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from kc.errors import KcError
from kc.methods.base import Batch, Context
from kc.methods.module import OnePassMethod
from kc.methods.regions import background_position, best, maps_to_prediction, posteriors, to_prediction
from kc.openvocab.base import DenseVocabulary, PanopticVocabulary
from kc.spec import MethodSpec
from kc.types import Int32Array, Int64Array, Prediction


class ZeroShot(OnePassMethod):
    """What the base model says of names it was never shown here."""

    name = "zeroshot"
    spec = MethodSpec(
        summary="The open-vocabulary base alone; it learns nothing and is asked for every name.",
        keeps="nothing",
        formula=r"P = P_{base}",
        family="base",
        base="required",
        by_name=True,
    )
    open_vocabulary = True

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        if context.base is None:
            raise KcError("zeroshot needs an open-vocabulary base model, for example --base conse")

    def observe(self, batch: Batch) -> None:
        """Nothing is learned."""

    @torch.no_grad()
    def predict(self, batch: Batch, vocabulary: Sequence[int]) -> Prediction:
        vocab = tuple(vocabulary)
        assert self.context.base is not None
        if self.context.regions is None:
            pooled = self.context.encode(batch).pooled
            return Prediction(vocab, scores=self.context.base.scores_from(pooled, self.context.names(vocab)))
        if isinstance(self.context.base, DenseVocabulary):
            maps = self._pixels(self.context.base, batch, vocab)
            if self.context.kind == "panoptic" and isinstance(self.context.base, PanopticVocabulary):
                return Prediction(vocab, semantic=maps, panoptic=self._panoptic(self.context.base, batch, vocab))
            return maps_to_prediction(self.context, vocab, maps)
        regions = self.context.regions(batch)
        labels = [best(p, vocab) for p in posteriors(self.context, batch, regions, vocab)]
        return to_prediction(self.context, vocab, regions, labels)

    def _panoptic(self, base: PanopticVocabulary, batch: Batch, vocab: tuple[int, ...]) -> list[Int32Array]:
        """Panoptic maps by the base's own masks."""
        names = self.context.names(vocab)
        return [
            base.panoptic(raw, sample_id, names, vocab, self.context.thing_ids)
            for raw, sample_id in zip(batch["raw"], batch["sample_id"], strict=True)
        ]

    def _pixels(self, base: DenseVocabulary, batch: Batch, vocab: tuple[int, ...]) -> list[Int64Array]:
        """Maps of class ids by the base's own protocol: pixels are decided one by one, proposals play no part."""
        names, background = self.context.names(vocab), background_position(self.context, vocab)
        ids: Int64Array = np.asarray(vocab, dtype=np.int64)
        return [
            ids[base.segment(raw, sample_id, names, background)]
            for raw, sample_id in zip(batch["raw"], batch["sample_id"], strict=True)
        ]
