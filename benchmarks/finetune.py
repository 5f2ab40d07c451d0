"""Seconds per training step of `finetune` and `er` beside bare PyTorch loops, and beside Avalanche where it is given.

    python benchmarks/finetune.py [--quick] [--json FILE] [--avalanche PYTHON]

Everyone trains EfficientNet-Lite0 with a linear classifier on the same digits, with AdamW, the same batch size and the
same number of threads, in turns. `--avalanche` is the interpreter of an environment with avalanche-lib, timm and torch.
The second part is `--train head`: seconds of the first epoch, which encodes, and of the next, which reads the cache.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import lightning as L
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kc.data.datamodule import IncrementalDataModule
from kc.encoders.cache import FeatureCache
from kc.encoders.lite import Lite0, load_lite0
from kc.experiment import method_class
from kc.methods.base import Context
from kc.methods.config import MethodConfig
from kc.stream.loop import quiet_lightning

LR = 1e-3


class Clock(L.Callback):
    """Seconds of each step, from batch to batch, with the loader's time."""

    def __init__(self) -> None:
        self.marks: list[float] = []

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.marks.append(time.perf_counter())

    def on_train_batch_end(self, *_: Any) -> None:
        self.marks.append(time.perf_counter())


def per_step(marks: list[float]) -> float:
    """Median seconds between marks; the first two steps are warming up."""
    return statistics.median(b - a for a, b in itertools.pairwise(marks[2:]))


def ours(name: str, data: IncrementalDataModule, steps: int, folder: Path) -> float:
    """A method as the stream runs it."""
    encoder = load_lite0()
    config = MethodConfig(train="full", lr=LR, encoder_lr=1.0, schedule="constant", exemplars=200)
    context = Context(
        "classification", data.classes, encoder, FeatureCache(folder / "f", encoder), config, 0, folder, None, None
    )
    method = method_class(name)(context)
    method.start_task(data.tasks[0])
    clock = Clock()
    trainer(clock, steps).fit(method, data.task(0))
    return per_step(clock.marks)


def trainer(clock: Clock, steps: int = -1, epochs: int = 1) -> L.Trainer:
    """The Trainer of kc.stream.loop, with a clock."""
    return L.Trainer(
        accelerator="cpu", devices=1, max_epochs=epochs, max_steps=steps, logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, limit_val_batches=0, num_sanity_val_steps=0,
        use_distributed_sampler=False, callbacks=[clock],
    )  # fmt: skip


def bare(replay: bool, data: IncrementalDataModule, steps: int) -> float:
    """The same in plain PyTorch: a list as reservoir, no hooks, no checks."""
    network = load_lite0()
    network.requires_grad_(True).train()
    head = nn.Linear(network.pooled_dim, len(data.tasks[0].class_ids))
    optimizer = torch.optim.AdamW([*network.parameters(), *head.parameters()], lr=LR, weight_decay=1e-4)
    kept: list[tuple[Tensor, int]] = []
    seen = 0
    marks = [time.perf_counter()]
    for batch in batches(data, steps):
        x, y = batch["image"], batch["label"]
        if replay and kept:
            chosen = [kept[i] for i in torch.randint(len(kept), (len(x),)).tolist()]
            x = torch.cat([x, torch.stack([image for image, _ in chosen]) / 255])
            y = torch.cat([y, torch.tensor([label for _, label in chosen])])
        logits = head(F.normalize(network(x).pooled, dim=1) * network.pooled_dim**0.5)
        loss = F.cross_entropy(logits, y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if replay:
            for image, label in zip(
                (batch["image"] * 255).round().to(torch.uint8), batch["label"].tolist(), strict=True
            ):
                seen += 1
                place = len(kept) if len(kept) < 200 else int(torch.randint(seen, (1,)))
                if place == len(kept):
                    kept.append((image, label))
                elif place < 200:
                    kept[place] = (image, label)
        marks.append(time.perf_counter())
    return per_step(marks)


def batches(data: IncrementalDataModule, steps: int) -> Iterator[dict[str, Any]]:
    """The first `steps` batches of the first task."""
    left = steps
    while True:
        for batch in data.task(0).train_dataloader():
            if left == 0:
                return
            left -= 1
            yield batch


def avalanche(python: str, replay: bool, file: Path, batch_size: int, steps: int) -> float:
    """The same in Avalanche, in its own interpreter, on the same images as tensors."""
    script = Path(__file__).with_name("avalanche_loop.py")
    command = [
        python,
        str(script),
        str(file),
        str(batch_size),
        str(steps),
        str(torch.get_num_threads()),
        str(int(replay)),
    ]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{done.stderr[-2000:]}")
    return per_step(json.loads(done.stdout.splitlines()[-1]))


def head_epochs(data: IncrementalDataModule, folder: Path) -> dict[str, float]:
    """Seconds of an epoch that encodes and of one that reads the cache."""
    encoder = load_lite0()
    place = folder / "cold"
    found = {}
    for epoch, size in (("first", None), ("next", data.manifest.input_size)):
        config = MethodConfig(train="head")
        features = FeatureCache(place, encoder)
        context = Context("classification", data.classes, encoder, features, config, 0, folder, input_size=size)
        method = method_class("finetune")(context)
        method.start_task(data.tasks[0])
        clock = Clock()
        # Two epochs from the cache: the first of them reads it from the disk.
        trainer(clock, epochs=1 if size is None else 2).fit(method, data.task(0, with_images=method.needs_images))
        n = len(data.task(0).train_dataloader())
        found[epoch] = clock.marks[n] - clock.marks[0] if size is None else clock.marks[2 * n] - clock.marks[n]
    return found


def main() -> int:
    """Print a table, and write it where --json says."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--quick", action="store_true", help="few steps, one round")
    p.add_argument("--json", type=Path, help="file for the figures")
    p.add_argument("--avalanche", help="interpreter of an environment with avalanche-lib")
    p.add_argument("--threads", type=int, default=1)
    p.add_argument("--batch-size", type=int, default=16)
    given = p.parse_args()
    torch.set_num_threads(given.threads)
    quiet_lightning()
    steps, rounds = (8, 1) if given.quick else (40, 3)
    data = IncrementalDataModule("digits", split="2x5", batch_size=given.batch_size)
    data.setup()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        contestants: dict[str, Callable[[], float]] = {
            "bare finetune": lambda: bare(False, data, steps),
            "kc finetune": lambda: ours("finetune", data, steps, folder),
            "bare er": lambda: bare(True, data, steps),
            "kc er": lambda: ours("er", data, steps, folder),
        }
        if given.avalanche:
            file = folder / "images.pt"
            every = list(batches(data, max(1, len(data.task(0).train_dataloader()))))
            torch.save({k: torch.cat([b[k] for b in every]) for k in ("image", "label")}, file)
            for text, replay in (("avalanche naive", False), ("avalanche replay", True)):
                contestants[text] = lambda replay=replay: avalanche(  # type: ignore[misc]
                    given.avalanche, replay, file, given.batch_size, steps
                )
        seconds: dict[str, list[float]] = {name: [] for name in contestants}
        for _ in range(rounds):
            for contestant, run in contestants.items():
                seconds[contestant].append(run())
        epochs = head_epochs(data, folder)
    best = {name: min(values) for name, values in seconds.items()}
    for contestant, value in best.items():
        base = best["bare er" if contestant.endswith(("er", "replay")) else "bare finetune"]
        print(f"{contestant:18s} {1000 * value:8.2f} ms a step   {value / base:5.2f} x bare")
    print(f"--train head: first epoch {epochs['first']:.2f} s, next {epochs['next']:.3f} s: "
          f"{epochs['first'] / epochs['next']:.0f} x")  # fmt: skip
    if given.json:
        content = {
            "seconds_per_step": seconds,
            "best": best,
            "head_epochs": epochs,
            "threads": given.threads,
            "batch_size": given.batch_size,
            "steps": steps,
            "model": Lite0.__name__,
            "torch": torch.__version__,
            "lightning": L.__version__,
        }
        given.json.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
