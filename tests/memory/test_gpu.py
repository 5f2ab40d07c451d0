"""The device search, run on the CPU: the same answers as exact search, whatever fits on the device."""

from __future__ import annotations

from pathlib import Path

import faiss
import numpy as np
import pytest
import torch

from kc.errors import KcError, MissingExtraError
from kc.memory.disk import Memory
from kc.memory.search import gpu
from kc.memory.search.exact import Search
from kc.memory.search.gpu import DeviceRows, FaissGpuSearch, TorchSearch, bf16_margin
from kc.memory.search.planner import SearchOptions
from kc.types import BoolArray, Neighbours, Rows

DIM = 48


def unit(x: np.ndarray) -> np.ndarray:
    return (x / np.linalg.norm(x, axis=-1, keepdims=True)).astype(np.float32)


@pytest.fixture
def memory(tmp_path: Path) -> Memory:
    """500 clustered rows, among them 100 that are 3e-4 apart, in two segments."""
    rng = np.random.default_rng(0)
    keys = unit(rng.normal(size=(10, DIM))[rng.integers(0, 10, 500)] + 0.5 * rng.normal(size=(500, DIM)))
    keys[:100] = unit(keys[0] + 3e-4 * unit(rng.normal(size=(100, DIM))))
    memory = Memory.create(tmp_path / "m", dim=DIM, fingerprint="f")
    for t, part in enumerate((range(300), range(300, 500))):
        names = tuple(f"s{i}" for i in part)
        memory.add(Rows(keys[list(part)], np.zeros(len(part), np.int64), names, np.zeros(len(part), np.int64)), t)
        memory.commit(t)
    return memory


def masks(memory: Memory) -> list[BoolArray]:
    rng = np.random.default_rng(1)
    few, many = rng.random(500) < 0.1, rng.random(500) < 0.9
    part = np.arange(500) < 200  # some blocks whole, some without a row
    return [memory._view().visible, few, many, part]


def same(a: Neighbours, b: Neighbours) -> bool:
    return np.array_equal(a.id, b.id) and np.array_equal(a.score, b.score)


@pytest.mark.parametrize("room", [None, 128 * DIM * 2, 0])
@pytest.mark.parametrize("gpu_bytes", [2**30, 2 * 20 * 50])
def test_answers_of_the_cpu(memory: Memory, monkeypatch: pytest.MonkeyPatch, room: int | None, gpu_bytes: int) -> None:
    monkeypatch.setattr(gpu, "UPLOAD_ROWS", 128)
    view = memory._view()
    rows = DeviceRows(view.columns, "cpu", room)
    queries = unit(np.random.default_rng(2).normal(size=(20, DIM)) + memory.keys(range(20)))
    for mask in masks(memory):
        for k in (1, 16, 400):
            ours = TorchSearch(view, mask, rows, gpu_bytes)(queries, k, DIM)
            assert same(ours, Search(view, mask)(queries, k, DIM))
    own = memory.keys(range(500))
    found = TorchSearch(view, view.visible, rows, gpu_bytes)(own, 1, DIM)
    assert np.array_equal(found.id[:, 0], np.arange(500))
    skip = np.arange(500)
    assert same(
        TorchSearch(view, view.visible, rows, gpu_bytes)(own, 5, DIM, skip),
        Search(view, view.visible)(own, 5, DIM, skip),
    )
    kept = sum(t.numel() * 2 for t in rows._kept.values())
    assert kept == 500 * DIM * 2 if room is None else kept <= room


def test_scores_stay_within_the_budget(memory: Memory, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = []
    topk = torch.Tensor.topk

    def watched(self: torch.Tensor, *args: object, **kwargs: object) -> object:
        sizes.append(self.numel() * self.element_size())
        return topk(self, *args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(torch.Tensor, "topk", watched)
    view = memory._view()
    budget = 20 * 64 * 2
    search = TorchSearch(view, view.visible, DeviceRows(view.columns, "cpu"), budget)
    search(memory.keys(range(300, 320)), 2, DIM)
    assert max(sizes) <= budget
    assert len(sizes) > 500 // 64


def test_the_margin_covers_bf16() -> None:
    rng = np.random.default_rng(3)
    for dim in (8, 64, 768):
        a, b = unit(rng.normal(size=(300, dim))), unit(rng.normal(size=(300, dim)))
        b[:100] = unit(a[:100] + 0.1 * unit(rng.normal(size=(100, dim))))
        rough = (torch.from_numpy(a).bfloat16() @ torch.from_numpy(b).bfloat16().T).float().numpy()
        assert np.abs(rough - a.astype(np.float64) @ b.T).max() < bf16_margin(dim)


def test_missing_devices_are_named(memory: Memory) -> None:
    memory.configure(SearchOptions(device="cuda:7"))
    with pytest.raises(KcError, match="CUDA devices"):
        memory.search(memory.keys([0]), 1)
    memory.configure(SearchOptions(device="toaster"))
    with pytest.raises(KcError, match="toaster"):
        memory.search(memory.keys([0]), 1)
    assert "toaster" in memory.stats()["reason"]


def test_faiss_on_a_gpu(memory: Memory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a GPU: the error, and the logic with FAISS's CPU index in the place of its GPU index."""
    view = memory._view()
    if not hasattr(faiss, "GpuIndexFlatIP"):
        with pytest.raises(MissingExtraError, match=r"kc-continual\[gpu\]"):
            FaissGpuSearch(view, view.visible, "cuda")
    monkeypatch.setattr(faiss, "GpuIndexFlatIP", lambda r, dim, config: faiss.IndexFlatIP(dim), raising=False)
    monkeypatch.setattr(faiss, "GpuIndexFlatConfig", type("Config", (), {}), raising=False)
    monkeypatch.setattr(faiss, "StandardGpuResources", object, raising=False)
    monkeypatch.setattr(gpu, "checked_device", torch.device)
    for longest in (2048, 30):
        monkeypatch.setattr(gpu, "FAISS_LONGEST", longest)
        for mask in masks(memory):
            ours = FaissGpuSearch(view, mask, "cuda")(memory.keys(range(0, 500, 3)), 10, DIM)
            assert same(ours, Search(view, mask)(memory.keys(range(0, 500, 3)), 10, DIM))
