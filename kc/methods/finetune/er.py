"""`er`: experience replay from a reservoir (Chaudhry et al. 2019, arXiv 1902.10486)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from kc.methods.base import Batch, Context
from kc.methods.distributed import share, whole, world
from kc.methods.finetune.buffer import Reservoir, Stored, as_batch, check_budget, joined
from kc.methods.finetune.module import FinetuneModule
from kc.types import Task


class Buffered(FinetuneModule):
    """A method with a reservoir of `exemplars` images."""

    stores_images = True
    beside = ("buffer",)

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self.buffer = Reservoir(context.config.exemplars)

    def start_task(self, task: Task) -> None:
        """Refuse a budget below the number of classes."""
        check_budget(self.name, self.buffer.size, len(task.seen_ids))
        super().start_task(task)

    def draw(self, batch: Batch) -> list[Stored]:
        """As many stored images as the batch has."""
        return share(self.buffer.draw(len(batch["sample_id"]) * world()))

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Weights and the reservoir."""
        tensors, meta = super().state()
        return tensors | self.buffer.tensors(), meta | {"buffer": self.buffer.meta()}

    def load_state(self, tensors: Mapping[str, Tensor], meta: Mapping[str, Any]) -> None:
        """Weights and the reservoir."""
        super().load_state(tensors, meta)
        self.buffer.load(tensors, meta["buffer"])

    def stored_bytes(self) -> int:
        """Bytes of weights and of the reservoir."""
        return super().stored_bytes() + self.buffer.bytes()


class Er(Buffered):
    """Each step trains on the batch and as many images drawn from the reservoir; each image is offered to it once.

    Unlike `replay` the reservoir is not balanced by class, and it holds images of the current task too.
    """

    name = "er"

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """A step on the batch and as many stored images; the batch is offered afterwards."""
        mixed = batch
        if len(self.buffer):
            mixed = joined(batch, as_batch(self.draw(batch), batch))
        loss = super().training_step(mixed, batch_idx)
        if self.current_epoch == 0:
            self.buffer.offer_batch(whole(batch))
        return loss
