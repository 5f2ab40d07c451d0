"""`hybrid`: a fine-tuned head and a memory of the same task stream answer together, by kNN-CLIP's fusion.

What the head forgot, the memory may still know; `hybrid-replay` does the same beside replay.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from kc.methods.base import Batch, Context
from kc.methods.finetune.module import FinetuneModule
from kc.methods.finetune.naive import Finetune
from kc.methods.finetune.replay import Replay
from kc.methods.regions import Regions
from kc.methods.retrieval.asking import Answers, one_opinion
from kc.methods.retrieval.knn_clip import KnnClip
from kc.proposals.pooling import coverage
from kc.types import Features, Prediction, Segments, Task

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
        return one_opinion(self._head(batch, regions, ids).cpu(), torch.ones(len(ids), dtype=torch.bool))


class MemoryBeside(FinetuneModule):
    """Learns as the method that it is mixed into; when a task ends, its images are seen once more and remembered."""

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self.needs_raw = context.kind != "classification"
        # In a list: a module of its own would become part of the weights.
        self._reader = [HeadReader(context, self.posterior)]

    @property
    def reader(self) -> HeadReader:
        """The memory and how it is read."""
        return self._reader[0]

    @property
    def needs_images(self) -> bool:
        """True also where proposals are made on the images."""
        return self.needs_raw or super().needs_images

    def start_task(self, task: Task) -> None:
        """Prepare head and memory."""
        super().start_task(task)
        self.reader.start_task(task)

    def end_task(self, task: Task) -> None:
        """Close the task of the head; remember its images, all or none."""
        super().end_task(task)
        for batch in self.task_batches():
            self.reader.observe(batch)
            self.reader.store(task.index, 1)
        self.reader.commit(task.index, 1)

    @torch.no_grad()
    def posterior(self, batch: Batch, regions: Sequence[Regions] | None, ids: Sequence[int]) -> Tensor:
        """The head's probabilities (N, C) over classes `ids`: of images, of regions by their keys, or the mean over
        each region of those of its pixels."""
        columns = self.classifier.columns(tuple(ids))
        if regions is None:
            return self.logits(self.features(batch))[:, columns].softmax(1)
        if self.regions is not None:
            keys = torch.cat([torch.from_numpy(r.keys) for r in regions]).to(self.device)
            return self.logits(Features(keys, (), ()))[:, columns].softmax(1)
        maps = self.logits(self.features(batch))[:, columns].softmax(1).cpu()
        return torch.cat([region_means(m, r.segments) for m, r in zip(maps, regions, strict=True)])

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


def region_means(maps: Tensor, segments: Segments) -> Tensor:
    """Area-weighted mean (N, C) of `maps` (C, h, w) over each of N regions; a region without a pixel is a zero row."""
    weights = coverage(segments, (maps.shape[1], maps.shape[2]))
    sums = weights @ maps.flatten(1).T.contiguous().numpy()
    area = np.asarray(weights.sum(axis=1)).reshape(-1, 1)
    return torch.from_numpy(np.asarray(sums / np.maximum(area, 1), dtype=np.float32))
