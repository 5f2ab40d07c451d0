"""Votes against hand-solved cases and a loop that follows METHODS 1.3 word by word."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from kc.memory.vote.votes import TIP_ALPHA, VOTES, contributions, decide, vote
from kc.methods.retrieval.tip_adapter import cache_logits
from kc.types import VOID, Neighbours

BETA = 5.5


def table(classes: list[list[int]], scores: object = None, weights: object = None) -> Neighbours:
    c = np.array(classes, np.int64)
    s = np.linspace(0.9, 0.1, c.shape[1]) * np.ones(c.shape) if scores is None else np.array(scores)
    w = np.ones(c.shape) if weights is None else np.array(weights)
    return Neighbours(np.arange(c.size).reshape(c.shape), s.astype("f4"), c, w.astype("f4"), np.zeros_like(c))


def weight_of(kind: str, s: float, rank: int, tau: float, alpha: float) -> float:
    return {
        "plurality": 1.0,
        "distance": math.exp(-(1 - s)),
        "softmax": math.exp(s / tau),
        "rank": 1 / (alpha + rank),
        "tip": 1.17 * math.exp(-(BETA - BETA * s)),  # as the authors write it: (beta - beta * affinity)
    }[kind]


def naive(n: Neighbours, class_ids: list[int], kind: str, tau: float, alpha: float) -> np.ndarray:
    out = np.zeros((len(n.id), len(class_ids)))
    for q in range(len(n.id)):
        for r in range(n.id.shape[1]):
            if n.class_id[q, r] in class_ids:
                value = weight_of(kind, float(n.score[q, r]), r, tau, alpha) * float(n.weight[q, r])
                out[q, class_ids.index(n.class_id[q, r])] += value
    return out


@pytest.mark.parametrize("kind", list(VOTES))
def test_naive_twin(kind: str) -> None:
    rng = np.random.default_rng(1)
    scores = -np.sort(-rng.uniform(-1, 1, (40, 12)), axis=1)
    n = table(rng.integers(0, 7, (40, 12)).tolist(), scores, rng.choice([0, 0.5, 1, 3], (40, 12)))
    class_ids = [5, 0, 6, 2]
    want = naive(n, class_ids, kind, 0.2, 3.0)
    got = vote(n, class_ids, kind, tau=0.2, rank_offset=3.0).numpy()
    voted = want.sum(1) > 0
    share = want[voted] / want[voted].sum(1, keepdims=True)
    assert np.allclose(got[voted] / got[voted].sum(1, keepdims=True), share, rtol=1e-9, atol=1e-12)
    assert (got[~voted] == 0).all()
    if kind != "softmax":
        assert np.allclose(got, want, rtol=1e-12)
    winners = decide(n, class_ids, kind, tau=0.2, rank_offset=3.0).numpy()
    clear = np.array([(np.sort(row)[-1] - np.sort(row)[-2]) > 1e-9 for row in want])
    assert np.array_equal(winners[clear], np.array(class_ids)[want[clear].argmax(1)])


def test_by_hand() -> None:
    n = table([[4, 0, 0]], [[1.0, 0.5, 0.0]])
    assert vote(n, [0, 4], "plurality").tolist() == [[2, 1]]
    assert vote(n, [0, 4], "distance")[0].tolist() == pytest.approx([math.exp(-0.5) + math.exp(-1), 1])
    assert vote(n, [0, 4], "rank")[0].tolist() == pytest.approx([1 / 3 + 1 / 4, 1 / 2])
    assert vote(n, [0, 4], "softmax", tau=0.5)[0].tolist() == pytest.approx([math.exp(-1) + math.exp(-2), 1])
    assert decide(n, [0, 4], "plurality").tolist() == [0]
    assert decide(n, [0, 4], "softmax").tolist() == [4]
    assert vote(n, [4], "rank").tolist() == [[0.5]]
    tip = [1.17 * (math.exp(-1) + math.exp(-2)), 1.17]
    assert vote(n, [0, 4], "tip", sharpness=2.0)[0].tolist() == pytest.approx(tip)
    assert decide(n, [0, 4], "tip", sharpness=2.0).tolist() == [4]
    assert decide(n, [0, 4], "tip", sharpness=0.5).tolist() == [0]  # flat: two far neighbours outweigh the near one


def test_tip_is_the_cache_of_tip_adapter() -> None:
    """Over all rows the vote is the method's cache term, and at beta 1 the distance vote but for its weight."""
    generator = torch.Generator().manual_seed(0)
    queries, keys = (F.normalize(torch.randn(n, 8, generator=generator, dtype=torch.float64), dim=1) for n in (5, 30))
    labels = torch.randint(0, 4, (30,), generator=generator)
    cosine, order = torch.sort(queries @ keys.T, dim=1, descending=True)
    n = Neighbours(order.numpy(), cosine.numpy(), labels[order].numpy(), np.ones((5, 30)), np.zeros((5, 30), np.int64))
    want = TIP_ALPHA * cache_logits(queries, keys, F.one_hot(labels, 4).double(), 3.0)
    torch.testing.assert_close(vote(n, range(4), "tip", sharpness=3.0), want)
    torch.testing.assert_close(vote(n, range(4), "tip", sharpness=1.0), TIP_ALPHA * vote(n, range(4), "distance"))


def test_ties_go_to_the_class_that_reached_its_total_first() -> None:
    cases = {(4, 0, 0, 4): 0, (4, 0, 4, 0): 4, (0, 4): 0, (4, 0): 4, (1, 2, 3): 1, (3, 1, 1, 2, 2, 3): 1}
    for classes, winner in cases.items():
        for vocabulary in ([0, 1, 2, 3, 4], [4, 3, 2, 1, 0]):
            assert decide(table([list(classes)]), vocabulary, "plurality").tolist() == [winner]
    # A neighbour without weight reaches nothing: class 0 has its two votes at rank 1, class 4 at rank 3.
    n = table([[0, 0, 4, 4, 0]], weights=[[1, 1, 1, 1, 0]])
    assert decide(n, [4, 0], "plurality").tolist() == [0]
    # Sums of the same cosines in another order are a tie, whatever rounding says.
    scores = [[0.9, 0.9, 0.7, 0.7, 0.1, 0.1]]
    assert decide(table([[2, 1, 1, 2, 1, 2]], scores), [1, 2], "distance").tolist() == [1]


def test_weights_multiply() -> None:
    n = table([[1, 2, 2]], weights=[[3.0, 1.0, 1.0]])
    assert vote(n, [1, 2], "plurality").tolist() == [[3, 2]]
    assert decide(n, [1, 2], "plurality").tolist() == [1]


def test_nobody_asked_for_votes() -> None:
    n = table([[1, 2], [3, 3]])
    assert vote(n, [3, 9], "softmax").tolist() == [[0, 0], [pytest.approx(1 + math.exp(-0.8 / 0.07)), 0]]
    assert decide(n, [3, 9], "softmax").tolist() == [VOID, 3]


def test_softmax_neither_overflows_nor_vanishes() -> None:
    n = table([[7, 1, 2]], [[1.0, -0.9, -1.0]])
    got = vote(n, [1, 2], "softmax", tau=1e-4)
    assert torch.isfinite(got).all()
    assert got[0, 0] == 1  # relative to the best that may vote, though class 7 is far nearer
    assert decide(n, [7, 1, 2], "softmax", tau=1e-6).tolist() == [7]


def test_tensors_are_fine_too() -> None:
    n = table([[1, 0], [0, 1]])
    t = Neighbours(*(torch.as_tensor(getattr(n, f)) for f in ("id", "score", "class_id", "weight", "task")))
    for kind in VOTES:
        assert torch.equal(vote(t, torch.tensor([0, 1]), kind), vote(n, np.array([0, 1]), kind))
        assert torch.equal(decide(t, torch.tensor([0, 1]), kind), decide(n, (0, 1), kind))


@pytest.mark.parametrize(
    "wrong",
    [
        {"kind": "borda"},
        {"tau": 0.0},
        {"tau": -1.0},
        {"tau": math.nan},
        {"rank_offset": 0.0},
        {"rank_offset": math.inf},
        {"sharpness": 0.0},
    ],
)
def test_wrong_settings(wrong: dict[str, object]) -> None:
    for function in (vote, decide):
        with pytest.raises(ValueError, match=next(iter(wrong)) if "kind" not in wrong else "vote must be one of"):
            function(table([[1]]), [1], **wrong)


def test_wrong_classes() -> None:
    with pytest.raises(ValueError, match="twice"):
        vote(table([[1]]), [1, 1])
    with pytest.raises(ValueError, match="empty"):
        vote(table([[1]]), [])


@pytest.mark.parametrize("kind", list(VOTES))
def test_contributions_sum_to_the_vote(kind: str) -> None:
    generator = np.random.default_rng(3)
    shape = (6, 9)
    found = Neighbours(
        np.arange(54).reshape(shape),
        np.sort(generator.random(shape).astype(np.float32))[:, ::-1].copy(),
        generator.integers(0, 4, shape),
        generator.choice(np.array([0, 0.5, 1], np.float32), shape),
        np.zeros(shape, np.int64),
    )
    each = contributions(found, [3, 0, 1], kind=kind)
    total = vote(found, [3, 0, 1], kind=kind)
    for column, class_id in enumerate([3, 0, 1]):
        summed = torch.where(torch.from_numpy(found.class_id == class_id), each, 0.0).sum(1)
        torch.testing.assert_close(summed, total[:, column])
    assert each[torch.from_numpy((found.weight == 0) | (found.class_id == 2))].sum() == 0
