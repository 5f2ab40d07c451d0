"""Shards hold what the folder holds, wherever they lie, and say so when they do not."""

from __future__ import annotations

import io
import os
import pickle
import tarfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

from kc.data.check import check
from kc.data.manifest import Manifest, load_manifest
from kc.data.readers.open import content_key, open_reader
from kc.data.shards.fields import from_fields, members
from kc.data.shards.index import PackedIds, ShardIndex
from kc.data.shards.reader import ShardReader
from kc.data.shards.store import BLOCK, AddressStore, FolderStore, open_store
from kc.data.shards.write import Written, manifest_of_shards, write_shards
from kc.errors import DataError, KcError, ManifestError
from kc.types import VOID

TINY = ["tiny_folder", "tiny_index_png", "tiny_coco"]


def sharded(tiny: Any, place: str | Path, per_shard: int = 4) -> tuple[Manifest, Written]:
    """The benchmark of a fixture as shards: the manifest that reads them, and what was written for train."""
    store, written = open_store(place), None
    content = content_key(tiny.manifest, tiny.root)
    for split in tiny.manifest.splits:
        done = write_shards(
            tiny.manifest, split, open_reader(tiny.manifest, split, tiny.root), store, content, per_shard=per_shard
        )
        written = done if split == "train" else written
    address = place if isinstance(place, str) else None
    text = manifest_of_shards(tiny.manifest, Path(place).name, address)
    path = tiny.path.with_name("shards.yaml")
    path.write_text(text)
    assert written is not None
    return load_manifest(path), written


def assert_same(one: Any, other: Any) -> None:
    """Two readers give the same samples in the same order."""
    assert list(one.sample_ids) == list(other.sample_ids)
    np.testing.assert_array_equal(one.class_table, other.class_table)
    for i in range(len(one)):
        a, b = one.read(i), other.read(i)
        assert (a.id, a.label, a.crowd) == (b.id, b.label, b.crowd)
        for field in ("image", "semantic", "panoptic"):
            x, y = getattr(a, field), getattr(b, field)
            assert (x is None) == (y is None)
            if x is not None:
                assert x.dtype == y.dtype
                np.testing.assert_array_equal(x, y)


@pytest.mark.parametrize("name", TINY)
def test_shards_are_the_folder(name: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    tiny: SimpleNamespace = request.getfixturevalue(name)
    manifest, written = sharded(tiny, tmp_path / "data" / "sharded")
    original = open_reader(tiny.manifest, "train", tiny.root)
    assert (written.samples, written.new) == (len(original), -(-len(original) // 4))
    for root in (tiny.root, tmp_path / "data" / "sharded"):
        for split in manifest.splits:
            assert_same(open_reader(manifest, split, root), open_reader(tiny.manifest, split, tiny.root))
    some = [3, 0, 4]
    assert_same(open_reader(manifest, "train", tiny.root).select(some), original.select(some))
    assert_same(open_reader(manifest, "train", tiny.root, 3), open_reader(tiny.manifest, "train", tiny.root, 3))
    assert not check(manifest, data_root=tiny.root).problems


def test_webdataset_reads_them(tiny_coco: SimpleNamespace, tmp_path: Path) -> None:
    """The outside reference: the package itself finds the same samples, keys and fields."""
    webdataset = pytest.importorskip("webdataset")
    sharded(tiny_coco, tmp_path / "s", per_shard=2)
    files = sorted(str(p) for p in (tmp_path / "s").glob("train-*.tar"))
    assert len(files) == 3
    samples = list(webdataset.WebDataset(files, shardshuffle=False, empty_check=False))
    original = open_reader(tiny_coco.manifest, "train", tiny_coco.root)
    assert [s["__key__"] for s in samples] == [f"{i:09d}" for i in range(5)]
    for i, sample in enumerate(samples):
        fields = {k: v for k, v in sample.items() if not k.startswith("__")}
        found, wanted = from_fields(fields, "here"), original.read(i)
        np.testing.assert_array_equal(found.panoptic, wanted.panoptic)
        assert found.crowd == wanted.crowd
        assert fields["png"] == original.image_file(i).read_bytes()  # type: ignore[attr-defined]


def test_writing_goes_on_where_it_stopped(tiny_folder: SimpleNamespace, tmp_path: Path) -> None:
    place = tmp_path / "s"
    reader = open_reader(tiny_folder.manifest, "train", tiny_folder.root)

    class Stops(FolderStore):
        def write(self, name: str, content: bytes) -> None:
            if name == "train-00002.tar":
                raise DataError("the disk is full")
            super().write(name, content)

    arguments = (tiny_folder.manifest, "train", reader)
    with pytest.raises(DataError, match="full"):
        write_shards(*arguments, Stops(place), "key", per_shard=4, workers=1)
    assert not (place / "train.index.npz").exists()
    before = (place / "train-00000.tar").stat().st_mtime_ns
    done = write_shards(*arguments, FolderStore(place), "key", per_shard=4)
    assert (done.new, done.kept) == (1, 2)
    assert (place / "train-00000.tar").stat().st_mtime_ns == before
    assert sorted(p.name for p in place.iterdir()) == [
        "train-00000.tar", "train-00001.tar", "train-00002.tar", "train.index.npz"
    ]  # fmt: skip
    again = write_shards(*arguments, FolderStore(place), "key", per_shard=4)
    assert (again.new, again.kept) == (0, 3)
    changed = write_shards(*arguments, FolderStore(place), "another key", per_shard=4)
    assert changed.new == 3


def test_the_same_samples_are_the_same_bytes(tiny_folder: SimpleNamespace, tmp_path: Path) -> None:
    for name in ("a", "b"):
        sharded(tiny_folder, tmp_path / name)
    for file in (tmp_path / "a").iterdir():
        assert file.read_bytes() == (tmp_path / "b" / file.name).read_bytes()


def test_counts_and_offsets_of_the_index(tiny_index_png: SimpleNamespace, tmp_path: Path) -> None:
    sharded(tiny_index_png, tmp_path / "s", per_shard=4)
    index = ShardIndex.from_bytes((tmp_path / "s" / "train.index.npz").read_bytes(), "here")
    assert index.names.tolist() == ["train-00000.tar", "train-00001.tar"]
    assert index.shard.tolist() == [0, 0, 0, 0, 1, 1]
    assert index.counts.tolist() == [[4, 2, 1, 1], [2, 0, 1, 1]]  # sky in all; car, tree, road by turns
    with tarfile.open(tmp_path / "s" / "train-00001.tar") as tar:
        first = tar.getmembers()[0]
        assert first.name.startswith("000000004.")
        assert index.offset[4] == first.offset == 0
    assert index.offset[1] == index.size[0]


def test_shards_at_an_address_are_cached(tiny_index_png: SimpleNamespace, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setenv("KC_CACHE", str(tmp_path / "cache"))
    manifest, _ = sharded(tiny_index_png, "memory://bucket/tiny", per_shard=4)
    reader = open_reader(manifest, "train")
    assert isinstance(reader, ShardReader)
    assert_same(reader, open_reader(tiny_index_png.manifest, "train", tiny_index_png.root))
    blocks = sorted(p.name for p in (tmp_path / "cache" / "shards").rglob("*.tar.*"))
    assert blocks == ["train-00000.tar.0000000", "train-00001.tar.0000000"]
    key = content_key(manifest)

    class EndpointConnectionError(Exception):
        """As botocore's, which is no OSError."""

    def gone(*_: Any, **__: Any) -> None:
        raise EndpointConnectionError("no network")

    store = reader.store
    assert isinstance(store, AddressStore)
    assert store._system is not None
    monkeypatch.setattr(store._system[1], "cat_file", gone)
    assert reader.read(2).id == "train/frame_2"  # from the cache
    for block in (tmp_path / "cache" / "shards").rglob("*.tar.*"):
        block.unlink()
    with pytest.raises(DataError, match=r"cannot reach it \(EndpointConnectionError: no network\)"):
        reader.read(2)
    monkeypatch.undo()
    monkeypatch.setenv("KC_CACHE", str(tmp_path / "cache"))
    assert content_key(manifest) == key


def test_a_part_of_an_address_is_read_in_blocks(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setenv("KC_CACHE", str(tmp_path / "cache"))
    store = AddressStore("memory://bucket/parts")
    content = np.random.default_rng(0).integers(0, 256, 3 * BLOCK + 100, dtype=np.uint8).tobytes()
    store.write("x.tar", content)
    for offset, size in ((0, 10), (BLOCK - 5, 10), (10, 2 * BLOCK), (3 * BLOCK + 90, 50), (5, 0)):
        assert store.read("x.tar", offset, size) == content[offset : offset + size]
    store.write("x.tar", b"new")
    assert store.read("x.tar", 0, 3) == b"new"


@pytest.mark.parametrize("address", ["pipe:cat /etc/passwd", "pipe://cat", "s3://a|b", "ftp://host/x", "file:///etc"])
def test_addresses_that_run_something_are_refused(address: str, tiny_folder: SimpleNamespace) -> None:
    with pytest.raises(DataError, match=r"would run a command|not an address of shards"):
        open_store(address)
    content = {**tiny_folder.content, "source": {"reader": "shards", "address": address},
               "splits": {"train": {"index": "train.index.npz"}}}  # fmt: skip
    content["classes"] = [{k: v for k, v in c.items() if k != "folder"} for c in content["classes"]]
    tiny_folder.path.write_text(yaml.safe_dump(content))
    with pytest.raises(ManifestError, match=r"would run a command|not an address of shards"):
        load_manifest(tiny_folder.path)


def tar_of(**files: bytes) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for name, content in files.items():
            info = tarfile.TarInfo(name.replace("__", "."))
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return file.getvalue()[: -(-len(file.getvalue()) // 10240) * 10240]


def piece(content: bytes) -> bytes:
    """Without the empty blocks that end a tar file."""
    with tarfile.open(fileobj=io.BytesIO(content)) as tar:
        return content[: max(m.offset_data + -(-m.size // 512) * 512 for m in tar.getmembers())]


def png(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(array).save(file, "PNG")
    return file.getvalue()


IMAGE = png(np.zeros((4, 4, 3), np.uint8))
META = b'{"id": "a", "label": 1}'


@pytest.mark.parametrize("ending", ["pkl", "pyd", "pth", "pickle", "npy"])
def test_pickled_fields_are_refused(ending: str, tmp_path: Path) -> None:
    class Bomb:
        def __reduce__(self) -> tuple[Any, tuple[str]]:
            return os.mkdir, (str(tmp_path / "ran"),)

    content = piece(tar_of(**{"0__png": IMAGE, "0__json": META, f"0__{ending}": pickle.dumps(Bomb())}))
    with pytest.raises(DataError, match="can run code when it is read: refused"):
        from_fields(members(content, "here"), "here")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({"0__json": META}, "expected one image"),
        ({"0__png": IMAGE, "0__jpg": IMAGE, "0__json": META}, "expected one image"),
        ({"0__png": IMAGE}, "expected one image"),
        ({"0__png": IMAGE, "0__json": META, "0__txt": b""}, "members .png, .json, .txt"),
        ({"0__png": IMAGE, "1__json": META}, "members of two samples, 0 and 1"),
        ({"0__png": IMAGE, "0__json": b"{"}, "do not fit together"),
        ({"0__png": IMAGE[:40], "0__json": META}, r"here.png: cannot read the image"),
        ({"0__png": IMAGE, "0__json": META, "0__labels__png": png(np.zeros((3, 4), np.uint8))}, "the mask is"),
        ({"0__png": IMAGE, "0__json": b'{"id": "a", "segments": [[1, 0]], "crowd": []}',
          "0__labels__png": png(np.full((4, 4), 9, np.uint8))}, "do not fit together"),
    ],
)  # fmt: skip
def test_strange_samples_are_named(files: dict[str, bytes], said: str) -> None:
    with pytest.raises(DataError, match=said):
        from_fields(members(piece(tar_of(**files)), "here"), "here")


def test_labels_of_no_class_are_refused() -> None:
    known = frozenset({1, 2, VOID})
    from_fields({"png": IMAGE, "json": META}, "here", known)
    mask = png(np.array([[1, 255, 2, 1]] * 4, np.uint8))
    assert from_fields({"png": IMAGE, "json": META, "labels.png": mask}, "here", known).semantic is not None
    deep = png(np.array([[1, 65535, 2, 300]] * 4, np.uint16))
    for fields, said in (
        ({"json": b'{"id": "a", "label": 3}'}, r"\[3\]"),
        ({"json": META, "labels.png": png(np.full((4, 4), 7, np.uint8))}, r"\[7\]"),
        ({"json": META, "labels.png": deep}, r"\[300\]"),
        ({"json": b'{"id": "a", "segments": [[9, 0]], "crowd": []}', "labels.png": png(np.zeros((4, 4), np.uint8))},
         r"\[9\]"),
    ):  # fmt: skip
        with pytest.raises(DataError, match=f"labels {said} are of no class"):
            from_fields({"png": IMAGE, **fields}, "here", known)


def test_links_and_torn_members_are_refused() -> None:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        link = tarfile.TarInfo("0.png")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(link)
    with pytest.raises(DataError, match="no plain file"):
        members(file.getvalue()[:512], "here")
    whole = piece(tar_of(**{"0__png": IMAGE, "0__json": META}))
    with pytest.raises(DataError, match="truncated"):
        members(whole[:-600], "here")
    with pytest.raises(DataError, match="no tar header"):
        members(b"x" * 1024, "here")


def test_damaged_shards_are_named(tiny_folder: SimpleNamespace, tmp_path: Path) -> None:
    place = tmp_path / "data" / "sharded"
    manifest, _ = sharded(tiny_folder, place)
    shard = place / "train-00001.tar"
    whole = shard.read_bytes()
    shard.write_bytes(whole[:700] + bytes([whole[700] ^ 1]) + whole[701:])
    reader = open_reader(manifest, "train", tiny_folder.root)
    with pytest.raises(DataError, match="its bytes are not those that were written"):
        reader.read(4)
    assert reader.read(0).label == 0
    report = check(manifest, ["train"], tiny_folder.root)
    assert (len(report.problems), report.n_read) == (1, {"train": 11})
    shard.write_bytes(whole[:-100])
    with pytest.raises(DataError, match=f"truncated or changed: {len(whole) - 100} bytes, {len(whole)} when"):
        open_reader(manifest, "train", tiny_folder.root)
    shard.unlink()
    (place / "train-00002.tar").unlink()
    report = check(manifest, ["train"], tiny_folder.root)
    assert sum("this shard is missing" in p for p in report.problems) == 2
    index = place / "train.index.npz"
    index.write_bytes(index.read_bytes()[:200])
    with pytest.raises(DataError, match="not an index of shards, or a damaged one"):
        open_reader(manifest, "train", tiny_folder.root)
    index.unlink()
    with pytest.raises(DataError, match="no such index of shards"):
        ShardReader.open(manifest, "train", FolderStore(place))


def test_an_index_that_lies_is_refused(tiny_folder: SimpleNamespace, tmp_path: Path) -> None:
    manifest, _ = sharded(tiny_folder, tmp_path / "s")
    path = tmp_path / "s" / "train.index.npz"
    with np.load(path) as stored:
        arrays = dict(stored)
    for key, value in (
        ("offset", arrays["offset"] + 10**9),
        ("shard", arrays["shard"] + 7),
        ("crc", arrays["crc"][1:]),
    ):
        np.savez(path, **{**arrays, key: value})
        with pytest.raises(DataError, match="its columns do not fit together"):
            ShardReader.open(manifest, "train", FolderStore(tmp_path / "s"))
    np.savez(path, **{**arrays, "names": arrays["names"].astype(object)})
    with pytest.raises(DataError, match="not an index of shards"):
        ShardReader.open(manifest, "train", FolderStore(tmp_path / "s"))
    np.savez(path, **{**arrays, "class_ids": arrays["class_ids"] + 1})
    with pytest.raises(KcError, match="of other classes than tiny-folder"):
        ShardReader.open(manifest, "train", FolderStore(tmp_path / "s"))


def test_ids_are_packed() -> None:
    ids = PackedIds.pack(["a", "", "ünï", "train/x.png"])
    assert list(ids) == ["a", "", "ünï", "train/x.png"]
    assert (ids[-1], ids[1:3], len(ids)) == ("train/x.png", ["", "ünï"], 4)
    part = PackedIds(ids.text, ids.ends, np.array([3, 0]))
    assert list(part) == ["train/x.png", "a"]
    with pytest.raises(IndexError):
        ids[4]
