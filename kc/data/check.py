"""Read every file of a benchmark and say everything that is wrong with it, not only the first thing."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from kc.data.manifest import Manifest
from kc.data.parallel import in_order
from kc.data.readers.base import LayoutError, Reader
from kc.data.readers.open import open_reader
from kc.errors import KcError
from kc.types import VOID, BoolArray, Sample, SplitName

Progress = Callable[[SplitName, int, int], None]
"""Called with (split, samples read, samples in all)."""


@dataclass
class CheckReport:
    """`problems`: what makes a run fail or lie. `notes`: what its owners may have meant, but a person should know:
    equal images, classes without an image, images without a label. `n_read`: samples read without a problem.
    """

    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    n_read: dict[SplitName, int] = field(default_factory=dict)


@dataclass(frozen=True)
class _Seen:
    """What is kept of a sample: `digest` of its pixels, the manifest classes it `holds` (C,)."""

    digest: bytes
    holds: BoolArray
    unlabelled: bool


def check(
    manifest: Manifest,
    splits: Sequence[SplitName] | None = None,
    data_root: Path | None = None,
    *,
    limit: int | None = None,
    workers: int | None = None,
    progress: Progress | None = None,
) -> CheckReport:
    """Read `splits` (default: all of the manifest), at most `limit` samples of each, on `workers` threads.

    Images are compared by their decoded pixels, within a split and between splits, so a copy under another name or in
    another lossless format is found; a re-encoded one is not.
    """
    report = CheckReport()
    first_with: dict[bytes, str] = {}
    for split in splits or tuple(manifest.splits):
        try:
            reader = open_reader(manifest, split, data_root, limit)
        except LayoutError as error:
            report.problems += [f"{split}: {problem}" for problem in error.problems]
            continue
        except KcError as error:
            report.problems.append(f"{split}: {error}")
            continue
        report.n_read[split] = 0
        n_images = np.zeros(len(manifest.classes), dtype=np.int64)
        ids = reader.sample_ids
        for index, seen in enumerate(in_order(_reads(manifest, reader), len(reader), workers)):
            if progress is not None:
                progress(split, index + 1, len(reader))
            if isinstance(seen, KcError):
                report.problems.append(f"{split}: {seen}")
                continue
            report.n_read[split] += 1
            n_images += seen.holds
            if seen.unlabelled:
                report.notes.append(f"{ids[index]}: no pixel is labelled")
            other = first_with.setdefault(seen.digest, ids[index])
            if other != ids[index]:
                kind = "equal images" if other.partition("/")[0] == split else "the same image in two splits"
                report.notes.append(f"{kind}: {other} and {ids[index]}")
        missing = [c.name for c, n in zip(manifest.classes, n_images, strict=True) if not n]
        if missing and report.n_read[split]:
            report.notes.append(f"{split}: {len(missing)} classes without an image: {', '.join(missing)}")
    return report


def _reads(manifest: Manifest, reader: Reader) -> Callable[[int], _Seen | KcError]:
    def read(index: int) -> _Seen | KcError:
        try:
            return _seen(manifest, reader.read(index))
        except KcError as error:
            return error

    return read


def _seen(manifest: Manifest, sample: Sample) -> _Seen:
    digest = hashlib.blake2b(np.ascontiguousarray(sample.image).data, digest_size=16)
    digest.update(repr(sample.image.shape).encode())
    held = np.asarray(sample.label) if sample.semantic is None else np.unique(sample.semantic)
    return _Seen(digest.digest(), np.isin(manifest.class_ids(), held), bool((held == VOID).all()))
