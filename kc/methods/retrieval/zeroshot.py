"""`zeroshot`: the open-vocabulary base model alone; it learns nothing and is asked for every name."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from kc.methods.module import OnePassMethod
from kc.methods.predictions import background_position, maps_to_prediction, posteriors, to_prediction
from kc.methods.regions import best
from kc.openvocab.base import DenseVocabulary, PanopticVocabulary
from kc.spec import MethodSpec
from kc.types import Batch, Int64Array, Prediction


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

    def observe(self, batch: Batch) -> None:
        """Nothing is learned."""

    @torch.no_grad()
    def predict(self, batch: Batch, vocabulary: Sequence[int]) -> Prediction:
        context, base, vocab = self.context, self.context.base, tuple(vocabulary)
        assert base is not None
        names = context.names(vocab)
        if context.regions is None:
            return Prediction(vocab, scores=base.scores_from(context.encode(batch).pooled, names))
        if not isinstance(base, DenseVocabulary):
            regions = context.regions(batch)
            labels = [best(p, vocab) for p in posteriors(context, batch, regions, vocab)]
            return to_prediction(context, vocab, regions, labels)
        # The base decides pixels, and masks where it has any, by its own protocol: proposals play no part.
        images = list(zip(batch["raw"], batch["sample_id"], strict=True))
        ids, background = np.asarray(vocab, dtype=np.int64), background_position(context, vocab)
        maps: list[Int64Array] = [ids[base.segment(raw, name, names, background)] for raw, name in images]
        if context.kind == "panoptic" and isinstance(base, PanopticVocabulary):
            panoptic = [base.panoptic(raw, name, names, vocab, context.thing_ids) for raw, name in images]
            return Prediction(vocab, semantic=maps, panoptic=panoptic)
        return maps_to_prediction(context, vocab, maps)
