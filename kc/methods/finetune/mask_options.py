"""Options that all mask classifiers share."""

from __future__ import annotations

from dataclasses import dataclass

from kc.spec import DENSE, TUNE_LR, Fraction, MethodSpec


@dataclass(frozen=True)
class MaskOptions:
    """Options of a mask classifier.

    Args:
        model: Its network: tiny (random weights), encoder (small and random over the pretrained encoder of the run,
            which needs three dense levels; with --train head they are cached, and a step costs less than half), or a
            published one: a folder that transformers saved, or its name on the hub.
        score: Probability that a query must pass to be a panoptic segment; default: the authors', 0.8 (eclipse: 0),
            which suits long training; after a short one few queries are so sure.
        overlap: Share of its mask that a query must win to be a panoptic segment; default: the authors', 0.8
            (eclipse: 0).
    """

    model: str = "tiny"
    score: Fraction | None = None
    overlap: Fraction | None = None


MASK_SPEC = MethodSpec(
    summary="A mask classifier trained on each task in turn.",
    keeps="its network",
    paper="Cheng et al. 2022, arXiv 2112.01527",
    options=MaskOptions,
    kinds=DENSE,
    mask_classifier=True,
    pixels=True,
    package="transformers",
    extra="masks",
    tune=TUNE_LR,
)
"""What the specs of all mask classifiers share."""
