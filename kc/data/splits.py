"""What belongs to a split: the `splits` of a manifest, one model a reader."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field, field_validator, model_validator

from kc.data.addresses import FileEnding, Percent, Positive, RelativePath, Strict

CUB_LISTS = ("classes.txt", "images.txt", "image_class_labels.txt", "train_test_split.txt")


class SplitPart(Strict):
    """Base of the splits. `PATHS`: the fields that name files or folders below the benchmark's folder."""

    PATHS: ClassVar[tuple[str, ...]] = ()

    def paths(self) -> tuple[str, ...]:
        """Every file and folder that this split names."""
        values = (getattr(self, field) for field in self.PATHS)
        return tuple(path for value in values for path in ([value] if isinstance(value, str) else value or ()))


class PathSplit(SplitPart):
    """`path`: the folder of everything."""

    PATHS = ("path",)
    path: RelativePath


class AnnotatedSplit(SplitPart):
    """`images`: image folder; `annotations`: the file, or folder of files, that says what is in them."""

    PATHS: ClassVar[tuple[str, ...]] = ("images", "annotations")
    images: RelativePath
    annotations: RelativePath


class FolderSplit(PathSplit):
    """`path`: the folder that holds the class folders.

    `share`: (from, to) in per cent, where the owners publish no split: the files of every class in the order of the
    SHA-256 of their names, and of these this part. The same files on every machine, whatever else changes.
    """

    reader: Literal["folder"]
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


class CocoPanopticSplit(AnnotatedSplit):
    """`images`: image folder; `annotations`: the JSON file; `masks`: the folder of id-PNGs."""

    PATHS = ("images", "annotations", "masks")
    reader: Literal["coco_panoptic"]
    masks: RelativePath


class LabelMeSplit(PathSplit):
    """`path`: the folder of JSON files."""

    reader: Literal["labelme"]


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


class VocXmlSplit(AnnotatedSplit):
    """`images`, `annotations`: two folders with files of equal names; `names`: a list of those that belong to the split
    (VOC ImageSets), one a line; without it all do."""

    PATHS = ("images", "annotations", "names")
    reader: Literal["voc_xml"]
    names: RelativePath | None = None


class PascalContextSplit(SplitPart):
    """`images`, `labels`: two folders with files of equal names; `names`: a list of those of the split, one a line."""

    PATHS = ("images", "labels", "names")
    reader: Literal["pascal_context"]
    images: RelativePath
    labels: RelativePath
    names: RelativePath | None = None


class Ade20kFullSplit(PathSplit):
    """`path`: the folder, with sub-folders, of images and the PNGs beside them."""

    reader: Literal["ade20k_full"]


class CocoInstancesSplit(AnnotatedSplit):
    """`images`: image folder; `annotations`: the JSON file."""

    reader: Literal["coco_instances"]


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
