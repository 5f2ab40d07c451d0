"""`hybrid`, `hybrid-replay`: a trained head fused with a memory of the same task stream (kNN-CLIP's fusion)."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from kc.methods.base import Context
from kc.methods.distributed import local_shard
from kc.methods.finetune.module import GradientMethod
from kc.methods.finetune.naive import Finetune
from kc.methods.finetune.replay import Replay
from kc.methods.regions import Regions
from kc.methods.retrieval.base_outputs import BaseOutputs, single_head
from kc.methods.retrieval.knn_clip import KnnClip
from kc.methods.retrieval.vote_options import BlendOptions
from kc.spec import MethodSpec, Tunable
from kc.types import Batch, Prediction, Task

HeadPosterior = Callable[[Batch, Sequence[Regions] | None, Sequence[int]], Tensor]
"""(batch, its regions, class ids) -> probabilities (N, C) of the regions or images of the batch."""


@dataclass(frozen=True)
class HybridOptions(BlendOptions):
    """Options of a head beside a memory.

    Args:
        retrieval: Opinion of the memory: cosine (kNN-CLIP's formula) or vote (that of `vote`).
    """

    retrieval: Literal["cosine", "vote"] = "cosine"


class HeadReader(KnnClip):
    """kNN-CLIP's memory and fusion with a trained head in the place of the open-vocabulary base."""

    name = "hybrid"
    spec = dataclasses.replace(KnnClip.spec, options=HybridOptions, base="unused")
    fusion = "fixed"
    """Its head was trained on the rows that would be left out."""

    def __init__(self, context: Context, head: HeadPosterior) -> None:
        super().__init__(context)
        self.open_vocabulary = False
        self._head = head

    def answers(self, batch: Batch, regions: Sequence[Regions] | None, ids: Sequence[int]) -> BaseOutputs:
        return single_head(self._head(batch, regions, ids).cpu(), torch.ones(len(ids), dtype=torch.bool))


class WithMemory(GradientMethod):
    """Learns as the method that it is mixed into; when a task ends, its images are read once more and stored."""

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self.needs_raw = context.kind != "classification"
        self.needs_images = self.needs_raw or self.needs_images
        # In a list: a module of its own would become part of the weights.
        self._reader = [HeadReader(dataclasses.replace(context, options=self.options), self.posterior)]

    @property
    def reader(self) -> HeadReader:
        return self._reader[0]

    def start_task(self, task: Task) -> None:
        super().start_task(task)
        self.reader.start_task(task)

    def store(self, task: int, n_processes: int) -> None:
        """Nothing: images are remembered when the task ends."""

    def commit(self, task: int, n_processes: int) -> int:
        """Remember the images of the task, each process its share; all or none. Returns how many rows are new."""
        for batch in self.task_batches():
            share = {k: local_shard(v) for k, v in batch.items()}
            if share["sample_id"]:  # the last batch may have fewer images than there are processes
                self.reader.observe(share)
            self.reader.store(task, n_processes)
        return self.reader.commit(task, n_processes)

    @torch.no_grad()
    def posterior(self, batch: Batch, regions: Sequence[Regions] | None, ids: Sequence[int]) -> Tensor:
        """The head's probabilities (N, C) over classes `ids`: of images, of regions by their keys, or the mean over
        each region of those of its pixels."""
        return self.head.posterior(batch, regions, ids, self.network)

    def predict(self, batch: Batch, vocabulary: Sequence[int]) -> Prediction:
        return self.reader.predict(batch, vocabulary)

    def close(self) -> None:
        super().close()
        self.reader.close()

    def stored_bytes(self) -> int:
        return super().stored_bytes() + self.reader.stored_bytes()


class Hybrid(WithMemory, Finetune):
    """`finetune` and a memory."""

    name = "hybrid"
    spec = MethodSpec(
        summary="A fine-tuned head and a memory of the same stream answer together, by kNN-CLIP's fusion.",
        keeps="rows of a memory",
        formula=r"P = \lambda P_{ret} + (1 - \lambda) P_{head} \text{ where } \max P_{head} < T",
        options=HybridOptions,
        second_pass=True,
        tune=Tunable("lambda_", 3, odds=True),
    )


class HybridReplay(WithMemory, Replay):
    """`replay` and a memory."""

    name = "hybrid-replay"
    spec = MethodSpec(
        summary="Replay and a memory of the same stream answer together, by kNN-CLIP's fusion.",
        keeps="images, rows of a memory",
        formula=r"P = \lambda P_{ret} + (1 - \lambda) P_{head} \text{ where } \max P_{head} < T",
        options=HybridOptions,
        second_pass=True,
        exemplars=True,
        tune=Tunable("lambda_", 3, odds=True),
    )
