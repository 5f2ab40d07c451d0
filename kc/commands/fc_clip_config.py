"""What `kc fc-clip` is asked to do: the typed signature behind its command line. Loads in milliseconds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from kc.errors import KcError, unknown_name
from kc.openvocab.fc_clip.options import PUBLISHED_CLIP
from kc.parsing import parser, values_of

ACTIONS = ("convert", "train")


@dataclass(frozen=True)
class FcClipCommandConfig:
    """Convert the published weights of FC-CLIP, or train one.

    Args:
        action: convert (IN OUT) or train (OUT).
        first: convert: the authors' checkpoint (.pth, or .pkl with --allow-pickle); train: safetensors file to write.
        second: convert: safetensors file to write.
        clip: The ConvNeXt CLIP inside, by open_clip's name.
        clip_weights: train: its weights: a file or a tag of the hub; default: the model's first tag.
        names: File with one class a line, synonyms separated by commas: what was trained on; default: convert: COCO
            panoptic; train: the names of the benchmark, for coco-panoptic those that the authors trained with.
        allow_pickle: convert: read a .pkl, which can run any code; for files whose source you trust.
        benchmark: train: a panoptic or semantic benchmark; its training split is read.
        data_root: train: folder that holds the data sets; default: the environment variable KC_DATA.
        steps: train: optimiser steps.
        batch_size: train: images a step.
        accumulate: train: parts that a batch is computed in, to save memory; each is normalised by itself.
        lr: train: learning rate.
        crop: train: side of the square that is cut from each image.
        points: train: points at which masks are compared.
        device: train: cpu, cuda ...
        num_workers: train: processes that load images; the numbers do not depend on it.
        seed: train: seed of everything that is drawn.
        save_every: train: steps between two states that --resume can go on from.
        resume: train: go on from the last state beside OUT.
        limit_images: train: at most so many images, for a quick look.
    """

    action: str
    first: Path
    second: Path | None = None
    clip: str = PUBLISHED_CLIP
    clip_weights: str | None = None
    names: Path | None = None
    allow_pickle: bool = False
    benchmark: str = "coco-panoptic"
    data_root: Path | None = None
    steps: int = 368_750
    batch_size: int = 16
    accumulate: int = 1
    lr: float = 1e-4
    crop: int = 1024
    points: int = 12_544
    device: str = "cpu"
    num_workers: int = 0
    seed: int = 0
    save_every: int = 5000
    resume: bool = False
    limit_images: int | None = None


POSITIONAL = ("action", "first", "second")


def check_fc_clip_command(config: FcClipCommandConfig) -> None:
    """Refuse what cannot work, before torch is loaded. Raises KcError."""
    if config.action not in ACTIONS:
        raise unknown_name("action", config.action, ACTIONS)
    if config.action == "convert" and config.second is None:
        raise KcError("kc fc-clip convert IN OUT: OUT is missing")
    if config.action == "train" and config.second is not None:
        raise KcError(f"kc fc-clip train OUT takes one file, got also {config.second}")
    target = config.second if config.second is not None else config.first
    if target.suffix != ".safetensors":
        raise KcError(f"{target}: what is written is a .safetensors file")
    for field in ("steps", "batch_size", "accumulate", "lr", "points", "save_every"):
        if getattr(config, field) <= 0:
            raise KcError(f"--{field.replace('_', '-')} {getattr(config, field)}: must be above 0")
    if config.crop < 32 or config.crop % 32:
        raise KcError(f"--crop {config.crop}: must be a multiple of 32")
    if config.batch_size % config.accumulate:
        raise KcError(f"--batch-size {config.batch_size} is computed in --accumulate {config.accumulate} equal parts")


def main(arguments: Sequence[str], prog: str) -> int:
    """`kc fc-clip`. Returns the exit status."""
    p = parser(prog, FcClipCommandConfig, "Convert the published weights of FC-CLIP, or train one.", POSITIONAL)
    config = FcClipCommandConfig(**values_of(p, arguments))
    check_fc_clip_command(config)
    from kc.commands.fc_clip import run_fc_clip

    return run_fc_clip(config)
