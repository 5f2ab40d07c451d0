"""Careful reading of what lies below a data folder: paths that stay in it, lists, image and mask files."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

import numpy as np
import numpy.typing as npt
from PIL import Image

from kc.errors import DataError
from kc.outside import inside, inside_text, not_downloaded, read_text
from kc.types import UInt8Array

IMAGE_SUFFIXES = frozenset(
    {".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp", ".webp", ".ppm", ".pgm", ".pbm", ".pnm", ".tif", ".tiff", ".gif"}
)
"""What is read as an image."""
NOT_READ = frozenset(
    {".heic", ".heif", ".avif", ".jp2", ".j2k", ".jxl", ".tga", ".dng", ".cr2", ".nef", ".svg", ".psd"}
)
"""Images too, but not read: where one lies among images, it is named."""
LEFT_BY_SYSTEMS = frozenset({"__MACOSX", "@eaDir", "$RECYCLE.BIN", "System Volume Information", "lost+found"})
"""Folders of macOS archives, Synology, Windows and Linux file systems."""

DEFAULT_PIXELS = 178_956_970
"""Pixels of the largest image that is read unless KC_MAX_PIXELS says another number: Pillow's own limit."""
_DEEP_MODES = ("I", "F", "I;16", "I;16B", "I;16L")
_MAY_TURN = {"exif", "xmp", "XML:com.adobe.xmp", "Raw profile type exif"}
_ORIENTATION = 0x0112
_ONE_PICTURE = ("GIF", "TIFF", "PNG", "WEBP")  # not MPO: photographs with a preview or a second lens behind them


def images_folder(root: Path, folder: str) -> Path:
    """A folder of images or masks below `root`. Raises DataError where it is missing, or not unpacked yet."""
    path = inside(root, folder)
    if not path.is_dir():
        archive = path.with_name(f"{path.name}.zip")
        packed = f": unpack {archive} first" if archive.is_file() else "; the manifest expects images there"
        raise DataError(f"{path}: no such folder{packed}")
    return path


def hidden(name: str) -> bool:
    """Whether a file or folder is none of a data set's: it begins with a dot, or an operating system left it there."""
    return name.startswith(".") or name in LEFT_BY_SYSTEMS


def list_files(
    root: Path, folder: str, suffixes: frozenset[str] = IMAGE_SUFFIXES, recursive: bool = False
) -> list[str]:
    """Paths, relative to `root`, of the files in `folder` with these suffixes, sorted; hidden ones are left.

    `recursive`: those of its sub-folders too (links to folders are not followed).

    Raises:
        DataError: the folder is missing.
    """
    path = images_folder(root, folder)
    found: list[str] = []
    for top, subfolders, names in os.walk(path, onerror=_unreadable):
        subfolders[:] = [name for name in subfolders if recursive and not hidden(name)]
        below = Path(top).relative_to(path).as_posix()
        start = folder if below == "." else f"{folder}/{below}"
        kept = (n for n in names if not hidden(n) and Path(n).suffix.lower() in suffixes)
        found += [f"{start}/{_text_name(start, n)}" for n in kept]
    return sorted(found)


def left_out(root: Path, folder: str, recursive: bool = False, otherwise: str = "move them up") -> list[str]:
    """What lies in a folder of images, or of masks, and would not be read: one line for each kind, with its count.

    `otherwise`: what to do about images in sub-folders.
    """
    path = inside(root, folder)
    lost: dict[str, list[str]] = {}
    for top, subfolders, names in os.walk(path, onerror=_unreadable):
        subfolders[:] = [name for name in subfolders if not hidden(name)]
        below = recursive or top == str(path)
        for name in (n for n in names if not hidden(n)):
            suffix = Path(name).suffix.lower()
            if suffix in NOT_READ:
                lost.setdefault(f"{suffix} images are not read: convert them to PNG or JPEG", []).append(name)
            elif not below and suffix in IMAGE_SUFFIXES:
                place = os.path.relpath(os.path.join(top, name), path)
                lost.setdefault(f"images in sub-folders are not read: {otherwise}", []).append(place)
    return [f"{path}: {len(files)} {said} ({', '.join(sorted(files)[:3])})" for said, files in lost.items()]


def _text_name(folder: str, name: str) -> str:
    try:
        name.encode()
    except UnicodeEncodeError as error:
        shown = os.fsencode(name).decode("utf-8", "backslashreplace")
        raise DataError(f"{folder}/{shown}: the name of this file is not UTF-8; rename it") from error
    return name


def _unreadable(error: OSError) -> None:
    raise DataError(f"{error.filename}: cannot read this folder ({error.strerror})") from error


def read_lines(root: Path, relative: str) -> list[tuple[int, str]]:
    """(line number, text) of the lines of a text file that hold something, stripped.

    Raises:
        DataError: the file is missing, not UTF-8, or outside `root`.
    """
    text = read_text(inside(root, relative))
    return [(number, line.strip()) for number, line in enumerate(text.splitlines(), start=1) if line.strip()]


def most_pixels() -> int:
    """The environment variable KC_MAX_PIXELS, else DEFAULT_PIXELS. Raises DataError where it is no number."""
    given = os.environ.get("KC_MAX_PIXELS")
    if not given:
        return DEFAULT_PIXELS
    try:
        return max(1, int(given))
    except ValueError as error:
        raise DataError(f"KC_MAX_PIXELS is {given!r}; expected a number of pixels such as 400000000") from error


def check_area(size: tuple[int, int], where: str, most: int | None = None) -> None:
    """Raise DataError unless an image of this height and width may be read; `most`: of so many pixels, if fewer."""
    most, other = (most_pixels(), " or raise KC_MAX_PIXELS") if most is None else (most, "")
    if min(size) < 1 or size[0] * size[1] > most:
        raise DataError(
            f"{where}: {size[1]}x{size[0]} pixels; expected at least one and at most {most:,}: make the image "
            f"smaller{other}"
        )


@contextmanager
def _opened(
    file: str | Path | BinaryIO, name: str, what: str, most: int | None = None, formats: tuple[str, ...] | None = None
) -> Iterator[Image.Image]:
    """An image file; whatever goes wrong while it is read is a DataError that calls the file `name`."""
    limit, most = most, most_pixels()
    if most > DEFAULT_PIXELS:
        Image.MAX_IMAGE_PIXELS = most
    try:
        if isinstance(file, str | Path) and not os.path.isfile(file):  # a pipe would be waited for
            raise FileNotFoundError
        with Image.open(file, formats=formats) as image:
            check_area((image.height, image.width), name, limit)
            yield image
    except FileNotFoundError as error:
        raise DataError(f"{name}: the {what} is missing") from error
    except (Image.DecompressionBombError, MemoryError) as error:
        raise DataError(
            f"{name}: the {what} is too large: more than {most:,} pixels, or than memory holds; make it smaller or "
            "raise KC_MAX_PIXELS"
        ) from error
    except DataError:
        raise
    except Exception as error:  # the formats of Pillow fail in many ways
        kinds = f"a whole {', '.join(formats)} file" if formats else f"an image ({error})"
        said = _other_file(file) or f"the file is corrupt or not {kinds}"
        raise DataError(f"{name}: cannot read the {what}, {said}") from error


def _other_file(file: str | Path | BinaryIO) -> str:
    """What a file is that is no image, where its first bytes tell, else nothing."""
    try:
        if isinstance(file, str | Path):
            with open(file, "rb") as opened:
                start = opened.read(64)
        else:
            file.seek(0)
            start = file.read(64)
    except (OSError, ValueError):
        return ""
    if start[4:8] == b"ftyp":
        return f"{start[8:12].decode('ascii', 'replace')} (HEIC, AVIF or video) is not read: convert it to PNG or JPEG"
    return not_downloaded(start)


def read_image(root: Path, relative: str) -> UInt8Array:
    """An image file as (H, W, 3) uint8 RGB, turned upright by its EXIF orientation; grey and CMYK become RGB.

    Raises:
        DataError: the file is missing, corrupt, too large, deeper than 8 bits, or outside `root`.
    """
    return read_turned(root, relative)[0]


def read_turned(root: Path, relative: str) -> tuple[UInt8Array, int]:
    """What `read_image` reads, and the orientation from which it was turned: 1 where it is as stored."""
    path = inside_text(root, relative)
    with _opened(path, path, "image") as image:
        return _upright(image, path)


def decode_image(
    file: str | Path | BinaryIO, name: str, most: int | None = None, formats: tuple[str, ...] | None = None
) -> UInt8Array:
    """What `read_image` reads, of a file or of one in memory; `name` is what errors call it.

    `most`: pixels that it may have, and `formats`: Pillow's names of what it may be, where not all that is read.
    """
    with _opened(file, name, "image", most, formats) as image:
        return _upright(image, name)[0]


def decode_turned(file: str | Path | BinaryIO, name: str) -> tuple[UInt8Array, int]:
    """What `read_turned` reads, of a file or of one in memory."""
    with _opened(file, name, "image") as image:
        return _upright(image, name)


def upright_rgb(image: Image.Image, name: str) -> UInt8Array:
    """An image as `read_image` gives it. Raises DataError for one that is deeper than 8 bits."""
    return _upright(image, name)[0]


def _upright(image: Image.Image, name: str) -> tuple[UInt8Array, int]:
    if image.mode in _DEEP_MODES:
        raise DataError(f"{name}: image mode {image.mode!r} is deeper than 8 bits; convert it to 8-bit RGB")
    if image.format in _ONE_PICTURE and getattr(image, "n_frames", 1) > 1:
        raise DataError(f"{name}: holds {image.n_frames} pictures; expected one: save the one that counts")  # type: ignore[attr-defined]
    # A JPEG says in its head, which is read already, whether it has any of this, and so does an image that another
    # package has decoded; other formats are asked.
    orientation = 1
    if image.format not in ("JPEG", None) or image.info.keys() & _MAY_TURN:
        orientation = _orientation(image)
    return turned(np.array(image if image.mode == "RGB" else image.convert("RGB")), orientation), orientation


def _orientation(image: Image.Image) -> int:
    image.load()
    found = image.getexif().get(_ORIENTATION, 1)
    return found if found in range(1, 9) else 1


Pixels = TypeVar("Pixels", bound=np.generic)


def turned(pixels: npt.NDArray[Pixels], orientation: int) -> npt.NDArray[Pixels]:
    """(H, W, ...) as stored -> upright, from EXIF orientation 1 to 8."""
    if orientation == 1:
        return pixels
    if orientation >= 5:
        pixels = np.swapaxes(pixels, 0, 1)
    rows = -1 if orientation in (3, 4, 7, 8) else 1
    columns = -1 if orientation in (2, 3, 6, 7) else 1
    return np.ascontiguousarray(pixels[::rows, ::columns])


def turned_with(
    image_file: str, image: npt.NDArray[Any], orientation: int, label_file: str, labels: npt.NDArray[Pixels]
) -> npt.NDArray[Pixels]:
    """Labels (H, W, ...) without an orientation of their own, turned as their image was where they fit it as stored.

    Raises:
        DataError: sizes cannot tell whether the labels belong to the image as stored or to the upright one.
    """
    upright = image.shape[:2]
    stored = upright[::-1] if orientation >= 5 else upright
    if labels.shape[:2] == stored == upright:
        raise DataError(
            f"{label_file}: {image_file} has EXIF orientation {orientation} and its labels say none, so they may be of "
            "the image as stored or of the upright one; save the image upright without the tag, or give a mask the tag"
        )
    return turned(labels, orientation) if labels.shape[:2] == stored else labels


def says_orientation(file: str | Path) -> bool:
    """Whether an image file says how it is turned. DataError where it cannot be read."""
    with _opened(file, str(file), "mask") as image:
        image.load()
        return _ORIENTATION in image.getexif()


def read_mask(root: Path, relative: str, channels: int) -> npt.NDArray[np.integer]:
    """A mask PNG as stored: (H, W) integer values for `channels` 1, (H, W, 3) uint8 for 3; turned as its EXIF says.

    Raises:
        DataError: the file is missing, corrupt, too large, has another number of channels, or lies outside `root`.
    """
    path = inside_text(root, relative)
    return decode_mask(path, path, channels)


def decode_mask(file: str | Path | BinaryIO, name: str, channels: int) -> npt.NDArray[np.integer]:
    """What `read_mask` reads, of a file or of one in memory; `name` is what errors call it."""
    with _opened(file, name, "mask") as image:
        mode, values = image.mode, np.array(image)
        if mode in ("LA", "RGBA") and (values[..., -1] == 255).all():  # alpha says nothing
            mode, values = mode[:-1], values[..., 0] if mode == "LA" else values[..., :3]
        if channels == 1 and mode not in ("L", "P", "I", "I;16", "1"):
            raise DataError(f"{name}: mask mode {image.mode!r}; expected one channel of class ids (mode L or P)")
        if channels == 3 and mode != "RGB":
            raise DataError(f"{name}: mask mode {image.mode!r}; expected RGB segment ids (R + 256 G + 65536 B)")
        found: npt.NDArray[np.integer] = values.astype(np.uint8) if values.dtype == np.bool_ else values
        return turned(found, _orientation(image)) if image.info.keys() & _MAY_TURN else found


def decode_layers(path: str) -> npt.NDArray[np.integer]:
    """A mask of any mode as stored, (H, W) or (H, W, layers), turned as its EXIF says. Raises DataError."""
    with _opened(path, path, "mask") as image:
        values = np.array(image.convert("RGBA") if image.mode == "PA" else image)
        return turned(values, _orientation(image)) if image.info.keys() & _MAY_TURN else values


def check_same_size(
    image_file: str, image: npt.NDArray[np.integer], mask_file: str, mask: npt.NDArray[np.integer]
) -> None:
    """Raise DataError unless image and mask have the same height and width."""
    if image.shape[:2] != mask.shape[:2]:
        (h, w), (mask_h, mask_w) = image.shape[:2], mask.shape[:2]
        raise DataError(f"{mask_file}: the mask is {mask_w}x{mask_h} but its image {image_file} is {w}x{h}")
