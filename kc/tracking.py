"""Weights & Biases: one run a method and seed, grouped by comparison, through Lightning's WandbLogger."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from kc.config import RunConfig
from kc.errors import KcError
from kc.stream.resume import MethodState


class Tracker:
    """Logs the scores of each task as they come and matrix and pictures at the end; does nothing when disabled."""

    def __init__(self, config: RunConfig, folder: Path, method: str, seed: int, settings: Mapping[str, Any]) -> None:
        self.logger: Any = None
        if config.wandb == "disabled":
            return
        # Without this wandb prints a dozen lines a method, offline too.
        os.environ.setdefault("WANDB_SILENT", "true")
        from lightning.pytorch.loggers import WandbLogger

        from kc.report.wandb_log import define_metrics

        try:
            self.logger = WandbLogger(
                name=f"{method}-s{seed}",
                save_dir=folder,
                offline=config.wandb == "offline",
                project=config.wandb_project,
                entity=config.wandb_entity,
                group=folder.name,
                job_type=method,
                # The same id for a resumed run, so that a sync joins its parts.
                id=f"{folder.name}-{method}-s{seed}",
                resume="allow",
                config={**settings, "method": method, "seed": seed},
            )
            define_metrics(self.logger.experiment)
        except Exception as error:
            raise KcError(f"W&B cannot start ({error}); log in with `wandb login`, or use --wandb offline") from error

    def log(self, values: Mapping[str, float]) -> None:
        """Scores, forgetting and memory size after one task; `values` holds `task`, the x-axis."""
        if self.logger is not None:
            self.logger.experiment.log(dict(values))

    def finish(self, payload: Mapping[str, Any]) -> None:
        """Matrix, final metrics and pictures, once, after the last task."""
        if self.logger is not None:
            self.logger.experiment.log(dict(payload))

    def close(self, failed: bool = False) -> None:
        """End the W&B run."""
        if self.logger is not None:
            self.logger.experiment.finish(exit_code=1 if failed else 0, quiet=True)
            self.logger = None


def final_metrics(state: MethodState, names: Sequence[Sequence[str]]) -> dict[str, float]:
    """The scores on all classes after the last task, under `final/`."""
    return {f"final/{k}": v for k, v in state.final.items() if v is not None}
