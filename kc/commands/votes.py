"""`kc votes`: what the votes of a visual memory are worth on a benchmark of images (arXiv 2408.08172)."""

from __future__ import annotations

import dataclasses
import json
import math
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from kc import __version__
from kc.commands.votes_config import VotesConfig
from kc.data.datamodule import IncrementalDataModule
from kc.data.readers.open import content_key
from kc.encoders.base import Encoder
from kc.encoders.cache import FeatureCache
from kc.encoders.load import check_encoder_name, load_encoder
from kc.errors import KcError, unknown_name
from kc.files import cache_dir, write_atomic
from kc.memory.disk import Memory
from kc.memory.vote.evaluation import accuracies, detection, inject_label_noise, with_labels
from kc.memory.vote.pruning import NeighbourTable, disagreement, hard, leave_one_out, soft
from kc.methods.regions import normalised
from kc.progress import track
from kc.report.records import nan_to_null
from kc.types import Float32Array, Int64Array, Neighbours, Rows, SplitName

NOISE_K = 10
"""Neighbours that are asked whether a label is wrong; a row is suspected where more than half of them disagree."""

HARD = (128, 64, 32, 16, 8, 4, 2, 1)
"""Thresholds of hard pruning, from the paper's down to the one that drops every row that ever voted wrong."""

PRUNE_K = 100
"""Neighbours over which hard pruning counts wrong votes; the paper's."""


@dataclasses.dataclass(frozen=True)
class Images:
    """Keys (N, D) float32 of the images of a split, their classes (N,) int64 and names."""

    keys: Float32Array
    label: Int64Array
    sample_id: tuple[str, ...]


def run_votes(config: VotesConfig, console: Console | None = None) -> int:
    """Print and write the tables that `config` asks for. Raises KcError for what a user can act on."""
    console = console or Console(markup=False)
    ks = sorted(set(numbers(config.k, "k", lambda value: value >= 1 and value % 1 == 0)))
    shares = [] if config.noise is None else numbers(config.noise, "noise", lambda value: 0 <= value <= 100)
    if config.queries not in ("test", "leave-one-out"):
        raise unknown_name("queries", config.queries, ["test", "leave-one-out"])
    for name in ("tau", "alpha", "beta"):
        if not (getattr(config, name) > 0 and math.isfinite(getattr(config, name))):
            raise KcError(f"--{name} {getattr(config, name)}: must be above 0")
    encoders = [part.strip() for part in config.encoder.split(",") if part.strip()]
    for name in encoders:
        check_encoder_name(name)
    data = IncrementalDataModule(
        config.benchmark, tasks=1, data_root=config.data_root, limit_images=config.limit_images
    )
    if data.manifest.task_kind != "classification":
        raise KcError(f"{data.manifest.name} is {data.manifest.task_kind}; kc votes reads benchmarks of images")
    data.setup()
    # All of them first: a name that cannot be loaded must not show after an hour of encoding with another.
    loaded = {name: load_encoder(name) for name in encoders}
    found: list[dict[str, Any]] = []
    for name, encoder in loaded.items():
        found.append(of_encoder(config, data, name, encoder, [int(k) for k in ks], shares, console, first=not found))
        settings = {k: None if v is None else str(v) for k, v in vars(config).items()}
        content = nan_to_null({"version": __version__, "config": settings, "encoders": found})
        write_atomic(config.out / "votes.json", json.dumps(content, indent=1, allow_nan=False).encode())
    console.print(f"written: {config.out / 'votes.json'}", highlight=False, soft_wrap=True)
    return 0


def numbers(text: str, option: str, valid: Callable[[float], bool]) -> list[float]:
    """The comma-separated numbers of an option. KcError for one that is none or out of range."""
    try:
        values = [float(part) for part in text.split(",")]
    except ValueError as error:
        raise KcError(f"--{option} {text}: expected numbers separated by commas") from error
    if not all(valid(value) for value in values):
        raise KcError(f"--{option} {text}: " + ("whole numbers of at least 1" if option == "k" else "0 to 100"))
    return values


def encoded(data: IncrementalDataModule, split: SplitName, features: FeatureCache, console: Console) -> Images:
    """Every image of a split, from the cache of features that `kc run` shares."""
    loader = data.loader(split, 0, "all")
    keys, labels, names = [], [], []
    for batch in track(loader, f"encoding {split} images", console, "batches"):
        ids = list(batch["sample_id"])
        keys.append(normalised(features.encode(batch["image"], ids).pooled))
        labels.append(batch["label"].numpy().astype(np.int64))
        names += ids
    return Images(np.concatenate(keys), np.concatenate(labels), tuple(names))


def of_encoder(
    config: VotesConfig,
    data: IncrementalDataModule,
    name: str,
    encoder: Encoder,
    ks: Sequence[int],
    shares: Sequence[float],
    console: Console,
    first: bool,
) -> dict[str, Any]:
    """All tables of one encoder: printed, and as plain values. A k beyond the rows is said of the `first` alone."""
    place = cache_dir() / "derived" / f"{data.manifest.name}-{content_key(data.manifest, data.data_root)}"
    features = FeatureCache(place / "features", encoder)
    train = encoded(data, "train", features, console)
    loo = config.queries == "leave-one-out"
    test = None if loo and not config.prune else encoded(data, "test", features, console)
    with tempfile.TemporaryDirectory() as folder:
        memory = Memory.create(Path(folder) / "memory", dim=train.keys.shape[1], fingerprint=encoder.fingerprint)
        with memory:
            memory.add(Rows(train.keys, train.label, train.sample_id, np.zeros(len(train.label), np.int64)), 0)
            memory.commit(0)
            if first and max(ks) > len(memory) - loo:
                console.print(f"k {max(ks)} is clamped to the {len(memory) - loo} rows that there are")
            table: NeighbourTable | None = None
            if loo or shares or config.prune:
                wanted = max(max(ks) if loo else 1, NOISE_K if shares else 1, PRUNE_K if config.prune else 1)
                table = leave_one_out(memory, wanted)
            if loo:
                assert table is not None
                answers, truth = table.neighbours(), table.class_id
            else:
                assert test is not None
                answers, truth = memory.search(test.keys, max(ks)), test.label
            what = f"{name} on {data.manifest.name}, {len(memory):,} rows, {len(truth):,} queries ({config.queries})"
            result: dict[str, Any] = {"encoder": name, "fingerprint": encoder.fingerprint, "rows": len(memory)}
            result |= {"queries": len(truth), "k": list(ks)}
            result["accuracy"] = accuracies(answers, truth, ks, tau=config.tau, alpha=config.alpha, beta=config.beta)
            show(f"{what}: accuracy, %", "vote", [f"k = {k}" for k in ks], result["accuracy"], console)
            if shares:
                assert table is not None
                result["noise"] = noise(config, memory, table, answers, truth, ks, shares, console)
            if config.prune:
                assert table is not None
                assert test is not None
                result["pruning"] = pruning(config, memory, table, test, ks, console)
    return result


def noise(
    config: VotesConfig,
    memory: Memory,
    table: NeighbourTable,
    answers: Neighbours,
    truth: Int64Array,
    ks: Sequence[int],
    shares: Sequence[float],
    console: Console,
) -> list[dict[str, Any]]:
    """Planted wrong labels: how well they are found by leave-one-out, and what they cost each vote at the largest k."""
    rows, found = memory.labels(), []
    for share in shares:
        labels, wrong = inject_label_noise(rows.class_id, share / 100, config.seed)
        noisy = dataclasses.replace(table, class_id=labels[np.searchsorted(rows.id, table.id)])
        k = min(NOISE_K, noisy.neighbour_id.shape[1])
        against = disagreement(noisy, k)
        quality = detection(against, against > k / 2, wrong)
        asked = with_labels(answers, rows.id, labels)
        scores = accuracies(asked, truth, ks, tau=config.tau, alpha=config.alpha, beta=config.beta)
        found.append({"share": share, **dataclasses.asdict(quality), "accuracy": scores})
    columns = [f"{share:g} %" for share in shares]
    finding = {name: [f[name] for f in found] for name in ("auroc", "precision", "recall")}
    show(f"planted wrong labels, found by {NOISE_K} neighbours, x 100", "", columns, finding, console)
    for at, k in enumerate(ks):
        kept = {kind: [f["accuracy"][kind][at] for f in found] for kind in found[0]["accuracy"]}
        show(f"accuracy with wrong labels in memory, %, k = {k}", "vote", columns, kept, console)
    return found


def pruning(
    config: VotesConfig, memory: Memory, table: NeighbourTable, test: Images, ks: Sequence[int], console: Console
) -> list[dict[str, Any]]:
    """Accuracy on test images against rows kept: hard at several thresholds, soft, and nothing pruned."""
    k = min(PRUNE_K, table.neighbour_id.shape[1])
    factors: dict[str, Float32Array] = {"none": np.ones(len(table), np.float32), "soft": soft(table, k=min(10, k))}
    factors |= {f"hard, v < {v}": hard(table, v, k) for v in HARD}
    found = []
    lines = Table(
        "pruning", "rows kept", *(f"{kind}, k = {max(ks)}" for kind in ("plurality", "softmax", "rank", "tip"))
    )
    for name, factor in factors.items():
        memory.reweight(table.id, table.weight * factor)
        kept = int((factor > 0).sum())
        if kept == 0:
            continue
        scores = accuracies(
            memory.search(test.keys, max(ks)), test.label, ks, tau=config.tau, alpha=config.alpha, beta=config.beta
        )
        found.append({"name": name, "kept": kept, "accuracy": scores})
        cells = (f"{100 * scores[kind][-1]:.1f}" for kind in ("plurality", "softmax", "rank", "tip"))
        lines.add_row(name, f"{kept:,}", *cells)
    memory.reweight(table.id, table.weight)
    console.print("accuracy on test images after pruning, %")
    console.print(lines)
    return found


def show(title: str, corner: str, columns: Sequence[str], rows: dict[str, list[float]], console: Console) -> None:
    """Shares of 1 as a table of per cent."""
    table = Table(corner, *columns)
    for name, values in rows.items():
        table.add_row(name, *("–" if math.isnan(v) else f"{100 * v:.1f}" for v in values))
    console.print(title, highlight=False, soft_wrap=True)
    console.print(table)
