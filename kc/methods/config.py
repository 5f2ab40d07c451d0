"""The knobs of all methods: the one place where their defaults and their help stand. Loads in milliseconds."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class MethodOptions:
    """What the command line and the methods share; each method reads its own.

    Args:
        epochs: Epochs a task for methods that train.
        lr: Learning rate of the head; a trained encoder gets a tenth.
        weight_decay: Weight decay of AdamW.
        train: What fine-tuning trains: head (the encoder stays frozen, its features are cached) or full (a copy of it
            is trained with the head).
        exemplars: Images that replay may keep in all.
        k: Neighbours that vote.
        vote: Vote of the neighbours: plurality, distance, softmax or rank.
        tau: Temperature of the softmax vote.
        alpha: Offset of the rank vote.
        purity: Share of a region's pixels that must be labelled as one class for it to become a row.
        fuse_lambda: Weight of the retrieval opinion where a base model is fused (kNN-CLIP's lambda; the value is ours).
        fuse_threshold: The base is left alone where its best probability reaches this (kNN-CLIP's T); above 1 always
            fuses.
    """

    epochs: int = 5
    lr: float = 2e-3
    weight_decay: float = 1e-4
    train: str = "head"
    exemplars: int = 100
    k: int = 16
    vote: str = "softmax"
    tau: float = 0.07
    alpha: float = 2.0
    purity: float = 0.5
    fuse_lambda: float = 0.7
    fuse_threshold: float = 1.01


@dataclass(frozen=True)
class MethodConfig(MethodOptions):
    """The knobs a method is given. Recorded as they stand in every result."""

    keys: str = "pooled"
    """How a region becomes a key: `pooled` or `masked` (see `kc.methods.regions.KEYS`)."""
