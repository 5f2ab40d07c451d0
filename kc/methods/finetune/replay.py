"""Experience replay (Chaudhry et al. 2019, arXiv 1902.10486): half of every batch is exemplars of old tasks."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from kc.methods.base import Context
from kc.methods.distributed import all_gather_batch, share_of_draw
from kc.methods.finetune.er import check_budget
from kc.methods.finetune.module import GradientMethod
from kc.methods.state import TensorState
from kc.spec import TUNE_LR, MethodSpec
from kc.types import HIDDEN, VOID, Batch, Task


@dataclass(frozen=True)
class Exemplar:
    """A stored image `image`, uint8 (3, h, w), its target as labelled then, and the classes it is kept for.

    Targets are a class id, (h, w) class ids, or (h, w, 2) class ids and instance numbers. Where regions are classified,
    `image` is their keys, float32 (n, D), and `target` (n,).
    """

    sample_id: str
    task: int
    image: Tensor
    target: Tensor
    classes: tuple[int, ...]


class ExemplarSet(TensorState):
    """Stored images with their targets."""

    def __init__(self) -> None:
        super().__init__()
        self.items: list[Exemplar] = []

    def tensors(self) -> dict[str, Tensor]:
        images = {f"{i}.image": e.image for i, e in enumerate(self.items)}
        return images | {f"{i}.target": e.target for i, e in enumerate(self.items)}

    def get_extra_state(self) -> list[Any]:
        return [[e.sample_id, e.task, list(e.classes)] for e in self.items]

    def set_extra_state(self, state: Sequence[Any]) -> None:
        """Exemplars without images yet."""
        self.items = [Exemplar(s, t, torch.empty(0), torch.empty(0), tuple(classes)) for s, t, classes in state]

    def load_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        self.items = [
            replace(e, image=tensors[f"{i}.image"].clone(), target=tensors[f"{i}.target"].clone())
            for i, e in enumerate(self.items)
        ]


def priority(seed: int, task: int, class_id: int, sample_id: str) -> int:
    """A fixed pseudo-random rank; the lowest n of a stream are a uniform reservoir of size n, in any order.

    Each class has its own ranks: with one rank, classes that share images would all choose the same few.
    """
    # Not a CRC: it is linear, so that the ranks of two classes would differ by one constant.
    digest = hashlib.blake2b(f"{seed}/{task}/{class_id}/{sample_id}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big")


class Replay(GradientMethod):
    """Fine-tuning with a class-balanced reservoir: every seen class may keep `exemplars // n_classes` images."""

    name = "replay"
    spec = MethodSpec(
        summary="Half of every batch is stored images of old tasks, the same number of each class.",
        keeps="images",
        paper="Chaudhry et al. 2019, arXiv 1902.10486",
        formula=r"\mathcal{L} = -\log p_y \text{ over the batch and as many exemplars}",
        exemplars=True,
        tune=TUNE_LR,
    )
    stores_images = True

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self.stored = ExemplarSet()
        self._offered: dict[int, dict[str, Exemplar]] = {}
        self._task: Task | None = None

    @property
    def exemplars(self) -> list[Exemplar]:
        return self.stored.items

    def start_task(self, task: Task) -> None:
        """Refuse a budget that leaves a class without an image; forget the last task's candidates."""
        check_budget(self.name, self.context.training.exemplars, len(self._countable(task.seen_ids)))
        super().start_task(task)
        self._task, self._offered = task, {}

    def _countable(self, ids: tuple[int, ...]) -> tuple[int, ...]:
        return tuple(c for c in ids if c != self.context.background_id)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        if self.current_epoch == 0:
            self._offer(all_gather_batch(batch))
        return super().training_step(self._with_exemplars(batch), batch_idx)

    def _with_exemplars(self, batch: Batch) -> Batch:
        old = [e for e in self.exemplars if self._task is None or e.task < self._task.index]
        if not old:
            return batch
        # Torch's global generator, seeded at the start of each task: a resumed task draws the same exemplars.
        chosen = share_of_draw(lambda n: [old[i] for i in torch.randint(len(old), (n,)).tolist()], batch)
        return self.head.with_stored(batch, [(e.image, e.target) for e in chosen], [e.sample_id for e in chosen])

    def _offer(self, batch: Batch) -> None:
        """Let each image of the batch compete for a place in the reservoir of each of its classes."""
        assert self._task is not None
        current = set(self._countable(self._task.class_ids))
        quota = self._quota(self._task)
        for sample_id, (image, target) in zip(batch["sample_id"], self.head.stored(batch), strict=True):
            instances = target.ndim == 3
            labels = target[..., 0] if instances else target
            classes = tuple(sorted(current & set(torch.unique(labels).tolist())))
            if not classes:
                continue
            kept = target.to(torch.int64) if target.ndim == 0 else narrowed(target)
            if target.ndim and not instances and self.context.background_id is None:
                # Unlabelled then says nothing of the classes that came later: it must not be trained as "none" now.
                kept = torch.where(kept == HIDDEN, torch.full_like(kept, VOID), kept)
            exemplar = Exemplar(sample_id, self._task.index, image.clone(), kept.clone(), classes)
            for c in classes:
                places = self._offered.setdefault(c, {})
                places[sample_id] = exemplar
                if len(places) > quota:
                    del places[max(places, key=lambda s: self._rank(places[s], c))]

    def _rank(self, exemplar: Exemplar, class_id: int) -> tuple[int, str]:
        return priority(self.context.seed, exemplar.task, class_id, exemplar.sample_id), exemplar.sample_id

    def _quota(self, task: Task) -> int:
        return self.context.training.exemplars // len(self._countable(task.seen_ids))

    def end_task(self, task: Task) -> None:
        quota = self._quota(task)
        wanted: dict[int, list[Exemplar]] = {c: list(p.values()) for c, p in self._offered.items()}
        for exemplar in self.exemplars:
            for c in exemplar.classes:
                wanted.setdefault(c, []).append(exemplar)
        keep: dict[tuple[int, str], Exemplar] = {}
        for c, candidates in wanted.items():
            ranked = sorted(candidates, key=lambda e: self._rank(e, c))
            keep |= {(e.task, e.sample_id): e for e in ranked[:quota]}
        self.stored.items = [keep[key] for key in sorted(keep)]
        self._offered = {}


def narrowed(labels: Tensor) -> Tensor:
    """Class ids and instance numbers (...) in the first of int16, int32 and int64 that holds them."""
    low, high = (int(x) for x in labels.aminmax())
    fitting = (t for t in (torch.int16, torch.int32) if torch.iinfo(t).min <= low and high <= torch.iinfo(t).max)
    return labels.to(next(fitting, torch.int64))
