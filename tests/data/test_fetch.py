"""Downloads from a server on this machine: interrupted, wrong, refused; and archives that must not be unpacked."""

from __future__ import annotations

import gzip
import hashlib
import io
import re
import stat
import tarfile
import threading
import zipfile
import zlib
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

import kc.data.fetch
from kc.cli import main
from kc.data.fetch import DOWNLOADS, fetch
from kc.data.manifest import Manifest, load_manifest
from kc.data.readers.open import open_reader
from kc.data.unpack import unpack
from kc.errors import DataError, ManifestError


class Server(ThreadingHTTPServer):
    """Serves `files`; `cut`: a connection ends after so many bytes; `ranges`: whether it can go on in the middle."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.files: dict[str, bytes] = {}
        self.cut: int | None = None
        self.ranges = True
        self.status: int | None = None
        self.redirect: str | None = None
        self.asked: list[str | None] = []

    def address(self, name: str) -> str:
        return f"http://127.0.0.1:{self.server_port}/{name}"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        wanted = self.headers.get("Range")
        self.server.asked.append(wanted)
        content = self.server.files.get(self.path.removeprefix("/"))
        if self.server.redirect is not None:
            self.send_response(302)
            self.send_header("Location", self.server.redirect)
            self.end_headers()
            return
        if content is None or self.server.status is not None:
            self.send_error(self.server.status or 404)
            return
        start = 0
        if wanted is not None and self.server.ranges:
            start = int(re.fullmatch(r"bytes=(\d+)-", wanted)[1])  # type: ignore[index]
            if start >= len(content):
                self.send_error(416)
                return
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        else:
            self.send_response(200)
        self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        end = len(content) if self.server.cut is None else min(len(content), start + self.server.cut)
        self.wfile.write(content[start:end])

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setattr(kc.data.fetch, "_PAUSE", 0.0)
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    result = Server()
    thread = threading.Thread(target=result.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield result
    result.shutdown()
    thread.join()
    result.server_close()


def png(color: int) -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.random.default_rng(color).integers(0, 256, (20, 20, 3), dtype=np.uint8)).save(file, "png")
    return file.getvalue()


def tar_of(files: dict[str, bytes], mode: str = "w:gz") -> bytes:
    result = io.BytesIO()
    with tarfile.open(fileobj=result, mode=mode) as archive:  # type: ignore[call-overload]
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return result.getvalue()


def zip_of(files: dict[str, bytes]) -> bytes:
    result = io.BytesIO()
    with zipfile.ZipFile(result, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return result.getvalue()


IMAGES = {
    f"tiny/{part}/{name}/{i}.png": png(i) for i in range(4) for part in ("train", "test") for name in ("cat", "dog")
}


def manifest_of(tmp_path: Path, url: str, content: bytes, **more: Any) -> Manifest:
    download = {"url": url, "size": len(content), "sha256": "sha256:" + hashlib.sha256(content).hexdigest(), **more}
    path = tmp_path / "tiny.yaml"
    path.write_text(yaml.safe_dump({
        "name": "tiny", "task_kind": "classification", "obtain": "Ask its owners for the images.",
        "source": {"reader": "folder", "folder": "tiny"}, "splits": {s: {"path": s} for s in ("train", "test")},
        "classes": [{"id": 0, "name": "cat"}, {"id": 1, "name": "dog"}], "input_size": [16, 16], "download": [download],
    }))  # fmt: skip
    return load_manifest(path)


def test_an_archive_is_fetched_verified_unpacked_and_read(server: Server, tmp_path: Path) -> None:
    server.files["tiny.tar.gz"] = content = tar_of(IMAGES)
    manifest = manifest_of(tmp_path, server.address("tiny.tar.gz"), content)
    seen: list[tuple[str, int, int | None]] = []
    root = tmp_path / "data"
    assert fetch(manifest, root, progress=lambda *call: seen.append(call)) == ["tiny.tar.gz"]
    reader = open_reader(manifest, "train", root)
    assert len(reader) == 8
    assert reader.read(0).image.shape == (20, 20, 3)
    assert ("download tiny.tar.gz", len(content), len(content)) in seen
    assert seen[-1] == ("unpack tiny.tar.gz", sum(map(len, IMAGES.values())), None)
    assert not (root / DOWNLOADS / "tiny.tar.gz").exists()
    assert fetch(manifest, root) == []  # nothing to do a second time
    assert len(server.asked) == 1


def test_broken_connections_are_resumed(server: Server, tmp_path: Path) -> None:
    server.files["tiny.tar.gz"] = content = tar_of(IMAGES)
    server.cut = len(content) // 3
    manifest = manifest_of(tmp_path, server.address("tiny.tar.gz"), content)
    assert fetch(manifest, tmp_path / "data", keep=True) == ["tiny.tar.gz"]
    cut = server.cut
    assert server.asked[:3] == [None, f"bytes={cut}-", f"bytes={2 * cut}-"]
    assert (tmp_path / "data" / DOWNLOADS / "tiny.tar.gz").read_bytes() == content


def test_an_interrupted_download_goes_on_in_the_next_run(server: Server, tmp_path: Path) -> None:
    server.files["tiny.tar.gz"] = content = tar_of(IMAGES)
    manifest = manifest_of(tmp_path, server.address("tiny.tar.gz"), content)
    store = tmp_path / "data" / DOWNLOADS
    store.mkdir(parents=True)
    (store / "tiny.tar.gz.part").write_bytes(content[:100])
    fetch(manifest, tmp_path / "data")
    assert server.asked == ["bytes=100-"]


@pytest.mark.parametrize("ranges", [True, False])
def test_a_beginning_of_another_file_is_thrown_away(server: Server, tmp_path: Path, ranges: bool) -> None:
    server.files["tiny.tar.gz"] = content = tar_of(IMAGES)
    server.ranges = ranges
    manifest = manifest_of(tmp_path, server.address("tiny.tar.gz"), content)
    store = tmp_path / "data" / DOWNLOADS
    store.mkdir(parents=True)
    (store / "tiny.tar.gz.part").write_bytes(b"x" * 100)
    assert fetch(manifest, tmp_path / "data") == ["tiny.tar.gz"]
    assert server.asked == (["bytes=100-", None] if ranges else ["bytes=100-"])
    (store / "tiny.tar.gz.part").write_bytes(b"x" * (len(content) + 5))  # longer than the file ever was
    next(store.glob("*.unpacked")).unlink()
    assert fetch(manifest, tmp_path / "data") == ["tiny.tar.gz"]


def test_wrong_content_is_removed_and_said(server: Server, tmp_path: Path) -> None:
    content = tar_of(IMAGES)
    server.files["tiny.tar.gz"] = content[:-1] + b"?"
    manifest = manifest_of(tmp_path, server.address("tiny.tar.gz"), content)
    with pytest.raises(DataError, match=r"its checksum is sha256:[0-9a-f]{64}, the manifest says .*removed"):
        fetch(manifest, tmp_path / "data")
    assert not list((tmp_path / "data" / DOWNLOADS).glob("tiny*"))
    assert not (tmp_path / "data" / "tiny").exists()
    server.files["tiny.tar.gz"] = content + b"more"
    with pytest.raises(DataError, match=r"sends more than the [0-9,]+ bytes of the manifest"):
        fetch(manifest, tmp_path / "data")
    server.files["tiny.tar.gz"] = content[:-10]
    (tmp_path / "data" / DOWNLOADS / "tiny.tar.gz.part").unlink()
    with pytest.raises(DataError, match=r"416 .*bytes are here|file ends at|Run the command again"):
        fetch(manifest, tmp_path / "data")


@pytest.mark.parametrize(("status", "tries", "said"), [(403, 1, "answers 403"), (503, 5, "answers 503")])
def test_a_refusal_is_said_once_and_a_busy_server_asked_again(
    server: Server, tmp_path: Path, status: int, tries: int, said: str
) -> None:
    server.status = status
    manifest = manifest_of(tmp_path, server.address("tiny.tar.gz"), b"content")
    with pytest.raises(DataError, match=said):
        fetch(manifest, tmp_path / "data")
    assert len(server.asked) == tries


def test_no_server_and_no_other_protocol(server: Server, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"refused.*0 of 7 bytes are here"):
        fetch(manifest_of(tmp_path, "http://127.0.0.1:9/x.tar", b"content"), tmp_path / "data")
    (tmp_path / "secret").write_bytes(b"content")
    server.redirect = f"file://{tmp_path}/secret"
    with pytest.raises(DataError, match="302"):
        fetch(manifest_of(tmp_path, server.address("x.tar"), b"content"), tmp_path / "data")


def test_archives_in_archives(server: Server, tmp_path: Path) -> None:
    inner = tar_of({name.removeprefix("tiny/"): content for name, content in IMAGES.items()})
    server.files["tiny.zip"] = content = zip_of({"pack/images.tar.gz": inner, "pack/readme.txt": b"hello"})
    manifest = manifest_of(tmp_path, server.address("tiny.zip"), content, into="tiny", inner=["pack/images.tar.gz"])
    fetch(manifest, tmp_path / "data")
    assert (tmp_path / "data/tiny/pack/train/cat/0.png").read_bytes() == IMAGES["tiny/train/cat/0.png"]
    assert sorted(p.name for p in (tmp_path / "data/tiny/pack").iterdir()) == ["readme.txt", "test", "train"]


def test_one_process_at_a_time(server: Server, tmp_path: Path) -> None:
    server.files["tiny.tar.gz"] = content = tar_of(IMAGES)
    manifest = manifest_of(tmp_path, server.address("tiny.tar.gz"), content)
    store = tmp_path / "data" / DOWNLOADS
    store.mkdir(parents=True)
    with kc.data.fetch._alone(store / "lock"), pytest.raises(DataError, match="another process is fetching"):
        fetch(manifest, tmp_path / "data")
    assert fetch(manifest, tmp_path / "data") == ["tiny.tar.gz"]


def test_addresses_that_are_no_download_are_refused(tmp_path: Path) -> None:
    for url in ("file:///etc/passwd", "pipe:cat x", "https://example.org/", "https://example.org/.."):
        with pytest.raises(ManifestError, match=r"download\.0\.url"):
            manifest_of(tmp_path, url, b"x")


def test_the_command(server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    server.files["tiny.tar.gz"] = content = tar_of(IMAGES)
    manifest_of(tmp_path, server.address("tiny.tar.gz"), content)
    arguments = ["data", "fetch", str(tmp_path / "tiny.yaml"), "--data-root", str(tmp_path / "data")]
    assert main(arguments) == 0
    assert "unpacked tiny.tar.gz; `kc data check" in capsys.readouterr().out
    assert main(["data", "check", *arguments[2:]]) == 0
    assert main(["data", "fetch", "cityscapes", "--data-root", str(tmp_path)]) == 2
    assert "cannot be fetched without a person: Log in" in capsys.readouterr().err


# Archives that must not be unpacked.


def special(kind: bytes, name: str, target: str = "") -> bytes:
    result = io.BytesIO()
    with tarfile.open(fileobj=result, mode="w") as archive:
        info = tarfile.TarInfo(name)
        info.type, info.linkname = kind, target
        archive.addfile(info)
    return result.getvalue()


def zip_link() -> bytes:
    result = io.BytesIO()
    with zipfile.ZipFile(result, "w") as archive:
        info = zipfile.ZipInfo("link")
        info.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(info, "/etc/passwd")
    return result.getvalue()


def xz_of(dictionary: int) -> bytes:
    """A tar in xz whose header says that decompressing it takes a dictionary of this size: 40 is 4 GiB, 37 is 1.5."""
    content = bytearray(tar_of({"a.txt": b"x"}, "w:xz"))
    content[16] = dictionary  # of the one filter of the first block
    content[20:24] = zlib.crc32(content[12:20]).to_bytes(4, "little")
    return bytes(content)


def zip_of_lzma() -> bytes:
    result = io.BytesIO()
    with zipfile.ZipFile(result, "w", zipfile.ZIP_LZMA) as archive:
        archive.writestr("a.txt", b"x")
    return result.getvalue()


def sparse(pax: bool) -> bytes:
    result = io.BytesIO()
    with tarfile.open(fileobj=result, mode="w", format=tarfile.PAX_FORMAT) as archive:
        info = tarfile.TarInfo("holes")
        info.size = 1024
        if pax:
            info.pax_headers = {"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.realsize": "1024"}
        else:
            info.type = tarfile.GNUTYPE_SPARSE
        archive.addfile(info, io.BytesIO(b"1\n0\n512\n".ljust(1024, b"\0")))
    return result.getvalue()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (xz_of(37), "Memory usage limit"),
        (xz_of(40), "Memory usage limit"),
        (zip_of_lzma(), "a way that is not read"),
        (sparse(True), "a list of holes"),
        (sparse(False), "a list of holes"),
        (tar_of({"../evil.txt": b"x"}), "leaves the folder"),
        (tar_of({"a/../../evil.txt": b"x"}), "leaves the folder"),
        (tar_of({"/tmp/evil.txt": b"x"}), "leaves the folder"),
        (tar_of({"a\\..\\evil.txt": b"x"}), "leaves the folder"),
        (zip_of({"../evil.txt": b"x"}), "leaves the folder"),
        (zip_of({"C:/evil.txt": b"x"}), "leaves the folder"),
        (special(tarfile.SYMTYPE, "link", "/etc"), "link or a device"),
        (special(tarfile.LNKTYPE, "link", "../secret"), "link or a device"),
        (special(tarfile.FIFOTYPE, "pipe"), "link or a device"),
        (special(tarfile.CHRTYPE, "null"), "link or a device"),
        (zip_link(), "link or a device"),
        (tar_of({"zeros": bytes(4 << 20)}), "unpacks beyond"),
        (zip_of({"zeros": bytes(4 << 20)}), "unpacks beyond"),
        (tar_of({"a.txt": b"x" * 5000}, "w")[:2000], "cannot unpack"),
        (gzip.compress(b"no tar", mtime=0), "cannot unpack"),
        (b"nothing at all", "cannot unpack"),
    ],
)
def test_archives_that_are_refused(tmp_path: Path, content: bytes, said: str) -> None:
    archive, folder = tmp_path / "archive", tmp_path / "out" / "deep"
    archive.write_bytes(content)
    with pytest.raises(DataError, match=said):
        unpack(archive, folder)
    assert {p.name for p in tmp_path.rglob("*")} == {"archive", "out", "deep"}


@pytest.mark.parametrize(
    ("behind", "said"), [(xz_of(37), "Memory usage limit"), (b"\0\0\0\0x", "cut short"), (b"\0\0\0\0", None)]
)
def test_what_follows_in_xz_is_read_to_the_end(tmp_path: Path, behind: bytes, said: str | None) -> None:
    (tmp_path / "archive").write_bytes(tar_of({"a.txt": b"x"}, "w:xz") + behind)
    if said is None:
        assert unpack(tmp_path / "archive", tmp_path / "out") == 1
    else:
        with pytest.raises(DataError, match=said):
            unpack(tmp_path / "archive", tmp_path / "out")


def test_xz_that_is_cut_short(tmp_path: Path) -> None:
    (tmp_path / "archive").write_bytes(tar_of({"a.txt": b"x" * 5000}, "w:xz")[:-30])
    with pytest.raises(DataError, match="cut short"):
        unpack(tmp_path / "archive", tmp_path / "out")


def test_a_link_that_was_there_before_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "sub").symlink_to(tmp_path / "outside")
    (tmp_path / "out" / "file").symlink_to(tmp_path / "outside" / "secret")
    for name in ("sub/evil.txt", "file"):
        (tmp_path / "archive").write_bytes(tar_of({name: b"x"}))
        with pytest.raises(DataError, match="leaves the folder"):
            unpack(tmp_path / "archive", tmp_path / "out")
    assert list((tmp_path / "outside").iterdir()) == []


@pytest.mark.parametrize("mode", ["w", "w:gz", "w:bz2", "w:xz", "zip"])
def test_every_kind_of_archive(tmp_path: Path, mode: str) -> None:
    files = {f"./a/{i}.txt": bytes([65 + i]) * i for i in range(5)}
    (tmp_path / "archive").write_bytes(zip_of(files) if mode == "zip" else tar_of(files, mode))
    assert unpack(tmp_path / "archive", tmp_path / "out") == 5
    assert [(tmp_path / "out" / "a" / f"{i}.txt").read_bytes() for i in range(5)] == list(files.values())
    assert stat.S_IMODE((tmp_path / "out" / "a" / "1.txt").stat().st_mode) == 0o644


def test_one_file_in_gzip_has_its_name_without_the_ending(tmp_path: Path) -> None:
    archive = tmp_path / "train-labels-idx1-ubyte.gz"
    archive.write_bytes(gzip.compress(b"labels"))
    assert unpack(archive, tmp_path / "out") == 1
    assert (tmp_path / "out" / "train-labels-idx1-ubyte").read_bytes() == b"labels"
    for damaged, said in ((gzip.compress(bytes(range(256)))[:-9], "cannot unpack"), (b"labels", "cannot unpack"),
                          (gzip.compress(bytes(4 << 20)), "unpacks beyond")):  # fmt: skip
        archive.write_bytes(damaged)
        with pytest.raises(DataError, match=said):
            unpack(archive, tmp_path / "out")
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["train-labels-idx1-ubyte"]
    assert (tmp_path / "out" / "train-labels-idx1-ubyte").read_bytes() == b"labels"
