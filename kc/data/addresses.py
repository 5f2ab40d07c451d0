"""What a manifest may name: paths below the data folder, addresses, archives; nothing that could run code."""

from __future__ import annotations

import re
from pathlib import PurePosixPath, PureWindowsPath
from typing import Annotated, Any, get_args
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, field_validator

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


class Strict(BaseModel):
    """Base of every part of a manifest: unknown keys are errors, values do not change."""

    model_config = ConfigDict(extra="forbid", frozen=True)


def models_of(union: Any) -> dict[str, type[Strict]]:
    """Name of a reader -> its model, of the annotated union `Source` or `Split`."""
    return {get_args(model.model_fields["reader"].annotation)[0]: model for model in get_args(get_args(union)[0])}


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
