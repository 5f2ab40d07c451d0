"""From a manifest to a reader: where the data lies, which format it has, how much of it is wanted, what it is now."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np

from kc.data.manifest import Manifest
from kc.data.parallel import in_order
from kc.data.readers.base import LayoutError, Reader, check_ids
from kc.data.readers.cifar import open_cifar
from kc.data.readers.coco import CocoInstancesReader, CocoPanopticReader
from kc.data.readers.detectron2_dicts import Detectron2Reader
from kc.data.readers.embedded import open_embedded
from kc.data.readers.huggingface import HuggingFaceReader
from kc.data.readers.index_png import IndexPngReader
from kc.data.readers.labelled_files import open_csv, open_cub, open_folder
from kc.data.readers.labelme import LabelMeReader
from kc.data.readers.owners_maps import Ade20kFullReader, PascalContextReader
from kc.data.readers.torchvision_data import TorchvisionReader
from kc.data.readers.voc_xml import open_voc_xml
from kc.data.shards.reader import ShardReader
from kc.data.shards.store import open_store
from kc.data.sources import Detectron2Source, EmbeddedSource, HuggingFaceSource, ShardsSource
from kc.data.stamps import files_key, folder_key
from kc.errors import DataError, KcError
from kc.outside import follow_links_again, inside
from kc.types import SplitName

READERS: dict[str, Callable[[Manifest, SplitName, Path], Reader]] = {
    "folder": open_folder,
    "csv": open_csv,
    "cub": open_cub,
    "cifar_binary": open_cifar,
    "index_png": IndexPngReader.open,
    "labelme": LabelMeReader.open,
    "coco_panoptic": CocoPanopticReader.open,
    "coco_instances": CocoInstancesReader.open,
    "voc_xml": open_voc_xml,
    "pascal_context": PascalContextReader.open,
    "ade20k_full": Ade20kFullReader.open,
    "torchvision": TorchvisionReader.open,
    "huggingface": HuggingFaceReader.open,
}
"""Reader name of a manifest -> what opens a split of it. The embedded sets need no folder: see `open_reader`."""


def open_reader(
    manifest: Manifest, split: SplitName, data_root: Path | None = None, limit: int | None = None
) -> Reader:
    """The reader of one split, of at most `limit` samples.

    A limit keeps the order: classification takes round-robin over the classes, so that every class keeps images;
    segmentation takes evenly spaced samples.

    Raises:
        DataError: the split or the data is missing, or does not fit the manifest.
        LayoutError: two samples have the same id.
    """
    if split not in manifest.splits:
        raise DataError(f"{manifest.name} has no split {split!r}; its splits: {', '.join(manifest.splits)}")
    if limit is not None and limit < 1:
        raise DataError(f"a limit of {limit} images leaves nothing; give at least 1")
    follow_links_again()
    reader: Reader
    if isinstance(manifest.source, EmbeddedSource):
        reader = open_embedded(manifest, split)
    elif isinstance(manifest.source, Detectron2Source):
        reader = Detectron2Reader.open(manifest, split)
    elif isinstance(manifest.source, ShardsSource):
        place = manifest.source.address or resolve_data_root(manifest, data_root)
        reader = ShardReader.open(manifest, split, open_store(place))
    elif isinstance(manifest.source, HuggingFaceSource) and manifest.source.name:
        reader = HuggingFaceReader.open(manifest, split, None)
    else:
        root = resolve_data_root(manifest, data_root)
        _verify_checksums(manifest, root)
        try:
            reader = READERS[manifest.source.reader](manifest, split, root)
        except DataError as error:
            problems = error.problems if isinstance(error, LayoutError) else [str(error)]
            raise LayoutError(problems, manifest.obtain) from error
    check_ids(reader)
    if limit is None or limit >= len(reader):
        return reader
    if manifest.task_kind == "classification":
        return reader.select(_round_robin(np.argmax(reader.class_table, axis=1), limit))
    return reader.select([i * len(reader) // limit for i in range(limit)])


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


def resolve_data_root(manifest: Manifest, data_root: Path | None = None) -> Path:
    """The folder that holds the benchmark's files.

    `data_root`, else the environment variable KC_DATA, joined with the manifest's `folder`; or that root itself
    where the manifest's files lie directly in it.

    Raises:
        DataError: neither exists; names the paths looked for, the homepage, `--data-root` and KC_DATA.
    """
    if isinstance(manifest.source, EmbeddedSource | Detectron2Source):
        raise DataError(f"{manifest.name} is {manifest.source.reader}: it has no data folder")
    if isinstance(manifest.source, HuggingFaceSource) and manifest.source.name:
        raise DataError(f"{manifest.name} is {manifest.source.name} of the Hugging Face hub: it has no data folder")
    if isinstance(manifest.source, ShardsSource) and manifest.source.address:
        raise DataError(f"{manifest.name} lies at {manifest.source.address}: it has no data folder")
    source = f"Get the data from {manifest.homepage} and say" if manifest.homepage else "Say"
    how = f"{source} where it is with --data-root or KC_DATA. {manifest.obtain}"
    given = data_root if data_root is not None else os.environ.get("KC_DATA")
    if not given:
        raise DataError(f"{manifest.name} needs a data folder {manifest.source.folder!r}. {how}".rstrip())
    root = Path(given).expanduser()
    folder = root / manifest.source.folder  # may be a link: from here on, what it points to is the root
    if folder.is_dir():
        return folder.resolve()
    named = [path for split in manifest.splits.values() for path in split.paths() if path != "."]
    if all(inside(root, path).exists() for path in named or manifest.names_in_files()):
        return root.resolve()
    raise DataError(f"{manifest.name}: no data in {folder}, nor directly in {root}. {how}".rstrip())


def content_key(manifest: Manifest, data_root: Path | None = None, key: str | None = None) -> str:
    """16 hex digits over the manifest and what its files hold; `key`: that of `data_key`, where it is known."""
    key = data_key(manifest, data_root) if key is None else key
    return hashlib.sha256(f"{manifest.fingerprint} {key}".encode()).hexdigest()[:16]


def data_key(manifest: Manifest, data_root: Path | None = None) -> str:
    """What the files of a benchmark hold, as hex digits; for folders see `kc.data.stamps.folder_key`.

    An image that is replaced, a link to other images, two files exchanged: another key. Shards: what their index says
    of them, which holds the checksum of every sample. Embedded benchmarks are composed from the manifest alone: "".
    Raises DataError where the data is missing.
    """
    source = manifest.source
    if isinstance(source, EmbeddedSource):
        return ""
    digest = hashlib.sha256()
    if isinstance(source, Detectron2Source):
        for split in manifest.splits:
            reader = Detectron2Reader.open(manifest, split)
            digest.update(files_key(reader.files()).encode())
            for item in reader.items:
                digest.update(repr(item).encode())
    elif isinstance(source, ShardsSource):
        store = open_store(source.address or resolve_data_root(manifest, data_root))
        for part in manifest.splits.values():
            for index in part.paths():
                digest.update(store.read_file(index))
    elif isinstance(source, HuggingFaceSource) and source.name:
        for split in manifest.splits:
            digest.update(HuggingFaceReader.open(manifest, split, None).table._fingerprint.encode())
    else:
        return folder_key(resolve_data_root(manifest, data_root))
    return digest.hexdigest()[:32]


def _verify_checksums(manifest: Manifest, root: Path) -> None:
    for name, wanted in manifest.checksum.items():
        path = inside(root, name)
        try:
            with path.open("rb") as file:
                found = "sha256:" + hashlib.file_digest(file, "sha256").hexdigest()
        except OSError as error:
            raise DataError(f"{path}: cannot read it to verify its checksum ({error.strerror})") from error
        if found != wanted:
            raise DataError(f"{path}: its checksum is {found}, the manifest says {wanted}; download the file again")


def _round_robin(columns: np.ndarray[tuple[int, ...], np.dtype[np.int64]], limit: int) -> list[int]:
    """The first `limit` of: first image of every class, second image of every class, ...; ascending."""
    turn = np.zeros(len(columns), dtype=np.int64)
    for column in np.unique(columns):
        members = np.flatnonzero(columns == column)
        turn[members] = np.arange(len(members))
    order = np.lexsort((columns, turn))
    return sorted(order[:limit].tolist())
