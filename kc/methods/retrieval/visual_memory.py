"""`knn`: a visual memory (arXiv 2408.08172) of images, or of mask-pooled regions (kNN-CLIP, arXiv 2404.09447).

Everything that is learned is a row of the memory: key embedding, class, sample, task. Nothing is trained.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from kc.errors import EmptyMemoryError, RunError
from kc.memory.base import MemoryStore
from kc.memory.disk import Memory
from kc.memory.store.distributed import gather_rows, on_rank_0, process_rank
from kc.memory.vote.background import Background, combined
from kc.memory.vote.fusion import knn_clip
from kc.memory.vote.log_linear import LogLinear
from kc.memory.vote.votes import decide, vote
from kc.methods.base import Context
from kc.methods.module import OnePassMethod
from kc.methods.predictions import posteriors, to_prediction
from kc.methods.regions import Regions, best, normalised
from kc.methods.retrieval.build import labelled_rows, with_features
from kc.methods.retrieval.vote_options import BlendOptions, KnnOptions, is_fitted
from kc.spec import MethodSpec, Tunable
from kc.types import Batch, Float32Array, Neighbours, Prediction, Rows, Task

log = logging.getLogger("kc")

TIE_BREAK = 1e-12
"""Relative lead that the class which reached a tied score first is given; votes are float64."""


class MemoryVotes:
    """Class scores of keys by the rows of a memory, as the options of a method say."""

    def __init__(self, options: BlendOptions, seed: int = 0) -> None:
        self.options = options
        self.background = Background(options.background)
        self.fitted = LogLinear(options.vote, self.background, seed) if is_fitted(options.vote) else None

    def search(self, memory: MemoryStore, keys: Float32Array, classes: Sequence[int] | None = None) -> list[Neighbours]:
        """The rows that vote on keys (Q, D): a table, or one a task (`Background.search`), with at least `k` places a
        query where the memory has that many rows. Raises EmptyMemoryError where it has none."""
        k = max(self.options.k, self.fitted.k if self.fitted else 0)
        return self.background.search(memory, keys, k, classes)

    def scores(
        self,
        memory: MemoryStore,
        keys: Float32Array,
        found: Sequence[Neighbours],
        vocabulary: tuple[int, ...],
        base: Tensor | None,
    ) -> Tensor:
        """Scores (Q, C) of keys (Q, D) whose neighbours are `found`: votes as shares of 1, fused with base
        probabilities (Q, C) if given. A query without a vote of any class in `vocabulary` has zeros, or the base's
        answer."""
        options, neighbours = self.options, found[0]
        blank = torch.from_numpy(~keys.any(axis=1))  # without features: as near to one row as to any other
        if self.fitted is not None:
            votes = self.fitted.probabilities(memory, keys, neighbours, vocabulary)
        elif len(found) == 1:
            votes = vote(neighbours, vocabulary, **options.rule())
        else:
            parts = [shares_of(vote(n, vocabulary, **options.rule())) for n in found]
            votes = combined(parts, vocabulary, memory.background_ids)
        votes[blank] = 0
        if base is not None:
            return knn_clip(
                base.to(votes), shares_of(votes), votes.sum(1) > 0, lam=options.lambda_, threshold=options.threshold
            )
        if self.fitted is not None or len(found) > 1:
            return votes
        # The tie rule of the votes, made visible to whoever takes the highest score.
        winner = decide(neighbours, vocabulary, **options.rule())
        return votes * (1 + TIE_BREAK * (torch.tensor(vocabulary)[None] == winner[:, None]))


def shares_of(votes: Tensor) -> Tensor:
    """Votes (Q, C) as shares of 1; zeros where there is none."""
    return votes / votes.sum(1, keepdim=True).clamp_min(torch.finfo(votes.dtype).tiny)


REMEMBERED = "remembered"
"""Source of rows that a user added after the run (`kc remember`); those of a run have none."""


class VisualMemory(OnePassMethod):
    """k nearest neighbours in the memory vote for a class; a base model, where there is one, is fused with the vote."""

    name = "knn"
    spec = MethodSpec(
        summary="k nearest neighbours in a memory of images or regions vote for a class.",
        keeps="rows of a memory",
        paper="Geirhos et al. 2024, arXiv 2408.08172",
        formula=r"s_c = \sum_{j \in kNN(x), c_j = c} w_j",
        family="memory",
        options=KnnOptions,
        base="optional",
        by_name=True,
        tune=Tunable("k", 2, whole=True),
    )

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self.open_vocabulary = context.base is not None
        self.staged: list[Rows] = []
        self.memory: Memory | None = None
        self.votes = MemoryVotes(self.options, context.seed)
        self._learned: set[int] = set()
        self._path = context.folder / "memory"
        if process_rank() == 0:
            dim = context.encoder.pooled_dim if context.regions is None else context.regions.dim
            self.memory = Memory.open_or_create(
                self._path,
                dim=dim,
                fingerprint=self._fingerprint(),
                info=context.info,
                anonymous=self.options.anonymous,
                write=True,
            )
        else:
            with contextlib.suppress(RunError):  # rank 0 may not have made it yet; its first commit opens it here
                self.reopen()

    def reopen(self) -> None:
        """Read the newest commit of rank 0."""
        self.memory = Memory.open(self._path, fingerprint=self._fingerprint())

    def _fingerprint(self) -> str:
        """Keys of another encoder, input size, or way of making regions do not belong in one memory."""
        parts = [self.context.encoder.fingerprint]
        if self.context.regions is not None:
            parts += [self.context.regions.source, self.context.regions.keys]
        return "+".join(parts)

    def store(self, task: int, n_processes: int) -> None:
        """Add what `observe` staged to the memory; of several processes, what all of them saw, on rank 0."""
        staged, self.staged = self.staged, []
        for rows in gather_rows(staged) if n_processes > 1 else staged:
            self._own_memory().add(rows, task)

    def commit(self, task: int, n_processes: int) -> int:
        """Commit the task's rows, once; returns how many are new. The other processes open what rank 0 committed."""
        if n_processes == 1:
            return self._own_memory().commit(task)
        new_rows = on_rank_0(lambda: self._own_memory().commit(task))
        if process_rank():
            self.reopen()
        return new_rows

    def _own_memory(self) -> Memory:
        if self.memory is None:
            raise TypeError(f"{type(self).__name__} keeps no memory in this process")
        return self.memory

    def start_task(self, task: Task) -> None:
        """Drop rows of this task or a later one: they are what an interrupted run left behind.

        Raises RunError where rows that a user added would go with them.
        """
        super().start_task(task)
        self.staged = []
        self._learned = {*task.seen_ids}
        if self.memory is not None and process_rank() == 0:
            if added := len(self.memory.ids(source=REMEMBERED)):
                self.memory.close()
                raise RunError(
                    f"{self._path} has {added} rows of kc remember, which going on with the run would drop: "
                    "copy that folder to keep them (kc predict IMAGE --memory COPY --run RUN), then take them out of "
                    f"this one with kc memory remove {self._path} --source {REMEMBERED}"
                )
            self.memory.rollback(task.index - 1)

    def observe(self, batch: Batch) -> None:
        self.stage(batch, None if self.context.regions is None else self.context.regions(batch))

    def stage(self, batch: Batch, regions: Sequence[Regions] | None) -> None:
        """Stage the rows of one batch, whose `regions` were made if it has any."""
        assert self.task is not None
        if regions is None:
            keys = normalised(self.context.encode(batch).pooled)
            labels = batch["label"].cpu().numpy().astype(np.int64)
            ids = tuple(batch["sample_id"])
            self._stage(Rows(keys, labels, ids, np.zeros(len(ids), np.int64)))
            return
        background = self.context.background_id
        wanted = {*self.task.class_ids, *self.task.returning_ids, *(() if background is None else (background,))}
        for rows in labelled_rows(batch, regions, wanted, self.context.training.purity):
            self._stage(rows)

    def _stage(self, rows: Rows) -> None:
        kept = with_features(rows)
        if len(kept.sample_id) < len(rows.sample_id):
            without = sorted({*rows.sample_id} - {*kept.sample_id}) or [rows.sample_id[0]]
            log.warning(
                "%s: the encoder finds nothing in %s, or in some of its regions: they are not stored",
                self.name, ", ".join(without[:3]) + ", ..." * (len(without) > 3),
            )  # fmt: skip
        self.staged.append(kept)

    def scores(self, keys: Float32Array, vocabulary: tuple[int, ...], base: Tensor | None) -> Tensor:
        """Class scores (Q, C) of keys (Q, D): votes as shares of 1, fused with base probabilities (Q, C) if given."""
        # kNN-CLIP's rule: without a memory the base answers alone; without a base there is no answer to give.
        alone = torch.zeros(len(keys), len(vocabulary)) if base is None else base
        if len(keys) == 0 or self.memory is None or len(self.memory) == 0:
            return alone
        # Where an answer may not name every class, its k neighbours are rows of those that it may name.
        hidden = self._learned - set(vocabulary)
        try:
            found = self.votes.search(self.memory, keys, vocabulary if hidden else None)
        except EmptyMemoryError:
            return alone
        return self.votes.scores(self.memory, keys, found, vocabulary, base)

    @torch.no_grad()
    def predict(self, batch: Batch, vocabulary: Sequence[int]) -> Prediction:
        vocab = tuple(vocabulary)
        base_model = self.context.base
        if self.context.regions is None:
            features = self.context.encode(batch)
            base = None if base_model is None else base_model.scores_from(features.pooled, self.context.names(vocab))
            scores = self.scores(normalised(features.pooled), vocab, base)
            scores[~scores.any(dim=1)] = torch.nan  # no vote at all is no answer
            return Prediction(vocab, scores=scores)
        regions = self.context.regions(batch)
        joined = None if base_model is None else torch.cat(posteriors(self.context, batch, regions, vocab))
        # One search for the whole batch: a GEMM over a thousand keys is several times faster than one an image.
        keys = np.concatenate([r.keys for r in regions])
        scores = self.scores(keys, vocab, joined)
        labels = [best(s, vocab) for s in torch.split(scores, [len(r.keys) for r in regions])]
        return to_prediction(self.context, vocab, regions, labels)

    def close(self) -> None:
        if self.memory is not None:
            self.memory.close()

    def stored_bytes(self) -> int:
        return super().stored_bytes() + (0 if self.memory is None else int(self.memory.stats()["bytes"]))
