"""`kc explain`: the rows of a memory that voted on an image, as a table and as a picture."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from kc.commands.explain_config import ExplainConfig
from kc.commands.explain_regions import SAME, RegionEye, chosen_region, label_of, mask_of, stored_mask
from kc.commands.memory_selection import class_names, run_settings, task_index
from kc.config import RunConfig
from kc.data.manifest import Manifest, load_manifest
from kc.data.readers.base import Reader, read_image
from kc.data.readers.open import open_reader
from kc.data.transforms import image_to_tensor
from kc.encoders.load import load_encoder
from kc.errors import DataError, KcError, unknown_name
from kc.memory.disk import Memory
from kc.memory.store.table import RowTable
from kc.memory.vote.evaluation import ACCEPTED, neighbour_cosines, novelty_threshold
from kc.memory.vote.votes import VOTES, contributions, decide, vote
from kc.methods.regions import normalised
from kc.report.attribution import Voter, attribution, region_crop
from kc.types import BoolArray, Float32Array, Int64Array, Neighbours, Sample, UInt8Array

PICTURED = 12
"""Neighbours in the picture; all are in the table."""


@dataclass(frozen=True)
class Question:
    """An image that is asked about: its picture, its key (1, D), its true class where known, its stored rows (N,)."""

    image: UInt8Array
    key: Float32Array
    label: int | None
    own: Int64Array
    mask: BoolArray | None = None
    eye: RegionEye | None = None
    """The pixels (H, W) that are asked about and what makes regions, in a memory of regions."""


@dataclass(frozen=True)
class Sources:
    """The readers of a benchmark's splits, as far as its data is there; `missing` says why it is not."""

    readers: tuple[Reader, ...]
    missing: str = ""

    @classmethod
    def open(cls, manifest: Manifest, data_root: Path | None) -> Sources:
        """Every split whose data is present."""
        found, missing = [], ""
        for split in manifest.splits:
            try:
                found.append(open_reader(manifest, split, data_root))
            except DataError as error:
                missing = str(error)
        return cls(tuple(found), missing)

    def sample(self, sample_id: str) -> Sample | None:
        """The sample of this name, None where there is none."""
        for reader in self.readers:
            if sample_id in reader.sample_ids:
                return reader.read(reader.sample_ids.index(sample_id))
        return None


def run_explain(config: ExplainConfig, console: Console | None = None) -> int:
    """Show what `config` asks for. Raises KcError for what a user can act on."""
    console = console or Console(markup=False)
    path = memory_of(config)
    memory = Memory.open(path)
    settings = {**vars(RunConfig()), "benchmark": None, "encoder": None, **run_settings(path, config.run)}
    settings |= {name: value for name, value in vars(config).items() if value is not None}
    if settings["vote"] not in VOTES:
        raise unknown_name("vote", settings["vote"], VOTES)
    for name in ("k", "tau", "alpha", "tip_beta"):
        if not (settings[name] > 0 and math.isfinite(settings[name])):
            raise KcError(f"--{name.replace('_', '-')} {settings[name]}: must be above 0")
    names = class_names(memory, config.benchmark)
    sources, asked = question(memory, settings)
    at = None if config.at is None else task_index(memory, config.at)
    found = search(memory, asked, settings["k"], at)
    n_found = found.id.shape[1]
    if n_found < settings["k"]:
        console.print(f"k {settings['k']} is clamped to the {n_found} rows that there are", highlight=False)
    classes = np.unique(found.class_id).tolist()
    knobs = {name: float(settings[name]) for name in ("tau", "alpha")} | {"beta": float(settings["tip_beta"])}
    rule: dict[str, Any] = {"kind": settings["vote"], **knobs}
    cast = contributions(found, classes, **rule)[0].numpy()
    totals = vote(found, classes, **rule)[0].numpy()
    winner = int(decide(found, classes, **rule)[0])
    rows = memory.rows_of(found.id[0])
    console.print(neighbour_table(found, rows, names, cast / cast.sum()))
    of = {int(c): float(t / totals.sum()) for c, t in zip(classes, totals, strict=True)}
    ranked = sorted(of, key=lambda c: (c != winner, -of[c]))
    said = ", ".join(f"{names.get(c, c)} {100 * of[c]:.1f} %" for c in ranked[:5])
    truth = None if asked.label is None else names.get(asked.label, str(asked.label))
    console.print(
        f"{settings['vote']} vote of {n_found}: {said}" + (f" (true class: {truth})" if truth else ""),
        highlight=False,
        soft_wrap=True,
    )
    nearest, near = float(found.score[0, 0]), neighbour_cosines(memory, at)
    strange = nearest < novelty_threshold(near)
    if strange:
        console.print(
            f"unknown? the nearest row has cosine {nearest:.3f}, but {100 * ACCEPTED:.0f} % of the stored rows have "
            f"{novelty_threshold(near):.3f} or more with one of another image: perhaps a class that is not in memory",
            highlight=False,
            soft_wrap=True,
        )
    if len(asked.own):
        console.print("what is asked about is stored; its own row was left out", highlight=False)
    if sources.missing:
        console.print(f"some images cannot be shown: {sources.missing}", highlight=False, soft_wrap=True)
    voters = []
    for i in range(min(n_found, PICTURED)):
        sample = sources.sample(rows.sample_id[i])
        picture = None if sample is None else pictured(asked, sample, memory, int(rows.id[i]))
        name, task = names.get(int(found.class_id[0, i]), str(found.class_id[0, i])), int(rows.task[i]) + 1
        share = float(cast[i] / cast.sum())
        voters.append(Voter(picture, rows.sample_id[i], name, task, float(found.score[0, i]), share))
    shares = [(str(names.get(c, c)), of[c]) for c in ranked]
    out = config.out or Path(f"explain-{Path(config.image).stem}.png")
    title = f"{config.image}: {names.get(winner, winner)}" + (", or unknown" if strange else "")
    title += f" (true class: {truth})" if truth else ""
    rest = n_found - len(voters)
    shown = asked.image if asked.mask is None else region_crop(asked.image, asked.mask)
    attribution(shown, title, voters, shares, f"{settings['vote']} vote of {n_found} rows", rest, out)
    console.print(f"written: {out}", highlight=False, soft_wrap=True)
    return 0


def memory_of(config: ExplainConfig) -> Path:
    """The memory that is meant: the one given, or the only one of the run."""
    if config.memory is not None:
        return config.memory
    if config.run is None:
        raise KcError("say which memory: --memory DIR or --run RUN")
    found = sorted(config.run.glob("methods/*/memory"))
    if len(found) != 1:
        shown = ", ".join(str(p) for p in found) or "none"
        raise KcError(f"{config.run} holds {len(found)} memories ({shown}): say which one with --memory")
    return found[0]


def question(memory: Memory, settings: dict[str, Any]) -> tuple[Sources, Question]:
    """Read and encode the image that `settings` name, as a run with these settings does.

    `settings`: image, benchmark, encoder, data_root. Raises KcError where one is missing, DataError for a file that is
    no image, FingerprintError for another encoder.
    """
    for name in ("benchmark", "encoder"):
        if settings.get(name) is None:
            raise KcError(f"{memory.path} lies in no run that says its {name}: give --{name}")
    point = settings.get("point")
    if point is not None and "+" not in memory.fingerprint:
        raise KcError(f"--point {point}: {memory.path} holds keys of whole images")
    manifest = load_manifest(settings["benchmark"])
    root = settings.get("data_root")
    sources = Sources.open(manifest, None if root is None else Path(root))
    path = Path(settings["image"]).expanduser().absolute()
    sample = None if path.is_file() else sources.sample(settings["image"])
    if sample is None and not path.is_file():
        example = next((f", such as {reader.sample_ids[0]}" for reader in sources.readers[::-1]), "")
        raise KcError(f"{settings['image']}: neither a file nor a sample of {manifest.name}{example}")
    image = read_image(path.parent, path.name) if sample is None else sample.image
    encoder = load_encoder(settings["encoder"])
    own = np.zeros(0, np.int64) if sample is None else memory.ids(sample_id=sample.id)
    if "+" in memory.fingerprint:
        eye = RegionEye.of(memory, manifest, encoder, settings)
        regions = eye(image, sample)
        number = chosen_region(regions.segments, point)
        mask, key = mask_of(regions.segments, number), regions.keys[number : number + 1]
        # Of the image's rows only that of this very region is its own; the others vote.
        near = memory.keys(own) @ key[0] if len(own) else np.zeros(0)
        own = own[[near.argmax()]] if len(own) and near.max() >= SAME else own[:0]
        return sources, Question(image, key, label_of(sample, mask), own, mask, eye)
    height, width = manifest.input_size
    with torch.no_grad():
        key = normalised(encoder.eval()(image_to_tensor(image, (height, width))[None]).pooled)
    if memory.fingerprint != encoder.fingerprint:
        memory.search(key, 1, fingerprint=encoder.fingerprint)  # says which two do not fit
    return sources, Question(image, key, None if sample is None else sample.label, own)


def pictured(asked: Question, sample: Sample, memory: Memory, row: int) -> UInt8Array:
    """The image of a row that voted; of a row of regions, its region."""
    mask = None if asked.eye is None else stored_mask(asked.eye, sample, memory, row)
    return sample.image if mask is None else region_crop(sample.image, mask)


def search(memory: Memory, asked: Question, k: int, at: int | None) -> Neighbours:
    """The k nearest rows (1, k) of an image, its own row left out."""
    own = asked.own[:1] if len(asked.own) else np.array([-1], np.int64)
    return memory.search(asked.key, k, at=at, exclude_ids=own)


def neighbour_table(found: Neighbours, rows: RowTable, names: dict[int, str], share: Any = None) -> Table:
    """One line a neighbour, nearest first."""
    table = Table("#", "row", "class", "task", "sample", "source", "cosine", "weight")
    if share is not None:
        table.add_column("vote, %", justify="right")
    for i in range(len(rows)):
        class_id = int(found.class_id[0, i])
        cells = [str(i + 1), str(rows.id[i]), names.get(class_id, str(class_id)), str(rows.task[i] + 1)]
        cells += [rows.sample_id[i], rows.source[i] or "–", f"{found.score[0, i]:.4f}", f"{found.weight[0, i]:g}"]
        table.add_row(*cells, *([] if share is None else [f"{100 * share[i]:.1f}"]))
    return table
