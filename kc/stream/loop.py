"""The loop: for every task learn, remember, evaluate, record; stopped anywhere, it goes on after the last task done."""

from __future__ import annotations

import logging
import warnings
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import lightning as L
import torch

from kc.errors import KcError, RunError
from kc.methods.base import Remembers
from kc.methods.distributed import process_rank
from kc.methods.module import ContinualMethod
from kc.methods.training_options import TrainingOptions
from kc.progress import Bar
from kc.report.words import listing
from kc.spec import at_task
from kc.stream.callbacks import BestWeights, EndTask, MemoryCallback, RestoreRngState, WeightAverage
from kc.stream.evaluate import METRIC
from kc.stream.forgetting_callback import Evaluator, ForgettingCallback, Predictions
from kc.stream.progress import CostMeter, RunProgress, StepProgress
from kc.stream.resume import MethodState, load_checkpoint, none_if_nan, save_checkpoint
from kc.types import SplitName, TaskKind


@dataclass(frozen=True)
class TrainerOptions:
    """Arguments of Lightning's Trainer."""

    accelerator: str = "auto"
    devices: int = 1
    learning: TrainingOptions = field(default_factory=TrainingOptions)
    """Epochs, precision, clipping, accumulation, average and patience of methods that train."""


def quiet_lightning() -> None:
    """Lightning greets every Trainer; one run makes dozens."""
    for name in ("lightning.pytorch", "lightning.fabric", "pytorch_lightning"):
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="lightning")
    warnings.filterwarnings("ignore", message=".*does not have many workers.*")


def task_seed(seed: int, task: int) -> int:
    """The seed of one task: it does not depend on what ran before, so that a resumed run draws the same numbers."""
    return zlib.crc32(f"{seed}/{task}".encode())


class MethodLoop:
    """One method with one seed over the stream.

    Args:
        make: builds the untrained method.
        stream: an IncrementalDataModule.
        folder: where this method keeps state, checkpoints and memory.
        publish: receives the state and the task after each task (for W&B).
        split: what the scores are taken on.
        predictions: receives every answer after the last task.
    """

    def __init__(
        self, name: str, seed: int, make: Callable[[], ContinualMethod], stream: Any, kind: TaskKind, folder: Path,
        options: TrainerOptions, progress: RunProgress, publish: Callable[[MethodState, int], None],
        split: SplitName = "test", predictions: Predictions | None = None,
    ) -> None:  # fmt: skip
        self.name, self.seed, self.make, self.stream, self.kind = name, seed, make, stream, kind
        self.folder, self.options, self.progress, self.publish = folder, options, progress, publish
        self.evaluator = Evaluator(stream, kind, split, predictions)

    def run(self) -> tuple[MethodState, ContinualMethod]:
        """Learn what is left to learn; return the whole record and the method as it is at the end."""
        state = MethodState.load(self.folder) or MethodState(self.name, self.seed, METRIC[self.kind])
        torch.manual_seed(task_seed(self.seed, -1))
        method = self.make()
        state.all_images = method.train_scope == "seen"
        tasks = self.stream.tasks
        if state.tasks_done > len(tasks):
            raise RunError(f"{self.folder}: holds {state.tasks_done} tasks, the stream has {len(tasks)}")
        if state.tasks_done:
            method.load_state(*load_checkpoint(self.folder, state.tasks_done - 1))
            self.progress.line(f"{self.name}: {state.tasks_done} of {len(tasks)} tasks were done already")
        elif method.open_vocabulary:
            state.baseline = [none_if_nan(self.evaluator.ahead(method, t.index, None)) for t in tasks]
        with self.progress.bar(self.name, len(tasks), "tasks", line=None) as bar:
            bar.advance(state.tasks_done)
            for task in tasks[state.tasks_done :]:
                self._task(method, state, task.index)
                bar.advance()
        return state, method

    def _task(self, method: ContinualMethod, state: MethodState, t: int) -> None:
        task = self.stream.tasks[t]
        L.seed_everything(task_seed(self.seed, t), workers=True, verbose=False)
        text = f"{self.name}, task {t + 1} of {len(self.stream.tasks)} ({listing(task.class_names)})"
        with CostMeter() as cost, self.progress.bar(text, 1, "steps", line=False) as bar:
            method.start_task(task)
            trainer = self._trainer(method, state, t, bar, text, cost)
            data = self.stream.task(t, method.train_scope, raw=method.needs_raw, with_images=method.needs_images)
            try:
                trainer.fit(cast(L.LightningModule, method), data)
            except SystemExit as stop:  # Lightning's answer to Ctrl-C
                raise KeyboardInterrupt from stop
        if trainer.interrupted:
            raise KeyboardInterrupt
        if process_rank() > 0:
            return  # one process keeps the record
        save_checkpoint(self.folder, t, *method.state())
        state.computed_here()
        state.save(self.folder)
        self._line(state, t, text)

    def _trainer(
        self, method: ContinualMethod, state: MethodState, t: int, bar: Bar, text: str, cost: CostMeter
    ) -> L.Trainer:
        learns, options = method.trained_parameters() > 0, self.options.learning
        settings: dict[str, Any] = {"max_epochs": 1}
        more: list[L.Callback] = []
        if learns:
            settings = {
                "max_epochs": int(at_task(options.epochs, t)),
                "accumulate_grad_batches": options.accumulate,
                "gradient_clip_val": options.clip_grad or None,
                "precision": options.precision,
            }
            if options.ema:
                more.append(WeightAverage(options.ema))
            if options.patience:
                more.append(BestWeights(self.evaluator, t, options.patience))
        try:
            return L.Trainer(
                accelerator=self.options.accelerator,
                # What neither trains nor keeps a memory is one pass over the data, which one process makes.
                devices=self.options.devices if learns or isinstance(method, Remembers) else 1,
                # The loaders share their batches out themselves, in an order that does not depend on their number.
                use_distributed_sampler=False,
                logger=False,
                enable_checkpointing=False,
                enable_progress_bar=False,
                enable_model_summary=False,
                limit_val_batches=0,
                num_sanity_val_steps=0,
                **settings,
                callbacks=[
                    RestoreRngState(),
                    StepProgress(bar, text),
                    *more,
                    MemoryCallback(t),
                    EndTask(self.stream.tasks[t], cost),
                    ForgettingCallback(self.evaluator, state, t, cost, self.publish),
                ],
            )
        except (ValueError, RuntimeError) as error:
            where = f"accelerator {self.options.accelerator!r}, devices {self.options.devices}"
            raise KcError(f"{where}: {error}") from error

    def _line(self, state: MethodState, t: int, text: str) -> None:
        new, seen = state.rows[t][t], state.seen[t]
        shown = [f"{label} {100 * v:5.1f}" for label, v in (("new", new), ("seen", seen)) if v is not None]
        self.progress.line(f"  {text}: {state.metric} {', '.join(shown)}  [{state.cost[t]['seconds']:.1f} s]")
