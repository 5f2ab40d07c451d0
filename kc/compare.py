"""A comparison: every method with every seed over one stream of tasks, then results and report."""

from __future__ import annotations

import os
import shlex
import time
from collections.abc import Callable, Mapping
from datetime import datetime
from functools import partial
from hashlib import sha256
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from rich.console import Console

from kc.config import MOVABLE, RunConfig, stored
from kc.data.datamodule import IncrementalDataModule
from kc.data.lists import fingerprint
from kc.data.predictions import PredictionWriter
from kc.data.readers.base import HasOwnerIds
from kc.data.stamps import differences
from kc.errors import RunError
from kc.files import shortened, write_atomic
from kc.methods.distributed import process_rank
from kc.methods.module import ContinualMethod
from kc.progress import Plain, elapsed, now_and_then
from kc.registry import method_spec
from kc.report.examples import save_example, save_prediction
from kc.report.figures import curves
from kc.report.html import write_report
from kc.report.records import Results, metrics_csv
from kc.report.tables import show
from kc.resolve import resolve
from kc.session import Session, open_data
from kc.stream.evaluate import answers, to_device
from kc.stream.loop import MethodLoop, TrainerOptions, quiet_lightning
from kc.stream.progress import RunProgress
from kc.stream.results import build_results, method_result
from kc.stream.resume import MethodState, accepted_changes, check_unchanged
from kc.tracking import Tracker
from kc.types import SplitName
from kc.versions import numeric_versions, versions

RUN_FOLDER = "KC_RUN_FOLDER"
"""Environment variable by which the worker processes of one run agree on its folder."""
N_EXAMPLES = 6
"""Test images that the report shows with every answer."""


def run(config: RunConfig, console: Console | None = None) -> Path:
    """Do everything `config` asks for and return the run folder.

    Raises KcError subclasses for what a user can act on. A folder from `config.resume` is finished, not repeated.
    """
    console = console or Plain()
    quiet_lightning()
    config = resolve(config)
    if process_rank() > 0:
        return run_worker(config)
    with now_and_then(lambda: console.print(f"reading the list of images of {config.benchmark} ...")):
        data = open_data(config)
    folder = config.resume or new_folder(config)
    if config.devices > 1:
        os.environ[RUN_FOLDER] = str(folder.absolute())
    compare(config, data, folder, console, f"kc run --resume {shlex.quote(str(folder))}")
    return folder


def compare(
    config: RunConfig, data: IncrementalDataModule, folder: Path, console: Console, again: str,
    own: Mapping[str, RunConfig] | None = None,
) -> list[MethodState]:  # fmt: skip
    """Every method with every seed over the stream, then results and report in `folder`.

    `own`: the config of methods that do not run with the common one. `again`: the command that goes on after a stop.
    """
    own = own or {}
    console.print(
        f"{data.manifest.name}: {len(data.classes)} classes in {len(data.tasks)} tasks, "
        f"stream {data.stream.kind}, setting {data.setting}, "
        f"{len(data.presence('train'))} training and {len(data.presence('test'))} test images",
        soft_wrap=True,
    )
    console.print(f"run folder: {folder}", soft_wrap=True)
    if skipped := [problem for problems in data.skipped.values() for problem in problems]:
        write_atomic(folder / "skipped.txt", "".join(f"{problem}\n" for problem in skipped).encode())
        console.print(f"skipped {len(skipped)} images that cannot be read: {folder / 'skipped.txt'}", soft_wrap=True)
    if sum(finished(folder).values()) == len(config.seeds) * len(config.method_names) * len(data.tasks):
        console.print("nothing left to learn: the report is made again")
    states: list[MethodState] = []
    fingerprints: dict[str, str] = {}
    try:
        with RunProgress(console) as progress:
            for seed in config.seeds:
                if len(config.seeds) > 1:
                    progress.line(f"seed {seed}")
                data = data if seed == data.seed else open_data(config, seed)
                with progress.bar(f"loading {config.encoder}", None, "", line=False):
                    session = Session.of_data(config, data)
                if session.base is not None:
                    progress.line(f"base {session.base.key}")
                fingerprints = check_fingerprints(folder, session)
                warm(session, config, progress)
                for name in config.method_names:
                    states.append(run_method(own.get(name, config), session, name, seed, folder, progress))
    except KeyboardInterrupt:
        kept = ", ".join(f"{name} {n}" for name, n in finished(folder).items())
        console.print(f"kept in {folder}, of {len(data.tasks)} tasks: {kept or 'none'}", soft_wrap=True)
        console.print(f"go on after the last finished task with: {again}", soft_wrap=True)
        raise
    results = build_results(
        states, benchmark=data.manifest.name, task_kind=data.manifest.task_kind, setting=data.setting,
        split=config.split, tasks=[t.class_names for t in data.tasks], seeds=config.seeds, config=stored(config),
        versions=versions(), fingerprints=fingerprints, accepted_changes=accepted_changes(folder),
        own_configs={name: settings_of(own.get(name, config), name) for name in config.method_names},
        read_bytes=data.read_bytes(),
    )  # fmt: skip
    write_everything(folder, results, console)
    return states


def finished(folder: Path) -> dict[str, int]:
    """`METHOD-sSEED` -> the number of tasks that a run has finished; those without one are left out."""
    states = {path.parent.name: MethodState.load(path.parent) for path in sorted(folder.glob("methods/*/state.json"))}
    return {name: state.tasks_done for name, state in states.items() if state is not None}


def settings_of(config: RunConfig, name: str) -> dict[str, Any]:
    """The settings of one method of a run: without the options of the others."""
    return stored(config.running(name)) | {"methods": config.methods}


def run_worker(config: RunConfig) -> Path:
    """What a process does that Lightning started for `--devices`: train along, and keep no record.

    It runs the same command, so it comes to the same methods and tasks in the same order. Methods that neither train
    nor keep a memory are left to the first process.
    """
    if RUN_FOLDER not in os.environ:
        raise RunError("RANK or LOCAL_RANK is set, but `kc run --devices N` starts its processes itself: run it once")
    folder = Path(os.environ[RUN_FOLDER])
    for seed in config.seeds:
        data = open_data(config, seed)
        session = Session.of_data(config, data)
        for name in config.method_names:
            if method_spec(name).family in ("gradient", "memory"):
                progress = RunProgress(Console(quiet=True))
                make_loop(config, session, name, seed, folder, progress, lambda state, t: None).run()
    return folder


def new_folder(config: RunConfig) -> Path:
    """Make `out/<time>-<benchmark>/` with the config in it. Raises RunError where it cannot be written."""
    name = shortened(Path(config.benchmark).stem)
    stamp = datetime.now().strftime("%Y%m%d-%H%M%S")
    folder = config.out / f"{stamp}-{name}"
    for number in count(2):
        try:
            folder.mkdir(parents=True)
            break
        except FileExistsError:  # another run may have been started in the same second
            folder = config.out / f"{stamp}-{name}-{number}"
        except OSError as error:
            raise RunError(f"{folder} cannot be made ({error.strerror}); choose another --out") from error
    write_config(folder, config)
    return folder


def check_fingerprints(folder: Path, session: Session) -> dict[str, str]:
    """What produces the numbers; a resumed run must find the same.

    Raises RunError naming what differs, unless `--accept-changes` was given: then it is kept for the record.
    """
    config, tasks = session.config, [task.class_ids for task in session.stream.tasks]
    now = {"benchmark": session.stream.manifest.fingerprint, "encoder": session.encoder.fingerprint}
    now |= {"data": session.data_key} if session.data_key else {}
    now["tasks"] = sha256(repr(tasks).encode()).hexdigest()[:16]
    if session.stream.image_lists is not None:
        now["image lists"] = fingerprint(session.stream.image_lists)
    if skipped := [problem for problems in session.stream.skipped.values() for problem in problems]:
        now["skipped images"] = f"{len(skipped)}: {sha256(repr(skipped).encode()).hexdigest()[:16]}"
    if session.regions is not None:
        now["proposals"] = session.regions.source
    if session.base is not None:
        now["base"] = session.base.key
    settings = {name: value for name, value in stored(config).items() if name not in MOVABLE}
    here = {"made of": now, "settings": settings, "versions": numeric_versions()}
    check_unchanged(folder, here, config.accept_changes, {"data": differences})
    if config.resume is not None:
        write_config(folder, config)  # data or manifest may have been moved
    return now


def write_config(folder: Path, config: RunConfig) -> None:
    """`config.yaml` of a run: the settings that make its numbers."""
    text = yaml.safe_dump(stored(config), sort_keys=False, allow_unicode=True)
    write_atomic(folder / "config.yaml", text.encode())


def warm(
    session: Session, config: RunConfig, progress: RunProgress, splits: tuple[SplitName, ...] = ("train", "test")
) -> None:
    """Encode every image, and its regions where a method reads them, before the clocks of the methods start.

    The first method must not pay for the others. Methods that train the encoder read no frozen features, and
    mask classifiers have a network of their own.
    """
    specs = [method_spec(name) for name in config.method_names]
    tuned = all(spec.family == "gradient" for spec in specs)
    if tuned and (config.train == "full" or all(spec.mask_classifier for spec in specs)):
        return
    last, regions = len(session.stream.tasks) - 1, session.regions
    if regions is not None and ((tuned and config.decoder != "regions") or not regions.may_keep):
        regions = None
    what = "images" if regions is None else "images and their regions"
    for split in splits:
        loader = session.stream.loader(split, last, "seen", raw=regions is not None)
        ids = loader.dataset.sample_ids  # type: ignore[attr-defined]
        if not session.features.missing(ids, session.facts.input_size) and not (regions and regions.missing(ids)):
            continue
        began = time.perf_counter()
        with progress.bar(f"encoding {split} images", len(ids), "images", line=False) as bar:
            for batch in loader:
                session.features.encode(batch["image"], list(batch["sample_id"]))
                if regions is not None:
                    regions(batch)
                bar.advance(len(batch["sample_id"]))
        said = elapsed(len(ids), time.perf_counter() - began)
        progress.line(f"encoded {len(ids):,} {split} {what} once, for all methods, {said}")


def run_method(
    config: RunConfig, session: Session, name: str, seed: int, folder: Path, progress: RunProgress
) -> MethodState:
    """One method with one seed, from where it stopped."""
    settings = settings_of(config, name)
    tracker = Tracker(config, folder, name, seed, settings)
    try:
        state, method = make_loop(config, session, name, seed, folder, progress, tracker.task).run()
        if seed == config.seeds[0]:
            with progress.bar(f"drawing examples of {name}", None, "", line=False):
                save_examples(folder / "examples", session.stream, method, name)
        method.close()
        tasks = [t.class_names for t in session.stream.tasks]
        tracker.finish(state, method_result(state, tasks, None, settings), folder / "examples")
    finally:
        tracker.close()
    return state


def save_examples(folder: Path, data: IncrementalDataModule, method: ContinualMethod, name: str) -> None:
    """A few test images with the truth, and what `method` says of them after the last task, for the report."""
    from kc.data.dataset import collate_evaluation

    kind, last = data.manifest.task_kind, len(data.tasks) - 1
    size = data.n_images("test", last, "seen")
    # Spread evenly, so that several tasks are shown.
    positions = sorted({(2 * i + 1) * size // (2 * N_EXAMPLES) for i in range(min(N_EXAMPLES, size))})
    dataset = data.dataset("test", last, "seen", raw=True)
    module: Any = method
    module.eval()
    for number, position in enumerate(positions):
        batch = collate_evaluation([dataset[position]])
        example = f"example-{number:02d}"
        truth: Any = batch["label"][0].item() if kind == "classification" else np.asarray(batch[kind][0])
        save_example(folder, example, np.asarray(batch["raw"][0]), truth, list(data.classes.values()))
        prediction = method.predict(to_device(batch, module.device), data.tasks[-1].seen_ids)
        answer = int(answers(prediction)[0]) if kind == "classification" else getattr(prediction, kind)[0]
        save_prediction(folder, example, name, answer)


def make_loop(
    config: RunConfig, session: Session, name: str, seed: int, folder: Path, progress: RunProgress,
    publish: Callable[[MethodState, int], None], split: SplitName = "test",
) -> MethodLoop:  # fmt: skip
    """The stream of one method with one seed, scored on `split`; `publish` receives the state after each task."""
    place = folder / "methods" / f"{name}-s{seed}"
    place.mkdir(parents=True, exist_ok=True)
    data, kind = session.stream, session.facts.kind
    options = TrainerOptions(config.accelerator, config.devices, session.context(name, seed, place, config).training)
    predictions = None
    if config.save_predictions and split == "test":
        reader = data.images.samples(split).reader
        owner_id = reader.owner_id if isinstance(reader, HasOwnerIds) else None
        predictions = PredictionWriter(place / "predictions", kind, data.classes.values(), owner_id)
    make = partial(session.method, name, seed, place, config)
    return MethodLoop(name, seed, make, data, kind, place, options, progress, publish, split, predictions)


def write_everything(folder: Path, results: Results, console: Console) -> None:
    """Results, table, figure and report from the record alone."""
    console.print("writing the report")
    results.save(folder / "results.json")
    metrics_csv(results, folder / "metrics.csv")
    curves(results, folder / "curves.png")
    write_report(folder, results, folder / "report.html")
    show(results, console)
    console.print(f"report: {folder / 'report.html'}", soft_wrap=True)
