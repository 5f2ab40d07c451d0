"""`kc fc-clip`: the authors' weights as safetensors, and training from a benchmark."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from kc.actions import Table
from kc.commands.console import Terminal
from kc.errors import DivergedError, KcError, RunError
from kc.openvocab.fc_clip.options import PUBLISHED_CLIP, FcClipConfig
from kc.spec import Count, DataOptions, Positive, Whole

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from kc.data.manifest import Manifest
    from kc.data.readers.base import Reader
    from kc.openvocab.fc_clip.network import FcClip
    from kc.openvocab.fc_clip.training import FcClipLoss, Recipe, Target

ACTIONS: Table = {
    "convert": ("kc.commands.fc_clip:convert", "the authors' checkpoint as a safetensors file"),
    "train": ("kc.commands.fc_clip:train", "train one on the training split of a benchmark"),
}
LINES_EVERY = 20
"""Steps between two lines of progress."""


@dataclass(frozen=True, kw_only=True)
class ConvertConfig:
    """Convert the published weights of FC-CLIP.

    Args:
        checkpoint: The authors' checkpoint (.pth, or .pkl with --allow-pickle).
        out: safetensors file to write.
        clip: The ConvNeXt CLIP inside, by open_clip's name.
        names: File with one class a line, synonyms separated by commas: what was trained on; default: COCO panoptic.
        allow_pickle: Read a .pkl, which can run any code; for files whose source you trust.
    """

    checkpoint: Path
    out: Path
    clip: str = PUBLISHED_CLIP
    names: Path | None = None
    allow_pickle: bool = False


@dataclass(frozen=True, kw_only=True)
class TrainConfig(DataOptions):
    """Train an FC-CLIP on the training split of a benchmark.

    Args:
        out: safetensors file to write.
        clip: The ConvNeXt CLIP inside, by open_clip's name.
        clip_weights: Its weights: a file or a tag of the hub; default: the model's first tag.
        names: File with one class a line, synonyms separated by commas; default: the names of the benchmark, for
            coco-panoptic those that the authors trained with.
        benchmark: A panoptic or semantic benchmark; its training split is read.
        steps: Optimiser steps.
        batch_size: Images a step.
        accumulate: Parts that a batch is computed in, to save memory; each is normalised by itself.
        lr: Learning rate.
        crop: Side of the square that is cut from each image, a multiple of 32.
        points: Points at which masks are compared.
        device: cpu, cuda ...
        num_workers: Worker processes that load images; the numbers do not depend on it.
        seed: Seed of everything that is sampled.
        save_every: Steps between two states that --resume can go on from.
        resume: Go on from the last state beside OUT.
        limit_images: At most so many images, for a quick look.
    """

    out: Path
    clip: str = PUBLISHED_CLIP
    clip_weights: str | None = None
    names: Path | None = None
    benchmark: str = "coco-panoptic"
    steps: Count = 368_750
    batch_size: Count = 16
    accumulate: Count = 1
    lr: Positive = 1e-4
    crop: Count = 1024
    points: Count = 12_544
    device: str = "cpu"
    num_workers: Whole = 0
    seed: int = 0
    save_every: Count = 5000
    resume: bool = False
    limit_images: Count | None = None


def convert(config: ConvertConfig) -> int:
    """`kc fc-clip convert`. Returns the exit status."""
    _check_out(config.out)
    from kc.openvocab.fc_clip.checkpoint import convert as convert_file

    names = None if config.names is None else read_names(config.names)
    network = convert_file(config.checkpoint, config.out, config.clip, names, allow_pickle=config.allow_pickle)
    weights = sum(p.numel() for p in network.parameters()) / 1e6
    Terminal().say(
        f"written: {config.out}, FC-CLIP on {network.config.clip}, {weights:.0f} million weights, "
        f"{network.config.queries} queries, trained on {len(network.names)} classes; use it as "
        f"--base fc-clip@{config.out}"
    )
    return 0


def _check_out(path: Path) -> None:
    if path.suffix != ".safetensors":
        raise KcError(f"{path}: what is written is a .safetensors file")


def read_names(path: Path) -> list[tuple[str, ...]]:
    """Per line one class, its synonyms separated by commas. Raises KcError for a line without a name."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise KcError(f"--names {path} cannot be read ({error})") from error
    found = [tuple(name.strip() for name in line.split(",")) for line in lines]
    empty = [number for number, names in enumerate(found, 1) if not all(names)]
    if empty or not found:
        raise KcError(f"--names {path}: an empty name in line {empty[0]}" if empty else f"--names {path} is empty")
    return found


def names_for(config: TrainConfig, manifest: Manifest) -> list[tuple[str, ...]]:
    """Per class of the benchmark what is trained on. Raises KcError where a file has another number of classes."""
    from kc.openvocab.base import names_of
    from kc.openvocab.fc_clip.coco import COCO_NAMES

    if config.names is not None:
        found = read_names(config.names)
    elif manifest.name == "coco-panoptic":
        found = list(COCO_NAMES)
    else:
        found = names_of(manifest.info)
    if len(found) != len(manifest.info):
        raise KcError(f"{len(found)} classes are named, but {manifest.name} has {len(manifest.info)}")
    return found


class Examples:
    """The examples of steps `start` to `config.steps`: a new order every epoch, all sampled from seed and place."""

    def __init__(self, reader: Reader, positions: Mapping[int, int], config: TrainConfig, start: int) -> None:
        self.reader, self.positions, self.config = reader, positions, config
        self.first = start * config.batch_size

    def __len__(self) -> int:
        return self.config.steps * self.config.batch_size - self.first

    def __getitem__(self, item: int) -> tuple[Tensor, Target]:
        from kc.openvocab.fc_clip.training import Recipe, example

        place = self.first + item
        epoch, position = divmod(place, len(self.reader))
        sample = self.reader.read(int(_order(self.config.seed, epoch, len(self.reader))[position]))
        rng = np.random.default_rng([self.config.seed, 1, place])
        return example(sample, self.positions, self.config.crop, Recipe().scales, rng)


@lru_cache(maxsize=2)
def _order(seed: int, epoch: int, n: int) -> Any:
    return np.random.default_rng([seed, 0, epoch]).permutation(n)


def _collate(items: list[tuple[Tensor, Target]]) -> tuple[Tensor, list[Target]]:
    import torch

    return torch.stack([image for image, _ in items]), [target for _, target in items]


def train(config: TrainConfig) -> int:
    """`kc fc-clip train`. Returns the exit status."""
    _check_out(config.out)
    if config.crop % 32:
        raise KcError(f"--crop {config.crop}: must be a multiple of 32")
    if config.batch_size % config.accumulate:
        raise KcError(f"--batch-size {config.batch_size} is computed in --accumulate {config.accumulate} equal parts")
    import torch
    from torch.utils.data import DataLoader

    from kc.data.manifest import load_manifest
    from kc.data.readers.open import open_reader
    from kc.encoders.open_clip_model import OpenClipEncoder, load_open_clip
    from kc.openvocab.dense_clip.text import TextBank
    from kc.openvocab.fc_clip.base import TEMPLATES
    from kc.openvocab.fc_clip.checkpoint import save_fc_clip
    from kc.openvocab.fc_clip.network import FcClip, check_convnext
    from kc.openvocab.fc_clip.training import FcClipLoss, Recipe, optimizer_for

    console, manifest = Terminal(), load_manifest(config.benchmark)
    if manifest.task_kind == "classification":
        raise KcError(f"FC-CLIP learns masks; {manifest.name} is classification")
    names = names_for(config, manifest)
    check_convnext(config.clip)
    reader = open_reader(manifest, "train", config.data_root, config.limit_images)
    state = config.out.with_suffix(".state.pt")
    if state.exists() and not config.resume:
        raise RunError(f"{state} is the state of a training that was stopped: add --resume, or delete it")
    clip = load_open_clip(config.clip, config.clip_weights).network
    torch.manual_seed(config.seed)
    network = FcClip(FcClipConfig(clip=config.clip), clip, names)
    text = TextBank(OpenClipEncoder(config.clip, clip), TEMPLATES).embed([name for own in names for name in own])
    network.to(config.device).train()
    recipe = Recipe(lr=config.lr)
    optimizer = optimizer_for(network, recipe)
    start = _load_state(state, network, optimizer) if config.resume else 0
    loss = FcClipLoss(network, text.to(config.device), [len(own) for own in names], config.points)
    positions = {info.id: position for position, info in enumerate(manifest.info)}
    examples = Examples(reader, positions, config, start)
    part = config.batch_size // config.accumulate
    batches: Iterator[tuple[Tensor, list[Target]]] = iter(
        DataLoader(cast(Any, examples), part, num_workers=config.num_workers, collate_fn=_collate)
    )
    console.say(f"{manifest.name}: {len(reader)} images, {len(names)} classes, steps {start + 1} to {config.steps}")
    for step in range(start, config.steps):
        torch.manual_seed(config.seed + 1 + step)  # the points of the loss, however often training was stopped
        value = _step(step, batches, loss, optimizer, recipe, config)
        done = step + 1
        if done % LINES_EVERY == 0 or done == config.steps:
            console.say(f"step {done}/{config.steps}: loss {value:.3f}")
        if done % config.save_every == 0 and done < config.steps:
            _save_state(state, network, optimizer, done)
    save_fc_clip(network, config.out)
    state.unlink(missing_ok=True)
    console.say(f"written: {config.out}; use it as --base fc-clip@{config.out}")
    return 0


def _step(
    step: int,
    batches: Iterator[tuple[Tensor, list[Target]]],
    loss: FcClipLoss,
    optimizer: torch.optim.Optimizer,
    recipe: Recipe,
    config: TrainConfig,
) -> float:
    from kc.openvocab.fc_clip.training import clip_gradients

    for group in optimizer.param_groups:
        group["lr"] = recipe.lr * 0.1 ** sum(step >= drop * config.steps for drop in recipe.drops)
    optimizer.zero_grad()
    total = 0.0
    for _ in range(config.accumulate):
        images, targets = next(batches)
        moved = [(masks.to(config.device), labels.to(config.device)) for masks, labels in targets]
        value = loss(images.to(config.device), moved) / config.accumulate
        total += float(value.detach())
        value.backward()  # type: ignore[no-untyped-call]
    if not np.isfinite(total):
        raise DivergedError(f"the loss of FC-CLIP is {total} at step {step + 1}: lower --lr")
    clip_gradients(loss.network, recipe)
    optimizer.step()
    return total


def _save_state(path: Path, network: FcClip, optimizer: torch.optim.Optimizer, done: int) -> None:
    import torch

    from kc.files import atomic_path

    learned = {key: value for key, value in network.state_dict().items() if not key.startswith("clip.")}
    with atomic_path(path, failures=(OSError, RuntimeError)) as temporary:
        torch.save({"done": done, "network": learned, "optimizer": optimizer.state_dict()}, temporary)


def _load_state(path: Path, network: FcClip, optimizer: torch.optim.Optimizer) -> int:
    import torch

    try:
        stored = torch.load(path, map_location="cpu", weights_only=True)
        missing, unknown = network.load_state_dict(stored["network"], strict=False)
        if unknown or any(not key.startswith("clip.") for key in missing):
            raise ValueError("it is of another architecture")
        optimizer.load_state_dict(stored["optimizer"])
        return int(stored["done"])
    except Exception as error:  # a damaged file can fail in many ways
        raise RunError(f"--resume: {path} cannot be gone on from ({error})") from error
