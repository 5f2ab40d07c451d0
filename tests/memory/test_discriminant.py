"""The discriminant and the log-linear rule of a memory, against twins written from the formulas."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

from kc.memory.disk import Memory
from kc.memory.vote import log_linear
from kc.memory.vote.background import Background
from kc.memory.vote.discriminant import SHRINKS, STEPS, Discriminant, Moments, left_out_log_posterior
from kc.memory.vote.log_linear import LogLinear, features, fit, probabilities
from kc.types import Neighbours, Rows

DIM, CLASSES = 5, (3, 7, 9)


def clusters(n: int = 60, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Keys (N, D) of unit length around a mean a class, their classes, and the image (of 3 rows) of each."""
    rng = np.random.default_rng(seed)
    label = rng.choice(CLASSES, n)
    keys = np.eye(10, DIM)[label % 4] + 0.5 + 0.3 * rng.normal(size=(n, DIM)) * np.linspace(0.3, 2, DIM)
    keys = (keys / np.linalg.norm(keys, axis=1, keepdims=True)).astype(np.float32)
    return keys, label.astype(np.int64), np.arange(n) // 3


def stored(path: Path, keys: np.ndarray, label: np.ndarray, image: np.ndarray, sources: bool = False) -> Memory:
    memory = Memory.create(path, dim=DIM, fingerprint="f")
    for source in (0, 1):
        part = image % 2 == source
        names = tuple(f"i{i}" for i in image[part])
        memory.add(Rows(keys[part], label[part], names, np.flatnonzero(part), f"s{source}" if sources else ""), source)
        memory.commit(source)
    return memory


def equal(a: Moments, b: Moments) -> bool:
    return all(np.array_equal(x, y) for x, y in zip(vars(a).values(), vars(b).values(), strict=True))


def test_moments_are_exact_sums_in_any_order() -> None:
    keys, label, _ = clusters()
    whole = Moments.of(keys, label)
    steps = np.rint(keys.astype(np.float64) * STEPS).astype(np.int64)
    assert whole.class_id.tolist() == list(CLASSES)
    assert whole.count.tolist() == [int((label == c).sum()) for c in CLASSES]
    assert (whole.square == steps.T @ steps).all()
    assert (whole.total == [steps[label == c].sum(0) for c in CLASSES]).all()
    order = np.random.default_rng(1).permutation(len(keys))
    parts = [Moments.of(keys[p], label[p]) for p in np.array_split(order, 7)]
    joined = parts[0]
    for part in parts[1:]:
        joined += part
    assert equal(joined, whole)
    gone = label == 7
    assert equal(whole - Moments.of(keys[gone], label[gone]), Moments.of(keys[~gone], label[~gone]))


def test_it_is_the_discriminant_of_scikit_learn() -> None:
    keys, label, _ = clusters()
    moments = Moments.of(keys, label)
    peer = LinearDiscriminantAnalysis(solver="lsqr", shrinkage=0.2).fit(keys.astype(np.float64), label)
    # Theirs: (1 - a) S + a tr(S)/D I. Ours: S + b tr(S)/D I. The same up to a factor for b = a / (1 - a), which the
    # class means and the query take up: the factor is compared, not the shrinkage rule.
    ours = Discriminant.of(moments, 0.25)
    covariance = peer.covariance_ / 0.8
    weights = np.linalg.solve(covariance, moments.means.T)
    np.testing.assert_allclose(ours.weights, weights, rtol=1e-3, atol=1e-3)
    offset = np.log(moments.count / 60) - 0.5 * (moments.means * weights.T).sum(1)
    np.testing.assert_allclose(ours.offset, offset, rtol=1e-3, atol=1e-3)


def test_a_class_without_rows_has_no_probability() -> None:
    keys, label, _ = clusters()
    said = Discriminant.of(Moments.of(keys, label), 0.1).log_posterior(keys, np.array([7, 5, 3]))
    assert np.isneginf(said[:, 1]).all()
    np.testing.assert_allclose(np.exp(said).sum(1), 1)


def test_one_row_a_class_is_the_nearest_mean() -> None:
    keys = np.eye(3, DIM, dtype=np.float32)
    found = Discriminant.of(Moments.of(keys, np.array(CLASSES)), 0.1).log_posterior(keys, np.array(CLASSES))
    assert found.argmax(1).tolist() == [0, 1, 2]


def test_leaving_an_image_out_is_a_discriminant_without_it() -> None:
    """Every mean, prior and the covariance lose the image: equal to one made of the rows that are left."""
    keys, label, image = clusters()
    label[image == 4] = 11  # a class of one image
    moments = Moments.of(keys, label)
    asked = np.random.default_rng(2).random(len(keys)) < 0.4
    whole = np.isin(image, image[asked])
    got = left_out_log_posterior(moments, keys[whole], label[whole], image[whole], asked[whole])
    for i, shrink in enumerate(SHRINKS):
        for q, row in enumerate(np.flatnonzero(asked)):
            left = image != image[row]
            want = Discriminant.of(Moments.of(keys[left], label[left]), shrink)
            np.testing.assert_allclose(
                got[i, q], want.log_posterior(keys[[row]], moments.class_id)[0], rtol=1e-4, atol=1e-4
            )
    assert np.isneginf(got[0][label[asked] == 11][:, -1]).all()


def test_features_by_hand() -> None:
    table = Neighbours(
        np.array([[0, 1, 2]]),
        np.array([[0.9, 0.8, 0.5]], np.float32),
        np.array([[3, 7, 3]]),
        np.ones((1, 3), np.float32),
        np.zeros((1, 3), np.int64),
    )
    base = torch.tensor([[0.2, 0.3, 0.5]])
    got = features(table, (3, 7, 9), np.log([[0.5, 0.5, 1e-300]]), base)[0]
    e = np.exp(np.array([0.9, 0.8, 0.5]) / 0.07)
    many = [(e[0] + e[2]) / e.sum(), e[1] / e.sum(), 0]
    np.testing.assert_allclose(got[:, 0], np.log(np.array([1, 0, 0]) + 0.01), rtol=1e-5)
    for k in (1, 2, 3):
        np.testing.assert_allclose(got[:, k], np.log(np.array(many) + 0.01), rtol=1e-4)
    np.testing.assert_allclose(got[:, 4], [9, 8, 5], rtol=1e-6)  # class 9 has no neighbour: the lowest cosine found
    np.testing.assert_allclose(got[:, 5], [np.log(0.5), np.log(0.5), -50])
    np.testing.assert_allclose(got[:, 6], np.log([0.201, 0.301, 0.501]), rtol=1e-6)


def test_the_fit_is_the_most_likely_of_all() -> None:
    """Against torch's own cross entropy at many other weights, and the penalty that few rows leave in place."""
    rng = np.random.default_rng(0)
    values = rng.normal(size=(80, 4, 3))
    true = np.array([1.5, -0.5, 0.0])
    known = rng.random((80, 4)) < 0.9
    truth = np.array([rng.choice(4, p=p) for p in probabilities(values, true, np.ones(4, bool))])
    default = np.array([0.0, 0.0, 1.0])
    found = fit(values, truth, known, default)
    rows = known[range(80), truth]

    def loss(weights: np.ndarray) -> float:
        logits = torch.from_numpy(np.where(known, values @ weights, -np.inf))[rows]
        entropy = torch.nn.functional.cross_entropy(logits, torch.from_numpy(truth[rows]), reduction="sum")
        return float(entropy) + 5 * float(((weights - default) ** 2).sum())

    assert all(loss(found) <= loss(found + step) for step in 0.05 * rng.normal(size=(50, 3)))
    assert np.abs(found - true)[:2].max() < 0.5
    assert fit(values[:0], truth[:0], known[:0], default).tolist() == default.tolist()
    assert np.abs(fit(values[:1], truth[:1], known[:1], default) - default).max() < 0.3


@pytest.mark.parametrize("kind", ["discriminant", "log-linear"])
def test_after_a_removal_as_if_the_rows_had_never_been_there(tmp_path: Path, kind: str) -> None:
    keys, label, image = clusters(90)
    rule = LogLinear(kind, Background("keep"))  # type: ignore[arg-type]
    query = clusters(10, seed=5)[0]
    kept = image % 2 == 1
    with (
        stored(tmp_path / "a", keys, label, image, sources=True) as memory,
        stored(tmp_path / "b", keys[kept], label[kept], image[kept], sources=True) as never,
    ):
        full = rule.probabilities(memory, query, memory.search(query, 32), CLASSES)
        memory.remove(source="s0")
        other = LogLinear(kind, Background("keep"))  # type: ignore[arg-type]
        assert equal(rule.moments(memory, memory.labels()), other.moments(never, never.labels()))
        got = rule.probabilities(memory, query, memory.search(query, 32), CLASSES)
        want = other.probabilities(never, query, never.search(query, 32), CLASSES)
        torch.testing.assert_close(got, want, rtol=1e-9, atol=1e-9)
        assert not torch.allclose(got, full)
        again = LogLinear(kind, Background("keep"))  # type: ignore[arg-type]
        torch.testing.assert_close(again.probabilities(memory, query, memory.search(query, 32), CLASSES), got)


def test_versions_keep_their_own_fit(tmp_path: Path) -> None:
    keys, label, image = clusters(90)
    rule = LogLinear("log-linear", Background("keep"))
    with stored(tmp_path / "a", keys, label, image) as memory:
        old = rule.fitted(memory, at=0)[1]
        now = rule.fitted(memory)[1]
        assert not np.array_equal(old, now)
        assert np.array_equal(LogLinear("log-linear", Background("keep")).fitted(memory, at=0)[1], old)


def test_rows_of_weight_zero_count_nothing(tmp_path: Path) -> None:
    keys, label, image = clusters(60)
    with stored(tmp_path / "a", keys, label, image) as memory:
        ids = memory.ids(class_id=3)
        memory.reweight(ids, np.zeros(len(ids), np.float32))
        memory.commit(2)
        rule = LogLinear("discriminant", Background("keep"))
        assert rule.fitted(memory)[0].class_id.tolist() == [7, 9]
        assert (rule.probabilities(memory, keys, None, CLASSES)[:, 0] == 0).all()


def test_log_linear_is_better_than_its_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where covariances are far from round, the discriminant carries the rule; without its term the rule is worse."""
    keys, label, image = clusters(600, seed=3)
    query, truth, _ = clusters(300, seed=4)
    with stored(tmp_path / "a", keys, label, image) as memory:
        near = memory.search(query, 32)

        def right(rule: LogLinear) -> float:
            said = rule.probabilities(memory, query, near, CLASSES).argmax(1).numpy()
            return float((np.array(CLASSES)[said] == truth).mean())

        both = right(LogLinear("log-linear", Background("keep"), seed=1))
        monkeypatch.setattr(log_linear.Discriminant, "log_posterior", lambda self, k, c: np.zeros((len(k), len(c))))
        weights = LogLinear("log-linear", Background("keep"), seed=1)
        assert both > right(weights)
