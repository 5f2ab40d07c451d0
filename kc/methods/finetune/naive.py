"""The ends of the scale: sequential fine-tuning (nothing is done against forgetting), its smallest form, and joint."""

from __future__ import annotations

from kc.methods.finetune.module import GradientMethod


class Finetune(GradientMethod):
    """Train on each task in turn: the lower bound."""

    name = "finetune"


class LinearProbe(GradientMethod):
    """A linear classifier on the frozen encoder, trained on each task in turn; `--train full` does not reach it."""

    name = "linear-probe"

    @property
    def trains_encoder(self) -> bool:
        """Never."""
        return False


class Joint(GradientMethod):
    """Train on all tasks seen so far, with all their labels: the upper bound.

    Row t of its matrix is a model trained on everything up to task t; the weights of task t-1 are the starting point.
    """

    name = "joint"
    train_scope = "seen"
