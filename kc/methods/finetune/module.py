"""What all methods share that learn by gradient."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.optim import SGD, Adam, AdamW, Optimizer
from torch.optim.lr_scheduler import CosineAnnealingLR, LRScheduler, PolynomialLR

from kc.encoders.base import Encoder
from kc.errors import DivergedError, KcError
from kc.methods.base import Context
from kc.methods.distributed import counting
from kc.methods.finetune.heads import GrowingClassifier, Head, head_of
from kc.methods.module import ContinualMethod
from kc.methods.state import Unsaved
from kc.methods.training_options import TrainingOptions
from kc.spec import at_task
from kc.types import REPEATED, Batch, Features, Prediction, Task


class Previous(Unsaved):
    """A frozen copy of a method's network, decoder and classifier, always in evaluation mode.

    It is made when a task starts, from weights that the checkpoint of the task before holds: it is no state of its own.
    """

    network: nn.Module | None
    """The old encoder, None where it is frozen and shared."""
    decoder: nn.Module
    classifier: GrowingClassifier

    def __init__(self, network: nn.Module | None, head: Head) -> None:
        parts = {"network": network, "decoder": head.decoder, "classifier": head.classifier}
        super().__init__(**copy.deepcopy(parts))
        for part in filter(None, self.held.values()):
            part.requires_grad_(False).eval()

    @torch.no_grad()
    def features(self, batch: Batch, features: Features) -> Features:
        """What the old encoder says of a batch; `features` are those of the new one, the same where it is frozen."""
        return features if self.network is None else cast(Features, self.network(batch["image"]))

    @torch.no_grad()
    def embed(self, features: Features) -> Tensor:
        """What the old classifier reads: (N, D) or (N, D, h, w); `features` are the old ones."""
        return cast(Tensor, self.decoder(features))

    @torch.no_grad()
    def logits(self, features: Features) -> Tensor:
        """(N, C_old) or (N, C_old, h, w) over the old columns; `features` are the old ones."""
        return cast(Tensor, self.classifier(self.embed(features)))


class GradientMethod(ContinualMethod):
    """An encoder (frozen and cached, or trained) and a `Head`; cross entropy on what is labelled.

    A method overrides `extra_loss` for a term beside the base loss, `loss_on` for another loss, `start_task` and
    `end_task` for what it does between tasks, `make_head` for another head.
    """

    keeps_previous = False
    """True for methods that compare with the model before the task: `self.previous` while they learn."""
    may_train_encoder = True
    """False for methods that `--train full` does not reach."""
    stores_images = False
    """True for methods that keep images of what they learn from."""

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        trains = self.spec.trains_encoder or (self.may_train_encoder and context.training.train == "full")
        self.network: Encoder | None = context.encoder.to_train() if trains else None
        self.head = self.make_head()
        self.needs_raw = self.head.needs_raw
        reads = self.network is not None or self.head.reads_images or self.stores_images
        self.needs_images = reads or context.input_size is None
        self.encoder_share = context.training.encoder_lr
        """Learning rate of a trained encoder as a share of the head's."""
        self.previous: Previous | None = None
        self.task_index = 0

    def make_head(self) -> Head:
        return head_of(self.context)

    @property
    def classifier(self) -> GrowingClassifier:
        return self.head.classifier

    def start_task(self, task: Task) -> None:
        """Keep a frozen copy where the method wants one, then give every class of the task a column."""
        self.task_index = task.index
        self.previous = Previous(self.network, self.head) if self.keeps_previous and task.index > 0 else None
        known = set(self.classifier.class_ids)
        self.classifier.grow([c for c in task.seen_ids if c not in known])

    def end_task(self, task: Task) -> None:
        self.previous = None

    def on_train_start(self) -> None:
        """Every task begins in the same mode (a new encoder comes in evaluation mode) and without gradients."""
        self.train()
        self.zero_grad()

    def transfer_batch_to_device(self, batch: Batch, device: torch.device, dataloader_idx: int) -> Batch:
        """The tensors of a batch on `device`; Lightning would look into every list of names for more."""
        return {k: v.to(device, non_blocking=True) if isinstance(v, Tensor) else v for k, v in batch.items()}

    def on_after_batch_transfer(self, batch: Batch, dataloader_idx: int) -> Batch:
        return self.head.prepare(batch)

    def features(self, batch: Batch) -> Features:
        return self.head.features(batch, self.network)

    def logits(self, features: Features) -> Tensor:
        return cast(Tensor, self.head(features))

    def loss(self, logits: Tensor, target: Tensor) -> Tensor:
        return self.head.loss(logits, target)

    def extra_loss(self, batch: Batch, features: Features, logits: Tensor) -> Tensor | None:
        """What a method adds to the base loss of a batch: a regulariser, a distillation; None for nothing.

        `features` and `logits` are those of the base loss, with their gradients.
        """
        return None

    def loss_on(self, batch: Batch) -> Tensor:
        """The whole loss of one batch: the base loss and what the method adds."""
        features = self.features(batch)
        logits = self.logits(features)
        loss = self.loss(logits, self.head.target(batch))
        extra = self.extra_loss(batch, features, logits)
        return loss if extra is None else loss + extra

    def trained(self) -> dict[str, nn.Parameter]:
        """What gradients change, by name."""
        return {k: p for k, p in self.named_parameters() if p.requires_grad}

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """One step on one batch. Raises DivergedError for a loss that is not finite, KcError for one image of which
        batch norm has a single value a channel."""
        try:
            with counting(batch):
                loss = self.loss_on(batch)
        except ValueError as error:
            if "more than 1 value per channel" not in str(error):  # torch has no type of its own for it
                raise
            what = "batch norm cannot be trained on a batch of one image whose features are one value a channel"
            how = "choose a --batch-size that leaves no last batch of one, or larger images"
            raise KcError(f"{self.name}: {what}: {how}") from error
        if not torch.isfinite(loss):
            where = f"step {self.global_step} of task {self.task_index + 1}"
            raise DivergedError(f"{self.name}: the loss is {loss.item()} at {where}; try a smaller --lr")
        return loss * 0 if REPEATED in batch else loss

    def optimizer_step(
        self, epoch: int, batch_idx: int, optimizer: Any, optimizer_closure: Callable[[], Any] | None = None
    ) -> None:
        """Learn, and free the gradients: the next forward pass needs their memory."""
        super().optimizer_step(epoch, batch_idx, optimizer, optimizer_closure)
        optimizer.zero_grad()

    def optimizer_zero_grad(self, epoch: int, batch_idx: int, optimizer: Any) -> None:
        """Nothing: `optimizer_step` has freed them."""

    def configure_optimizers(self) -> Any:
        training = self.context.training
        optimizer = make_optimizer(self.parameter_groups(at_task(training.lr, self.task_index)), training)
        schedule = make_schedule(optimizer, training, max(1, int(self.trainer.estimated_stepping_batches)))
        scheduled = {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}
        return optimizer if schedule is None else scheduled

    def parameter_groups(self, rate: float) -> list[dict[str, Any]]:
        """What learns, in groups with their learning rates: the head at `rate`, an encoder at a share of it."""
        rates = {self.head: rate} | ({} if self.network is None else {self.network: rate * self.encoder_share})
        return [{"params": [p for p in m.parameters() if p.requires_grad], "lr": lr} for m, lr in rates.items()]

    @torch.no_grad()
    def predict(self, batch: Batch, vocabulary: Sequence[int]) -> Prediction:
        """Scores or maps over `vocabulary`; its classes must have been learned."""
        return self.head.predict(batch, tuple(vocabulary), self.network)


POLY_POWER = 0.9
"""The power of every continual segmentation paper since DeepLab."""


def make_optimizer(groups: list[dict[str, Any]], options: TrainingOptions) -> Optimizer:
    """`adamw`, `adam` (weight decay as part of the gradient) or `sgd` over parameter groups with their own `lr`."""
    # One kernel a weight in place of ten: a fifth of the time. Lightning clips nothing of these in mixed precision.
    fused = "mixed" not in options.precision
    if options.optimizer == "sgd":
        return SGD(groups, lr=0.0, momentum=options.momentum, weight_decay=options.weight_decay, fused=fused)
    kind = Adam if options.optimizer == "adam" else AdamW
    return kind(groups, weight_decay=options.weight_decay, fused=fused)


def make_schedule(optimizer: Optimizer, options: TrainingOptions, steps: int) -> LRScheduler | None:
    """The rate of each of `steps` optimiser steps: half a cosine or (1 - step / steps)^0.9 to zero; None: constant."""
    if options.schedule == "constant":
        return None
    if options.schedule == "poly":
        return PolynomialLR(optimizer, total_iters=steps, power=POLY_POWER)
    return CosineAnnealingLR(optimizer, steps)
