"""One resolved config: what is given, then what the benchmark recommends, then defaults. Loads in milliseconds.

What cannot work is refused here, with the nearest valid names, before torch or any data is loaded.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import os
import re
from typing import TYPE_CHECKING, Any

from kc.config import NOT_FLAGS, Config, RunConfig
from kc.data.streams import STREAM_OPTIONS, Stream, check_stream
from kc.encoders.load import check_encoder_name
from kc.errors import KcError, MissingExtraError, UnknownNameError, unknown_name
from kc.methods.names import read_names
from kc.openvocab.load import base_family, check_base
from kc.proposals.load import check_proposals
from kc.registry import METHODS, PROPOSERS, base_spec, method_spec, proposer_spec
from kc.spec import MethodSpec, NoOptions, option_name, validated

if TYPE_CHECKING:
    from kc.data.manifest import Manifest
    from kc.types import Task

LOGGERS = ("csv", "tensorboard")
"""Loggers beside W&B, which has a flag of its own."""
WANDB = {"wandb": ("WANDB_MODE", "offline"), "wandb_project": ("WANDB_PROJECT", "kc")}
"""Field -> the environment variable that decides it where it is not given, and the default."""
WANDB_MODES = {"online": "online", "offline": "offline", "disabled": "disabled", "run": "online", "dryrun": "offline"}
"""Values of WANDB_MODE, old ones among them."""
DEFAULTS = {"proposals": "superpixels", "keys": "pooled", "decoder": "fpn"}
"""What the benchmark decides where it is not given, and what holds where that has no recommendation."""


def resolve(config: Config) -> Config:
    """`config` with every value filled in, the options of each component that runs among them.

    Idempotent. Raises KcError subclasses, each naming the option as a user writes it, for what cannot work.
    """
    from kc.data.manifest import load_manifest

    values = {f.name: getattr(config, f.name) for f in dataclasses.fields(config) if f.name not in NOT_FLAGS}
    config = dataclasses.replace(config, **validated(type(config), values))
    check_lists(config)
    config = with_environment(config)
    check_encoder_name(config.encoder)
    manifest = load_manifest(config.benchmark)
    config = with_recommended(config, manifest)
    config = with_options(config)
    check_proposals(str(config.proposals), others=("oracle", "fc-clip"))
    stream = stream_of(config)
    check_stream(stream, manifest, config.setting)
    tasks_of(config, manifest)
    check_run(config, manifest)
    for name in config.method_names:
        check_method(name, method_spec(name), config, manifest)
    base = base_to_load(config)
    if base != "none":
        check_base(base, config.encoder, manifest.task_kind, manifest.name, **config.of(base_family(base)))
    if config.proposals == "fc-clip" and (base == "none" or base_family(base) != "fc-clip"):
        raise KcError("--proposals fc-clip are the masks of the run's base: add --base fc-clip@FILE")
    return config


def with_environment(config: Config) -> Config:
    """Fill in what was left open of W&B by its own environment variables. Raises KcError for what W&B does not take."""
    filled: dict[str, Any] = {}
    origins = dict(config.origins)
    for name, (variable, default) in WANDB.items():
        if getattr(config, name) is None:
            given = os.environ.get(variable)
            filled[name] = WANDB_MODES.get(given, given) if given and name == "wandb" else given or default
            if given:
                origins[name] = variable
    config = dataclasses.replace(config, **filled, origins=origins)
    if config.wandb not in WANDB_MODES.values():
        raise KcError(f"WANDB_MODE is {config.wandb!r}; expected {', '.join(WANDB_MODES)}")
    project = str(config.wandb_project)
    if not re.fullmatch(r"[^/\\#?%:]{1,128}", project):
        origin = origins.get("wandb_project", "given")
        raise KcError(f"--wandb-project {project} ({origin}): W&B takes 1 to 128 characters, none of / \\ # ? % :")
    return config


def with_recommended(config: Config, manifest: Manifest) -> Config:
    """Fill in what was left open by what the benchmark recommends, so that the stored config says what was used."""
    filled: dict[str, Any] = {}
    origins = dict(config.origins)
    for name in (name for name in DEFAULTS if getattr(config, name) is None):
        wanted = None if manifest.task_kind == "classification" else getattr(manifest.recommended, name)
        filled[name] = wanted or DEFAULTS[name]
        origins |= {name: f"recommended by {manifest.name}"} if wanted else {}
    return dataclasses.replace(config, **validated(type(config), filled), origins=origins)


def components(config: RunConfig) -> dict[str, type[Any]]:
    """Every component that runs and has options, by its name: methods, base, proposer, kind of stream."""
    found = {name: method_spec(name).options for name in config.method_names}
    base = base_to_load(config)
    if base != "none":
        found[base_family(base)] = base_spec(base_family(base)).options
    proposer = (config.proposals or "").partition(":")[0]
    if proposer in PROPOSERS and proposer not in found:
        found[proposer] = proposer_spec(proposer).options
    found[config.stream] = STREAM_OPTIONS.get(config.stream, NoOptions)
    return {name: options for name, options in found.items() if dataclasses.fields(options)}


def with_options(config: Config) -> Config:
    """With all options of every component that runs. Raises UnknownNameError for those of one that does not run."""
    running = components(config)
    for owner, values in config.options.items():
        if owner not in running and values:
            name = f"--{owner}.{option_name(next(iter(values)))}"
            valid = [f"{o}.{option_name(f.name)}" for o, kind in running.items() for f in dataclasses.fields(kind)]
            known = f"{owner!r} does not run" if owner in {*METHODS, *PROPOSERS} else f"there is no {owner!r} here"
            where = _file(config, owner, next(iter(values)))
            raise UnknownNameError(f"{where}{name}: {known}. Options of what runs: {', '.join(valid) or 'none'}.")
    filled = {}
    for owner, kind in running.items():
        given: dict[str, Any] = {}
        for name, value in config.of(owner).items():
            given |= validated(kind, {name: value}, f"{_file(config, owner, name)}--{owner}.")
        filled[owner] = {f.name: given.get(f.name, f.default) for f in dataclasses.fields(kind)}
    return dataclasses.replace(config, options=filled)


def _file(config: RunConfig, owner: str, option: str) -> str:
    """`FILE: ` where the option of a component comes from a file."""
    origin = config.origins.get(f"{owner}.{option}", "command line")
    return "" if origin == "command line" else f"{origin}: "


def check_lists(config: RunConfig) -> None:
    """Refuse lists of methods, seeds and loggers that name what does not exist, or something twice."""
    if not config.method_names:
        raise UnknownNameError(f"--methods is empty. Valid: {', '.join(METHODS)}.")
    for name in config.method_names:
        if name not in METHODS:
            raise unknown_name("method", name, METHODS)
    if len(set(config.method_names)) < len(config.method_names):
        raise KcError(f"--methods {config.methods}: a method is there twice")
    for name in config.loggers:
        if name not in LOGGERS:
            raise unknown_name("logger", name, LOGGERS)
    if "tensorboard" in config.loggers and importlib.util.find_spec("tensorboard") is None:
        raise MissingExtraError("--logger tensorboard needs tensorboard: pip install 'kc-continual[tensorboard]'")
    try:
        seeds = config.seeds
    except ValueError as error:
        raise KcError(f"--seed {config.seed!r}: expected a whole number or several separated by commas") from error
    if min(seeds) < 0 or len(set(seeds)) < len(seeds):
        raise KcError(f"--seed {config.seed}: seeds must be different and not negative")


def check_run(config: RunConfig, manifest: Manifest) -> None:
    """Refuse settings of the run that do not go together, or with the benchmark."""
    if config.batch_size % config.devices:
        raise KcError(f"--batch-size {config.batch_size} is shared by --devices {config.devices}: it must divide")
    if config.patience and config.ema:
        raise KcError("--patience and --ema both choose the weights that a task ends with: give one of them")
    if config.patience and "val" not in manifest.splits:
        raise KcError(f"--patience needs a validation split; {manifest.name} has only {', '.join(manifest.splits)}")
    if manifest.task_kind not in check_encoder_name(config.encoder).kinds:
        raise KcError(f"encoder {config.encoder} classifies images; {manifest.name} is {manifest.task_kind}")
    if config.stream == "online" and str(config.epochs) != "1":
        raise KcError(f"an online stream shows every image once, --epochs {config.epochs} more often: give --epochs 1")
    specs = [method_spec(name) for name in config.method_names]
    # Mask classifiers have a network of their own, whatever decoder is recommended; memories train nothing.
    trained = any(s.family == "gradient" and not s.mask_classifier for s in specs)
    alone = not any(s.mask_classifier for s in specs)
    if reads_regions(config, manifest) and config.train == "full" and (trained or alone):
        raise KcError("--train full changes the encoder, but --decoder regions reads frozen keys: add --decoder fpn")


def reads_regions(config: RunConfig, manifest: Manifest) -> bool:
    """Whether fine-tuning classifies the keys of regions."""
    return manifest.task_kind != "classification" and config.decoder == "regions"


def check_method(name: str, spec: MethodSpec, config: RunConfig, manifest: Manifest) -> None:
    """Refuse a method that cannot do the benchmark or the stream, or that lacks something."""
    try:
        spec.options(**config.of(name))
    except ValueError as error:
        raise KcError(f"--{name}: {error}") from error
    kind = manifest.task_kind
    if kind not in spec.kinds:
        other = "use knn" if spec.kinds == ("classification",) else "use lwf, ewc or replay"
        does = " and ".join(spec.kinds)
        raise KcError(f"method {name!r} does {does}; {manifest.name} is {kind}: {other}")
    if reads_regions(config, manifest):
        if spec.trains_encoder:
            raise KcError(f"{name} changes the encoder, but --decoder regions reads frozen keys: add --decoder fpn")
        if spec.pixels and not spec.mask_classifier:
            raise KcError(f"{name} compares maps of pixels, but --decoder regions has none: add --decoder fpn")
    if spec.background and kind == "panoptic" and manifest.background_id is None:
        needs = f"method {name!r} looks for old classes where nothing is labelled"
        raise KcError(f"{needs}; the panoptic {manifest.name} has no background class: use lwf, ilt or replay")
    n_classes = sum(not c.background for c in manifest.info)
    if spec.exemplars and config.exemplars < n_classes:
        given = f"{name}: --exemplars {config.exemplars} for the {n_classes} classes of {manifest.name}"
        raise KcError(f"{given}; it must be at least the number of classes")
    if config.patience and spec.answers_late:
        raise KcError(f"{name} can answer only when a task ends: it does not go with --patience")
    if spec.package and importlib.util.find_spec(spec.package) is None:
        raise MissingExtraError(f"{name} needs {spec.package}: pip install 'kc-continual[{spec.extra}]'")
    if (names := config.of(name).get("names")) is not None:
        read_names(names)
    if (fusion := config.of(name).get("fusion", "fixed")) != "fixed" and config.devices > 1:
        raise KcError(f"--{name}.fusion {fusion} keeps what the base said of each row in one process: --devices 1")
    if config.stream == "online" and spec.second_pass:
        raise KcError(f"{name} looks at training images a second time, which an online stream does not allow")
    if config.stream == "names" and not (spec.by_name and base_to_load(config) != "none"):
        able = ", ".join(sorted(n for n in METHODS if method_spec(n).by_name))
        needs = f"{name} learns classes from images, but after the first task a stream of names has none"
        raise KcError(f"{needs}: use {able} on an open-vocabulary model (--base)")
    if config.stream not in (*spec.streams, "names"):
        needs = f"{name} takes a class to belong to one task, but in a {config.stream} stream it comes in several"
        raise KcError(f"{needs}: use finetune, replay, lwf, er, ncm or knn")


def stream_of(config: RunConfig) -> Stream:
    """The kind of stream with its numbers. Raises KcError for what does not exist or is out of range."""
    names = {
        "domain": {"corruptions": "domains"},
        "blurry": {"classes": "blurry_classes", "leak": "leak", "leak_to": "leak_to"},
        "long-tailed": {"imbalance": "imbalance"},
    }.get(config.stream, {})
    return Stream(config.stream, **{names[k]: v for k, v in config.of(config.stream).items()})


def base_to_load(config: RunConfig) -> str:
    """The base model to load: as given, or conse where a method needs one."""
    needed = any(method_spec(name).base == "required" for name in config.method_names)
    return "conse" if config.base == "none" and needed else config.base


def tasks_of(config: RunConfig, manifest: Manifest, seed: int | None = None) -> tuple[Task, ...]:
    """The tasks of a run with one of its seeds, by default the first. Raises KcError where they cannot be built."""
    from kc.data.split import build_tasks

    seed = config.seeds[0] if seed is None else seed
    return build_tasks(manifest, n_tasks(config), config.split, config.class_order, stream_of(config), seed)


def n_tasks(config: RunConfig) -> int | None:
    """Number of tasks to divide into: as given, what the split or the domains say, or 10."""
    given = config.stream == "domain" or config.tasks is not None or config.split is not None
    return config.tasks if given else 10
