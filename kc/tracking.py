"""Loggers: W&B, one run a method and seed, grouped by comparison; CSV and TensorBoard; all through Lightning's."""

from __future__ import annotations

import os
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


class Tracker:
    """Logs each task as it ends, matrix and pictures at the end of the run; does nothing when disabled."""

    def __init__(self, config: RunConfig, folder: Path, method: str, seed: int, settings: Mapping[str, Any]) -> None:
        self.logger: Any = None
        self.others = other_loggers(config, folder, f"{method}-s{seed}")
        self.place = folder / "methods" / f"{method}-s{seed}"
        self._logged = 0
        if config.wandb == "disabled":
            return
        # Without this wandb prints a dozen lines a method, offline too.
        os.environ.setdefault("WANDB_SILENT", "true")
        try:
            import wandb
            from lightning.pytorch.loggers import WandbLogger

            run: Any = wandb.init(
                name=f"{method}-s{seed}",
                dir=folder,
                mode="offline" if config.wandb == "offline" else "online",
                project=config.wandb_project,
                entity=config.wandb_entity,
                group=folder.name,
                job_type=method,
                tags=tags_of(config, method),
                # The same id for a resumed run, so that a sync joins its parts.
                id=f"{folder.name}-{method}-s{seed}",
                resume="allow",
                # A run that the caller has open stays open.
                reinit="create_new",
                config={**settings, "method": method, "seed": seed},
            )
            define_metrics(run)
            self.logger = WandbLogger(experiment=run)
        except Exception as error:
            help_ = "" if config.wandb == "offline" else "; log in with `wandb login`, or give --wandb offline"
            print(f"W&B cannot start ({one_line(error)}): {self.place.name} goes on without it{help_}")

    def task(self, state: MethodState, t: int) -> None:
        """Scores, forgetting and cost after task `t`, with the task as x-axis."""
        if self.logger is not None:
            with self._unharmed():
                self.logger.experiment.log(_payload(state, t))
        # These loggers begin anew with the process: what an earlier one had finished is written again.
        for past in range(self._logged, t + 1) if self.others else ():
            for logger in self.others:
                logger.log_metrics(_payload(state, past), step=past + 1)
                logger.save()
        self._logged = t + 1

    def finish(self, result: MethodResult, examples: Path) -> None:
        """Final metrics, the matrix as a table, the pictures and the artifacts, once, after the last task."""
        for logger in self.others:
            logger.log_metrics(final_payload(result), step=len(result.matrix))
            logger.save()
        if self.logger is None:
            return
        with self._unharmed():
            pictures = example_images(load_examples(examples), result.name)
            payload = {**final_payload(result), "matrix": matrix_table(result)}
            run = self.logger.experiment
            run.log(payload | ({"examples": pictures} if pictures else {}))
            # W&B copies what an artifact holds to a folder of its own; beside the run it is moved and deleted with it.
            with _data_beside(self.place.parents[1] / "wandb"):
                for artifact in artifacts(result, self.place):
                    run.log_artifact(artifact)

    def close(self) -> None:
        """End the W&B run and the files of the others."""
        for logger in self.others:
            logger.finalize("success")
        self.others = []
        if self.logger is not None:
            with self._unharmed():
                self.logger.experiment.finish()
            self.logger = None

    @contextmanager
    def _unharmed(self) -> Iterator[None]:
        """What W&B cannot do is said, and costs the run nothing."""
        try:
            yield
        except Exception as error:
            print(f"W&B: not everything of {self.place.name} is logged ({one_line(error)}); results are kept")


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
