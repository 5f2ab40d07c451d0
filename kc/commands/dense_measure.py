"""Rows of the dense CLIP table measured on benchmarks, similarity of values, and a look into one image."""

from __future__ import annotations

import dataclasses
import json
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.table import Table

from kc import __version__
from kc.commands.console import Terminal
from kc.commands.dense_options import FUSION, LookConfig, MeasuredConfig, ModelConfig
from kc.data.manifest import Manifest, load_manifest
from kc.data.readers.base import Reader
from kc.data.readers.files import read_image
from kc.data.readers.open import open_reader
from kc.encoders.load import load_encoder
from kc.encoders.open_clip_model import OpenClipEncoder
from kc.errors import KcError
from kc.files import cache_dir, write_atomic
from kc.metrics.confusion import ConfusionMatrix
from kc.openvocab.base import names_of
from kc.openvocab.dense_clip.base import DenseBase, build
from kc.openvocab.dense_clip.figures import (
    global_tokens,
    mean_similarity,
    norm_profile,
    save_attention,
    similarity_lines,
)
from kc.openvocab.dense_clip.model import DenseClip
from kc.openvocab.dense_clip.options import DenseClipOptions, DenseOptions
from kc.openvocab.dense_clip.protocol import PUBLISHED, table_name, verdict
from kc.openvocab.dense_clip.rows import ROWS
from kc.openvocab.dense_clip.segmenter import Segmenter, resized
from kc.openvocab.dense_clip.study import Similarity, calibration_images, find, patch_labels, trace, value_similarity
from kc.openvocab.dense_clip.tower import embed
from kc.progress import track
from kc.report.records import nan_to_null
from kc.types import VOID, Int64Array, Sample

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class Measured:
    """One row on one benchmark. `miou` and `pixel_accuracy` in percent, NaN where it could not be measured (`error`);
    `published` NaN where no figure is known."""

    row: str
    label: str
    benchmark: str
    miou: float
    pixel_accuracy: float
    published: float
    verdict: str
    images: int
    seconds: float
    key: str
    error: str = ""


def clip_of(config: ModelConfig) -> OpenClipEncoder:
    """The CLIP, its image tower in the precision. Raises KcError for an encoder that is none."""
    clip = load_encoder(config.model)
    if not isinstance(clip, OpenClipEncoder):
        raise KcError(f"--model {config.model}: expected a CLIP, open_clip:MODEL@FILE")
    # Only the image tower: text embeddings are cached, so they must not depend on the precision.
    clip.network.visual.to(PRECISIONS[config.precision])
    return clip.to(config.device)


def base_of(config: ModelConfig, clip: OpenClipEncoder, row: str, benchmark: str | None) -> DenseBase:
    """`row` with the options. Raises KcError for a proxy that is missing."""
    names = [f.name for f in dataclasses.fields(DenseClipOptions) if row == "gclip" or f.name not in FUSION]
    options = DenseOptions(
        benchmark=benchmark, cache=cache_dir() / "derived" / "text", **{name: getattr(config, name) for name in names}
    )
    proxy = None
    if row in ROWS and ROWS[row].attention == "proxy":
        if config.proxy is None:
            raise KcError("row 'proxyclip' reads a second encoder: --proxy timm:vit_base_patch8_224.dino, for example")
        proxy = load_encoder(config.proxy).to(config.device)
    return build(row, clip, options, proxy)


def open_split(config: MeasuredConfig, name: str) -> tuple[Manifest, Reader]:
    """The benchmark and the images that are measured. Raises KcError for labels of whole images."""
    manifest = load_manifest(name)
    if manifest.task_kind == "classification":
        raise KcError(f"{manifest.name} has labels of whole images; dense CLIP is measured on pixels")
    return manifest, open_reader(manifest, config.split, config.data_root, config.limit_images)


def _samples(reader: Reader, text: str, console: Terminal) -> Iterator[Sample]:
    for index in track(range(len(reader)), text, console):
        yield reader.read(index)


def measure(segmenter: Segmenter, manifest: Manifest, samples: Iterator[Sample]) -> tuple[ConfusionMatrix, int]:
    """Confusion matrix over all classes of `manifest`, and how many images it is of."""
    classes = list(manifest.info)
    ids: Int64Array = np.array([c.id for c in classes], dtype=np.int64)
    background = next((i for i, c in enumerate(classes) if c.background), None)
    matrix, n = ConfusionMatrix(ids.tolist()), 0
    for sample in samples:
        assert sample.semantic is not None
        matrix.update(sample.semantic, ids[segmenter.segment(sample.image, names_of(classes), background)])
        n += 1
    return matrix, n


@dataclass
class Measurement:
    """The rows that were measured so far, stored in `path` after each."""

    clip: OpenClipEncoder
    path: Path
    header: dict[str, Any]
    found: list[Measured] = field(default_factory=list)

    @classmethod
    def of(cls, config: MeasuredConfig, path: Path) -> Measurement:
        """An empty one."""
        return cls(clip_of(config), path, header_of(config))

    def one(self, config: MeasuredConfig, row: str, name: str, label: str, console: Terminal) -> None:
        """Measure `row`, which is called `label`, on benchmark `name`."""
        manifest, reader = open_split(config, name)
        base = base_of(config, self.clip, row, manifest.name)
        console.say(f"{label} on {manifest.name}: {base.key}")
        start = time.perf_counter()
        matrix, n = measure(base.segmenter, manifest, _samples(reader, f"{label} on {manifest.name}", console))
        seconds = time.perf_counter() - start
        miou, accuracy = 100 * matrix.compute()["miou"], 100 * matrix.compute()["pixel_accuracy"]
        figure = PUBLISHED.get(row, {}).get(table_name(manifest.name) or "", math.nan)
        # A figure is that of the row as published: a changed row is not held to it.
        judged = verdict(row, manifest.name, miou) if label == row else "no figure"
        self._add(Measured(row, label, manifest.name, miou, accuracy, figure, judged, n, seconds, base.key))

    def missing(self, row: str, name: str, error: KcError) -> None:
        """Note that `row` could not be measured on benchmark `name`."""
        figure = PUBLISHED[row].get(table_name(name) or "", math.nan)
        empty = (math.nan, math.nan, figure, "not run", 0, math.nan, "")
        self._add(Measured(row, row, Path(name).stem, *empty, error=str(error)))

    def _add(self, measured: Measured) -> None:
        self.found.append(measured)
        write_json(self.path, self.header | {"rows": [dataclasses.asdict(m) for m in self.found]})

    def show(self, console: Terminal) -> None:
        """Print the table, what could not run, and the file."""
        table = Table()
        for title in ("row", "benchmark", "mIoU", "published", "verdict", "images", "s/image"):
            table.add_column(title, no_wrap=title != "row")
        for m in self.found:
            pace = m.seconds / m.images if m.images else math.nan
            numbers = ["–" if math.isnan(v) else f"{v:.1f}" for v in (m.miou, m.published, pace)]
            table.add_row(m.label, m.benchmark, numbers[0], numbers[1], m.verdict, str(m.images), numbers[2])
        console.print(table)
        for m in self.found:
            if m.error:
                console.say(f"not run: {m.label} on {m.benchmark}: {m.error}")
        console.say(f"written: {self.path}")


def variants(fuse: Sequence[int], suppress: Sequence[int]) -> dict[str, dict[str, str]]:
    """Label -> changed options of the ablation: AMF and CS each alone and together, then which blocks, which fusion."""
    text = ",".join(map(str, suppress)) or "none"
    fused = ",".join(map(str, fuse)) or "none"
    n = len(fuse)
    halves = ",".join([f"{0.5 / n}"] * n + ["0.5"]) if n else "1.0"
    found: dict[str, dict[str, str]] = {
        "neither": {"fuse_layers": "none", "cs_layers": "none"},
        "AMF": {"fuse_layers": fused, "cs_layers": "none"},
        "CS": {"fuse_layers": "none", "cs_layers": text},
        "AMF + CS": {"fuse_layers": fused, "cs_layers": text},
        "AMF + CS, heads averaged": {"fuse_layers": fused, "cs_layers": text, "head_mode": "averaged"},
        "AMF + CS, half from the last block": {"fuse_layers": fused, "cs_layers": text, "fuse_weights": halves},
    }
    found |= {f"AMF of block {i} + CS": {"fuse_layers": str(i), "cs_layers": text} for i in fuse if n > 1}
    found |= {f"AMF + CS of block {i}": {"fuse_layers": fused, "cs_layers": str(i)} for i in suppress}
    return found


def similarity_of(config: MeasuredConfig, clip: OpenClipEncoder, name: str, console: Terminal) -> None:
    """Of each block of the plain tower and of the one with suppressed channels, whole images at the protocol's size."""
    with_cs = base_of(config, clip, "gclip", None).segmenter
    models = {"clip": DenseClip(clip.network.visual, ROWS["clip"]), "with CS": with_cs.model}
    manifest, reader = open_split(config, name)
    each: dict[str, list[list[Similarity]]] = {label: [] for label in models}
    for sample in _samples(reader, f"values on {manifest.name}", console):
        pixels = resized(sample.image, with_cs.protocol.short_side, with_cs.protocol.max_long).to(config.device)
        images = with_cs.normalised(pixels)[None]
        for label, model in models.items():
            _, grid = embed(model.visual, images)
            labels = patch_labels(masks_of(sample), grid)
            each[label].append([value_similarity(b.values[0, 1:], labels) for b in trace(model, images)])
    means = {label: mean_similarity(values) for label, values in each.items()}
    stem = config.out / f"similarity-{manifest.name}"
    similarity_lines(means, stem.with_suffix(".png"))
    table = Table("block", *(f"{label}: {kind}" for label in means for kind in ("in-in", "in-out")))
    for i in range(len(means["clip"])):
        values = [v for label in means for v in (means[label][i].inside, means[label][i].across)]
        table.add_row(str(i), *(f"{v:.3f}" for v in values))
    console.say(f"{manifest.name}, {len(each['clip'])} images, {with_cs.model.row.key}")
    console.print(table)
    content = {label: [dataclasses.asdict(s) for s in values] for label, values in means.items()}
    header = header_of(config) | {"benchmark": manifest.name, "images": len(each["clip"])}
    write_json(stem.with_suffix(".json"), header | {"blocks": content})
    console.say(f"written: {stem}.png, {stem}.json")


def masks_of(sample: Sample) -> Int64Array:
    """A number for each true mask of an image, (H, W), VOID where there is none."""
    if sample.panoptic is None:
        assert sample.semantic is not None
        return sample.semantic
    pairs = sample.panoptic.reshape(-1, 2)
    numbers = np.unique(pairs, axis=0, return_inverse=True)[1].reshape(sample.panoptic.shape[:2]).astype(np.int64)
    return np.where(sample.panoptic[..., 0] == VOID, VOID, numbers)


def look_into(config: LookConfig, console: Terminal) -> list[Path]:
    """Draw figures of one image, and store its attention where wanted; the files."""
    clip = clip_of(config)
    base = base_of(config, clip, config.row, None)
    segmenter = base.segmenter
    console.say(base.key)
    path = config.image.expanduser().absolute()
    picture = read_image(path.parent, path.name)
    pixels = resized(picture, segmenter.protocol.short_side, segmenter.protocol.max_long).to(config.device)
    images = segmenter.normalised(pixels)[None]
    made = [config.out / f"global-tokens-{path.stem}.png", config.out / f"norms-{clip.architecture}.png"]
    global_tokens(segmenter.model, images, picture, made[0])
    found = find(clip.network.visual, calibration_images(clip.size, clip.preprocessing).to(config.device))
    table = Table("block", "entropy of attention columns", "z of the strongest channel")
    for layer, (entropy, z) in enumerate(zip(found.entropy, found.z, strict=True)):
        table.add_row(str(layer), f"{entropy:.4f}", f"{z:.1f}")
    console.print(table)
    console.say(f"found: fuse {found.fuse_layers}, suppress {found.cs_layers}")
    norm_profile(segmenter.model, made[1])
    if config.save_attention is not None:
        save_attention(segmenter.model, images, config.save_attention, segmenter.proxy_features(images))
        made.append(config.save_attention)
    return made


def header_of(config: ModelConfig) -> dict[str, Any]:
    """Versions and settings, for files of results."""
    settings = {k: None if v is None else str(v) for k, v in dataclasses.asdict(config).items()}
    return {"version": __version__, "torch": torch.__version__, "config": settings}


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write results; numbers that do not exist are null."""
    write_atomic(path, json.dumps(nan_to_null(content), indent=1, allow_nan=False).encode())
