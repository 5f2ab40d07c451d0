"""Names that come from outside never become a path outside their folder; archives never exhaust the machine."""

from __future__ import annotations

import gzip
import io
import os
import tarfile
import zipfile
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from kc.cli import main
from kc.data.readers.open import open_reader
from kc.data.shards.index import PackedIds, ShardIndex
from kc.data.shards.store import AddressStore
from kc.data.unpack import unpack
from kc.errors import DataError
from kc.outside import inside, plain_name
from tests.data.test_formats import benchmark, save

EVIL = ["../x", "/etc/x", "a/../../x", "..", ".", "", "a\\b", "C:x", "a\nb", "a\0b", "sub/x"]


@pytest.mark.parametrize("name", EVIL)
def test_only_names_of_one_file_are_plain(name: str) -> None:
    with pytest.raises(DataError, match=r"^index: "):
        plain_name(name, "index")
    assert plain_name("train-000001.tar", "index") == "train-000001.tar"


def index_of(name: str) -> ShardIndex:
    ids = PackedIds.pack(["train/a"])
    one = np.ones(1, dtype=np.int64)
    return ShardIndex(
        np.arange(2), np.zeros(1, np.int32), 0 * one, one, np.zeros(1, np.uint32), np.zeros((1, 1), np.uint8),
        ids.text, ids.ends, np.array([name]), one, np.ones((1, 2), np.int64), "plan",
    )  # fmt: skip


@pytest.mark.parametrize("name", [n for n in EVIL if not n.endswith("\0")])
def test_an_index_of_shards_names_plain_files(name: str) -> None:
    with pytest.raises(DataError, match=r"^train\.index\.npz: "):
        ShardIndex.from_bytes(index_of(name).to_bytes(), "train.index.npz")
    assert len(ShardIndex.from_bytes(index_of("a.tar").to_bytes(), "x")) == 1


def test_an_index_whose_offsets_wrap_is_damaged() -> None:
    far = replace(index_of("a.tar"), offset=np.full(1, 2**63 - 1), size=np.full(1, 2**63 - 1))
    with pytest.raises(DataError, match="damaged"):
        ShardIndex.from_bytes(far.to_bytes(), "x")


def test_the_cache_of_an_address_stays_in_its_folder() -> None:
    with pytest.raises(DataError, match="leaves"):
        AddressStore("memory://nowhere").read("../../../evil", 0, 10)


def test_links_out_of_a_data_folder_need_a_word(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = benchmark(tmp_path, "classification", {"reader": "folder"}, {"train": {"path": "."}}, ["a"])
    save(tmp_path / "store/1.png", np.zeros((4, 4, 3)))
    (made.folder / "a").symlink_to(tmp_path / "store")
    with pytest.raises(DataError, match="KC_LINK_ROOTS"):
        open_reader(made.manifest, "train", made.root)
    monkeypatch.setenv("KC_LINK_ROOTS", f"{tmp_path}/other,{tmp_path}/store")
    assert open_reader(made.manifest, "train", made.root).read(0).image.shape == (4, 4, 3)
    with pytest.raises(DataError, match="leaves"):  # the word is for links, not for names
        inside(made.folder, "../../store/1.png")


@pytest.mark.parametrize("name", ["../../absent", "../../store", "/absent"])
def test_a_class_cannot_be_called_like_a_folder_elsewhere(tmp_path: Path, name: str) -> None:
    made = benchmark(tmp_path, "classification", {"reader": "folder"}, {"train": {"path": "."}}, [name])
    save(tmp_path / "store/1.png", np.zeros((4, 4, 3)))
    with pytest.raises(DataError, match="leaves"):  # whether it is there or not
        open_reader(made.manifest, "train", made.root)


def test_link_roots_is_an_option_of_what_reads_data(
    tiny_folder: SimpleNamespace, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("KC_LINK_ROOTS", raising=False)
    data, store = tiny_folder.root / "tiny-folder", tmp_path / "store"
    data.rename(store)
    data.mkdir()
    for path in store.iterdir():
        (data / path.name).symlink_to(path)
    check = ["data", "check", str(tiny_folder.path), "--data-root", str(tiny_folder.root)]
    assert main(check) == 1
    assert f"--link-roots {store}" in capsys.readouterr().out
    assert main([*check, "--link-roots", f"{tmp_path}/none,{store}"]) == 0
    run = ["run", "--benchmark", *check[2:], "--tasks", "3", "--methods", "ncm", "--wandb", "disabled"]
    run += ["--out", str(tmp_path / "runs")]
    assert main([*run, "--link-roots", str(store)]) == 0
    assert main(run) == 2  # it holds for the command that says it
    resumed = ["run", "--resume", str(next((tmp_path / "runs").iterdir())), "--wandb", "disabled"]
    assert main([*resumed, "--link-roots", str(store)]) == 0
    assert "KC_LINK_ROOTS" not in os.environ

    (tmp_path / "shown").mkdir()
    (tmp_path / "shown" / "a.png").symlink_to(next(store.rglob("*.png")))
    told = ["--name", "a", "--memory", str(tmp_path / "memory"), "--proposals", "none", "--size", "64"]
    assert main(["remember", str(tmp_path / "shown"), *told]) == 2
    assert main(["remember", str(tmp_path / "shown"), *told, "--link-roots", str(store)]) == 0


def header(size: bytes, kind: bytes = b"0") -> bytes:
    block = bytearray(tarfile.TarInfo("a").tobuf())
    block[124:136], block[156:157] = size, kind
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


BAD_TARS = {
    "negative octal": header(b"-0000001000\0"),
    "negative binary": header(b"\xff" * 11 + b"\0"),
    "pax of a GiB": header(b"10000000000\0", b"x"),
    "long name of a GiB": header(b"10000000000\0", b"L"),
}


@pytest.mark.parametrize("content", BAD_TARS.values(), ids=BAD_TARS)
def test_headers_of_tar_have_bounds(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.tar").write_bytes(content * 3 + bytes(1024))
    with pytest.raises(DataError):
        unpack(tmp_path / "a.tar", tmp_path / "out")


def test_a_negative_size_in_a_pax_header(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar", "w", format=tarfile.PAX_FORMAT) as tar:
        info = tarfile.TarInfo("a")
        info.pax_headers = {"size": "-1024"}
        tar.addfile(info, io.BytesIO())
    with pytest.raises(DataError):
        unpack(tmp_path / "a.tar", tmp_path / "out")


@pytest.mark.parametrize("ending", ["tar.xz", "tar.gz", "tar.bz2", "zip", "json.gz"])
@pytest.mark.parametrize("at", [0.3, 0.6, 0.9])
def test_damaged_archives_are_one_error(tmp_path: Path, ending: str, at: float) -> None:
    path, noise = tmp_path / f"a.{ending}", np.random.default_rng(0).bytes(5000)
    if ending == "zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_LZMA) as made:
            made.writestr("a", noise)
    elif ending == "json.gz":
        path.write_bytes(gzip.compress(noise))
    else:
        with tarfile.open(path, f"w:{ending.rpartition('.')[2]}") as tar:
            info = tarfile.TarInfo("a")
            info.size = len(noise)
            tar.addfile(info, io.BytesIO(noise))
    content = bytearray(path.read_bytes())
    where = int(len(content) * at)
    content[where : where + 40] = bytes(40)
    path.write_bytes(content)
    with pytest.raises(DataError, match=rf"a\.{ending}"):
        unpack(path, tmp_path / "out")
    path.write_bytes(content[:where])
    with pytest.raises(DataError):
        unpack(path, tmp_path / "out")
