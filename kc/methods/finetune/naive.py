"""The ends of the scale: sequential fine-tuning (nothing is done against forgetting), its smallest form, and joint."""

from __future__ import annotations

from kc.methods.finetune.module import GradientMethod
from kc.spec import TUNE_LR, MethodSpec


class Finetune(GradientMethod):
    """Train on each task in turn: the lower bound."""

    name = "finetune"
    spec = MethodSpec(
        summary="Trains on each task in turn: the lower bound.",
        keeps="nothing",
        formula=r"\mathcal{L} = -\log p_y",
        tune=TUNE_LR,
    )


class LinearProbe(GradientMethod):
    """A linear classifier on the frozen encoder, trained on each task in turn; `--train full` does not reach it."""

    name = "linear-probe"
    spec = MethodSpec(
        summary="A linear classifier on the frozen encoder, trained on each task in turn.",
        keeps="nothing",
        formula=r"\mathcal{L} = -\log p_y, \quad z = W f(x) + b",
        kinds=("classification",),
        tune=TUNE_LR,
    )
    may_train_encoder = False


class Joint(GradientMethod):
    """Train on all tasks seen so far, with all their labels: the upper bound.

    Row t of its matrix is a model trained on everything up to task t; the weights of task t-1 are the starting point.
    """

    name = "joint"
    spec = MethodSpec(
        summary="Trains on all tasks seen so far, with all their labels: the upper bound.",
        keeps="all images",
        formula=r"\mathcal{L} = -\log p_y \text{ over the images of tasks } 1 \ldots t",
        second_pass=True,
        tune=TUNE_LR,
    )
    train_scope = "seen"
