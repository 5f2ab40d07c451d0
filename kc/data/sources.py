"""Where a benchmark's data lies: the source and split parts of a manifest, and the addresses they may name."""

from __future__ import annotations

import re
from pathlib import PurePosixPath, PureWindowsPath
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

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


def _web_address(text: str) -> str:
    if not re.match(r"https?://\S+$", _no_command(text)):
        raise ValueError(f"{text!r} is not an address that starts with https:// or http://")
    return text


RelativePath = Annotated[str, AfterValidator(_relative_path)]
WebAddress = Annotated[str, AfterValidator(_web_address)]
Channel = Annotated[int, Field(ge=0, le=255)]
Positive = Annotated[int, Field(ge=1)]
Sha256 = Annotated[str, Field(pattern=r"^sha256:[0-9a-f]{64}$")]


class Strict(BaseModel):
    """Base of every part of a manifest: unknown keys are errors, values do not change."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class FolderSource(Strict):
    """One sub-folder a class, images in it. `folder`: the benchmark's folder under the data root."""

    reader: Literal["folder"]
    folder: RelativePath


class IndexPngSource(Strict):
    """One image and one single-channel PNG of class ids with the same stem."""

    reader: Literal["index_png"]
    folder: RelativePath


class CocoPanopticSource(Strict):
    """COCO panoptic JSON and PNGs of segment ids (id = R + 256 G + 65536 B)."""

    reader: Literal["coco_panoptic"]
    folder: RelativePath


class EmbeddedSource(Strict):
    """A set made from data that installed packages ship; needs no data folder."""

    reader: Literal["embedded"]
    collection: Literal["digit-scenes", "digits"]
    seed: Annotated[int, Field(ge=0)] = 0


class FolderSplit(Strict):
    """`path`: the folder that holds the class folders."""

    reader: Literal["folder"]
    path: RelativePath


class IndexPngSplit(Strict):
    """`images`, `labels`: two folders with files of equal stems."""

    reader: Literal["index_png"]
    images: RelativePath
    labels: RelativePath


class CocoPanopticSplit(Strict):
    """`images`: image folder; `annotations`: the JSON file; `masks`: the folder of id-PNGs."""

    reader: Literal["coco_panoptic"]
    images: RelativePath
    annotations: RelativePath
    masks: RelativePath


class EmbeddedSplit(Strict):
    """`count`: number of samples."""

    reader: Literal["embedded"]
    count: Positive


Source = Annotated[FolderSource | IndexPngSource | CocoPanopticSource | EmbeddedSource, Field(discriminator="reader")]
Split = Annotated[FolderSplit | IndexPngSplit | CocoPanopticSplit | EmbeddedSplit, Field(discriminator="reader")]


READER_MODELS: dict[str, tuple[type[Strict], type[Strict]]] = {
    # reader -> the model of its source, the model of its splits
    "folder": (FolderSource, FolderSplit),
    "index_png": (IndexPngSource, IndexPngSplit),
    "coco_panoptic": (CocoPanopticSource, CocoPanopticSplit),
    "embedded": (EmbeddedSource, EmbeddedSplit),
}
