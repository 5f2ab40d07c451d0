"""What one run is asked to do: the typed signature behind the command line and YAML files. Loads in milliseconds."""

from __future__ import annotations

import dataclasses
import keyword
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Self, TypeVar

import yaml

from kc.errors import unknown_name
from kc.methods.training_options import TrainingOptions
from kc.spec import Count, DataOptions, Whole, option_name, validated
from kc.types import Setting, StreamKind

Config = TypeVar("Config", bound="RunConfig")


@dataclass(frozen=True)
class RunConfig(TrainingOptions, DataOptions):
    """Compare fine-tuning with retrieval over a stream of tasks.

    Training options come from `TrainingOptions`, where data lies from `DataOptions`.

    `options` holds what is set of each component that runs, by its name: methods, base, encoder, proposals and kind of
    stream. `kc.resolve.resolve` fills in what is left open and refuses what cannot work. `origins` says of each value
    that is not a default where it comes from.

    Args:
        benchmark: Name of a benchmark, or path of a manifest (YAML).
        tasks: Number of tasks the classes are divided into; default: 10, or what --split says.
        split: Named split of the benchmark, such as 6-1, or a published table of class ids (FILE.yaml:NAME); wins over
            --tasks.
        setting: Which images and labels a task sees: overlapped, disjoint, sequential or partition.
        class_order: natural, shuffle:SEED, or a file: one class name or id a line, .npy of class ids, FILE.yaml:NAME.
        image_lists: Files with the training images of each task (MiB, PLOP, CoMFormer, ECLIPSE: train-0.npy ..., or one
            table).
        skip_bad: List images that cannot be read, and go on without them.
        stream: What changes from task to task: class, task (answers restricted to the task's classes), domain, online
            (one pass), blurry, long-tailed, or names (see docs/streams.md).
        shard_order: How training images of shards are shuffled: random, or stream (shard after shard, for shards far
            away).
        methods: Methods to compare, separated by commas.
        encoder: Encoder: lite0, lite1, lite2, timm:MODEL[@FILE], torchvision:MODEL[@FILE], open_clip:MODEL[@FILE] or
            mlp:WIDTHxDEPTH (see kc components).
        base: Open-vocabulary base model that retrieval is fused with and zeroshot is: none, conse, a dense CLIP such
            as gclip, fc-clip@FILE or detectron2:CONFIG.yaml,WEIGHTS.pth (see kc components).
        proposals: Where masks come from in segmentation: superpixels, felzenszwalb, edges, oracle (true segments),
            fc-clip (of the base), or a checkpoint (see kc components); default: what the benchmark recommends, else
            superpixels.
        batch_size: Images a batch.
        keys: How a region becomes a key: pooled (from the image's feature map) or masked (crop, black out, encode);
            default: what the benchmark recommends, else pooled.
        decoder: What fine-tuning classifies in segmentation: pixels, by fpn or deeplabv3, or regions (the proposals and
            keys that retrieval reads); default: what the benchmark recommends, else fpn.
        seed: Seed, or several separated by commas: tables then show mean and deviation.
        out: Folder in which run folders are made.
        resume: Run folder to finish; everything else is read from it, but data and manifest may have been moved.
        accept_changes: Resume a run though data, settings or versions have changed; results.json says what.
        accelerator: Lightning accelerator: auto, cpu, gpu ...
        devices: Number of devices, or of processes with --accelerator cpu; they share each batch out.
        num_workers: Processes that load data; the numbers do not depend on it.
        limit_images: At most so many images a split, for a quick look.
        save_predictions: Write each method's answers on the test images below methods/NAME-sSEED/predictions.
        wandb: Weights & Biases: online, offline or disabled; default: the environment's WANDB_MODE, else offline.
        logger: Further loggers of scores and costs a task, separated by commas: csv, tensorboard.
        wandb_project: Project of the W&B runs; default: the environment's WANDB_PROJECT, else kc.
        wandb_entity: User or team of the W&B runs.
    """

    benchmark: str = "digit-scenes"
    tasks: Count | None = None
    split: str | None = None
    setting: Setting = "overlapped"
    class_order: str = "natural"
    image_lists: Path | None = None
    skip_bad: bool = False
    shard_order: Literal["random", "stream"] = "random"
    stream: StreamKind = "class"
    methods: str = "finetune,replay,joint,knn"
    encoder: str = "lite0"
    base: str = "none"
    proposals: str | None = None
    batch_size: Count = 16
    keys: Literal["pooled", "masked"] | None = None
    decoder: Literal["fpn", "deeplabv3", "regions"] | None = None
    seed: int | str = 0
    out: Path = Path("runs")
    resume: Path | None = None
    accept_changes: bool = False
    accelerator: str = "auto"
    devices: Count = 1
    num_workers: Whole = 0
    limit_images: Count | None = None
    save_predictions: bool = False
    wandb: Literal["online", "offline", "disabled"] | None = None
    logger: str = ""
    wandb_project: str | None = None
    wandb_entity: str | None = None
    options: Mapping[str, Mapping[str, Any]] = field(default_factory=dict, metadata={"flag": False})
    origins: Mapping[str, str] = field(default_factory=dict, compare=False, repr=False, metadata={"flag": False})

    @property
    def method_names(self) -> list[str]:
        """The methods, in order, as given."""
        return [m.strip() for m in self.methods.split(",") if m.strip()]

    @property
    def loggers(self) -> list[str]:
        """The loggers beside W&B, in order, as given."""
        return [m.strip() for m in self.logger.split(",") if m.strip()]

    @property
    def seeds(self) -> list[int]:
        """The seeds. Raises ValueError for what is not a list of whole numbers."""
        return [int(s) for s in str(self.seed).split(",")]

    def of(self, component: str) -> dict[str, Any]:
        """What is set of one component: field -> value."""
        return dict(self.options.get(component, {}))

    def replaced(self, name: str, value: Any) -> Self:
        """With another value of a run option, `lr`, or of a component's, `ewc.lambda`, named as a user writes it."""
        owner, _, option = name.rpartition(".")
        own = {field_name(option): value}
        if not owner:
            return dataclasses.replace(self, **own)
        return dataclasses.replace(self, options={**self.options, owner: self.of(owner) | own})

    def running(self, *methods: str) -> Self:
        """With these methods alone, and without the options of the others."""
        gone = {*self.method_names} - {*methods}
        options = {name: values for name, values in self.options.items() if name not in gone}
        return dataclasses.replace(self, methods=",".join(methods), options=options)


GROUPS: dict[str, tuple[str, ...]] = {
    "what is compared, on what": (
        *(
            "methods",
            "benchmark",
            "data_root",
            "link_roots",
            "tasks",
            "split",
            "setting",
            "class_order",
            "image_lists",
            "stream",
        ),
        *("seed", "limit_images", "skip_bad", "shard_order"),
    ),
    "features, regions and base model": ("encoder", "proposals", "keys", "purity", "decoder", "base"),
    "training, for methods that learn by gradient": tuple(
        f.name for f in dataclasses.fields(TrainingOptions) if f.name != "purity"
    ),
    "where it runs and what it writes": (
        *("out", "resume", "accept_changes", "accelerator", "devices", "batch_size", "num_workers", "save_predictions"),
        *("wandb", "wandb_project", "wandb_entity", "logger"),
    ),
}
"""Sections of the help."""
NOT_FLAGS = ("options", "origins")
"""Fields of a run's config that are no flags."""
NOT_STORED = (
    *NOT_FLAGS,
    *("link_roots", "resume", "accept_changes", "out", "accelerator", "devices", "num_workers"),
    *("wandb", "logger", "wandb_project", "wandb_entity"),
)
"""Fields that may be given together with --resume: they do not change the numbers."""
MOVABLE = ("benchmark", "data_root", "names", "image_lists")
"""Fields that may be given together with --resume where what they name was moved: its contents must be the same."""
PATHS = ("data_root", "names", "grid", "image_lists")
"""Fields that name a folder or file to read (a sweep alone has `grid`)."""


def stored(config: RunConfig) -> dict[str, Any]:
    """The settings that make the numbers, as plain values, options of components nested below their names."""
    flat = {f.name: getattr(config, f.name) for f in dataclasses.fields(config) if f.name not in NOT_STORED}
    plain: dict[str, Any] = yaml.safe_load(yaml.safe_dump(_plain({**flat, **stored_options(config)})))
    return plain


def stored_options(config: RunConfig) -> dict[str, dict[str, Any]]:
    """Component -> its options as plain values, by the names that a user writes."""
    options = config.options.items()
    return {name: {option_name(k): _plain(v) for k, v in values.items()} for name, values in options if values}


def from_stored(kind: type[Config], values: Mapping[str, Any], origins: Mapping[str, str] | None = None) -> Config:
    """The config that `stored` wrote. `origins`: file and line of each setting, and of options as `ewc.lambda`.

    Raises UnknownNameError for a key that is neither field nor nested options, KcError for a value of another type.
    """
    origins = origins or {}
    known = {f.name for f in dataclasses.fields(kind)} - {*NOT_FLAGS}
    nested = {str(k): {field_name(str(o)): x for o, x in v.items()} for k, v in values.items() if isinstance(v, dict)}
    given: dict[str, Any] = {"options": nested}
    for key, value in values.items():
        where = origins.get(str(key), "results.json")
        if key in known:
            given |= validated(kind, {key: value}, f"{where}: ")
        elif key not in nested:
            raise unknown_name(f"setting in {where}:", str(key), known)
    dotted = [name.rpartition(".") for name in origins if "." in name]
    below = {f"{owner}.{field_name(option)}": origins[f"{owner}.{option}"] for owner, _, option in dotted}
    return kind(**given, origins=below)


def field_name(option: str) -> str:
    """`shrink-off` -> `shrink_off`, `lambda` -> `lambda_`: the field of an option as a user writes it."""
    name = option.replace("-", "_")
    return name + "_" * keyword.iskeyword(name)


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    return str(value) if isinstance(value, Path) else value
