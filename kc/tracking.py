"""Loggers: W&B, one run a method and seed, grouped by comparison; CSV and TensorBoard; all through Lightning's."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from kc.config import RunConfig
from kc.metrics.continual import forgetting_per_task
from kc.outside import one_line
from kc.report.examples import load_examples
from kc.report.records import Cost, MethodResult
from kc.report.wandb_log import artifacts, define_metrics, example_images, final_payload, matrix_table, task_payload
from kc.stream.resume import MethodState

ID_CHARACTERS = 64
"""Of the longest id of a run that W&B's server takes."""


class Tracker:
    """Logs each task as it ends, matrix and pictures at the end of the run; does nothing when disabled.

    Every logger begins anew with the process and gets what an earlier one had finished again, each task at its own
    step: a part of a W&B run that was resumed offline holds the whole run, in whatever order parts are uploaded.
    """

    def __init__(self, config: RunConfig, folder: Path, method: str, seed: int, settings: Mapping[str, Any]) -> None:
        self.logger: Any = None
        name = f"{method}-s{seed}"
        self.others = other_loggers(config, folder, name)
        self.place, self.whole = folder / "methods" / name, folder / "wandb" / f"{name}.whole"
        self._logged, self._finished = 0, False
        if config.wandb == "disabled" or self.whole.exists():
            return
        # Without this wandb prints a dozen lines a method, offline too.
        os.environ.setdefault("WANDB_SILENT", "true")
        try:
            import wandb
            from lightning.pytorch.loggers import WandbLogger

            with _own_run(len(config.method_names) * len(config.seeds)):
                run: Any = wandb.init(
                    name="-".join(filter(None, (os.environ.get("WANDB_NAME"), name))),
                    dir=folder,
                    mode="online" if config.wandb == "online" else "offline",
                    project=config.wandb_project,
                    entity=config.wandb_entity,
                    group=os.environ.get("WANDB_RUN_GROUP") or folder.name,
                    job_type=method,
                    tags=tags_of(config, method),
                    id=run_id(f"{folder.name}-{name}"),
                    resume="allow",
                    # A run that the caller has open stays open.
                    reinit="create_new",
                    config={**settings, "method": method, "seed": seed},
                )
            define_metrics(run)
            self.logger = WandbLogger(experiment=run)
        except Exception as error:
            help_ = "; log in with `wandb login`, or give --wandb offline" if config.wandb == "online" else ""
            print(f"W&B cannot start ({one_line(error)}): {self.place.name} goes on without it{help_}")

    def task(self, state: MethodState, t: int) -> None:
        """Scores, forgetting and cost after task `t` and those before it, with the task as x-axis."""
        for past in range(self._logged, t + 1):
            if self.logger is not None:
                with self._unharmed():
                    self.logger.experiment.log(_payload(state, past), step=past)
            for logger in self.others:
                logger.log_metrics(_payload(state, past), step=past + 1)
                logger.save()
        self._logged = t + 1

    def finish(self, state: MethodState, result: MethodResult, examples: Path) -> None:
        """Final metrics, the matrix as a table, the pictures and the artifacts, once, after the last task."""
        n_tasks = len(result.matrix)
        self.task(state, n_tasks - 1)
        for logger in self.others:
            logger.log_metrics(final_payload(result), step=n_tasks)
            logger.save()
        if self.logger is None:
            return
        with self._unharmed():
            pictures = example_images(load_examples(examples), result.name)
            payload = {**final_payload(result), "matrix": matrix_table(result)}
            run = self.logger.experiment
            run.log(payload | ({"examples": pictures} if pictures else {}), step=n_tasks)
            # W&B copies what an artifact holds to a folder of its own; beside the run it is moved and deleted with it.
            with _data_beside(self.place.parents[1] / "wandb"):
                for artifact in artifacts(result, self.place):
                    run.log_artifact(artifact)
            self._finished = True

    def close(self) -> None:
        """End the W&B run and the files of the others."""
        for logger in self.others:
            logger.finalize("success")
        self.others = []
        if self.logger is not None:
            with self._unharmed():
                self.logger.experiment.finish()
                if self._finished:  # else a resumed run logs it again
                    self.whole.touch()
            self.logger = None

    @contextmanager
    def _unharmed(self) -> Iterator[None]:
        """What W&B cannot do is said, and costs the run nothing."""
        try:
            yield
        except Exception as error:
            print(f"W&B: not everything of {self.place.name} is logged ({one_line(error)}); results are kept")


def run_id(name: str) -> str:
    """`name` as an id that W&B takes; the same for a resumed run, so that its parts are one run on the server."""
    cleaned = re.sub(r"[^\w.@=+-]", "-", name)
    if cleaned == name and len(name) <= ID_CHARACTERS:
        return name
    digest = hashlib.sha256(name.encode(errors="surrogateescape")).hexdigest()[:8]
    return f"{cleaned[: ID_CHARACTERS - 9]}-{digest}"


@contextmanager
def _own_run(n: int) -> Iterator[None]:
    """Within, what `wandb.init` makes is not the run of a sweep's agent, whose id all of `n` runs would have."""
    import wandb

    shared = wandb.setup().settings
    before = shared.sweep_id
    if n > 1:
        shared.sweep_id = None
    try:
        yield
    finally:
        shared.sweep_id = before


def tags_of(config: RunConfig, method: str) -> list[str]:
    """What runs are found by: benchmark, method, setting, encoder; W&B takes at most 64 characters."""
    return [tag[:64] for tag in (Path(config.benchmark).stem, method, config.setting, config.encoder)]


def other_loggers(config: RunConfig, folder: Path, name: str) -> list[Any]:
    """The loggers of `config.loggers`, in `folder`/csv/NAME and `folder`/tensorboard/NAME, which begin empty."""
    from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger

    kinds: dict[str, Any] = {"csv": CSVLogger, "tensorboard": TensorBoardLogger}
    made = []
    for kind in config.loggers:
        shutil.rmtree(folder / kind / name, ignore_errors=True)
        made.append(kinds[kind](folder / kind, name=name, version=""))
    return made


@contextmanager
def _data_beside(folder: Path) -> Iterator[None]:
    before = os.environ.get("WANDB_DATA_DIR")
    if before is None:
        os.environ["WANDB_DATA_DIR"] = str(folder.absolute())
    try:
        yield
    finally:
        if before is None:
            del os.environ["WANDB_DATA_DIR"]


def _payload(state: MethodState, t: int) -> dict[str, float]:
    """What is logged of task `t`."""
    rows = np.full((len(state.rows[0]),) * 2, np.nan)
    rows[: len(state.rows)] = np.array(state.rows, dtype=np.float64)
    lost = forgetting_per_task(rows, t).tolist()
    cost = Cost.model_validate(state.cost[t])
    return task_payload(t, state.rows[t], state.seen[t], cost, forgetting=lost)
