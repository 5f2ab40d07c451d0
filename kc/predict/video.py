"""A video frame by frame (extra `video`)."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import numpy as np
from PIL import Image

from kc.errors import DataError, MissingExtraError
from kc.files import atomic_path
from kc.stream.progress import RunProgress
from kc.types import UInt8Array

VIDEO_SUFFIXES = frozenset({".mp4", ".mov", ".avi", ".mkv", ".webm", ".m4v"})


def is_video(source: Path) -> bool:
    """Whether it moves: a video by its name, or a GIF of several frames."""
    if source.suffix.lower() != ".gif":
        return source.suffix.lower() in VIDEO_SUFFIXES
    try:
        with Image.open(source) as image:
            return bool(getattr(image, "is_animated", False))
    except OSError:
        return False  # read as a picture, it gets the error of a broken picture


def each_frame(source: Path, out: Path, change: Callable[[UInt8Array], UInt8Array], progress: RunProgress) -> int:
    """Write what `change` makes of each frame (H, W, 3) uint8 RGB of `source` as MPEG-4, at the same rate.

    Returns the number of frames. All frames must come back in one size. Raises MissingExtraError without PyAV,
    DataError for a file that is no video.
    """
    try:
        import av
    except ImportError as error:
        raise MissingExtraError("videos need PyAV: pip install 'kc-continual[video]'") from error
    n = 0
    try:
        with (
            atomic_path(out, failures=()) as temporary,
            av.open(str(source)) as given,
            av.open(str(temporary), "w", format="mp4") as made,
        ):
            stream = given.streams.video[0]
            rate = stream.average_rate or Fraction(25)
            written = None
            with progress.bar(f"predicting {source.name}", stream.frames or None, "frames") as bar:
                for frame in given.decode(stream):
                    picture = change(frame.to_ndarray(format="rgb24").astype(np.uint8))
                    height, width = (side - side % 2 for side in picture.shape[:2])  # the codec wants even sides
                    if written is None:
                        written = made.add_stream("mpeg4", rate=rate, width=width, height=height)
                        written.pix_fmt, written.bit_rate = "yuv420p", 8 * height * width
                    pixels = np.ascontiguousarray(picture[:height, :width])
                    made.mux(written.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
                    n += 1
                    bar.advance()
            if written is None:
                raise DataError(f"{source}: no frame in it")
            made.mux(written.encode(None))
    except (av.FFmpegError, IndexError) as error:
        raise DataError(f"{source}: cannot be read as a video ({error})") from error
    return n
