"""Where a benchmark's data lies and in which format: the `source` of a manifest, one model a reader."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from kc.data.addresses import RelativePath, StoreAddress, Strict


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
