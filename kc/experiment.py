"""The wiring of one run: benchmark, encoder, proposals and base model once; then every method over the stream."""

from __future__ import annotations

import dataclasses
import importlib
import os
import platform
import shlex
import time
from collections.abc import Callable, Mapping
from datetime import datetime
from hashlib import sha256
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
import yaml
from rich.console import Console

from kc import __version__
from kc.checks import base_of, dense_options, fc_clip_options, n_tasks, stream_of
from kc.config import RunConfig
from kc.data.content import content_key
from kc.data.datamodule import IncrementalDataModule
from kc.data.lists import fingerprint
from kc.data.manifest import Manifest, Recommended, load_manifest
from kc.data.predictions import PredictionWriter
from kc.data.readers.base import Reader
from kc.encoders.base import Encoder
from kc.encoders.cache import FeatureCache
from kc.encoders.load import load_encoder
from kc.errors import KcError, RunError
from kc.files import cache_dir, write_atomic
from kc.methods.base import Context, ContinualMethod
from kc.methods.config import MethodConfig
from kc.methods.distributed import process_rank
from kc.methods.finetune.module import FinetuneModule
from kc.methods.regions import RegionEncoder
from kc.methods.retrieval.module import RetrievalModule
from kc.openvocab.base import OpenVocabulary
from kc.openvocab.load import load_base
from kc.parsing import NOT_STORED, Config
from kc.progress import elapsed
from kc.proposals.base import Proposer
from kc.proposals.cache import PartitionCache
from kc.proposals.load import load_proposer, reads_names
from kc.registry import MASKS, METHODS, NEEDS_BASE
from kc.report.figures import curves
from kc.report.html import write_report
from kc.report.records import Results, metrics_csv
from kc.report.tables import show
from kc.showcase import save_examples
from kc.stream.loop import MethodLoop, TrainerOptions, quiet_lightning
from kc.stream.progress import RunProgress
from kc.stream.results import build_results, method_result
from kc.stream.resume import MethodState
from kc.tracking import Tracker
from kc.types import ClassInfo, SplitName

FOLDER_OF_HELPERS = "KC_RUN_FOLDER"
"""Environment variable by which the processes of one run agree on its folder."""


@dataclasses.dataclass
class Shared:
    """What all methods of a run read and none changes."""

    data: IncrementalDataModule
    encoder: Encoder
    features: FeatureCache
    regions: RegionEncoder | None
    base: OpenVocabulary | None


def run(config: RunConfig, console: Console | None = None) -> Path:
    """Do everything `config` asks for and return the run folder.

    Raises KcError subclasses for what a user can act on. A folder from `config.resume` is finished, not repeated.
    """
    console = console or Console(markup=False)
    quiet_lightning()
    config = with_recommended(config, load_manifest(config.benchmark))
    if process_rank() > 0:
        return help_out(config)
    data = open_data(config)
    folder = config.resume or new_folder(config)
    if config.devices > 1:
        os.environ[FOLDER_OF_HELPERS] = str(folder.absolute())
    compare(config, data, folder, console, f"kc run --resume {shlex.quote(str(folder))}")
    return folder


def compare(
    config: RunConfig,
    data: IncrementalDataModule,
    folder: Path,
    console: Console,
    again: str,
    own: Mapping[str, RunConfig] | None = None,
) -> list[MethodState]:
    """Every method with every seed over the stream, then results and report in `folder`.

    `own`: the config of methods that do not run with the common one. `again`: the command that goes on after a stop.
    """
    own = own or {}
    kind = data.manifest.task_kind
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
    states: list[MethodState] = []
    fingerprints: dict[str, str] = {}
    try:
        with RunProgress(console) as progress:
            for seed in config.seeds:
                if len(config.seeds) > 1:
                    progress.line(f"seed {seed}")
                data = data if seed == data.seed else open_data(config, seed)
                shared = prepare(config, data)
                if shared.base is not None:
                    progress.line(f"base {shared.base.key}")
                fingerprints = check_fingerprints(folder, shared)
                warm(shared, config, progress)
                for name in config.method_names:
                    states.append(run_method(own.get(name, config), shared, name, seed, folder, progress))
    except KeyboardInterrupt:
        console.print(f"go on after the last finished task with: {again}", soft_wrap=True)
        raise
    results = build_results(
        states,
        benchmark=data.manifest.name,
        task_kind=kind,
        setting=data.setting,
        split=config.split,
        tasks=[t.class_names for t in data.tasks],
        seeds=config.seeds,
        config=stored_config(config),
        versions=versions(),
        fingerprints=fingerprints,
        own_configs={name: stored_config(c) for name, c in own.items()},
        read_bytes=data.read_bytes(),
    )
    write_everything(folder, results, console)
    return states


def help_out(config: RunConfig) -> Path:
    """What a process does that Lightning started for `--devices`: train along, and keep no record.

    It runs the same command, so it comes to the same methods and tasks in the same order. Methods that neither train
    nor keep a memory are left to the first process.
    """
    if FOLDER_OF_HELPERS not in os.environ:
        raise RunError("RANK or LOCAL_RANK is set, but `kc run --devices N` starts its processes itself: run it once")
    folder = Path(os.environ[FOLDER_OF_HELPERS])
    for seed in config.seeds:
        shared = prepare(config, open_data(config, seed))
        for name in config.method_names:
            method = method_class(name)
            if not issubclass(method, RetrievalModule) or method.remembers:
                progress = RunProgress(Console(quiet=True))
                make_loop(config, shared, name, seed, folder, progress, lambda state, t: None).run()
    return folder


def with_recommended(config: Config, manifest: Manifest) -> Config:
    """Fill in what was left open by what the benchmark recommends, so that the stored config says what was used."""
    if manifest.task_kind == "classification":
        wanted = Recommended()
    else:
        wanted = manifest.recommended
    return dataclasses.replace(
        config,
        proposals=config.proposals or wanted.proposals or "superpixels",
        keys=config.keys or wanted.keys or "pooled",
        decoder=config.decoder or wanted.decoder or "fpn",
    )


def open_data(
    config: RunConfig, seed: int | None = None, readers: Mapping[SplitName, Reader] | None = None
) -> IncrementalDataModule:
    """The stream of tasks; every error of a benchmark shows here, before a network is built.

    `readers`: these splits, instead of those of the benchmark.
    """
    data = IncrementalDataModule(
        config.benchmark,
        tasks=n_tasks(config),
        split=config.split,
        setting=config.setting,  # type: ignore[arg-type]  # checked by kc.checks.check
        class_order=config.class_order,
        data_root=config.data_root,
        batch_size=config.batch_size,
        num_workers=config.num_workers,
        seed=config.seeds[0] if seed is None else seed,
        limit_images=config.limit_images,
        readers=readers,
        stream=stream_of(config),
        image_lists=config.image_lists,
        skip_bad=config.skip_bad,
        shard_order=config.shard_order,  # type: ignore[arg-type]  # checked by kc.checks.check
    )
    data.setup()
    return data


def new_folder(config: RunConfig) -> Path:
    """Make `out/<time>-<benchmark>/` with the config in it. Raises RunError where it cannot be written."""
    name = Path(config.benchmark).stem
    stamp = datetime.now().strftime("%Y%m%d-%H%M%S")
    folder = config.out / f"{stamp}-{name}"
    number = 2
    while folder.exists():
        folder = config.out / f"{stamp}-{name}-{number}"
        number += 1
    try:
        folder.mkdir(parents=True)
    except OSError as error:
        raise RunError(f"{folder} cannot be made ({error.strerror}); choose another --out") from error
    text = yaml.safe_dump(stored_config(config), sort_keys=False, allow_unicode=True)
    write_atomic(folder / "config.yaml", text.encode())
    return folder


def stored_config(config: RunConfig) -> dict[str, Any]:
    """The settings that make the numbers, as plain values; where they are run and shown is not part of them."""
    values = {k: v for k, v in dataclasses.asdict(config).items() if k not in NOT_STORED}
    return {k: str(v) if isinstance(v, Path) else v for k, v in values.items()}


def prepare(config: RunConfig, data: IncrementalDataModule) -> Shared:
    """Encoder, proposals and base model with their caches."""
    encoder = load_encoder(config.encoder)
    place = cache_dir() / "derived" / f"{data.manifest.name}-{content_key(data.manifest, data.data_root)}"
    features = FeatureCache(place / "features", encoder)
    wanted, base = base_of(config), None
    if wanted != "none":
        texts, name = cache_dir() / "derived" / "text", data.manifest.name
        options = dataclasses.replace(dense_options(config, name), cache=texts)
        device = "cuda" if config.accelerator in ("auto", "gpu", "cuda") and torch.cuda.is_available() else "cpu"
        fc_clip = dataclasses.replace(fc_clip_options(config, name), cache=texts, device=device)
        base = load_base(wanted, encoder, options, fc_clip)
    regions: RegionEncoder | None = None
    if data.manifest.task_kind != "classification":
        assert config.proposals is not None
        assert config.keys is not None
        partitions: PartitionCache | None = None
        if config.proposals != "oracle":
            partitions = PartitionCache(place / "proposals", proposer_of(config.proposals, base, data.classes))
        regions = RegionEncoder(encoder, features, partitions, config.keys, folder=place / "keys")
    return Shared(data, encoder, features, regions, base)


def proposer_of(name: str, base: OpenVocabulary | None, classes: Mapping[int, ClassInfo]) -> Proposer:
    """The proposer `name`; `fc-clip` is that of the run's base. Raises KcError where that is another base."""
    if name != "fc-clip":
        return load_proposer(name, **({"names": [c.name for c in classes.values()]} if reads_names(name) else {}))
    from kc.openvocab.fc_clip.base import FcClipBase

    if not isinstance(base, FcClipBase):
        raise KcError("--proposals fc-clip are the masks of the run's base: add --base fc-clip@FILE")
    return base.proposer()


def check_fingerprints(folder: Path, shared: Shared) -> dict[str, str]:
    """What produced the numbers; a resumed run must find the same. Raises RunError naming what differs."""
    now = {"benchmark": shared.data.manifest.fingerprint, "encoder": shared.encoder.fingerprint}
    if shared.data.image_lists is not None:
        now["image lists"] = fingerprint(shared.data.image_lists)
    if skipped := [problem for problems in shared.data.skipped.values() for problem in problems]:
        now["skipped images"] = f"{len(skipped)}: {sha256(repr(skipped).encode()).hexdigest()[:16]}"
    if shared.regions is not None:
        now["proposals"] = shared.regions.source
    if shared.base is not None:
        now["base"] = shared.base.key
    path = folder / "fingerprints.yaml"
    if path.exists():
        stored = yaml.safe_load(path.read_text(encoding="utf-8"))
        if stored != now:
            raise RunError(f"{folder} was made with {stored}, but now there is {now}: start a new run")
    else:
        write_atomic(path, yaml.safe_dump(now).encode())
    return now


def warm(
    shared: Shared, config: RunConfig, progress: RunProgress, splits: tuple[SplitName, ...] = ("train", "test")
) -> None:
    """Encode every image, and its regions where a method reads them, before the clocks of the methods start.

    The first method must not pay for the others. Methods that train the encoder read no frozen features, and
    mask classifiers have a network of their own.
    """
    tuned = all(issubclass(method_class(name), FinetuneModule) for name in config.method_names)
    if tuned and (config.train == "full" or set(config.method_names) <= MASKS):
        return
    last = len(shared.data.tasks) - 1
    size = shared.data.manifest.input_size
    regions = shared.regions
    if regions is not None and ((tuned and config.decoder != "regions") or not regions.may_keep):
        regions = None
    what = "images" if regions is None else "images and their regions"
    for split in splits:
        loader = shared.data.loader(split, last, "seen", raw=regions is not None)
        ids = loader.dataset.sample_ids  # type: ignore[attr-defined]
        if not shared.features.missing(ids, (size[0], size[1])) and (regions is None or not regions.missing(ids)):
            continue
        began = time.perf_counter()
        with progress.bar(f"encoding {split} images", len(ids), "images", line=False) as bar:
            for batch in loader:
                shared.features.encode(batch["image"], list(batch["sample_id"]))
                if regions is not None:
                    regions(batch)
                bar.advance(len(batch["sample_id"]))
        said = elapsed(len(ids), time.perf_counter() - began)
        progress.line(f"encoded {len(ids):,} {split} {what} once, for all methods, {said}")


def run_method(
    config: RunConfig, shared: Shared, name: str, seed: int, folder: Path, progress: RunProgress
) -> MethodState:
    """One method with one seed, from where it stopped."""
    settings = stored_config(config)
    tracker = Tracker(config, folder, name, seed, settings)
    try:
        state, method = make_loop(config, shared, name, seed, folder, progress, tracker.task).run()
        if seed == config.seeds[0]:
            save_examples(folder / "examples", shared.data, method, name)
        method.close()
        tasks = [t.class_names for t in shared.data.tasks]
        tracker.finish(method_result(state, tasks, None, settings), folder / "examples")
    finally:
        tracker.close()
    return state


def make_loop(
    config: RunConfig,
    shared: Shared,
    name: str,
    seed: int,
    folder: Path,
    progress: RunProgress,
    publish: Callable[[MethodState, int], None],
    split: SplitName = "test",
) -> MethodLoop:
    """The stream of one method with one seed, scored on `split`; `publish` receives the state after each task."""
    place = folder / "methods" / f"{name}-s{seed}"
    place.mkdir(parents=True, exist_ok=True)
    method_config = MethodConfig(**{f.name: getattr(config, f.name) for f in dataclasses.fields(MethodConfig)})

    def make() -> ContinualMethod:
        context = Context(
            kind=shared.data.manifest.task_kind,
            classes=shared.data.classes,
            encoder=shared.encoder,
            features=shared.features,
            config=method_config,
            seed=seed,
            folder=place,
            regions=shared.regions,
            base=shared.base if config.base != "none" or name in NEEDS_BASE else None,
            input_size=shared.data.manifest.input_size,
        )
        method: ContinualMethod = method_class(name)(context)
        return method

    kind = shared.data.manifest.task_kind
    options = TrainerOptions(config.accelerator, config.devices, method_config)
    predictions = None
    if config.save_predictions and split == "test":
        predictions = PredictionWriter(place / "predictions", kind, shared.data.classes.values())
    return MethodLoop(name, seed, make, shared.data, kind, place, options, progress, publish, split, predictions)


def method_class(name: str) -> type[Any]:
    """The class behind a method's name: called with a `Context`, it makes a `ContinualMethod`."""
    module, _, attribute = METHODS[name].partition(":")
    found: type[Any] = getattr(importlib.import_module(module), attribute)
    return found


def versions() -> dict[str, str]:
    """Versions of what the numbers depend on."""
    found = {"kc": __version__, "python": platform.python_version(), "platform": platform.platform()}
    for package in ("torch", "torchvision", "lightning", "timm", "faiss-cpu", "scikit-image", "numpy", "mlxtend"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found | {"cpus": str(os.cpu_count())}


def write_everything(folder: Path, results: Results, console: Console) -> None:
    """Results, table, figure and report from the record alone."""
    results.save(folder / "results.json")
    metrics_csv(results, folder / "metrics.csv")
    curves(results, folder / "curves.png")
    write_report(folder, results, folder / "report.html")
    show(results, console)
    console.print(f"report: {folder / 'report.html'}", soft_wrap=True)
