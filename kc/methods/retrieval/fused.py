"""What kNN-CLIP and RetCLIP share: a memory of regions read together with an open-vocabulary base."""

from __future__ import annotations

import dataclasses
import json
import logging
import math
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from kc.errors import EmptyMemoryError
from kc.files import write_atomic
from kc.memory.vote import log_linear as log_linear_rule
from kc.memory.vote.background import combined
from kc.memory.vote.fusion import fuse_known_names, restrict_to_known, retrieval_logits
from kc.memory.vote.left_out import leave_samples_out
from kc.memory.vote.log_linear import LogLinear, left_out_discriminant
from kc.memory.vote.votes import columns_of, vote
from kc.methods.base import Context
from kc.methods.names import Name, read_names
from kc.methods.predictions import to_prediction
from kc.methods.regions import Regions, best, normalised
from kc.methods.retrieval.base_outputs import BaseOutputCache, BaseOutputs, base_predictions, codes_of
from kc.methods.retrieval.calibration import KS, Setting, choose, hits
from kc.methods.retrieval.visual_memory import VisualMemory, shares_of
from kc.openvocab.base import BaseProbabilities
from kc.types import HIDDEN, VOID, Batch, ClassInfo, Float32Array, Neighbours, Prediction, Rows, Task

log = logging.getLogger("kc")

BASE_SHARE = 0.3
"""Weight of the base in the log-linear rule before any row is seen, beside 0.7 for the vote: as in the fixed fusion."""
ADDED = HIDDEN - 1
"""Names that are no class of the benchmark are numbered from here down, inside a method only: an answer with one of
them is VOID outside."""


class FusedMemory(VisualMemory):
    """A base fused with a memory; the base alone for names that the memory has never seen.

    Option `names` adds names to predict beside the classes learned so far. Unless `fusion` is "fixed", the
    weights are chosen after each task and written to `calibration.json`.
    """

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self.setting = self.fixed()
        self.cache = BaseOutputCache()
        self._log_linear = LogLinear("log-linear", self.votes.background, context.seed)
        self.task_index = -1
        self._logged: set[str] = set()
        lines = [] if (file := getattr(self.options, "names", None)) is None else read_names(file)
        self._named_context, self._added = with_names(context, lines)

    def fixed(self) -> Setting:
        """The weights as given."""
        raise NotImplementedError

    @property
    def fusion(self) -> str:
        """How the weights come about: the option."""
        return str(self.options.fusion)

    def fuse(self, setting: Setting, answers: BaseOutputs, known: Tensor, p_ret: Tensor, has_votes: Tensor) -> Tensor:
        """The base and the memory as one, (Q, C), over the names `known` to the memory ((C,) or (Q, C) bool)."""
        raise TypeError(f"{type(self).__name__} does not say how it fuses")

    def grid(self, answers: BaseOutputs) -> Iterable[Setting]:
        """The settings among which calibration chooses."""
        raise TypeError(f"{type(self).__name__} does not say what it calibrates")

    def start_task(self, task: Task) -> None:
        super().start_task(task)
        self.task_index = task.index

    def stage(self, batch: Batch, regions: Sequence[Regions] | None) -> None:
        before = len(self.staged)
        super().stage(batch, regions)
        if self.fusion != "fixed":
            self._keep(batch, regions, self.staged[before:])

    def _keep(self, batch: Batch, regions: Sequence[Regions] | None, staged: Sequence[Rows]) -> None:
        ids = list(batch["sample_id"])
        numbers = [[0] for _ in ids] if regions is None else [r.segments.numbers.tolist() for r in regions]
        named = [(s, n) for s, own in zip(ids, numbers, strict=True) for n in own]
        place = dict(zip(named, range(len(named)), strict=True))
        stored = [pair for r in staged for pair in zip(r.sample_id, r.segment.tolist(), strict=True)]
        rows = np.array([place[pair] for pair in stored], np.int64)
        if len(rows) == 0:
            return
        keys = np.concatenate([r.keys for r in staged])
        codes = codes_of(self.context, batch, regions)
        if codes is not None:
            self.cache.keep_codes(keys, codes[rows])
            return
        wanted = self.with_added(self.task.seen_ids if self.task is not None else ())
        said = base_predictions(self._named_context, batch, regions, wanted)
        self.cache.keep_answers(keys, _rows_of(said, torch.from_numpy(rows)), wanted)

    def commit(self, task: int, n_processes: int) -> int:
        new_rows = super().commit(task, n_processes)
        if self.fusion != "fixed":
            self._choose()
        return new_rows

    def _choose(self) -> None:
        """Choose the weights by the rows that are stored now, each without its own image."""
        assert self.task is not None
        wanted = self.with_added(self.task.seen_ids)
        memory, background = self._own_memory(), self.votes.background
        if len(memory) == 0:
            return
        log_linear = self.fusion == "log-linear"
        k = max(log_linear_rule.KS if log_linear else KS)
        left_out = leave_samples_out(memory, wanted, k, self.context.seed, background=background)
        if len(left_out.ids) == 0:
            return
        answers = self.cache.answers(
            self.context.base, memory.keys(left_out.ids), wanted, self._named_context.names(wanted)
        )
        truth = columns_of(torch.from_numpy(left_out.truth), wanted)[0]
        if log_linear:
            base = restrict_to_known(answers.own.double(), left_out.known)
            moments = self._log_linear.moments(memory, background.labels(memory))
            said, shrink = left_out_discriminant(memory, moments, left_out, wanted)
            values = log_linear_rule.features(left_out.neighbours, wanted, said, base)
            start = log_linear_rule.default_weights(BASE_SHARE)
            weights = log_linear_rule.fit(values, truth.numpy(), left_out.known.numpy(), start)
            self.setting = Setting(k, shrink=shrink, weights=tuple(weights.tolist()))
            fused = log_linear_rule.probabilities(values, weights, left_out.known.numpy())
            value = hits(fuse_known_names(torch.from_numpy(fused), answers.own.double(), left_out.known), truth)
        else:
            self.setting, value = choose(
                left_out,
                wanted,
                self.grid(answers),
                partial(self.retrieve, ids=wanted),
                lambda setting, p_ret, has: self.join(setting, answers, left_out.known, p_ret, has),
            )
        self._record({"rows": len(left_out.ids), "hits": value, "hits_of_base": hits(answers.own, truth)})

    def _record(self, found: Mapping[str, Any]) -> None:
        """Add what was chosen to `calibration.json`."""
        path = self.context.folder / "calibration.json"
        entries = json.loads(path.read_text(encoding="utf-8")) if path.exists() else []
        kept = [entry for entry in entries if entry["task"] < self.task_index]
        kept.append({"task": self.task_index, **dataclasses.asdict(self.setting), **found})
        write_atomic(path, json.dumps(kept, indent=1).encode())

    def with_added(self, vocabulary: Sequence[int]) -> tuple[int, ...]:
        """`vocabulary` and the ids of the names that were added up to the current task."""
        have = set(vocabulary)
        added = [c for line in self._added[: self.task_index + 1] for c in line]
        return (*vocabulary, *(c for c in added if c not in have))

    def retrieve(self, neighbours: Neighbours, ids: Sequence[int]) -> tuple[Tensor, Tensor]:
        """P_ret (Q, C), the memory's probabilities over `ids`, and which queries have any (Q,)."""
        if self.options.retrieval == "cosine":
            return retrieval_logits(neighbours, ids)
        votes = vote(neighbours, ids, **self.options.rule())
        return shares_of(votes), votes.sum(1) > 0

    def join(self, setting: Setting, answers: BaseOutputs, known: Tensor, p_ret: Tensor, has: Tensor) -> Tensor:
        """Scores (Q, C): the fusion over known names beside the base alone over the others."""
        own = answers.own.to(p_ret)
        fused = fuse_known_names(self.fuse(setting, answers, known, p_ret, has), own, known)
        return torch.where(has[:, None], fused, own)

    def together(self, keys: Float32Array, ids: tuple[int, ...], answers: BaseOutputs) -> Tensor:
        """Scores (Q, C) of keys (Q, D) over the classes `ids`."""
        memory = self.memory
        if len(keys) == 0:
            return answers.own
        if memory is None or len(memory) == 0:
            self._once("the memory is empty: the base answers alone")
            return answers.own
        if self.setting.k > len(memory):
            self._once(f"k is {self.setting.k}, but the memory holds {len(memory)} rows: all of them vote")
        try:
            found = self.votes.background.search(memory, keys, self.setting.k)
        except EmptyMemoryError:
            return answers.own
        stored = self.votes.background.labels(memory)
        known = torch.from_numpy(np.isin(ids, stored.class_id[stored.weight > 0]))
        if self.setting.weights:
            own = answers.own.double()
            discriminant = self._log_linear.discriminant(memory, self.setting.shrink)
            said = discriminant.log_posterior(keys, np.asarray(ids, np.int64))
            values = log_linear_rule.features(found[0], ids, said, restrict_to_known(own, known))
            fused = log_linear_rule.probabilities(values, np.asarray(self.setting.weights), known.numpy())
            joined = fuse_known_names(torch.from_numpy(fused), own, known)
            return torch.where(torch.from_numpy(keys.any(axis=1))[:, None], joined, own)
        each = [self.retrieve(n, ids) for n in found]
        p_ret = combined([p for p, _ in each], ids, memory.background_ids)
        has = torch.stack([h for _, h in each]).any(0)
        has &= torch.from_numpy(keys.any(axis=1))  # without features a key is as near to one row as to any other
        return self.join(self.setting, answers, known, p_ret, has)

    def _once(self, text: str) -> None:
        if text.split(":")[0] not in self._logged:
            self._logged.add(text.split(":")[0])
            log.warning("%s: %s", self.name, text)

    @torch.no_grad()
    def predict(self, batch: Batch, vocabulary: Sequence[int]) -> Prediction:
        """The best name of each region or image among `vocabulary` and the names added so far; an answer with a name
        that is no class of the benchmark is VOID."""
        vocab = tuple(vocabulary)
        wanted = self.with_added(vocab)
        regions = None if self.context.regions is None else self.context.regions(batch)
        answers = self.answers(batch, regions, wanted)
        if regions is None:
            scores = self.together(normalised(self.context.encode(batch).pooled), wanted, answers)
            return of_images(scores, wanted, set(self.context.classes))
        keys = np.concatenate([r.keys for r in regions])
        scores = self.together(keys, wanted, answers)
        labels = [best(s, wanted) for s in torch.split(scores, [len(r.keys) for r in regions])]
        classes = list(self.context.classes)
        shown = [np.where(np.isin(x, classes), x, VOID) for x in labels]
        return to_prediction(self.context, vocab, regions, shown)

    def answers(self, batch: Batch, regions: Sequence[Regions] | None, ids: Sequence[int]) -> BaseOutputs:
        return base_predictions(self._named_context, batch, regions, ids)

    def get_extra_state(self) -> dict[str, Any]:
        return {"setting": dataclasses.asdict(self.setting), "task": self.task_index}

    def set_extra_state(self, state: Mapping[str, Any]) -> None:
        self.setting = Setting(**{**state["setting"], "weights": tuple(state["setting"].get("weights", ()))})
        self.task_index = int(state["task"])


def with_names(context: Context, lines: Sequence[Sequence[Name]]) -> tuple[Context, list[list[int]]]:
    """The context with a class for each name of `lines` that the benchmark does not have, and the ids of each line."""
    known = {n.casefold(): c.id for c in context.classes.values() for n in (c.name, *c.synonyms)}
    added: dict[int, ClassInfo] = {}

    def id_of(name: Name) -> int:
        found = next((known[n.casefold()] for n in name if n.casefold() in known), ADDED - len(added))
        if found <= ADDED:
            added[found] = ClassInfo(found, name[0], tuple(name[1:]))
        return found

    ids = [[id_of(name) for name in line] for line in lines]
    return dataclasses.replace(context, classes={**context.classes, **added}), ids


def of_images(scores: Tensor, wanted: tuple[int, ...], classes: set[int]) -> Prediction:
    """Scores over the benchmark's classes, and one column VOID with the best of all other names."""
    inside, outside = ([i for i, c in enumerate(wanted) if (c in classes) == own] for own in (True, False))
    vocab = tuple(wanted[i] for i in inside)
    if not outside:
        return Prediction(vocab, scores=scores)
    other = scores[:, outside].amax(dim=1, keepdim=True) if len(scores) else torch.full((0, 1), math.nan)
    return Prediction((*vocab, VOID), scores=torch.cat([scores[:, inside], other], dim=1))


def _rows_of(answers: BaseOutputs, rows: Tensor) -> BaseOutputs:
    inside, outside = answers.heads.in_vocabulary[rows], answers.heads.out_of_vocabulary[rows]
    return BaseOutputs(answers.own[rows], BaseProbabilities(inside, outside, answers.heads.seen))
