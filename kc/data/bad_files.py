"""`--skip-bad`: samples that cannot be read are counted, listed and left out; without it they are an error."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from kc.data.manifest import Manifest
from kc.data.parallel import in_order
from kc.data.readers.base import Reader
from kc.data.readers.open import open_reader
from kc.errors import DataError, KcError
from kc.types import SplitName


def open_good(
    manifest: Manifest,
    split: SplitName,
    data_root: Path | None = None,
    limit: int | None = None,
    *,
    skip: bool = True,
    workers: int | None = None,
) -> tuple[Reader, tuple[str, ...]]:
    """The reader of a split and, with `skip`, what is wrong with each sample that it leaves out.

    With `skip` every file is read once. Files that are missing, or of a wrong layout, are errors all the same: what
    does not stand in a list cannot be counted. Raises DataError where no sample can be read.
    """
    reader = open_reader(manifest, split, data_root, limit)
    return good_part(reader, f"{manifest.name} {split}", workers) if skip else (reader, ())


def good_part(reader: Reader, name: str, workers: int | None = None) -> tuple[Reader, tuple[str, ...]]:
    """The samples of a reader that can be read, and what is wrong with each of the others."""
    problems = list(in_order(_problem(reader), len(reader), workers))
    bad = tuple(f"{reader.sample_ids[i]}: {problem}" for i, problem in enumerate(problems) if problem)
    if not bad:
        return reader, ()
    if len(bad) == len(reader):
        raise DataError(f"{name}: none of the {len(bad)} images can be read; the first: {bad[0]}")
    return reader.select([i for i, problem in enumerate(problems) if not problem]), bad


def _problem(reader: Reader) -> Callable[[int], str]:
    def read(index: int) -> str:
        try:
            reader.read(index)
        except KcError as error:
            return str(error)
        return ""

    return read
