"""An anonymous memory works like any other and names nobody."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from kc.memory.disk import Memory
from kc.memory.store.inputs import hashed
from kc.parsing import parse
from kc.types import Rows


@pytest.fixture
def secret(tmp_path: Path, rows: Callable[..., Rows]) -> Iterator[Memory]:
    """Two tasks of the patients t0-0 ... t1-9 from the wards `a` and `b`."""
    with Memory.create(tmp_path / "secret", dim=8, fingerprint="enc:1", anonymous=True) as memory:
        for t in range(2):
            memory.add(rows(10, t, prefix=f"t{t}-", seed=t, source="ward " + "ab"[t]), t)
            memory.commit(t)
        yield memory


def test_hashes_are_hmac_sha_256() -> None:
    salt = "00ff" * 16
    (name,) = hashed(["ward ü"], salt)
    assert name == hmac.digest(bytes.fromhex(salt), "ward ü".encode(), hashlib.sha256).hex()[:32]
    assert hashed(["a", "a\ud8ff", ""], salt) == [hashed([n], salt)[0] for n in ("a", "a\ud8ff", "")]
    assert hashed(["a"], salt) != hashed(["a"], "11" * 32)
    assert hashed(["a", "b"], "") == ["a", "b"]


def test_no_name_is_in_any_file(secret: Memory, rows: Callable[..., Rows]) -> None:
    secret.remove(sample_id="t0-3")
    secret.compact()
    data = b"".join(p.read_bytes() for p in secret.path.rglob("*") if p.is_file())
    for name in (*(f"t{t}-{i}" for t in range(2) for i in range(10)), "ward"):
        assert name.encode() not in data
    info = secret.rows_of(secret.ids())
    assert all(len(name) == 32 for name in (*info.sample_id, *info.source))
    assert len(set(info.sample_id)) == 19
    assert len(set(info.source)) == 2


def test_names_are_still_asked_for_in_full(secret: Memory, rows: Callable[..., Rows]) -> None:
    assert secret.anonymous
    assert secret.add(rows(10, 0, prefix="t0-"), 1) == 0  # idempotent by key
    reader = Memory.open(secret.path)
    assert reader.ids(sample_id=["t0-4", "t1-2", "x"]).tolist() == [4, 12]
    assert reader.ids(source="ward b").tolist() == list(range(10, 20))
    assert set(reader.search(rows(3).keys, 20, sources=["ward a"]).id.reshape(-1)) == set(range(10))
    assert secret.remove(sample_id="t0-4") == 1
    assert secret.add(rows(12, 0, prefix="t0-"), 1) == 3
    assert secret.remove(sample_id=["t0-10", "t0-4"]) == 2  # staged ones
    assert secret.erase(source="ward b") == 10
    assert secret.commit(1) == 1
    assert len(secret) == 10


def test_two_memories_hash_differently(secret: Memory, tmp_path: Path, rows: Callable[..., Rows]) -> None:
    with Memory.create(tmp_path / "other", dim=8, fingerprint="enc:1", anonymous=True) as other:
        other.add(rows(10, 0, prefix="t0-", source="ward a"), 0)
        other.commit(0)
        assert not set(other.rows_of(other.ids()).sample_id) & set(secret.rows_of(secret.ids()).sample_id)
        with pytest.raises(ValueError, match="salt"):  # the same patient could not be recognised
            other.merge(secret)


def test_merging_and_exchange(secret: Memory, three: Memory, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="salt"):
        three.merge(secret)
    assert secret.merge(three) == 10  # task 2: the others are there
    secret.commit(2)
    assert secret.ids(source="c").tolist() == list(range(20, 30))
    for ending in ("npz", "parquet"):
        file = tmp_path / f"rows.{ending}"
        secret.export(file)
        assert b"t2-0" not in file.read_bytes()
        with pytest.raises(ValueError, match="salt"):
            three.import_rows(file)
        with Memory.create_from(tmp_path / ending, file) as copy:
            assert copy.ids(sample_id="t2-7").tolist() == [27]
            assert copy.rows_of(copy.ids()).source == secret.rows_of(secret.ids()).source
            assert copy.merge(three) == copy.merge(secret) == 0


def test_it_stays_what_it_was_made(secret: Memory, three: Memory) -> None:
    for memory in (secret, three):
        memory.close()
        with pytest.raises(ValueError, match="cannot be changed later"):
            Memory.open_or_create(memory.path, dim=8, fingerprint="enc:1", anonymous=not memory.anonymous)
        with Memory.open_or_create(
            memory.path, dim=8, fingerprint="enc:1", anonymous=memory.anonymous
        ) as again:  # the lock was given back
            assert np.array_equal(again.ids(), memory.ids())


def test_the_flag_is_a_switch(tmp_path: Path) -> None:
    from_file = tmp_path / "run.yaml"
    from_file.write_text("methods: knn\nknn: {anonymous: true}\n")
    given = [
        parse(args).of("knn")["anonymous"] for args in ([], ["--knn.anonymous", "true"], ["--config", str(from_file)])
    ]
    assert given == [False, True, True]
