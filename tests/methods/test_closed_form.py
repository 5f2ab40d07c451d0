"""ranpac, fecam and tip-adapter: the authors' numbers, naive twins, order, and a state that survives."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from kc.methods.base import Context
from kc.methods.retrieval.fecam import FeCam, correlation, shrunk, tukey
from kc.methods.retrieval.ranpac import RIDGES, RanPac, RanPacOptions, ridge_errors
from kc.methods.retrieval.tip_adapter import TipAdapter, TipAdapterOptions, cache_logits
from kc.types import Task

TASKS = [Task(0, (1, 2), (1, 2), ("1", "2")), Task(1, (3,), (1, 2, 3), ("3",))]
Make = Callable[..., Context]
Images = Callable[..., dict[str, Any]]


def fixed(*shape: int, scale: float = 1.0, shift: float = 0.0) -> Tensor:
    values = torch.sin(torch.arange(math.prod(shape), dtype=torch.float64) * 1.7 + shift) * scale
    return values.reshape(shape)


def observe(method: Any, task: Task, batches: Sequence[dict[str, Any]]) -> None:
    method.start_task(task)
    for batch in batches:
        method.observe(batch)
    method.end_task(task)


@pytest.mark.parametrize(
    ("shrink", "expected"),
    [
        ((1.0, 0.0), [0.5001067636607893, 0.40211300680752415, 0.3793102491577659]),
        ((1.0, 1.0), [0.45851264254765606, 0.37181751033674365, 0.3597844817098513]),
    ],
)
def test_golden_distances_of_fecam(shrink: tuple[float, float], expected: list[float]) -> None:
    # dipamgoswami/FeCAM, FeCAM_vit_cifar100.py at ed846152: shrink_cov, normalize_cov and _mahalanobis on these rows.
    x, queries = F.normalize(fixed(9, 4, shift=0.2), dim=1), F.normalize(fixed(3, 4, shift=1.0), dim=1)
    metric = torch.linalg.pinv(correlation(shrunk(x.T.cov(), *shrink)), hermitian=True)
    difference = queries - x.mean(0)
    assert ((difference @ metric) * difference).sum(1).tolist() == pytest.approx(expected, rel=1e-9)


def test_golden_ridges_of_ranpac() -> None:
    # RanPAC/RanPAC, RanPAC.py at 698e00cc: optimise_ridge_parameter on these rows; ridges 1e-6, 1e-2, 1, 10, 1e8.
    labels = torch.tensor([0, 1, 2, 0, 1, 2, 0, 1, 2, 0])
    y = F.one_hot(labels, 3).double()
    tall, wide = torch.relu(fixed(10, 6, shift=0.5)), torch.relu(fixed(10, 40, shift=0.5))
    some = [RIDGES[i] for i in (2, 6, 8, 9, 16)]
    found = ridge_errors(tall[:8], y[:8], tall[8:], y[8:], some)
    golden = [0.46437463879211477, 0.4814125462067991, 0.32449827127311665, 0.277973680946098, 0.3333333214562645]
    assert found == pytest.approx(golden, rel=1e-6)
    found = ridge_errors(wide[:8], y[:8], wide[8:], y[8:], some)  # fewer rows than columns: the other Gram matrix
    golden = [0.03685125588769786, 0.04274347879710818, 0.09142915920801536, 0.17438161362486673, 0.3333332717804336]
    assert found == pytest.approx(golden, rel=1e-5)


def test_ranpac_is_ridge_regression_on_everything_seen(toy_context: Make, images: Images) -> None:
    context = toy_context(options=RanPacOptions(dim=16))
    method = RanPac(context)
    data = [[images([1, 2] * 6, seed=1)], [images([3] * 5, seed=2), images([3] * 5, seed=3)]]
    for task, batches in zip(TASKS, data, strict=True):
        observe(method, task, batches)
    batches = [b for part in data for b in part]
    x = torch.cat([F.relu(context.encode(b).pooled @ method.statistics["projection"]) for b in batches]).double()
    labels = torch.cat([b["label"] for b in batches])
    y = F.one_hot(labels - 1, 3).double()
    weights = torch.linalg.solve(x.T @ x + float(method.statistics["ridge"]) * torch.eye(16).double(), x.T @ y)
    test = images([1, 2, 3] * 4, seed=9)
    expected = F.relu(context.encode(test).pooled @ method.statistics["projection"]).double() @ weights
    scores = method.predict(test, (1, 2, 3, 5)).scores
    assert scores is not None
    torch.testing.assert_close(scores[:, :3], expected, rtol=1e-6, atol=1e-9)
    assert scores[:, 3].isneginf().all()
    assert float(method.statistics["ridge"]) in RIDGES


def test_fecam_has_one_metric_a_class(toy_context: Make, images: Images) -> None:
    context = toy_context()
    method = FeCam(context)
    observe(method, TASKS[0], [images([1, 2] * 10, seed=1)])
    observe(method, TASKS[1], [images([3], seed=2)])
    test = images([1, 2, 3], seed=9)
    x = F.normalize(context.encode(test).pooled.double(), dim=1)
    scores = method.predict(test, (1, 2, 3, 4)).scores
    assert scores is not None
    for column, c in enumerate((1, 2)):
        rows = F.normalize(context.encode(images([1, 2] * 10, seed=1)).pooled.double(), dim=1)[column::2]
        metric = correlation(shrunk(rows.T.cov(), 1.0, 0.0)).inverse()
        difference = x - rows.mean(0)
        expected = -torch.einsum("nd,de,ne->n", difference, metric, difference)
        torch.testing.assert_close(scores[:, column], expected, rtol=1e-4, atol=1e-6)
        assert c in method.covariances
    one = F.normalize(context.encode(images([3], seed=2)).pooled.double(), dim=1)
    torch.testing.assert_close(scores[:, 2], -(x - one).square().sum(1))  # one image: the identity
    assert scores[:, 3].isneginf().all()
    assert tukey(torch.tensor([4.0, -1.0]), 0.5).tolist() == [2.0, 0.0]


def test_tip_adapter_by_hand() -> None:
    keys, values = torch.eye(2), torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    found = cache_logits(torch.tensor([[1.0, 0.0]]), keys, values, 2.0)
    assert found.tolist() == [pytest.approx([1.0, math.exp(-2.0)])]


def test_tip_adapter_adds_the_cache_to_the_zero_shot_logits(toy_context: Make, images: Images) -> None:
    context = toy_context(options=TipAdapterOptions(shots=2))
    logits = torch.tensor([[3.0, 1.0], [0.0, 2.0], [1.0, 1.0]])
    base = SimpleNamespace(scores_from=lambda pooled, names: logits.softmax(1)[: len(pooled)])
    alone, both = TipAdapter(context), TipAdapter(replace(context, base=base))
    for method in (alone, both):
        observe(method, TASKS[0], [images([1, 2] * 4, seed=1)])
        assert [len(held) for held in method.cache.keys.values()] == [2, 2]
    test = images([1, 2, 1], seed=9)
    a, b = (m.predict(test, (1, 2)).scores for m in (alone, both))
    assert a is not None
    assert b is not None
    difference = b - a - logits  # a constant an image
    torch.testing.assert_close(difference[:, 0], difference[:, 1])
    assert both.open_vocabulary
    assert not alone.open_vocabulary


def test_the_cache_does_not_depend_on_the_order(toy_context: Make, images: Images) -> None:
    whole = images([1] * 9, seed=1)
    parts = [{k: v[i : i + 1] for k, v in whole.items()} for i in reversed(range(9))]
    first, second = (
        TipAdapter(toy_context(options=TipAdapterOptions(shots=3))),
        TipAdapter(toy_context(options=TipAdapterOptions(shots=3))),
    )
    observe(first, TASKS[0], [whole])
    observe(second, TASKS[0], parts)
    assert set(first.cache.keys[1]) == set(second.cache.keys[1])


@pytest.mark.parametrize("cls", [RanPac, FeCam, TipAdapter])
def test_state_comes_back(cls: type[Any], toy_context: Make, images: Images) -> None:
    options = RanPacOptions(dim=16) if cls is RanPac else None
    method, test = cls(toy_context(options=options)), images([1, 2, 3], seed=9)
    observe(method, TASKS[0], [images([1, 2] * 4, seed=1)])
    other = cls(toy_context(options=options))
    other.load_state(*method.state())
    for m in (method, other):
        observe(m, TASKS[1], [images([3] * 4, seed=2)])
    assert torch.equal(method.predict(test, (1, 2, 3)).scores, other.predict(test, (1, 2, 3)).scores)
    assert other.stored_bytes() == method.stored_bytes() > 0
