"""Careful reading of what lies below a data folder: paths that stay in it, lists, image and mask files."""

from __future__ import annotations

import os
from functools import lru_cache
from pathlib import Path
from typing import BinaryIO

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps

from kc.errors import DataError
from kc.types import UInt8Array

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp", ".ppm"})
_BROKEN = (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError)
_DEEP_MODES = ("I", "F", "I;16", "I;16B", "I;16L")
_MAY_TURN = {"exif", "xmp", "XML:com.adobe.xmp", "Raw profile type exif"}


@lru_cache(maxsize=1024)
def _kept(folder: str) -> str:
    return os.path.realpath(folder, strict=True)  # raises, and so keeps nothing, where there is no such folder yet


def _real(folder: str) -> str:
    try:
        return _kept(folder)
    except OSError:
        return os.path.realpath(folder)


def inside(root: Path, relative: str | Path) -> Path:
    """The path under `root`, with links followed.

    Raises:
        DataError: the path, or what a link in it points to, lies outside `root`.
    """
    return Path(_inside(root, relative))


def _inside(root: Path, relative: str | Path) -> str:
    # On text: making Path objects of every step costs several times what following the links does. The links of a
    # folder are followed once a process, those of a file every time.
    base = _real(os.path.abspath(root))  # a relative one depends on where we are
    folder, name = os.path.split(os.path.join(base, relative))
    path = os.path.join(_real(folder), name)
    if name in ("", os.curdir, os.pardir) or os.path.islink(path):
        path = os.path.realpath(path)
    if path != base and not path.startswith(base.rstrip(os.sep) + os.sep):
        raise DataError(f"{root / relative}: leaves the data folder {base} (it points to {path}); copy the data inside")
    return path


def list_files(
    root: Path, folder: str, suffixes: frozenset[str] = IMAGE_SUFFIXES, recursive: bool = False
) -> list[str]:
    """Paths, relative to `root`, of the files in `folder` with these suffixes, sorted; hidden ones are left.

    `recursive`: those of its sub-folders too (links to folders are not followed).

    Raises:
        DataError: the folder is missing.
    """
    path = inside(root, folder)
    if not path.is_dir():
        raise DataError(f"{path}: no such folder; the manifest expects images there")
    found: list[str] = []
    for top, subfolders, names in os.walk(path, onerror=_unreadable):
        subfolders[:] = [name for name in subfolders if recursive and not name.startswith(".")]
        below = Path(top).relative_to(path).as_posix()
        start = folder if below == "." else f"{folder}/{below}"
        found += [f"{start}/{n}" for n in names if not n.startswith(".") and Path(n).suffix.lower() in suffixes]
    return sorted(found)


def _unreadable(error: OSError) -> None:
    raise DataError(f"{error.filename}: cannot read this folder ({error.strerror})") from error


def read_lines(root: Path, relative: str) -> list[tuple[int, str]]:
    """(line number, text) of the lines of a text file that hold something, stripped.

    Raises:
        DataError: the file is missing, not UTF-8, or outside `root`.
    """
    path = inside(root, relative)
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot read this list ({error})") from error
    return [(number, line.strip()) for number, line in enumerate(text.splitlines(), start=1) if line.strip()]


def read_image(root: Path, relative: str) -> UInt8Array:
    """An image file as (H, W, 3) uint8 RGB, turned upright by its EXIF orientation; grey and CMYK become RGB.

    Raises:
        DataError: the file is missing, corrupt, deeper than 8 bits, or outside `root`.
    """
    path = _inside(root, relative)
    return decode_image(path, path)


def decode_image(file: str | Path | BinaryIO, name: str) -> UInt8Array:
    """What `read_image` reads, of a file or of one in memory; `name` is what errors call it."""
    try:
        with Image.open(file) as image:
            return upright_rgb(image, name)
    except FileNotFoundError as error:
        raise DataError(f"{name}: the image is missing") from error
    except _BROKEN as error:
        raise DataError(f"{name}: cannot read the image, the file is corrupt or not an image ({error})") from error


def upright_rgb(image: Image.Image, name: str) -> UInt8Array:
    """An image as `read_image` gives it. Raises DataError for one that is deeper than 8 bits."""
    if image.mode in _DEEP_MODES:
        raise DataError(f"{name}: image mode {image.mode!r} is deeper than 8 bits; convert it to 8-bit RGB")
    # A JPEG says in its head, which is read already, whether it has any of this, and so does an image that another
    # package has decoded; other formats are asked.
    if image.format not in ("JPEG", None) or image.info.keys() & _MAY_TURN:
        ImageOps.exif_transpose(image, in_place=True)
    return np.array(image if image.mode == "RGB" else image.convert("RGB"))


def read_mask(root: Path, relative: str, channels: int) -> npt.NDArray[np.integer]:
    """A mask PNG as stored: (H, W) integer values for `channels` 1, (H, W, 3) uint8 for 3.

    Raises:
        DataError: the file is missing, corrupt, has another number of channels, or lies outside `root`.
    """
    path = _inside(root, relative)
    return decode_mask(path, path, channels)


def decode_mask(file: str | Path | BinaryIO, name: str, channels: int) -> npt.NDArray[np.integer]:
    """What `read_mask` reads, of a file or of one in memory; `name` is what errors call it."""
    try:
        with Image.open(file) as image:
            if channels == 1 and image.mode not in ("L", "P", "I", "I;16", "1"):
                raise DataError(f"{name}: mask mode {image.mode!r}; expected one channel of class ids (mode L or P)")
            if channels == 3 and image.mode != "RGB":
                raise DataError(f"{name}: mask mode {image.mode!r}; expected RGB segment ids (R + 256 G + 65536 B)")
            values: npt.NDArray[np.integer] = np.array(image)
            return values.astype(np.uint8) if values.dtype == np.bool_ else values
    except FileNotFoundError as error:
        raise DataError(f"{name}: the mask is missing") from error
    except _BROKEN as error:
        raise DataError(f"{name}: cannot read the mask, the file is corrupt or not an image ({error})") from error


def check_same_size(
    image_file: str, image: npt.NDArray[np.integer], mask_file: str, mask: npt.NDArray[np.integer]
) -> None:
    """Raise DataError unless image and mask have the same height and width."""
    if image.shape[:2] != mask.shape[:2]:
        (h, w), (mask_h, mask_w) = image.shape[:2], mask.shape[:2]
        raise DataError(f"{mask_file}: the mask is {mask_w}x{mask_h} but its image {image_file} is {w}x{h}")
