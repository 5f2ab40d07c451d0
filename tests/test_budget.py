"""Bounded caches and their common budget."""

from __future__ import annotations

import pytest

from kc import budget
from kc.budget import PART, BoundedCache, available_bytes, cache_bytes
from kc.errors import RunError


def test_the_least_recently_used_leaves_but_never_the_newest() -> None:
    cache = BoundedCache[str, bytes](10, len)
    cache.put("a", b"1234")
    cache.put("b", b"1234")
    assert cache.get("a") == b"1234"
    cache.put("c", b"1234")
    assert ("a" in cache, "b" in cache, "c" in cache) == (True, False, True)
    assert cache.get_or_make("d", lambda: b"x" * 11) == b"x" * 11
    assert (len(cache), cache.used) == (1, 11)
    cache.put("d", b"y")
    assert cache.used == 1


def test_without_eviction_a_full_cache_takes_nothing_more() -> None:
    cache = BoundedCache[str, bytes](10, len, evict=False)
    for key, value in (("a", b"123456"), ("b", b"123456"), ("c", b"1234")):
        cache.put(key, value)
    assert ("a" in cache, "b" in cache, "c" in cache) == (True, False, True)


@pytest.mark.parametrize(("given", "expected"), [("1000", 250), ("2K", 512), ("1.5 GiB", 3 * 2**27), ("8mb", 2**21)])
def test_the_budget_of_the_environment(given: str, expected: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KC_CACHE_BYTES", given)
    assert cache_bytes(0.25) == expected


def test_a_budget_that_is_no_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KC_CACHE_BYTES", "much")
    with pytest.raises(RunError, match="KC_CACHE_BYTES"):
        cache_bytes(1)


def test_the_default_respects_the_machine_and_the_processes_on_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KC_CACHE_BYTES", raising=False)
    monkeypatch.setattr(budget, "available_bytes", lambda: 8000)
    for processes, expected in (("", 8000 * PART), ("4", 2000 * PART)):
        monkeypatch.setenv("LOCAL_WORLD_SIZE", processes)
        budget._all_caches.cache_clear()
        assert cache_bytes(1) == expected
    budget._all_caches.cache_clear()


def test_memory_of_a_container(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path_factory.mktemp("cgroup")
    (folder / "memory.max").write_text("5000\n")
    (folder / "memory.current").write_text("4000\n")
    (folder / "memory.stat").write_text("anon 3000\ninactive_file 500\n")
    group = (str(folder / "memory.max"), str(folder / "memory.current"), "inactive_file")
    monkeypatch.setattr(budget, "_CGROUPS", (group,))
    assert available_bytes() == 1500
    (folder / "memory.max").write_text("max\n")
    assert available_bytes() > 1500
