"""Segmentation in the COCO formats: panoptic (JSON of segments, PNGs of segment ids) and instances (one JSON).

Kirillov et al. 2019, "Panoptic Segmentation"; https://cocodataset.org/#format-data
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from kc.data.manifest import Manifest
from kc.data.readers.base import FileReader, complete, unique_names
from kc.data.readers.drawn import Marked, painted
from kc.data.readers.files import check_area, images_folder, read_mask, says_orientation
from kc.data.splits import CocoInstancesSplit, CocoPanopticSplit
from kc.errors import DataError, ManifestError
from kc.outside import MOST_JSON, inside, read_json
from kc.types import VOID, Int32Array, SplitName

_MOST_SEGMENTS = 65_533


@dataclass(frozen=True)
class CocoSegment:
    """One segment of the JSON: its colour number in the PNG, its class, whether it is a crowd."""

    id: int
    class_id: int
    crowd: bool


@dataclass(frozen=True)
class CocoImage:
    """`image`: its file relative to the root; `number`: its id in the JSON; `name`: unique in the split."""

    image: str
    number: int | str
    name: str = field(default="", kw_only=True)


@dataclass(frozen=True)
class CocoItem(CocoImage):
    """One image: its mask relative to the root, and its segments in the order of the JSON."""

    mask: str
    segments: tuple[CocoSegment, ...]


Item = TypeVar("Item", bound=CocoImage)


@dataclass(frozen=True)
class CocoReader(FileReader[Item]):
    """The images of one JSON, in order of file name."""

    def owner_id(self, index: int) -> int | str:
        """The image's id in the JSON."""
        return self.items[index].number


@dataclass(frozen=True)
class CocoPanopticReader(CocoReader[CocoItem]):
    """The annotated images of one JSON, in order of image file name."""

    @classmethod
    def open(cls, manifest: Manifest, split: SplitName, root: Path) -> CocoPanopticReader:
        """Read the split's JSON.

        Raises:
            DataError: the JSON is missing or damaged, names an unknown category or leaves the data folder.
            LayoutError: images of the JSON without an annotation, or with two.
            ManifestError: its categories are not the manifest's classes; lists the difference.
        """
        part = manifest.splits[split]
        assert isinstance(part, CocoPanopticSplit)
        path = inside(root, part.annotations)
        with _coco_file(path, f"splits.{split}.annotations of {manifest.name}") as content:
            categories = {int(c["id"]): (str(c["name"]).strip(), bool(c["isthing"])) for c in content["categories"]}
            # As text: COCO numbers its images, the ADE20K files of Mask2Former name them.
            names = {str(image["id"]): str(image["file_name"]) for image in content["images"]}
            numbers = _numbers(path, content["images"])
            items = [_item(part, path, a, names, numbers) for a in content["annotations"]]
            labelled = Counter(str(annotation["image_id"]) for annotation in content["annotations"])
        for folder in (part.images, part.masks):
            images_folder(root, folder)
        names_in_files = zip(manifest.classes, manifest.names_in_files(), strict=True)
        wanted = {c.id: f"{name} ({_kind(c.thing)})" for c, name in names_in_files}
        _check_categories(path, manifest, {i: f"{n} ({_kind(thing)})" for i, (n, thing) in categories.items()}, wanted)
        for item in items:
            inside(root, item.image)
            inside(root, item.mask)
            if len(item.segments) > _MOST_SEGMENTS:
                raise DataError(
                    f"{path}: {len(item.segments)} segments of {item.mask}; at most {_MOST_SEGMENTS} are read"
                )
            for segment in item.segments:
                if not 0 < segment.id < 1 << 24:
                    raise DataError(
                        f"{path}: segment id {segment.id} of {item.mask}; expected 1 to {(1 << 24) - 1}, the numbers "
                        "that the three colours of a PNG can hold"
                    )
                if segment.class_id not in categories:
                    raise DataError(
                        f"{path}: segment {segment.id} of {item.mask} has category {segment.class_id}; "
                        f"allowed: {', '.join(map(str, categories))}"
                    )
        wrong = {i: name for i, name in names.items() if labelled[i] != 1} if items else {}
        problems = [f"{path}: {labelled[i]} annotations of image {name}; expected one" for i, name in wrong.items()]
        found = complete(_named(items, part.images), problems, f"{path}: no annotations")
        return cls(manifest, split, found, root)

    def where_labels(self, index: int) -> str:
        return f"{self.root}/{self.items[index].mask}"

    def labels_upright(self, index: int) -> bool:
        return says_orientation(inside(self.root, self.items[index].mask))

    def held(self, index: int) -> Iterable[int]:
        """From the JSON; `read` verifies that every segment has pixels."""
        return (segment.class_id for segment in self.items[index].segments)

    def panoptic(self, index: int) -> tuple[Int32Array, frozenset[int]]:
        """The map (H, W, 2) of class id and instance number, and the instance numbers that are crowds.

        Things are numbered 1, 2, ... in the order of the JSON, stuff is 0; pixels of no segment are (VOID, 0).

        Raises:
            DataError: a segment of the PNG is not in the JSON, or one of the JSON has no pixel.
        """
        item = self.items[index]
        rgb = read_mask(self.root, item.mask, channels=3)
        padded = np.zeros((*rgb.shape[:2], 4), dtype=np.uint8)
        padded[..., :3] = rgb
        segment_id = padded.view("<u4")[..., 0]
        # Segment id -> its place in `rows`, 0 for ids that there are not. Of the table's 32 MiB only the pages of the
        # image's own segments are ever touched, which is ten times faster than sorting the pixels.
        place = np.zeros(1 << 24, dtype=np.uint16)
        rows = np.full((len(item.segments) + 2, 2), (VOID, 0), dtype=np.int32)
        place[0] = 1
        crowd: set[int] = set()
        n_things = 0
        for number, segment in enumerate(item.segments, start=2):
            place[segment.id] = number
            instance = 0
            if segment.class_id in self._things:
                n_things += 1
                instance = n_things
                if segment.crowd:
                    crowd.add(instance)
            rows[number] = segment.class_id, instance
        numbers = place.take(segment_id)
        count = np.bincount(numbers.ravel(), minlength=len(rows))
        if count[0]:
            allowed = sorted(segment.id for segment in item.segments)
            raise DataError(
                f"{self.root / item.mask}: segment {segment_id[numbers == 0].min()} is not in the annotation file; "
                f"allowed: 0 (unlabelled), {', '.join(map(str, allowed))}"
            )
        absent = sorted(s.id for number, s in enumerate(item.segments, start=2) if not count[number])
        if absent:
            raise DataError(f"{self.root / item.mask}: segment {absent[0]} of the annotation file has no pixel")
        # Both numbers of a pixel in one step, as eight bytes.
        pairs = rows.view(np.int64)[:, 0].take(numbers)
        return pairs.view(np.int32).reshape(*numbers.shape, 2), frozenset(crowd)

    @cached_property
    def _things(self) -> frozenset[int]:
        return frozenset(self.manifest.thing_ids)


def _numbers(path: Path, images: Sequence[dict[str, Any]]) -> dict[str, int | str]:
    """The ids of the images by their text. Raises DataError where two images have one."""
    numbers: dict[str, int | str] = {}
    files: dict[str, str] = {}
    for image in images:
        key, file = str(image["id"]), str(image["file_name"])
        if key in numbers:
            raise DataError(f"{path}: image id {key} is that of {files[key]} and of {file}; each needs its own")
        numbers[key] = image["id"] if isinstance(image["id"], int) else key
        files[key] = file
    return numbers


def _named(items: Iterable[Item], folder: str) -> list[Item]:
    """The items in order of file name, with names."""
    ordered = sorted(items, key=lambda item: item.image)
    names = unique_names([item.image for item in ordered], folder, [item.number for item in ordered])
    return [replace(item, name=name) for item, name in zip(ordered, names, strict=True)]


def _item(
    part: CocoPanopticSplit,
    path: Path,
    annotation: dict[str, Any],
    names: dict[str, str],
    numbers: dict[str, int | str],
) -> CocoItem:
    segments = tuple(
        CocoSegment(int(s["id"]), int(s["category_id"]), bool(s.get("iscrowd", 0))) for s in annotation["segments_info"]
    )
    key, mask = str(annotation["image_id"]), str(annotation["file_name"])
    if key not in names:
        raise DataError(f"{path}: the annotation {mask} is of image id {key}, which is not in its `images`")
    return CocoItem(f"{part.images}/{names[key]}", numbers[key], f"{part.masks}/{mask}", segments)


@dataclass(frozen=True)
class InstancesItem(CocoImage):
    """One image: its size (H, W), and its instances in the order of the JSON."""

    size: tuple[int, int]
    instances: tuple[Marked, ...]


@dataclass(frozen=True)
class CocoInstancesReader(CocoReader[InstancesItem]):
    """Every image of one JSON, also those without an instance, in order of file name.

    Instances are painted large to small; pixels of none are the background, else VOID.
    """

    @classmethod
    def open(cls, manifest: Manifest, split: SplitName, root: Path) -> CocoInstancesReader:
        """Read the split's JSON.

        Raises:
            DataError: the JSON is missing or damaged, or an image leaves the data folder.
            ManifestError: its categories are not the manifest's classes beside the background.
        """
        part = manifest.splits[split]
        assert isinstance(part, CocoInstancesSplit)
        path = inside(root, part.annotations)
        with _coco_file(path, f"splits.{split}.annotations of {manifest.name}") as content:
            categories = {int(c["id"]): str(c["name"]).strip() for c in content["categories"]}
            marked: dict[str, list[Marked]] = {str(image["id"]): [] for image in content["images"]}
            for a in content["annotations"]:
                one = Marked(
                    int(a["category_id"]), a.get("segmentation"), bool(a.get("iscrowd", 0)), f"annotation {a.get('id')}"
                )
                if (key := str(a["image_id"])) not in marked:
                    raise DataError(f"{path}: {one.name} is of image id {key}, which is not in its `images`")
                marked[key].append(one)
            numbers = _numbers(path, content["images"])
            items = [
                InstancesItem(
                    f"{part.images}/{image['file_name']}",
                    numbers[str(image["id"])],
                    (int(image["height"]), int(image["width"])),
                    tuple(marked[str(image["id"])]),
                )
                for image in content["images"]
            ]
        images_folder(root, part.images)
        named = zip(manifest.classes, manifest.names_in_files(), strict=True)
        _check_categories(path, manifest, categories, {c.id: name for c, name in named if not c.background})
        stuff = [c.name for c in manifest.classes if not (c.thing or c.background)]
        if manifest.task_kind == "panoptic" and stuff:
            raise ManifestError(f"{path}: holds things alone, but {manifest.name} has the stuff class {stuff[0]!r}")
        for item in items:
            inside(root, item.image)
            check_area(item.size, f"{path}: {item.image}")
            unknown = {one.class_id for one in item.instances} - categories.keys()
            if unknown:
                raise DataError(f"{path}: an instance of {item.image} has category {min(unknown)}, which is not listed")
        return cls(manifest, split, complete(_named(items, part.images), (), f"{path}: no images"), root)

    def where_labels(self, index: int) -> str:
        return f"{self.where(index)} in its JSON"

    def held(self, index: int) -> Iterable[int]:
        """Listed in the JSON; where pixels may be left for a background, the instances are drawn."""
        listed = (one.class_id for one in self.items[index].instances)
        return listed if self.manifest.background_id is None else super().held(index)

    def panoptic(self, index: int) -> tuple[Int32Array, frozenset[int]]:
        """The map (H, W, 2) of class id and instance number, and which instances are crowds."""
        item = self.items[index]
        panoptic, crowd = painted(item.instances, item.size, str(self.root / item.image))
        if self.manifest.background_id is not None:
            panoptic[panoptic[..., 0] == VOID, 0] = self.manifest.background_id
        return panoptic, crowd


@contextmanager
def _coco_file(path: Path, expected_by: str) -> Iterator[Any]:
    """The content of a JSON; what does not fit the format while it is read is a DataError."""
    try:
        if not path.is_file():
            raise DataError(f"{path}: no such file; {expected_by} expects it")
        content = read_json(path, most=MOST_JSON)
        if not isinstance(content, dict):
            raise DataError(f"{path}: not a COCO annotation file; expected an object with images and categories")
        yield content
    except KeyError as error:
        raise DataError(f"{path}: not a COCO annotation file: something in it lacks {error}") from error
    except (ValueError, TypeError, AttributeError, OverflowError) as error:
        raise DataError(f"{path}: not a COCO annotation file ({type(error).__name__}: {error})") from error


def _check_categories(path: Path, manifest: Manifest, found: dict[int, str], wanted: dict[int, str]) -> None:
    differences = [
        f"{i}: {found.get(i, 'absent')} in the file, {wanted.get(i, 'absent')} in the manifest"
        for i in sorted(found.keys() | wanted.keys())
        if found.get(i) != wanted.get(i)
    ]
    if differences:
        shown = "; ".join(differences[:10]) + ("; ..." if len(differences) > 10 else "")
        raise ManifestError(f"{path}: its categories are not the classes of {manifest.name}: {shown}")


def _kind(thing: bool) -> str:
    return "thing" if thing else "stuff"
