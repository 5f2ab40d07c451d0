"""`er`: experience replay from a reservoir (Chaudhry et al. 2019, arXiv 1902.10486)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from kc.errors import KcError
from kc.methods.base import Context
from kc.methods.distributed import all_gather_batch, share_of_draw
from kc.methods.finetune.module import GradientMethod
from kc.methods.state import TensorState
from kc.spec import TUNE_LR, MethodSpec
from kc.types import REPEATED, Batch, Task


@dataclass(frozen=True)
class Stored:
    """One image of the past: `image` uint8 (3, h, w), its class id, the logits (C_then,) it had, or none (0,)."""

    sample_id: str
    image: Tensor
    label: int
    logits: Tensor


class Reservoir(TensorState):
    """Algorithm R (Vitter 1985), as Chaudhry et al. 2019 (arXiv 1902.10486) use it for experience replay.

    It draws from torch's global generator, which is seeded at the start of each task: a resumed task stores the same.
    """

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size
        self.seen = 0
        self.items: list[Stored] = []

    def __len__(self) -> int:
        return len(self.items)

    def offer_batch(self, batch: Batch, logits: Tensor | None = None) -> None:
        """Keep each image of a batch with probability size / seen, in the place of a random other; with its logits
        (N, C) where they are to be kept.
        """
        for row, sample_id in enumerate(batch["sample_id"]):
            self.seen += 1
            free = len(self.items) < self.size
            place = len(self.items) if free else int(torch.randint(self.seen, (1,)))
            if place >= self.size:
                continue
            image = (batch["image"][row] * 255).round().to("cpu", torch.uint8)
            kept = torch.zeros(0) if logits is None else logits[row].detach().to("cpu", torch.float32, copy=True)
            self.items[place : place + 1] = [Stored(sample_id, image, int(batch["label"][row]), kept)]

    def draw(self, n: int) -> list[Stored]:
        """`n` items, with replacement."""
        return [self.items[i] for i in torch.randint(len(self.items), (n,)).tolist()]

    def tensors(self) -> dict[str, Tensor]:
        if not self.items:
            return {}
        images, labels = torch.stack([s.image for s in self.items]), torch.tensor([s.label for s in self.items])
        logits = padded([s.logits for s in self.items])
        return {"image": images, "label": labels} | ({"logits": logits} if logits.shape[1] else {})

    def get_extra_state(self) -> dict[str, Any]:
        """Images offered so far, and the name of each stored one."""
        return {"seen": self.seen, "sample_ids": [s.sample_id for s in self.items]}

    def set_extra_state(self, state: Mapping[str, Any]) -> None:
        """Names without images yet."""
        self.seen = int(state["seen"])
        self.items = [Stored(s, torch.empty(0), 0, torch.empty(0)) for s in state["sample_ids"]]

    def load_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        logits = tensors.get("logits", torch.zeros(len(self.items), 0))
        rows = zip(self.items, tensors.get("image", ()), tensors.get("label", ()), logits, strict=True)
        self.items = [Stored(s.sample_id, x.clone(), int(y), z[~z.isnan()].clone()) for s, x, y, z in rows]


def padded(rows: Sequence[Tensor]) -> Tensor:
    """Vectors of several lengths as one (N, longest) tensor; NaN where a row has ended."""
    return torch.nn.utils.rnn.pad_sequence(list(rows), batch_first=True, padding_value=torch.nan)


def as_batch(stored: Sequence[Stored], like: Batch) -> dict[str, Any]:
    """Stored images as a batch, where and in the types that `like` has them."""
    return {
        "image": torch.stack([s.image for s in stored]).to(like["image"]) / 255,
        "sample_id": [s.sample_id for s in stored],
        "label": torch.tensor([s.label for s in stored]).to(like["label"]),
    }


def merged_batches(first: Batch, second: Batch) -> dict[str, Any]:
    """Two batches of labelled images as one."""
    return {
        **{k: v for k, v in first.items() if k == REPEATED},
        "image": torch.cat([first["image"], second["image"]]),
        "sample_id": [*first["sample_id"], *second["sample_id"]],
        "label": torch.cat([first["label"], second["label"]]),
    }


def check_budget(name: str, exemplars: int, n_classes: int) -> None:
    """Raise KcError where a memory of `exemplars` images cannot hold one of each of `n_classes` classes."""
    if exemplars < n_classes:
        raise KcError(f"{name}: {exemplars} exemplars for {n_classes} classes; give --exemplars {n_classes} at least")


class Buffered(GradientMethod):
    """A method with a reservoir of `exemplars` images."""

    stores_images = True

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self.buffer = Reservoir(context.training.exemplars)

    def start_task(self, task: Task) -> None:
        check_budget(self.name, self.buffer.size, len(task.seen_ids))
        super().start_task(task)

    def draw(self, batch: Batch) -> list[Stored]:
        return share_of_draw(self.buffer.draw, batch)


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
        mixed = merged_batches(batch, as_batch(self.draw(batch), batch)) if len(self.buffer) else batch
        loss = super().training_step(mixed, batch_idx)
        if self.current_epoch == 0:
            self.buffer.offer_batch(all_gather_batch(batch))
        return loss
