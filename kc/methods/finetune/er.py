"""`er`: experience replay from a reservoir (Chaudhry et al. 2019, arXiv 1902.10486)."""

from __future__ import annotations

from torch import Tensor

from kc.methods.base import Batch, Context
from kc.methods.distributed import all_gather_batch, local_shard, world
from kc.methods.finetune.buffer import Reservoir, Stored, as_batch, check_budget, merged_batches
from kc.methods.finetune.module import GradientMethod
from kc.spec import TUNE_LR, MethodSpec
from kc.types import Task


class Buffered(GradientMethod):
    """A method with a reservoir of `exemplars` images."""

    stores_images = True

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self.buffer = Reservoir(context.training.exemplars)

    def start_task(self, task: Task) -> None:
        """Refuse a budget below the number of classes."""
        check_budget(self.name, self.buffer.size, len(task.seen_ids))
        super().start_task(task)

    def draw(self, batch: Batch) -> list[Stored]:
        """As many stored images as the batch has."""
        return local_shard(self.buffer.draw(len(batch["sample_id"]) * world()))


class Er(Buffered):
    """Each step trains on the batch and as many images drawn from the reservoir; each image is offered to it once.

    Unlike `replay` the reservoir is not balanced by class, and it holds images of the current task too.
    """

    name = "er"
    spec = MethodSpec(
        summary="Each step trains on the batch and as many images drawn from a reservoir.",
        keeps="images",
        paper="Chaudhry et al. 2019, arXiv 1902.10486",
        formula=r"\mathcal{L} = -\log p_y \text{ over the batch and as many of the reservoir}",
        kinds=("classification",),
        exemplars=True,
        tune=TUNE_LR,
    )

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """A step on the batch and as many stored images; the batch is offered afterwards."""
        mixed = batch
        if len(self.buffer):
            mixed = merged_batches(batch, as_batch(self.draw(batch), batch))
        loss = super().training_step(mixed, batch_idx)
        if self.current_epoch == 0:
            self.buffer.offer_batch(all_gather_batch(batch))
        return loss
