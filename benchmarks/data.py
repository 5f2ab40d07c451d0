"""Images per second of the loaders, seconds per image of the evaluation, seconds to start a task of a million samples.

    python -m benchmarks.data [--quick] [--only loaders|evaluation|startup] [--json FILE]

Everyone decodes the same generated files with Pillow, resizes with the same calls of torchvision and gives the same
tensors; contenders take turns. Shown are medians over the rounds, the median of our speed by theirs in the same round
with its quartiles, and for the loaders the same by CPU time, that of the workers included: it says what the code costs
on a machine that others use. Beside ours: torchvision's own VOCSegmentation, a bare WebDataset
pipeline over the shards that `kc data shards` wrote, and for panoptic maps, of which torchvision has no data set, a
plain Dataset with the arithmetic of panopticapi (id = R + 256 G + 65536 B, then one mask a segment). The evaluation is
compared with torchmetrics and with the loops of panopticapi's `pq_compute`, and its results must be equal.
"""

from __future__ import annotations

import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from multiprocessing import active_children
from pathlib import Path
from typing import Any, Literal

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import numpy as np
import torch
import webdataset
import yaml
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchmetrics.classification import MulticlassJaccardIndex
from torchmetrics.detection import PanopticQuality as TorchmetricsQuality
from torchvision.datasets import VOCSegmentation

from benchmarks.command import start
from benchmarks.machine import describe, rounds
from benchmarks.turns import ratio
from kc.data.datamodule import IncrementalDataModule
from kc.data.manifest import Manifest, load_manifest
from kc.data.readers.coco import CocoPanopticReader
from kc.data.readers.open import content_key, open_reader
from kc.data.shards.fields import from_fields
from kc.data.shards.index import PackedIds, ShardIndex
from kc.data.shards.store import FolderStore
from kc.data.shards.write import manifest_of_shards, write_shards
from kc.data.transforms import image_to_tensor, resize_labels
from kc.metrics.confusion import ConfusionMatrix, mean_iou
from kc.metrics.panoptic import PanopticQuality
from kc.types import VOID

SIZE = (360, 480)
INPUT = (360, 360)
BATCH = 8
THINGS, STUFF = range(1, 81), range(81, 134)
SHARDS_OF_A_MILLION = 1000
SCORED, SCORED_SLOWLY = 32, 4


def scene(rng: np.random.Generator) -> tuple[np.ndarray, list[tuple[slice, slice]]]:
    """A photograph-like image (H, W, 3) uint8 and the boxes of what is in it."""
    small = rng.integers(0, 256, (SIZE[0] // 12, SIZE[1] // 12, 3), dtype=np.uint8)
    image = np.array(Image.fromarray(small).resize(SIZE[::-1], Image.Resampling.BICUBIC))
    image = np.clip(image + rng.normal(0, 6, image.shape), 0, 255).astype(np.uint8)
    boxes = []
    for _ in range(int(rng.integers(6, 14))):
        y, x = int(rng.integers(0, SIZE[0] - 60)), int(rng.integers(0, SIZE[1] - 60))
        boxes.append((slice(y, y + int(rng.integers(20, 140))), slice(x, x + int(rng.integers(20, 180)))))
    return image, boxes


def make_semantic(top: Path, n: int) -> Manifest:
    """`n` images in the layout of VOC: JPEG, palette PNG, a list of names."""
    base, rng = top / "VOCdevkit" / "VOC2012", np.random.default_rng(0)
    for folder in ("JPEGImages", "SegmentationClass", "ImageSets/Segmentation"):
        (base / folder).mkdir(parents=True)
    names = [f"2007_{i:06d}" for i in range(n)]
    for name in names:
        image, boxes = scene(rng)
        mask = np.zeros(SIZE, np.uint8)
        for box in boxes:
            mask[box] = rng.integers(1, 21)
        Image.fromarray(image).save(base / "JPEGImages" / f"{name}.jpg", quality=90)
        Image.fromarray(mask).save(base / "SegmentationClass" / f"{name}.png")
    (base / "ImageSets" / "Segmentation" / "train.txt").write_text("\n".join(names) + "\n")
    content = {
        "name": "bench-semantic",
        "task_kind": "semantic",
        "source": {"reader": "index_png", "folder": "VOCdevkit/VOC2012"},
        "splits": {"train": {"images": "JPEGImages", "labels": "SegmentationClass",
                             "names": "ImageSets/Segmentation/train.txt"}},
        "classes": [{"id": i, "name": f"class {i}", "background": i == 0} for i in range(21)],
        "input_size": list(INPUT),
    }  # fmt: skip
    return written(top / "semantic.yaml", content)


def make_panoptic(top: Path, n: int) -> Manifest:
    """`n` images in the layout of COCO panoptic."""
    base, rng = top / "coco", np.random.default_rng(1)
    for folder in ("images", "masks"):
        (base / folder).mkdir(parents=True)
    images, annotations = [], []
    for i in range(n):
        image, boxes = scene(rng)
        ids = np.full(SIZE, 1000 + i, dtype=np.int64)
        categories = {1000 + i: int(rng.choice(STUFF))}
        for box in boxes:
            number = int(rng.integers(2000, 2**24))
            ids[box] = number
            categories[number] = int(rng.choice(THINGS))
        Image.fromarray(image).save(base / "images" / f"{i:06d}.jpg", quality=90)
        Image.fromarray(np.stack([ids % 256, ids // 256 % 256, ids // 65536], -1).astype(np.uint8)).save(
            base / "masks" / f"{i:06d}.png"
        )
        present = np.unique(ids).tolist()
        images.append({"id": i, "file_name": f"{i:06d}.jpg", "height": SIZE[0], "width": SIZE[1]})
        segments = [{"id": s, "category_id": categories[s], "iscrowd": 0} for s in present]
        annotations.append({"image_id": i, "file_name": f"{i:06d}.png", "segments_info": segments})
    things = set(THINGS)
    classes = [{"id": c, "name": f"class {c}", "thing": c in things} for c in (*THINGS, *STUFF)]
    categories_of = [{"id": c["id"], "name": c["name"], "isthing": int(bool(c["thing"]))} for c in classes]
    (base / "train.json").write_text(
        json.dumps({"images": images, "annotations": annotations, "categories": categories_of})
    )
    content = {
        "name": "bench-panoptic",
        "task_kind": "panoptic",
        "source": {"reader": "coco_panoptic", "folder": "coco"},
        "splits": {"train": {"images": "images", "annotations": "train.json", "masks": "masks"}},
        "classes": classes,
        "input_size": list(INPUT),
    }
    return written(top / "panoptic.yaml", content)


def written(path: Path, content: dict[str, Any]) -> Manifest:
    """The manifest that `content` is."""
    path.write_text(yaml.safe_dump(content))
    return load_manifest(path)


def sharded(manifest: Manifest, top: Path) -> tuple[Manifest, list[str]]:
    """The benchmark as shards: its manifest and the tar files."""
    folder = top / f"{manifest.name}-shards"
    reader = open_reader(manifest, "train", top)
    write_shards(manifest, "train", reader, FolderStore(folder), content_key(manifest, top), per_shard=32)
    path = folder / "shards.yaml"
    path.write_text(manifest_of_shards(manifest, folder.name, None))
    return load_manifest(path), sorted(map(str, folder.glob("*.tar")))


# -- contenders -------------------------------------------------------------------------------------------------------


def ours(manifest: Manifest, top: Path, workers: int) -> Callable[[], int]:
    """An epoch of the loader of a task."""
    data = IncrementalDataModule(manifest, data_root=top, batch_size=BATCH, num_workers=workers, cache_samples=False)
    data.setup()
    loader = data.loader("train", 0, "all", shuffle=True)
    return lambda: sum(len(batch["image"]) for batch in loader)


def epoch(data: Dataset[Any], workers: int) -> Callable[[], int]:
    """An epoch of a plain DataLoader."""
    loader = DataLoader(data, batch_size=BATCH, shuffle=True, num_workers=workers, persistent_workers=workers > 0)
    return lambda: sum(len(batch[0]) for batch in loader)


def voc_item(image: Image.Image, mask: Image.Image) -> tuple[Tensor, Tensor]:
    """Both resized, as tensors."""
    labels = np.array(mask).astype(np.int64)
    return image_to_tensor(np.array(image.convert("RGB")), INPUT), torch.from_numpy(resize_labels(labels, INPUT))


class PlainPanoptic(Dataset[Any]):
    """COCO panoptic with the arithmetic of panopticapi."""

    def __init__(self, reader: CocoPanopticReader) -> None:
        self.reader, self.things = reader, set(reader.manifest.thing_ids)

    def __len__(self) -> int:
        return len(self.reader)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor, Tensor]:
        with Image.open(self.reader.root / self.reader.items[index].image) as file:
            image = np.array(file.convert("RGB"))
        maps = plain_maps(self.reader, index, self.things)
        return image_to_tensor(image, INPUT), *(torch.from_numpy(resize_labels(m, INPUT)) for m in maps)


def plain_maps(reader: CocoPanopticReader, index: int, things: set[int]) -> tuple[np.ndarray, np.ndarray]:
    """(H, W, 2) int32 and its categories as int64: the ids of a PNG, then one mask a segment."""
    item = reader.items[index]
    with Image.open(reader.root / item.mask) as file:
        rgb = np.array(file).astype(np.uint32)
    ids = rgb[..., 0] + 256 * rgb[..., 1] + 256 * 256 * rgb[..., 2]
    panoptic = np.zeros((*ids.shape, 2), np.int32)
    panoptic[..., 0] = VOID
    number = 0
    for segment in item.segments:
        number += segment.class_id in things
        panoptic[ids == segment.id] = (segment.class_id, number if segment.class_id in things else 0)
    return panoptic, panoptic[..., 0].astype(np.int64)


def bare_webdataset(files: list[str], workers: int) -> Callable[[], int]:
    """A pipeline of the package over the same tar files, with the same decoding of their fields."""

    def item(sample: dict[str, Any]) -> tuple[Tensor, ...]:
        found = from_fields({k: v for k, v in sample.items() if not k.startswith("__")}, "sample")
        maps = [m for m in (found.panoptic, found.semantic) if m is not None]
        return image_to_tensor(found.image, INPUT), *(torch.from_numpy(resize_labels(m, INPUT)) for m in maps)

    pipeline = webdataset.WebDataset(files, shardshuffle=len(files), empty_check=False).shuffle(100).map(item)
    loader = DataLoader(pipeline.batched(BATCH), batch_size=None, num_workers=workers, persistent_workers=workers > 0)
    return lambda: sum(len(batch[0]) for batch in loader)


def cpu_seconds() -> float:
    """CPU time of this process and of its living workers, where the system tells it (Linux)."""
    times = [
        int(file.read_text().split()[0]) / 1e9
        for worker in active_children()
        for file in Path(f"/proc/{worker.pid}/task").glob("*/schedstat")
    ]
    return time.process_time() + sum(times)


def compare(calls: Mapping[str, Callable[[], Any]], n: int, times: int, rivals: Mapping[str, str]) -> dict[str, Any]:
    """Images (or calls) per second of each contender, by the clock and by CPU time, and the ratios.

    `rivals`: contender -> whom it is compared with. After one turn each to warm up there are `times` rounds.
    """
    for call in calls.values():
        call()
    wall, cpu = ({name: [] for name in calls} for _ in range(2))
    for _ in range(times):
        for name, call in calls.items():
            start = time.perf_counter(), cpu_seconds()
            call()
            wall[name].append(time.perf_counter() - start[0])
            cpu[name].append(cpu_seconds() - start[1])
    return {
        clock: {
            "per second": {name: n / statistics.median(seconds) for name, seconds in taken.items()},
            "ratios": {f"{a} / {b}": ratio(taken[b], taken[a]) for a, b in rivals.items()},
        }
        for clock, taken in (("clock", wall), ("CPU", cpu))
    }


# -- evaluation -------------------------------------------------------------------------------------------------------


def transcribed_pq(pairs: Sequence[tuple[np.ndarray, np.ndarray]], class_ids: Sequence[int]) -> dict[int, float]:
    """PQ of each class by panopticapi's loops (no crowds): segments by id, a dictionary of pairs of ids."""
    iou, tp, fp, fn = (dict.fromkeys(class_ids, 0.0) for _ in range(4))
    for truth, found in pairs:
        maps, segments = [], []
        for panoptic in (truth, found):
            ids = panoptic[..., 0].astype(np.uint64) * 1000 + panoptic[..., 1].astype(np.uint64) + 1
            ids[panoptic[..., 0] == VOID] = 0
            labels, counts = np.unique(ids, return_counts=True)
            maps.append(ids)
            pairs_of = zip(labels.tolist(), counts.tolist(), strict=True)
            segments.append({i: {"area": a, "category": (i - 1) // 1000} for i, a in pairs_of if i})
        both = maps[0] * (256**3) + maps[1]
        labels, counts = np.unique(both, return_counts=True)
        overlap = {(b // 256**3, b % 256**3): a for b, a in zip(labels.tolist(), counts.tolist(), strict=True)}
        matched_truth, matched_found = set(), set()
        for (a, b), shared in overlap.items():
            if a not in segments[0] or b not in segments[1]:
                continue
            if segments[0][a]["category"] != segments[1][b]["category"]:
                continue
            union = segments[1][b]["area"] + segments[0][a]["area"] - shared - overlap.get((0, b), 0)
            if shared / union > 0.5:
                c = segments[0][a]["category"]
                tp[c], iou[c] = tp[c] + 1, iou[c] + shared / union
                matched_truth.add(a)
                matched_found.add(b)
        for a, info in segments[0].items():
            if a not in matched_truth:
                fn[info["category"]] += 1
        for b, info in segments[1].items():
            if b not in matched_found and overlap.get((0, b), 0) / info["area"] <= 0.5:
                fp[info["category"]] += 1
    seen = {c: tp[c] + fp[c] / 2 + fn[c] / 2 for c in class_ids}
    return {c: iou[c] / seen[c] for c in class_ids if seen[c]}


def answers(truths: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Answers that are partly right: the truth, moved, with some segments renamed."""
    rng, found = np.random.default_rng(2), []
    for truth in truths:
        moved = np.roll(truth, 6, axis=1)
        for category, instance in np.unique(moved.reshape(-1, 2), axis=0)[::4].tolist():
            other = int(rng.choice(THINGS if instance else STUFF))
            moved[(moved[..., 0] == category) & (moved[..., 1] == instance)] = (other, 500 if instance else 0)
        found.append(moved)
    return found


def evaluation(reader: CocoPanopticReader, times: int) -> tuple[dict[str, Any], dict[str, float]]:
    """mIoU and PQ of ours and of others, images per second, and by how much the results differ."""
    truths = [reader.panoptic(i)[0] for i in range(min(SCORED, len(reader)))]
    pairs = list(zip(truths, answers(truths), strict=True))
    for truth in truths:
        truth[:, :9] = (VOID, 0)
    class_ids, things = reader.manifest.class_ids(), reader.manifest.thing_ids
    stuff = [c for c in class_ids if c not in set(things)]
    semantic = [(a[..., 0].astype(np.int64), b[..., 0].astype(np.int64)) for a, b in pairs]
    results: dict[str, float] = {}

    def our_miou() -> None:
        matrix = ConfusionMatrix(class_ids)
        for a, b in semantic:
            matrix.update(a, b)
        results["our miou"] = mean_iou(matrix.matrix)

    def jaccard() -> None:
        metric = MulticlassJaccardIndex(len(class_ids) + 1, ignore_index=VOID, average=None, validate_args=False)
        for a, b in semantic:
            # Its 0 is no class here: what is answered with none of them.
            metric.update(torch.from_numpy(np.where(b == VOID, 0, b)), torch.from_numpy(a))
        values = metric.compute().numpy()
        present = np.isin(np.arange(len(values)), np.unique(np.concatenate([a.ravel() for a, _ in semantic])))
        results["jaccard"] = float(values[present].mean())

    def our_pq(n: int) -> None:
        quality = PanopticQuality(class_ids, things)
        for a, b in pairs[:n]:
            quality.update(a, b)
        results["our pq"] = quality.compute()["pq"]

    def their_pq(n: int) -> None:
        metric = TorchmetricsQuality(set(things), set(stuff), allow_unknown_preds_category=True)
        for a, b in pairs[:n]:
            # It knows no void: unlabelled pixels, and what is answered there, become a stuff of their own.
            void = a[..., 0] == VOID
            x, y = b.copy(), a.copy()
            x[void], y[void] = (stuff[0], 0), (stuff[0], 0)
            metric.update(torch.from_numpy(x)[None], torch.from_numpy(y)[None])
        metric.compute()

    def their_pq_without_void() -> float:
        metric, quality = TorchmetricsQuality(set(things), set(stuff)), PanopticQuality(class_ids, things)
        for a, b in pairs[:SCORED_SLOWLY]:
            inside = a[:, 9:], b[:, 9:]
            metric.update(torch.from_numpy(inside[1].copy())[None], torch.from_numpy(inside[0].copy())[None])
            quality.update(*inside)
        return abs(float(metric.compute()) - quality.compute()["pq"])

    def loops() -> None:
        values = transcribed_pq(pairs, class_ids)
        results["transcribed pq"] = float(np.mean(list(values.values())))

    n = len(pairs)
    measured = {
        "miou": compare({"ours": our_miou, "torchmetrics": jaccard}, n, 2 * times, {"ours": "torchmetrics"}),
        "pq": compare(
            {"ours": lambda: our_pq(n), "panopticapi's loops": loops}, n, 2 * times, {"ours": "panopticapi's loops"}
        ),
        "pq of fewer": compare(
            {"ours": lambda: our_pq(SCORED_SLOWLY), "torchmetrics": lambda: their_pq(SCORED_SLOWLY)},
            SCORED_SLOWLY,
            times,
            {"ours": "torchmetrics"},
        ),
    }
    our_pq(n)
    differences = {
        "miou - torchmetrics": abs(results["our miou"] - results["jaccard"]),
        "pq - panopticapi's loops": abs(results["our pq"] - results["transcribed pq"]),
        "pq - torchmetrics, where all is labelled": their_pq_without_void(),
    }
    return measured, differences


# -- the start of a task ----------------------------------------------------------------------------------------------


def startup(top: Path, n: int, n_classes: int = 150) -> dict[str, Any]:
    """Seconds from an index of `n` samples to the first positions of a task's first epoch, and Python objects made."""
    rng = np.random.default_rng(0)
    folder = top / "million"
    folder.mkdir()
    n_shards = min(SHARDS_OF_A_MILLION, n)
    table = np.zeros((n, n_classes), dtype=np.bool_)
    for _ in range(6):
        table[np.arange(n), rng.integers(0, n_classes, n)] = True
    shard = np.sort(np.arange(n) % n_shards).astype(np.int32)
    place = np.arange(n) - np.searchsorted(shard, shard)
    names = [f"train-{i:05d}.tar" for i in range(n_shards)]
    sizes = np.bincount(shard) * 120_320
    for name, size in zip(names, sizes.tolist(), strict=True):
        with (folder / name).open("wb") as file:
            file.truncate(size)  # a hole: nothing of it is read here
    ids = PackedIds.pack(f"train/image_{i:07d}" for i in range(n))
    counts = np.add.reduceat(table, np.searchsorted(shard, np.arange(n_shards)), axis=0, dtype=np.int64)
    index = ShardIndex(
        class_ids=np.arange(n_classes, dtype=np.int64),
        shard=shard,
        offset=(place * 120_320).astype(np.int64),
        size=np.full(n, 120_320, dtype=np.int64),
        crc=np.zeros(n, dtype=np.uint32),
        packed=np.packbits(table, axis=1),
        id_text=ids.text,
        id_ends=ids.ends,
        names=np.array(names),
        shard_bytes=sizes,
        counts=counts,
        plan="bench",
    )
    (folder / "train.index.npz").write_bytes(index.to_bytes())
    del table, index, ids
    manifest = written(
        folder / "million.yaml",
        {
            "name": "million",
            "task_kind": "semantic",
            "source": {"reader": "shards", "folder": "million"},
            "splits": {"train": {"index": "train.index.npz"}},
            "classes": [{"id": i, "name": f"class {i}"} for i in range(n_classes)],
            "input_size": [512, 512],
        },
    )

    def start() -> int:
        data = IncrementalDataModule(manifest, tasks=10, data_root=top)
        loader = data.loader("train", 3, shuffle=True)
        order = iter(loader.sampler)
        next(order)
        before_rest = sys.getallocatedblocks()
        started.append(before_rest - blocks[-1])
        return len(loader)

    blocks: list[int] = []
    started: list[int] = []
    times = []
    for _ in range(5):
        blocks.append(sys.getallocatedblocks())
        times.append(rounds([start], 1)[0][0])
    return {"samples": n, "seconds": float(statistics.median(times)), "blocks of memory": max(started)}


def report(title: str, measured: dict[str, Any]) -> Iterator[str]:
    """Images per second of each contender, then the ratios by the clock and by CPU time."""
    rates = ", ".join(f"{name} {rate:.1f}" for name, rate in measured["clock"]["per second"].items())
    yield f"{title}: images/s: {rates}"
    for pair, (low, middle, high) in measured["clock"]["ratios"].items():
        by_cpu = measured["CPU"]["ratios"][pair]
        yield (
            f"  {pair:<38} {middle:7.2f} ({low:.2f} to {high:.2f})"
            f"   CPU {by_cpu[1]:7.2f} ({by_cpu[0]:.2f} to {by_cpu[2]:.2f})"
        )


def loaders(
    semantic: Manifest, panoptic: Manifest, reader: CocoPanopticReader, top: Path, n: int, times: int
) -> Iterator[tuple[str, dict[str, Any]]]:
    """The loaders with 0, 1 and 2 workers."""
    (semantic_shards, semantic_files), (panoptic_shards, panoptic_files) = (
        sharded(m, top) for m in (semantic, panoptic)
    )
    voc = VOCSegmentation(str(top), "2012", "train", transforms=voc_item)
    for workers in (0, 1, 2):
        contenders = {
            "semantic": {
                "ours, folder": ours(semantic, top, workers),
                "torchvision": epoch(voc, workers),
                "ours, shards": ours(semantic_shards, top, workers),
                "bare WebDataset": bare_webdataset(semantic_files, workers),
            },
            "panoptic": {
                "ours, folder": ours(panoptic, top, workers),
                "plain, rgb2id": epoch(PlainPanoptic(reader), workers),
                "ours, shards": ours(panoptic_shards, top, workers),
                "bare WebDataset": bare_webdataset(panoptic_files, workers),
            },
        }
        for kind, calls in contenders.items():
            _, plain, _, bare = calls
            yield (
                f"{kind}, {workers} workers",
                compare(calls, n, times, {"ours, folder": plain, "ours, shards": bare}),
            )


def decode(reader: CocoPanopticReader, n: int, times: int) -> dict[str, Any]:
    """Panoptic maps from PNGs, equal ones, in one process."""
    things = set(reader.manifest.thing_ids)
    for i in range(2):  # who decodes faster must decode the same
        np.testing.assert_array_equal(reader.panoptic(i)[0], plain_maps(reader, i, things)[0])
    calls = {
        "ours": lambda: [reader.panoptic(i) for i in range(len(reader))],
        "rgb2id": lambda: [plain_maps(reader, i, things) for i in range(len(reader))],
    }
    return compare(calls, n, times, {"ours": "rgb2id"})


@dataclass(frozen=True, kw_only=True)
class Config:
    """Measure the loaders, the evaluation, and the start of a task.

    Args:
        quick: Few images: to see that it runs.
        only: Measure this alone.
        json: Write the figures to this file.
    """

    quick: bool = False
    only: Literal["loaders", "evaluation", "startup"] | None = None
    json: Path | None = None


def run(config: Config) -> int:
    """Measure, print, write. Returns the exit status."""
    n, times = (16, 3) if config.quick else (64, 7)
    wanted = [config.only] if config.only else ["loaders", "evaluation", "startup"]
    figures: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        top = Path(folder)
        os.environ["KC_CACHE"] = str(top / "cache")
        figures["machine"] = describe(top, config.quick)
        semantic, panoptic = make_semantic(top, n), make_panoptic(top, n)
        reader = open_reader(panoptic, "train", top)
        assert isinstance(reader, CocoPanopticReader)

        def tell(title: str, found: dict[str, Any]) -> None:
            figures[title] = found
            print(*report(title, found), sep="\n", flush=True)

        if "loaders" in wanted:
            for title, found in loaders(semantic, panoptic, reader, top, n, times):
                tell(title, found)
            tell("panoptic decode, one process", decode(reader, n, times))
        if "evaluation" in wanted:
            scored, differences = evaluation(replace(reader), times)
            for name, found in scored.items():
                tell(f"{name}, one process", found)
            figures["differences"] = differences
            for name, value in differences.items():
                print(f"  |{name}| {value:.2g}")
                assert value < 1e-5, f"{name}: results differ by {value}"
        if "startup" in wanted:
            figures["startup"] = startup(top, 20_000 if config.quick else 1_000_000)
            print(f"startup of a task: {figures['startup']}")
    if config.json is not None:
        config.json.write_text(json.dumps(figures, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    start(run, "data")
