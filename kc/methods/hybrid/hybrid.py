"""`hybrid`: a fine-tuned head and a memory of the same task stream answer together, by kNN-CLIP's fusion.

What the head forgot, the memory may still know; `hybrid-replay` does the same beside replay.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from kc.methods.base import Batch, Context
from kc.methods.distributed import local_shard
from kc.methods.finetune.module import GradientMethod
from kc.methods.finetune.naive import Finetune
from kc.methods.finetune.replay import Replay
from kc.methods.regions import Regions
from kc.methods.retrieval.asking import Answers, single_head
from kc.methods.retrieval.knn_clip import KnnClip
from kc.types import Prediction, Task

HeadPosterior = Callable[[Batch, Sequence[Regions] | None, Sequence[int]], Tensor]
"""(batch, its regions, class ids) -> probabilities (N, C) of the regions or images of the batch."""


class HeadReader(KnnClip):
    """kNN-CLIP's memory and fusion with a trained head in the place of the open-vocabulary base."""

    name = "hybrid"
    needs_base = False

    def __init__(self, context: Context, head: HeadPosterior) -> None:
        config = dataclasses.replace(context.config, names=None)
        super().__init__(dataclasses.replace(context, config=config))
        self.open_vocabulary = False
        self._head = head

    def answers(self, batch: Batch, regions: Sequence[Regions] | None, ids: Sequence[int]) -> Answers:
        """What the head says of a batch; it was trained on every class that it is asked for."""
        return single_head(self._head(batch, regions, ids).cpu(), torch.ones(len(ids), dtype=torch.bool))


class MemoryBeside(GradientMethod):
    """Learns as the method that it is mixed into; when a task ends, its images are seen once more and remembered."""

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        # In a list: a module of its own would become part of the weights.
        self._reader = [HeadReader(context, self.posterior)]

    @property
    def reader(self) -> HeadReader:
        """The memory and how it is read."""
        return self._reader[0]

    @property
    def needs_raw(self) -> bool:  # type: ignore[override]
        """In segmentation: proposals are made on the original images."""
        return self.context.kind != "classification"

    @property
    def needs_images(self) -> bool:  # type: ignore[override]
        """True also where proposals are made on the images."""
        return self.needs_raw or super().needs_images

    def start_task(self, task: Task) -> None:
        """Prepare head and memory."""
        super().start_task(task)
        self.reader.start_task(task)

    def store(self, task: int, n_processes: int) -> None:
        """Nothing: images are remembered when the task ends."""

    def commit(self, task: int, n_processes: int) -> int:
        """Remember the images of the task, each process its share; all or none. Returns how many rows are new."""
        for batch in self.task_batches():
            self.reader.observe({k: local_shard(v) for k, v in batch.items()})
            self.reader.store(task, n_processes)
        return self.reader.commit(task, n_processes)

    @torch.no_grad()
    def posterior(self, batch: Batch, regions: Sequence[Regions] | None, ids: Sequence[int]) -> Tensor:
        """The head's probabilities (N, C) over classes `ids`: of images, of regions by their keys, or the mean over
        each region of those of its pixels."""
        return self.head.posterior(batch, regions, ids, self.network)

    def predict(self, batch: Batch, vocabulary: Sequence[int]) -> Prediction:
        """Head and memory together over `vocabulary`; its classes must have been learned."""
        return self.reader.predict(batch, vocabulary)

    def close(self) -> None:
        """Give the memory's lock back."""
        super().close()
        self.reader.close()

    def stored_bytes(self) -> int:
        """Bytes of the trained weights (and exemplars) and of the memory."""
        return super().stored_bytes() + self.reader.stored_bytes()


class Hybrid(MemoryBeside, Finetune):
    """`finetune` and a memory."""

    name = "hybrid"


class HybridReplay(MemoryBeside, Replay):
    """`replay` and a memory."""

    name = "hybrid-replay"
