"""A disk that is really full, and a limit on file sizes: the version before stays, the error says what to free."""

from __future__ import annotations

import resource
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from kc.errors import RunError
from kc.memory.disk import Memory
from kc.types import Rows

MiB = 2**20


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of one MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={MiB}", "tmpfs", str(folder)]
    try:
        done = subprocess.run(mount, capture_output=True, text=True)
    except FileNotFoundError:
        pytest.skip("there is no `mount` on this machine")
    if done.returncode:
        pytest.skip(f"this user may not mount a small file system: {done.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def fill(disk: Path, leave: int) -> Path:
    """Take all of `disk` but `leave` bytes, in whole pages; returns the file that does."""
    ballast = disk / "ballast"
    ballast.unlink(missing_ok=True)
    with ballast.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(4096))
        except OSError:
            pass
        file.truncate(file.tell() - leave)
    return ballast


CHANGES: dict[str, Callable[[Memory], object]] = {
    "commit to": lambda m: m.commit(3),
    "change": lambda m: m.remove(class_id=1),
    "erase from": lambda m: m.erase([15]),
    "compact": lambda m: m.compact(),
    "roll back": lambda m: m.rollback(1),
}


# Retiring takes the two pages of a new manifest; everything else writes a segment of eleven files.
CASES = [(change, pages) for change in CHANGES for pages in (0, 2, 7) if change != "change" or pages == 0]


@pytest.mark.parametrize(("change", "pages"), CASES)
def test_a_full_disk(small_disk: Path, rows: Callable[..., Rows], change: str, pages: int) -> None:
    """Full at once, or after a few pages of the change."""
    with Memory.create(small_disk / "m", dim=8, fingerprint="enc:1") as memory:
        for t in range(3):
            memory.add(rows(10, t, prefix=f"t{t}-", seed=t), t)
            memory.commit(t)
        memory.reweight([5], [0.5])
        if change == "roll back":
            memory.compact()  # so that rolling back has a segment to cut
        memory.add(rows(10, 3, prefix="t3-", seed=3), 3)
        queries = rows(4, seed=9).keys
        before = memory.search(queries, 30)
        files = sorted(p for p in memory.path.rglob("*") if p.is_file())
        ballast = fill(small_disk, pages * 4096)
        message = rf"cannot {change} the memory .*free space .* bytes are left.*stays readable"
        with pytest.raises(RunError, match=message):
            CHANGES[change](memory)
        for reader in (memory, Memory.open(memory.path)):
            found = reader.search(queries, 30)
            assert np.array_equal(found.id, before.id)
            assert np.array_equal(found.weight, before.weight)
            assert reader.verify()["orphans"] == []
        assert sorted(p for p in memory.path.rglob("*") if p.is_file()) == files
        ballast.unlink()
        CHANGES[change](memory)  # free what it says and repeat
        assert Memory.open(memory.path).verify()["orphans"] == []


def test_a_full_disk_while_exporting(small_disk: Path, three: Memory) -> None:
    fill(small_disk, 4096)
    with pytest.raises(RunError, match="No space left"):
        three.export(small_disk / "rows.npz")
    assert [p.name for p in small_disk.iterdir()] == ["ballast"]


def test_a_limit_on_the_size_of_files(three: Memory, rows: Callable[..., Rows]) -> None:
    """As a quota: needs no rights to try."""
    three.add(rows(1000, 3, prefix="t3-", seed=3), 3)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))
    try:
        with pytest.raises(RunError, match=r"cannot commit to .*File too large; free space .*or raise the quota"):
            three.commit(3)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert len(Memory.open(three.path)) == len(three) == 30
    assert three.verify()["orphans"] == []
    assert three.commit(3) == 1000
