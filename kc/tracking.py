"""Weights & Biases: one run a method and seed, grouped by comparison, through Lightning's WandbLogger."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from kc.config import RunConfig
from kc.errors import KcError
from kc.metrics.continual import forgetting_per_task
from kc.report.examples import load_examples
from kc.report.records import Cost, MethodResult
from kc.report.wandb_log import define_metrics, example_images, final_payload, matrix_table, task_payload
from kc.stream.resume import MethodState


class Tracker:
    """Logs each task as it ends, matrix and pictures at the end of the run; does nothing when disabled."""

    def __init__(self, config: RunConfig, folder: Path, method: str, seed: int, settings: Mapping[str, Any]) -> None:
        self.logger: Any = None
        if config.wandb == "disabled":
            return
        # Without this wandb prints a dozen lines a method, offline too.
        os.environ.setdefault("WANDB_SILENT", "true")
        import wandb
        from lightning.pytorch.loggers import WandbLogger

        try:
            run = wandb.init(
                name=f"{method}-s{seed}",
                dir=folder,
                mode="offline" if config.wandb == "offline" else "online",
                project=config.wandb_project,
                entity=config.wandb_entity,
                group=folder.name,
                job_type=method,
                # The same id for a resumed run, so that a sync joins its parts.
                id=f"{folder.name}-{method}-s{seed}",
                resume="allow",
                config={**settings, "method": method, "seed": seed},
            )
            self.logger = WandbLogger(experiment=run)
            define_metrics(self.logger.experiment)
        except Exception as error:
            raise KcError(f"W&B cannot start ({error}); log in with `wandb login`, or use --wandb offline") from error

    def task(self, state: MethodState, t: int) -> None:
        """Scores, forgetting and cost after task `t`, with the task as x-axis."""
        if self.logger is None:
            return
        rows = np.full((len(state.rows[0]),) * 2, np.nan)
        rows[: len(state.rows)] = np.array(state.rows, dtype=np.float64)
        lost = forgetting_per_task(rows, t).tolist()
        cost = Cost.model_validate(state.cost[t])
        payload = task_payload(t, state.rows[t], state.seen[t], cost, forgetting=lost)
        self.logger.experiment.log(payload)

    def finish(self, result: MethodResult, examples: Path) -> None:
        """Final metrics, the matrix as a table and the pictures, once, after the last task."""
        if self.logger is None:
            return
        pictures = example_images(load_examples(examples), result.name)
        payload = {**final_payload(result), "matrix": matrix_table(result)}
        self.logger.experiment.log(payload | ({"examples": pictures} if pictures else {}))

    def close(self) -> None:
        """End the W&B run."""
        if self.logger is not None:
            self.logger.experiment.finish()
            self.logger = None
