"""How methods that learn are trained: options of a run that all of them share. Loads in milliseconds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from annotated_types import Gt, Le

from kc.spec import BelowOne, Count, CountPerTask, NonNegative, Positive, PositivePerTask, Whole


@dataclass(frozen=True)
class TrainingOptions:
    """How a run trains.

    Args:
        epochs: Epochs a task for methods that train; several separated by commas: the first task, the second ..., the
            last one for all that follow.
        lr: Learning rate of the head; several separated by commas as for --epochs.
        encoder_lr: Learning rate of a trained encoder, as a share of --lr.
        optimizer: adamw, adam or sgd.
        momentum: Momentum of sgd.
        weight_decay: Weight decay.
        schedule: Learning rate over the steps of a task: cosine, poly (power 0.9) or constant.
        accumulate: Batches a step of the optimiser.
        clip_grad: Norm to which gradients are clipped; 0 does not clip.
        precision: 32-true, bf16-mixed or 16-mixed; weights stay in 32 bits.
        ema: Decay of an exponential average of the weights, which replaces them when a task ends; 0 is off.
        patience: Score the validation split after each epoch, keep the best weights of the task and stop after so many
            epochs without a better score; 0 is off.
        train: What fine-tuning trains: head (the encoder stays frozen, its features are cached) or full (a copy of it
            is trained with the head).
        exemplars: Images that methods that store any may keep in all.
        purity: Share of a region's pixels that must be labelled as one class for it to become a row.
    """

    epochs: CountPerTask = 5
    lr: PositivePerTask = 2e-3
    encoder_lr: Positive = 0.1
    optimizer: Literal["adamw", "adam", "sgd"] = "adamw"
    momentum: BelowOne = 0.9
    weight_decay: NonNegative = 1e-4
    schedule: Literal["cosine", "poly", "constant"] = "cosine"
    accumulate: Count = 1
    clip_grad: NonNegative = 0.0
    precision: Literal["32-true", "bf16-mixed", "16-mixed"] = "32-true"
    ema: BelowOne = 0.0
    patience: Whole = 0
    train: Literal["head", "full"] = "head"
    exemplars: Count = 100
    purity: Annotated[float, Gt(0), Le(1)] = 0.5


@dataclass(frozen=True)
class Training(TrainingOptions):
    """What a method knows of the run."""

    keys: str = "pooled"
    """How a region becomes a key: `pooled` or `masked` (see `kc.methods.regions.KEYS`)."""
    decoder: str = "fpn"
    """What fine-tuning classifies in segmentation: pixels (`kc.methods.finetune.decoders`), or `regions`, the proposals
    and keys that retrieval reads."""
