"""Where a benchmark's data lies: the source and split parts of a manifest, and the addresses they may name."""

from __future__ import annotations

import re
from pathlib import PurePosixPath, PureWindowsPath
from typing import Annotated, ClassVar, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, field_validator, model_validator

_COMMAND = re.compile(r"[|;&$`<>\n]")


def _no_command(text: str) -> str:
    if text.strip().lower().startswith("pipe:") or _COMMAND.search(text):
        raise ValueError(f"{text!r} would run a command; addresses like 'pipe:...' and shell characters are refused")
    return text


def _relative_path(text: str) -> str:
    _no_command(text)
    windows, posix = PureWindowsPath(text), PurePosixPath(text)
    if not text.strip() or posix.is_absolute() or windows.drive or windows.root or text.startswith("~"):
        raise ValueError(f"{text!r} is not a path relative to the data folder")
    if "://" in text:
        raise ValueError(f"{text!r} is an address; expected a path relative to the data folder")
    if ".." in posix.parts or ".." in windows.parts:
        raise ValueError(f"{text!r} leaves the data folder ('..' is refused)")
    return text


def _file_ending(text: str) -> str:
    if not text.strip() or "/" in text or "\\" in text or ".." in text:
        raise ValueError(f"{text!r} is not the end of a file name such as '_leftImg8bit.png'")
    return text


def _web_address(text: str) -> str:
    if not re.match(r"https?://\S+$", _no_command(text)):
        raise ValueError(f"{text!r} is not an address that starts with https:// or http://")
    return text


def store_address(text: str) -> str:
    """An address that shards are written to or read from, as it is. Raises ValueError for any other."""
    scheme = re.match(r"([a-z0-9]+)://[^/\s]+", _no_command(text))
    if not scheme or scheme[1] not in STORES:
        raise ValueError(f"{text!r} is not an address of shards; it starts with one of {', '.join(STORES)} and ://")
    return text


STORES = ("s3", "gs", "gcs", "az", "abfs", "hdfs", "https", "http", "memory")
"""Where shards may lie beside the disk; "memory" is a store within one process."""

RelativePath = Annotated[str, AfterValidator(_relative_path)]
FileEnding = Annotated[str, AfterValidator(_file_ending)]
WebAddress = Annotated[str, AfterValidator(_web_address)]
StoreAddress = Annotated[str, AfterValidator(store_address)]
Channel = Annotated[int, Field(ge=0, le=255)]
Percent = Annotated[int, Field(ge=0, le=100)]
Positive = Annotated[int, Field(ge=1)]
Sha256 = Annotated[str, Field(pattern=r"^sha256:[0-9a-f]{64}$")]


CUB_LISTS = ("classes.txt", "images.txt", "image_class_labels.txt", "train_test_split.txt")


class Strict(BaseModel):
    """Base of every part of a manifest: unknown keys are errors, values do not change."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class SplitPart(Strict):
    """Base of the splits. `PATHS`: the fields that name files or folders below the benchmark's folder."""

    PATHS: ClassVar[tuple[str, ...]] = ()

    def paths(self) -> tuple[str, ...]:
        """Every file and folder that this split names."""
        values = (getattr(self, field) for field in self.PATHS)
        return tuple(path for value in values for path in ([value] if isinstance(value, str) else value or ()))


class Archive(Strict):
    """A file to download without a login: its address, size in bytes, and SHA-256.

    `into`: the folder below the data root that it is unpacked in; `inner`: archives in it, from there, that are
    unpacked where they lie.
    """

    url: WebAddress
    size: Positive
    sha256: Sha256
    into: RelativePath = "."
    inner: tuple[RelativePath, ...] = ()

    @property
    def file_name(self) -> str:
        """What the file is called while it is here."""
        return PurePosixPath(urlsplit(self.url).path).name

    @field_validator("url")
    @classmethod
    def _ends_in_a_file_name(cls, url: str) -> str:
        name = PurePosixPath(urlsplit(url).path).name
        if not name or name.startswith("."):
            raise ValueError(f"{url!r} does not end in the name of a file")
        return url


class FolderSource(Strict):
    """One sub-folder a class, images in it. `folder`: the benchmark's folder under the data root.

    `skip`: sub-folders that are of no class.
    """

    reader: Literal["folder"]
    folder: RelativePath
    skip: tuple[RelativePath, ...] = ()


class IndexPngSource(Strict):
    """One image and one single-channel PNG of class ids with the same stem."""

    reader: Literal["index_png"]
    folder: RelativePath


class CocoPanopticSource(Strict):
    """COCO panoptic JSON and PNGs of segment ids (id = R + 256 G + 65536 B)."""

    reader: Literal["coco_panoptic"]
    folder: RelativePath


class LabelMeSource(Strict):
    """One LabelMe JSON of shapes an image."""

    reader: Literal["labelme"]
    folder: RelativePath


class CsvSource(Strict):
    """A table with a header: one image and its class a row. `image`, `label`: names of the columns."""

    reader: Literal["csv"]
    folder: RelativePath
    image: Annotated[str, Field(min_length=1)] = "image"
    label: Annotated[str, Field(min_length=1)] = "label"
    delimiter: Literal[",", ";", "\t"] = ","


class CubSource(Strict):
    """The four lists of CUB-200-2011: classes, images, image_class_labels, train_test_split."""

    reader: Literal["cub"]
    folder: RelativePath


class CifarSource(Strict):
    """The binary version of CIFAR: records of label bytes and 32 x 32 pixels in planes of red, green, blue.

    `label_bytes`: 1 in CIFAR-10, 2 in CIFAR-100 (coarse, fine); the last is the class id.
    """

    reader: Literal["cifar_binary"]
    folder: RelativePath
    label_bytes: Literal[1, 2] = 1


class VocXmlSource(Strict):
    """VOC's XML of boxes, one an image, as class labels.

    `take`: `single`: the images whose objects are all of one class, others are left out; `largest`: every image, the
    class of its largest box; `boxes`: every box, cut out of its image. `difficult`: whether objects marked so count.
    """

    reader: Literal["voc_xml"]
    folder: RelativePath
    take: Literal["single", "largest", "boxes"] = "single"
    difficult: bool = False


class PascalContextSource(Strict):
    """PASCAL-Context as distributed: one MAT-file an image, its `LabelMap` (H, W) of 1..459.

    A class's `values` are its numbers there, its id where it has none; other numbers are void, or the background.
    """

    reader: Literal["pascal_context"]
    folder: RelativePath


class Ade20kFullSource(Strict):
    """The full ADE20K: class and instance in the colours of `*_seg.png` (level 0) or `*_parts_LEVEL.png`.

    A class's `values` are its index numbers (R / 10 * 256 + G), its id where it has none; others are void.
    """

    reader: Literal["ade20k_full"]
    folder: RelativePath
    level: Annotated[int, Field(ge=0, le=9)] = 0


class CocoInstancesSource(Strict):
    """COCO instances JSON: polygons and run lengths of things, painted large to small."""

    reader: Literal["coco_instances"]
    folder: RelativePath


class TorchvisionSource(Strict):
    """A data set of torchvision.datasets by its class name, in the layout that torchvision downloads to."""

    reader: Literal["torchvision"]
    folder: RelativePath = "."
    dataset: Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9]*$")]


class HuggingFaceSource(Strict):
    """A data set of Hugging Face `datasets`: what `save_to_disk` wrote in `folder`, Parquet files there, or, by `name`,
    one that the hub or its cache has. `image`, `label`: names of the columns.
    """

    reader: Literal["huggingface"]
    folder: RelativePath = "."
    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][\w.-]*(/[\w.-]+)?$")] | None = None
    config: Annotated[str, Field(min_length=1)] | None = None
    revision: Annotated[str, Field(min_length=1)] | None = None
    image: Annotated[str, Field(min_length=1)] = "image"
    label: Annotated[str, Field(min_length=1)] = "label"


class ShardsSource(Strict):
    """Tar shards that `kc data shards` wrote: below `folder`, or at an `address` such as s3://bucket/camvid."""

    reader: Literal["shards"]
    folder: RelativePath = "."
    address: StoreAddress | None = None


class EmbeddedSource(Strict):
    """A set made from data that installed packages ship; needs no data folder."""

    reader: Literal["embedded"]
    collection: Literal["digit-scenes", "digits"]
    seed: Annotated[int, Field(ge=0)] = 0


class Detectron2Source(Strict):
    """Data sets of detectron2's catalog, which name their files themselves."""

    reader: Literal["detectron2"]


class FolderSplit(SplitPart):
    """`path`: the folder that holds the class folders.

    `share`: (from, to) in per cent, where the owners publish no split: the files of every class in the order of the
    SHA-256 of their names, and of these this part. The same files on every machine, whatever else changes.
    """

    PATHS = ("path",)
    reader: Literal["folder"]
    path: RelativePath
    share: tuple[Percent, Percent] | None = None

    @field_validator("share")
    @classmethod
    def _share_is_not_empty(cls, share: tuple[int, int] | None) -> tuple[int, int] | None:
        if share is not None and share[0] >= share[1]:
            raise ValueError(f"from {share[0]} to {share[1]} per cent is empty")
        return share


class IndexPngSplit(SplitPart):
    """`images`, `labels`: two folders with files of equal names.

    `names`: a text file of the names that belong to the split, one a line without suffix (VOC ImageSets), or an image
    and a mask path a line, from the benchmark's folder (the augmented lists of VOC); other files are then left alone.
    `image_ending`, `label_ending`: what a name ends in, where the two kinds differ in more than the suffix
    (Cityscapes: _leftImg8bit.png, _gtFine_labelTrainIds.png). `recursive`: files lie in sub-folders that are part of
    their names (Cityscapes: one folder a city). `objects`: a folder of PNGs named like the masks, whose values tell the
    objects of an image apart (VOC SegmentationObject); with it the benchmark may be panoptic.
    """

    PATHS = ("images", "labels", "names", "objects")
    reader: Literal["index_png"]
    images: RelativePath
    labels: RelativePath
    names: RelativePath | None = None
    image_ending: FileEnding | None = None
    label_ending: FileEnding = ".png"
    recursive: bool = False
    objects: RelativePath | None = None


class CocoPanopticSplit(SplitPart):
    """`images`: image folder; `annotations`: the JSON file; `masks`: the folder of id-PNGs."""

    PATHS = ("images", "annotations", "masks")
    reader: Literal["coco_panoptic"]
    images: RelativePath
    annotations: RelativePath
    masks: RelativePath


class LabelMeSplit(SplitPart):
    """`path`: the folder of JSON files."""

    PATHS = ("path",)
    reader: Literal["labelme"]
    path: RelativePath


class CsvSplit(SplitPart):
    """`file`: the table; `images`: the folder that its image paths start from, the benchmark's folder by default."""

    PATHS = ("file", "images")
    reader: Literal["csv"]
    file: RelativePath
    images: RelativePath | None = None


class CubSplit(SplitPart):
    """`part`: which side of train_test_split.txt."""

    reader: Literal["cub"]
    part: Literal["train", "test"]

    def paths(self) -> tuple[str, ...]:
        """The four lists."""
        return CUB_LISTS


class CifarSplit(SplitPart):
    """`files`: binary files, read in this order."""

    PATHS = ("files",)
    reader: Literal["cifar_binary"]
    files: Annotated[tuple[RelativePath, ...], Field(min_length=1)]


class Detectron2Split(SplitPart):
    """`dataset`: its name in DatasetCatalog."""

    reader: Literal["detectron2"]
    dataset: Annotated[str, Field(min_length=1)]


class VocXmlSplit(SplitPart):
    """`images`, `annotations`: two folders with files of equal names; `names`: a list of those that belong to the split
    (VOC ImageSets), one a line; without it all do."""

    PATHS = ("images", "annotations", "names")
    reader: Literal["voc_xml"]
    images: RelativePath
    annotations: RelativePath
    names: RelativePath | None = None


class PascalContextSplit(SplitPart):
    """`images`, `labels`: two folders with files of equal names; `names`: a list of those of the split, one a line."""

    PATHS = ("images", "labels", "names")
    reader: Literal["pascal_context"]
    images: RelativePath
    labels: RelativePath
    names: RelativePath | None = None


class Ade20kFullSplit(SplitPart):
    """`path`: the folder, with sub-folders, of images and the PNGs beside them."""

    PATHS = ("path",)
    reader: Literal["ade20k_full"]
    path: RelativePath


class CocoInstancesSplit(SplitPart):
    """`images`: image folder; `annotations`: the JSON file."""

    PATHS = ("images", "annotations")
    reader: Literal["coco_instances"]
    images: RelativePath
    annotations: RelativePath


class TorchvisionSplit(SplitPart):
    """`arguments`: what the data set's class is called with, such as {train: true} or {image_set: val}."""

    reader: Literal["torchvision"]
    arguments: dict[str, bool | int | str] = Field(default_factory=dict)

    @field_validator("arguments")
    @classmethod
    def _ours_stay_ours(cls, arguments: dict[str, bool | int | str]) -> dict[str, bool | int | str]:
        for name in arguments:
            if name in ("root", "download", "transform", "target_transform", "transforms", "loader"):
                raise ValueError(f"{name!r} is not for a manifest to say")
        return arguments


class HuggingFaceSplit(SplitPart):
    """`part`: the split's name there; `files`: Parquet files instead."""

    PATHS = ("files",)
    reader: Literal["huggingface"]
    part: Annotated[str, Field(min_length=1)] | None = None
    files: tuple[RelativePath, ...] = ()

    @model_validator(mode="after")
    def _one_of_both(self) -> HuggingFaceSplit:
        if (self.part is None) == (not self.files):
            raise ValueError("expected either `part`, the name of a split, or `files`")
        return self


class ShardsSplit(SplitPart):
    """`index`: the file that says where each sample lies."""

    PATHS = ("index",)
    reader: Literal["shards"]
    index: RelativePath


class EmbeddedSplit(SplitPart):
    """`count`: number of samples."""

    reader: Literal["embedded"]
    count: Positive


READER_MODELS: dict[str, tuple[type[Strict], type[SplitPart]]] = {
    # reader -> the model of its source, the model of its splits
    "folder": (FolderSource, FolderSplit),
    "csv": (CsvSource, CsvSplit),
    "cub": (CubSource, CubSplit),
    "cifar_binary": (CifarSource, CifarSplit),
    "index_png": (IndexPngSource, IndexPngSplit),
    "labelme": (LabelMeSource, LabelMeSplit),
    "coco_panoptic": (CocoPanopticSource, CocoPanopticSplit),
    "voc_xml": (VocXmlSource, VocXmlSplit),
    "pascal_context": (PascalContextSource, PascalContextSplit),
    "ade20k_full": (Ade20kFullSource, Ade20kFullSplit),
    "coco_instances": (CocoInstancesSource, CocoInstancesSplit),
    "torchvision": (TorchvisionSource, TorchvisionSplit),
    "huggingface": (HuggingFaceSource, HuggingFaceSplit),
    "shards": (ShardsSource, ShardsSplit),
    "embedded": (EmbeddedSource, EmbeddedSplit),
    "detectron2": (Detectron2Source, Detectron2Split),
}

Source = Annotated[
    FolderSource
    | CsvSource
    | CubSource
    | CifarSource
    | IndexPngSource
    | LabelMeSource
    | CocoPanopticSource
    | VocXmlSource
    | PascalContextSource
    | Ade20kFullSource
    | CocoInstancesSource
    | TorchvisionSource
    | HuggingFaceSource
    | ShardsSource
    | EmbeddedSource
    | Detectron2Source,
    Field(discriminator="reader"),
]
Split = Annotated[
    FolderSplit
    | CsvSplit
    | CubSplit
    | CifarSplit
    | IndexPngSplit
    | LabelMeSplit
    | CocoPanopticSplit
    | VocXmlSplit
    | PascalContextSplit
    | Ade20kFullSplit
    | CocoInstancesSplit
    | TorchvisionSplit
    | HuggingFaceSplit
    | ShardsSplit
    | EmbeddedSplit
    | Detectron2Split,
    Field(discriminator="reader"),
]
