"""The trials of `kc sweep` and their record `sweep.json`: score values on validation images, choose, and only then open
the test split."""

from __future__ import annotations

import shlex
import shutil
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from rich import box
from rich.console import Console
from rich.table import Table

from kc.commands.sweep_plan import Plan, SweepConfig, Value
from kc.compare import check_fingerprints, compare, make_loop, new_folder, warm
from kc.data.datamodule import IncrementalDataModule
from kc.data.manifest import Manifest, load_manifest
from kc.data.readers.open import open_reader
from kc.data.selection import held_out
from kc.errors import DataError, DivergedError, RunError
from kc.files import write_atomic
from kc.metrics.continual import average
from kc.progress import Plain
from kc.report.records import as_array, explain
from kc.report.words import metric_title, points, seconds
from kc.session import Session, open_data
from kc.stream.evaluate import METRIC
from kc.stream.loop import quiet_lightning
from kc.stream.progress import RunProgress
from kc.stream.resume import MethodState, none_if_nan

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


def sweep(config: SweepConfig, plan: Plan, console: Console | None = None) -> Path:
    """Do every trial of `plan` that is not done, then run the chosen values; returns the run folder.

    Trials run with the first seed, final runs with all. Raises KcError subclasses for what a user can act on.
    """
    console = console or Plain()
    quiet_lightning()
    manifest = load_manifest(config.benchmark)
    data, validation = tuning_data(config, manifest)
    methods = [
        Tuning(method=name, option=plan[name][0], values=plan[name][1]) if name in plan else Tuning(method=name)
        for name in config.method_names
    ]
    record = SweepRecord(
        benchmark=manifest.name,
        metric=METRIC[manifest.task_kind],
        setting=data.setting,
        tasks=[t.class_names for t in data.tasks],
        tuning_seed=data.seed,
        budget=config.budget,
        validation=validation,
        methods=methods,
    )
    if config.resume is None:
        folder = new_folder(config)
        record.save(folder)
    else:
        folder = config.resume
        record = resume_record(folder, record)
    again = f"kc sweep --resume {shlex.quote(str(folder))}"
    console.print(
        f"{manifest.name}: {record.budget} values of a hyperparameter of each method, scored on "
        f"{validation.n_images} images ({validation.source})",
        soft_wrap=True,
    )
    console.print(f"run folder: {folder}", soft_wrap=True)
    try:
        with RunProgress(console) as progress:
            tune(config, data, record, folder, progress)
    except KeyboardInterrupt:
        console.print(f"go on after the last finished task with: {again}", soft_wrap=True)
        raise
    # From here on, and not before, the test split is read.
    own = {t.method: config.replaced(t.option, t.chosen) for t in record.methods if t.option is not None}
    states = compare(config, open_data(config), folder, console, again, own)
    for tuning in record.methods:
        tuning.test = [Final(seed=s.seed, **score_of(s).model_dump()) for s in states if s.name == tuning.method]
    record.save(folder)
    console.print(table(record))
    return folder


def tuning_data(config: SweepConfig, manifest: Manifest) -> tuple[IncrementalDataModule, Validation]:
    """The stream that trials learn from and are scored on: splits train and val, without the test split.

    Raises DataError where a task would have no validation image.
    """
    train = open_reader(manifest, "train", config.data_root, config.limit_images)
    if "val" in manifest.splits:
        val = open_reader(manifest, "val", config.data_root, config.limit_images)
        validation = Validation(source="val split", share=None, n_images=len(val), sample_ids=[])
    else:
        # The background is in nearly every image: it must not choose.
        columns = [c != manifest.background_id for c in manifest.class_ids()]
        rows = held_out(train.class_table[:, columns], config.holdout, config.seeds[0])
        val, kept = train.select(rows.tolist()), sorted(set(range(len(train))) - set(rows.tolist()))
        train = train.select(kept)
        validation = Validation(
            source="held out of train", share=config.holdout, n_images=len(val), sample_ids=list(val.sample_ids)
        )
    data = open_data(config, readers={"train": train, "val": val})
    for task in data.tasks:
        if not data.n_images("val", task.index):
            raise DataError(
                f"task {task.index} ({', '.join(task.class_names)}) has no image among the {len(val)} that validate: "
                "give fewer tasks, more images, or a larger --holdout where the benchmark has no split val"
            )
    return data, validation


def resume_record(folder: Path, new: SweepRecord) -> SweepRecord:
    """The record in `folder`. Raises RunError where what is asked for now is not what it was begun with."""
    record = SweepRecord.load(folder)
    begun = [t.model_copy(update={"trials": [], "chosen": None, "test": []}) for t in record.methods]
    if record.model_copy(update={"methods": begun}) != new:
        raise RunError(f"{folder}: values or validation images are not those it was begun with: start a new sweep")
    return record


def tune(
    config: SweepConfig, data: IncrementalDataModule, record: SweepRecord, folder: Path, progress: RunProgress
) -> None:
    """Do the trials that are open, and choose. Raises DivergedError where no value of a method has a score."""
    if any(tuning.open for tuning in record.methods):
        session = Session.of_data(config, data)
        check_fingerprints(folder, session)
        warm(session, config, progress, ("train", "val"))
    for tuning in record.methods:
        if tuning.option is None:
            progress.line(f"{tuning.method}: nothing to tune, runs once")
            continue
        for value in tuning.open:
            progress.line(f"{tuning.method} with {tuning.option} {value}")
            place = folder / "trials" / f"{tuning.method}-{len(tuning.trials)}"
            own = config.replaced(tuning.option, value)
            tuning.trials.append(trial(own, session, tuning.method, value, place, progress))
            record.save(folder)
            shutil.rmtree(place)
        if tuning.best is None:
            why = tuning.trials[-1].note or "undefined"
            raise DivergedError(f"{tuning.method}: no {tuning.option} has a score ({why}); give others in --grid")
        tuning.chosen = tuning.best.value
    record.save(folder)
    shutil.rmtree(folder / "trials", ignore_errors=True)


def trial(config: SweepConfig, session: Session, name: str, value: Value, folder: Path, progress: RunProgress) -> Trial:
    """One value of a method over the stream of training images, scored on validation images."""
    seed = session.stream.seed
    try:
        state, method = make_loop(config, session, name, seed, folder, progress, lambda state, t: None, "val").run()
    except DivergedError as error:
        return Trial(value=value, note=str(error))
    method.close()
    return Trial(value=value, **score_of(state).model_dump())


def score_of(state: MethodState) -> Score:
    """What a finished method scored, on whatever it was scored on."""
    learning = sum(cost["seconds"] for cost in state.cost)
    return Score(average=none_if_nan(average(as_array(state.rows))), seen=state.seen[-1], seconds=learning)


def table(record: SweepRecord) -> Table:
    """What was tried, chosen and reached; scores times 100."""

    def plain(value: Value) -> str:
        return value if isinstance(value, str) else f"{value:g}"

    def shown(scores: list[float]) -> str:
        return points(sum(scores) / len(scores)) if scores else "–"

    title = f"Hyperparameters chosen on {record.validation.n_images} images, {record.validation.source}"
    result = Table(title=title, title_justify="left", box=box.SIMPLE)
    for name in ("method", "hyperparameter"):
        result.add_column(name)
    for name in ("tried: validation", "chosen", f"test {metric_title(record.metric)}", "tuning"):
        result.add_column(name, justify="right")
    for tuning in record.methods:
        tried = [f"{plain(t.value)}: {shown([] if t.average is None else [t.average])}" for t in tuning.trials]
        scores = [s.average for s in tuning.test if s.average is not None]
        chosen = "runs once" if tuning.chosen is None else plain(tuning.chosen)
        result.add_row(
            tuning.method, tuning.option or "–", "\n".join(tried), chosen, shown(scores), seconds(tuning.seconds)
        )
    return result
