"""Benchmarks to and from detectron2's catalogs. Needs detectron2, which is built from its source (docs/detectron2.md).

names = register("camvid")                                   # ours, in DatasetCatalog and MetadataCatalog
data = IncrementalDataModule.from_detectron2("my_train", test="my_val", tasks=5)   # theirs, as a stream of tasks
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from kc.data.coco_format import PanopticWriter, save_png
from kc.data.manifest import Manifest, load_manifest
from kc.data.readers.base import Reader
from kc.data.readers.detectron2_dicts import catalogs, kind_of
from kc.data.readers.open import content_key, open_reader
from kc.data.sources import Detectron2Source
from kc.data.splits import Detectron2Split
from kc.errors import DataError
from kc.files import cache_dir, file_name
from kc.label_png import Pixels, to_pixels
from kc.types import VOID, Int64Array, SplitName


def register(
    manifest: Manifest | str | Path, data_root: str | Path | None = None, prefix: str = "kc_"
) -> dict[SplitName, str]:
    """Put every split of a benchmark into detectron2's catalogs, as `PREFIX + NAME_SPLIT`; returns the names.

    Nothing is read until the data set is asked for; then labels are written once, in detectron2's format, to the cache
    folder: semantic ids from 0 without gaps in the order of the manifest (`sem_seg_file_name`), panoptic as COCO JSON
    and PNGs (`pan_seg_file_name`). Images are taken from where they lie; those of embedded benchmarks are written too.

    Raises MissingExtraError without detectron2, DataError for a benchmark of images or a name that is taken.
    """
    datasets, metadata = catalogs()
    spec = load_manifest(manifest) if isinstance(manifest, str | Path) else manifest
    if spec.task_kind == "classification":
        raise DataError(f"{spec.name} is classification; detectron2's catalogs hold detection and segmentation")
    root = None if data_root is None else Path(data_root)
    names: dict[SplitName, str] = {split: f"{prefix}{spec.name}_{split}" for split in spec.splits}
    taken = [name for name in names.values() if name in datasets.list()]
    if taken:
        raise DataError(f"detectron2 has a data set {taken[0]!r} already; give another prefix")
    for split, name in names.items():
        folder = cache_dir() / "detectron2" / f"{spec.name}-{content_key(spec, root)}" / split
        datasets.register(name, _loader(spec, split, root, folder))
        metadata.get(name).set(**_metadata(spec, folder))
    return names


def _metadata(manifest: Manifest, folder: Path) -> dict[str, Any]:
    names, colours = list(manifest.class_names()), [list(c.color) for c in manifest.classes]
    if manifest.task_kind == "semantic":
        return {
            "stuff_classes": names,
            "stuff_colors": colours,
            "ignore_label": int(_pixels(np.full(1, VOID), manifest)[0]),
            "evaluator_type": "sem_seg",
            "stuff_dataset_id_to_contiguous_id": {c: i for i, c in enumerate(manifest.class_ids())},
        }
    things = set(manifest.thing_ids)
    return {
        # One row of contiguous ids for both kinds, as Mask2Former and FC-CLIP register their data sets.
        "thing_classes": names,
        "stuff_classes": names,
        "thing_colors": colours,
        "stuff_colors": colours,
        "thing_dataset_id_to_contiguous_id": {c: i for i, c in enumerate(manifest.class_ids()) if c in things},
        "stuff_dataset_id_to_contiguous_id": {c: i for i, c in enumerate(manifest.class_ids()) if c not in things},
        "ignore_label": 255,
        "label_divisor": 1000,
        "evaluator_type": "coco_panoptic_seg",
        "panoptic_json": str(folder / "panoptic.json"),
        "panoptic_root": str(folder / "panoptic"),
    }


def _loader(
    manifest: Manifest, split: SplitName, data_root: Path | None, folder: Path
) -> Callable[[], list[dict[str, Any]]]:
    def load() -> list[dict[str, Any]]:
        reader = open_reader(manifest, split, data_root)
        if manifest.task_kind == "semantic":
            return [_semantic(reader, i, manifest, folder) for i in range(len(reader))]
        return _panoptic(reader, manifest, folder)

    return load


def _image(reader: Reader, index: int, folder: Path, shape: tuple[int, int] | None) -> tuple[str, int, int]:
    """File, height and width of an image: where it lies if the reader has files, else written to the cache."""
    from PIL import Image, ImageOps

    where: Callable[[int], Path] | None = getattr(reader, "image_file", None)
    if where is not None:
        path = where(index)
        if shape is not None:
            return str(path), *shape
        with Image.open(path) as image:
            width, height = ImageOps.exif_transpose(image).size
        return str(path), height, width
    path = folder / "images" / f"{_stem(reader.sample_ids[index])}.png"
    image_array = reader.read(index).image
    if not path.exists():
        save_png(path, image_array)
    return str(path), *image_array.shape[:2]


def _stem(sample_id: str) -> str:
    """A file name without folders: evaluators of detectron2 tell images apart by it alone."""
    return file_name(sample_id.partition("/")[2])


def _semantic(reader: Reader, index: int, manifest: Manifest, folder: Path) -> dict[str, Any]:
    name = reader.sample_ids[index]
    path = folder / "labels" / f"{_stem(name)}.png"
    if not path.exists():
        semantic = reader.read(index).semantic
        assert semantic is not None
        table = np.full(max(manifest.class_ids()) + 2, VOID)  # the last entry is that of VOID (-1)
        table[list(manifest.class_ids())] = np.arange(len(manifest.classes))
        save_png(path, _pixels(table[semantic], manifest))
    file_name, height, width = _image(reader, index, folder, None)
    return {
        "file_name": file_name,
        "image_id": name,
        "height": height,
        "width": width,
        "sem_seg_file_name": str(path),
    }


def _pixels(contiguous: Int64Array, manifest: Manifest) -> Pixels:
    """Contiguous ids as they are stored: unlabelled is 255, or 65535 where there are more than 255 classes."""
    return to_pixels(contiguous, len(manifest.classes) - 1)


def _panoptic(reader: Reader, manifest: Manifest, folder: Path) -> list[dict[str, Any]]:
    import json

    column = {c: i for i, c in enumerate(manifest.class_ids())}
    things = set(manifest.thing_ids)
    path = folder / "panoptic.json"
    if not path.exists():
        writer = PanopticWriter(path, folder / "panoptic", manifest.info)
        for index, name in enumerate(reader.sample_ids):
            sample = reader.read(index)
            assert sample.panoptic is not None
            writer.add(name, f"{_stem(name)}.png", sample.panoptic, sample.crowd)
        writer.close()
    content = json.loads(path.read_text(encoding="utf-8"))
    found = []
    for index, (image, annotation) in enumerate(zip(content["images"], content["annotations"], strict=True)):
        file_name, height, width = _image(reader, index, folder, (image["height"], image["width"]))
        segments = [
            {**s, "category_id": column[s["category_id"]], "isthing": s["category_id"] in things}
            for s in annotation["segments_info"]
        ]
        found.append(
            {
                "file_name": file_name,
                "image_id": annotation["image_id"],
                "height": height,
                "width": width,
                "pan_seg_file_name": str(folder / "panoptic" / annotation["file_name"]),
                "segments_info": segments,
            }
        )
    return found


def manifest_of(parts: Mapping[SplitName, str], input_size: tuple[int, int]) -> Manifest:
    """The manifest of data sets in detectron2's catalogs: `parts` names one a split.

    Semantic where their dicts have `sem_seg_file_name` only; panoptic where they have `pan_seg_file_name`, or instances
    (`annotations`), which become things. Class ids are the data sets' own where they say them, else detectron2's
    contiguous ones.

    Raises MissingExtraError without detectron2, DataError for an unknown name or splits with different classes.
    """
    datasets, metadata = catalogs()
    for name in parts.values():
        if name not in datasets.list():
            raise DataError(f"detectron2 has no data set {name!r}; import the module that registers it first")
    found = {split: kind_of(datasets.get(name), metadata.get(name), name) for split, name in parts.items()}
    first = next(iter(found.values()))
    for split, other in found.items():
        if other != first:
            one = next(iter(parts.values()))
            raise DataError(f"{parts[split]} has other classes, or labels of another kind, than {one}")
    safe = "".join(c if c.isalnum() or c in "._-" else "-" for c in next(iter(parts.values())).lower()).strip("-._")
    return Manifest(
        name=safe or "detectron2",
        task_kind=first.kind,
        source=Detectron2Source(reader="detectron2"),
        splits={split: Detectron2Split(reader="detectron2", dataset=name) for split, name in parts.items()},
        classes=first.classes,
        input_size=input_size,
    )
