"""`sweep.json`: what a sweep tried, what it found on the validation images, what it chose, what that scored at last."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from kc.commands.sweep_plan import Value
from kc.errors import RunError
from kc.files import write_atomic
from kc.report.records import explain

NAME = "sweep.json"


class Part(BaseModel):
    """Base of the record: unknown keys are errors, undefined numbers are null."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)


class Score(Part):
    """What one pass over the stream reached: scores in [0, 1], null where undefined; `seconds` of learning.

    `average`: mean of the last row of R, which decides. `seen`: score on all classes after the last task.
    """

    average: float | None = None
    seen: float | None = None
    seconds: float = 0.0


class Trial(Score):
    """One value of a hyperparameter, scored on validation images. `note`: why there is no score."""

    value: Value
    note: str | None = None


class Final(Score):
    """The chosen value with one seed, learned from all training images, scored on the test split."""

    seed: int


class Tuning(Part):
    """One method: `values` of `option` in the order in which they are tried. No option: nothing to tune, run once."""

    method: str
    option: str | None = None
    values: list[Value] = Field(default_factory=list)
    trials: list[Trial] = Field(default_factory=list)
    chosen: Value | None = None
    test: list[Final] = Field(default_factory=list)

    @property
    def open(self) -> list[Value]:
        """The values that are still to be tried."""
        return self.values[len(self.trials) :]

    @property
    def best(self) -> Trial | None:
        """The trial with the highest average; of equal ones the first. None where no trial has a score."""
        known = [t for t in self.trials if t.average is not None]
        return max(known, key=lambda t: t.average or 0.0, default=None)

    @property
    def seconds(self) -> float:
        """Seconds of learning in all trials."""
        return sum(t.seconds for t in self.trials)


class Validation(Part):
    """What the choice was made on: the benchmark's split, or images held out of the training split."""

    source: Literal["val split", "held out of train"]
    share: float | None
    n_images: int
    sample_ids: list[str]
    """The images that were held out; empty with a split of the benchmark."""


class SweepRecord(Part):
    """The whole sweep."""

    schema_version: Literal[1] = 1
    benchmark: str
    metric: str
    setting: str
    tasks: list[tuple[str, ...]]
    tuning_seed: int
    budget: int
    validation: Validation
    methods: list[Tuning]

    def save(self, folder: Path) -> None:
        """Write the record, whole or not at all: this is the moment at which a trial counts as done."""
        write_atomic(folder / NAME, (self.model_dump_json(indent=1) + "\n").encode())

    @classmethod
    def load(cls, folder: Path) -> SweepRecord:
        """Read the record. Raises RunError for a folder without one and for a file that is not one."""
        path = folder / NAME
        try:
            return cls.model_validate_json(path.read_bytes())
        except OSError as error:
            raise RunError(f"{path}: cannot be read ({error.strerror}); expected the folder of a sweep") from error
        except ValidationError as error:
            raise RunError(f"{path}: not the record of a sweep\n{explain(error)}") from error
