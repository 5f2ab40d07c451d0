"""kNN-CLIP and RetCLIP as methods: over images and regions of a tiny encoder, with bases of known answers."""

from __future__ import annotations

import dataclasses
import json
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from kc.errors import KcError
from kc.memory.vote.fusion import knn_clip, ret_clip, retrieval_logits
from kc.methods.base import Context
from kc.methods.regions import RegionEncoder
from kc.methods.retrieval.base_outputs import BaseOutputCache, BaseOutputs, base_predictions, single_head
from kc.methods.retrieval.fused import FusedMemory
from kc.methods.retrieval.knn_clip import KnnClip, KnnClipOptions
from kc.methods.retrieval.ret_clip import RetClip, RetClipOptions
from kc.openvocab.base import BaseProbabilities, CodedVocabulary, Names, TwoHeaded
from kc.types import VOID, Features, Segments, Task

TASKS = [Task(0, (0, 1), (0, 1), ("0", "1")), Task(1, (2,), (0, 1, 2), ("2",))]
Make = Callable[..., Context]
Images = Callable[..., dict[str, Any]]


class Codes:
    """A base of features: the softmax of fixed random directions, one a name; trained on the names "0" and "4".

    The sine spreads the features of an untrained encoder, which are all alike.
    """

    key = "codes"

    def directions(self, names: Names) -> Tensor:
        return torch.stack([torch.randn(5, generator=torch.Generator().manual_seed(hash_of(n[0]))) for n in names])

    def scores_from(self, pooled: Tensor, names: Names) -> Tensor:
        return self.scores_from_posterior(pooled, names)

    def scores_from_posterior(self, posterior: Tensor, names: Names) -> Tensor:
        return (3 * torch.sin(60 * posterior.float()) @ self.directions(names).T).softmax(1)

    def posterior_map(self, features: Features) -> Tensor:
        return features.levels[-1]

    def codes_from(self, pooled: Tensor) -> Tensor:
        return pooled.half()

    def codes_from_posterior(self, posterior: Tensor) -> Tensor:
        return posterior.half()

    def scores_from_codes(self, codes: Tensor, names: Names) -> Tensor:
        return self.scores_from_posterior(codes, names)

    def trained_on(self, names: Names) -> Tensor:
        return torch.tensor([bool({"0", "4"} & set(n)) for n in names])


class Heads:
    """A dense base of two heads: both depend on the region's number alone, and it keeps no codes."""

    key = "heads"

    def scores_from(self, pooled: Tensor, names: Names) -> Tensor:
        return torch.full((len(pooled), len(names)), 1 / len(names))

    def region_scores(
        self, image: Any, sample_id: str, segments: Segments, names: Names, background: int | None
    ) -> Tensor:
        o = self.region_probabilities(image, sample_id, segments, names, background)
        return (o.in_vocabulary + o.out_of_vocabulary) / 2

    def segment(self, image: Any, sample_id: str, names: Names, background: int | None) -> Any:
        raise AssertionError("pixels are not asked for")

    def region_probabilities(
        self, image: Any, sample_id: str, segments: Segments, names: Names, background: int | None
    ) -> BaseProbabilities:
        g = torch.Generator().manual_seed(len(names))
        first, second = (torch.rand(len(segments), len(names), generator=g).softmax(1) for _ in range(2))
        return BaseProbabilities(first, second, torch.tensor([n[0] == "0" for n in names]))


def hash_of(name: str) -> int:
    return sum(ord(c) * 31**i for i, c in enumerate(name))


def context_of(make: Make, kind: str = "classification", base: Any = None, **knobs: Any) -> Context:
    context = make(kind, **knobs)
    regions = None
    if kind != "classification":
        regions = RegionEncoder(context.encoder, context.features, None, "pooled")
    return dataclasses.replace(context, base=base or Codes(), regions=regions)


def n_bytes(method: FusedMemory) -> int:
    return sum(t.nbytes for t in method.cache.tensors().values())


def teach(method: FusedMemory, task: Task, *batches: dict[str, Any]) -> None:
    method.start_task(task)
    for batch in batches:
        method.observe(batch)
        method.store(task.index, 1)
    method.commit(task.index, 1)


def scene(maps: Sequence[np.ndarray], seed: int = 0) -> dict[str, Any]:
    """A batch of 16 x 16 images with these maps of class ids."""
    g = torch.Generator().manual_seed(seed)
    images = torch.rand(len(maps), 3, 16, 16, generator=g) / 3
    for i, m in enumerate(maps):
        for c in np.unique(m):
            images[i, int(c) % 3][torch.from_numpy(m == c)] += 0.6
    raw = [(255 * x).byte().permute(1, 2, 0).numpy() for x in images.clamp(0, 1)]
    ids = [f"{seed}-{i}" for i in range(len(maps))]
    return {"image": images, "raw": raw, "sample_id": ids, "labels_raw": list(maps), "semantic": list(maps),
            "original_size": [(16, 16)] * len(maps)}  # fmt: skip


def halves(left: int, right: int) -> np.ndarray:
    found = np.full((16, 16), left, np.int64)
    found[:, 8:] = right
    return found


@pytest.mark.parametrize("kind", [KnnClip, RetClip])
def test_an_empty_memory_leaves_the_base_alone_and_says_so_once(
    kind: type[FusedMemory], toy_context: Make, images: Images, caplog: pytest.LogCaptureFixture
) -> None:
    context = context_of(toy_context)
    method, batch = kind(context), images([0, 1, 2])
    with caplog.at_level(logging.WARNING, "kc"):
        first, second = method.predict(batch, (0, 1, 2)), method.predict(batch, (0, 1, 2))
    assert context.base is not None
    expected = context.base.scores_from(context.encode(batch).pooled, context.names((0, 1, 2)))
    assert torch.equal(first.scores, expected)
    assert torch.equal(second.scores, expected)
    assert [r.message for r in caplog.records] == [f"{kind.name}: the memory is empty: the base answers alone"]
    method.close()


def test_the_papers_formulas_where_every_name_is_in_the_memory(toy_context: Make, images: Images) -> None:
    context = context_of(toy_context, options=KnnClipOptions(k=3, lambda_=0.4, threshold=0.9))
    taught, asked = images([0, 1, 0, 1, 1]), images([1, 0, 1], seed=1)
    features = context.encode(asked).pooled
    keys = torch.nn.functional.normalize(features, dim=1).numpy()
    assert context.base is not None
    base = context.base.scores_from(features, context.names((1, 0)))
    for kind in (KnnClip, RetClip):
        options = context.options if kind is KnnClip else RetClipOptions(k=3)
        method = kind(dataclasses.replace(context, folder=context.folder / kind.name, options=options))
        teach(method, TASKS[0], taught)
        assert method.memory is not None
        p, has = retrieval_logits(method.memory.search(keys, 3), (1, 0))
        expected = (
            knn_clip(base.double(), p, has, 0.4, 0.9)
            if kind is KnnClip
            else ret_clip(p, base.double(), base.double(), torch.tensor([False, True]))
        )
        got = method.predict(asked, (1, 0)).scores
        assert torch.allclose(got, expected, atol=1e-6)
        method.close()


def test_regions_and_two_heads(toy_context: Make) -> None:
    """RetCLIP reads both heads of a base that has two; kNN-CLIP the base's own answer."""
    context = context_of(toy_context, "semantic", Heads(), options=RetClipOptions(k=2))
    assert isinstance(context.base, TwoHeaded)
    method = RetClip(context)
    teach(method, TASKS[0], scene([halves(0, 1), halves(1, 0)]))
    batch = scene([halves(0, 1)], seed=1)
    assert context.regions is not None
    regions = context.regions(batch)
    said = base_predictions(context, batch, regions, (0, 1))
    o = context.base.region_probabilities(batch["raw"][0], "1-0", regions[0].segments, context.names((0, 1)), None)
    assert method.memory is not None
    p, _ = retrieval_logits(method.memory.search(regions[0].keys, 2), (0, 1))
    expected = ret_clip(p, o.out_of_vocabulary.double(), o.in_vocabulary.double(), o.seen)
    assert torch.allclose(method.together(regions[0].keys, (0, 1), said), expected, atol=1e-6)
    shown = method.predict(batch, (0, 1)).semantic[0]
    assert shown.shape == (16, 16)
    assert set(np.unique(shown)) <= {0, 1}
    method.close()


@pytest.mark.parametrize("fusion", ["fixed", "log-linear"])
def test_a_name_added_later_changes_only_what_it_wins(
    fusion: Any, toy_context: Make, images: Images, tmp_path: Path
) -> None:
    """Line 2 of the file adds a class that nobody learned and names outside the benchmark, from task 1 on."""
    path = tmp_path / "names.txt"
    path.write_text("\nwalrus, 5, teapot|kettle\n")
    context = context_of(toy_context, options=KnnClipOptions(k=3, lambda_=0.5, names=path, fusion=fusion))
    method = KnnClip(context)
    teach(method, TASKS[0], images([0, 1, 0, 1, 1, 0]))
    asked = images([0, 1, 2] * 20, seed=5)
    before = method.predict(asked, (0, 1))
    assert before.vocabulary == (0, 1)
    method.task_index = 1  # the names of line 2 are asked for, and nothing else has changed
    assert method.with_added((0, 1)) == (0, 1, -3, 5, -4)
    after = method.predict(asked, (0, 1))
    assert after.vocabulary == (0, 1, 5, VOID)
    old, new = (np.array(p.vocabulary)[p.scores.argmax(1).numpy()] for p in (before, after) if p.scores is not None)
    won = ~np.isin(new, [0, 1])
    assert 0 < won.sum() < len(new)
    assert (new[~won] == old[~won]).all()
    # A name that no row carries is answered by the base alone.
    assert context.base is not None
    names = [("0",), ("1",), ("walrus",), ("5",), ("teapot", "kettle")]
    base = context.base.scores_from(context.encode(asked).pooled, names)
    assert after.scores is not None
    assert torch.allclose(after.scores[:, 2].float(), base[:, 3], atol=1e-6)
    assert torch.allclose(after.scores[:, 3].float(), base[:, [2, 4]].amax(1), atol=1e-6)
    method.close()


def test_names_in_maps_are_void_outside(toy_context: Make, tmp_path: Path) -> None:
    path = tmp_path / "names.txt"
    path.write_text(", ".join(f"word {i}" for i in range(40)))
    method = KnnClip(context_of(toy_context, "semantic", options=KnnClipOptions(k=1, lambda_=0.0, names=path)))
    teach(method, TASKS[0], scene([halves(0, 1)]))
    shown = np.stack(method.predict(scene([halves(0, 1)] * 6, seed=2), (0, 1)).semantic)
    assert VOID in shown
    assert set(np.unique(shown)) <= {0, 1, VOID}
    method.close()


@pytest.mark.parametrize("fusion", ["calibrated", "log-linear"])
@pytest.mark.parametrize("base", [Codes(), Heads()], ids=["codes", "probabilities"])
def test_a_fit_follows_the_better_of_the_two_and_survives_a_restart(base: Any, fusion: Any, toy_context: Make) -> None:
    """The base knows nothing of these classes: the memory gets the weight. What the base said is kept with it."""
    context = context_of(toy_context, "semantic", base, options=KnnClipOptions(fusion=fusion, lambda_=0.0))
    method = KnnClip(context)
    first = scene([halves(a, b) for a, b in [(0, 1), (1, 0), (0, 1), (1, 0)]])
    teach(method, TASKS[0], first)
    assert method.setting.lam > 0 or len(method.setting.weights) == 7
    teach(method, TASKS[1], scene([halves(2, 2), halves(2, 2)], seed=3))
    (one, two) = json.loads((context.folder / "calibration.json").read_text())
    assert (one["task"], two["task"]) == (0, 1)
    assert one["rows"] == 8
    assert two["rows"] == 10
    assert two["hits"] >= two["hits_of_base"]
    tensors, meta = method.state()
    asked = scene([halves(0, 2)], seed=4)
    shown = method.predict(asked, (0, 1, 2)).semantic[0]
    kept = n_bytes(method)
    method.close()
    again = KnnClip(context)
    again.load_state(tensors, meta)
    assert again.setting == method.setting
    assert n_bytes(again) == kept > 0
    assert again.stored_bytes() > kept
    assert (again.predict(asked, (0, 1, 2)).semantic[0] == shown).all()
    again.close()


def test_codes_answer_for_names_that_came_later(toy_context: Make, images: Images) -> None:
    context = context_of(toy_context)
    assert isinstance(context.base, CodedVocabulary)
    pooled = context.encode(images([0, 1, 2])).pooled
    keys = torch.nn.functional.normalize(pooled, dim=1).numpy()
    cache = BaseOutputCache()
    cache.keep_codes(keys, context.base.codes_from(pooled))
    names = context.names((5, 0))
    found = cache.answers(context.base, keys[[2, 0]], (5, 0), names)
    assert torch.allclose(found.own, context.base.scores_from(pooled, names)[[2, 0]], atol=0.1)
    assert found.heads.seen.tolist() == [False, True]
    assert sum(t.nbytes for t in cache.tensors().values()) == 3 * (8 + 2 * 5)
    with pytest.raises(KcError, match="1 of 1 rows were stored without"):
        cache.answers(context.base, -keys[:1], (5, 0), names)


def test_kept_probabilities_are_zero_for_names_that_came_later() -> None:
    keys = np.eye(3, dtype=np.float32)
    cache = BaseOutputCache()
    p = torch.tensor([[0.75, 0.25], [0.5, 0.5]])
    cache.keep_answers(keys[:2], single_head(p, torch.tensor([True, False])), (4, 2))
    q = torch.tensor([[0.5, 0.25, 0.25]])
    cache.keep_answers(
        keys[2:], BaseOutputs(q, BaseProbabilities(q / 2, q / 4, torch.tensor([False, False, True]))), (2, 4, 3)
    )
    found = cache.answers(None, keys, (3, 4), [("3",), ("4",)])
    assert found.own.tolist() == [[0, 0.75], [0, 0.5], [0.25, 0.25]]
    assert found.heads.in_vocabulary[2].tolist() == [0.125, 0.125]
    assert found.heads.out_of_vocabulary[2].tolist() == [0.0625, 0.0625]
    other = BaseOutputCache()
    other.load_tensors(cache.tensors())
    again = other.answers(None, keys, (3, 4), [("3",), ("4",)])
    assert torch.equal(again.own, found.own)
    assert torch.equal(again.heads.seen, found.heads.seen)


def test_no_proposals_give_a_void_map(toy_context: Make) -> None:
    context = context_of(toy_context, "semantic", options=KnnClipOptions(k=2))
    method = KnnClip(context)
    teach(method, TASKS[0], scene([halves(0, 1)]))

    class Nothing(RegionEncoder):
        def _segments(self, batch: Any, row: int) -> Segments:
            return Segments((16, 16), np.zeros(0, np.float32), masks=np.zeros((0, 16, 16), bool))

    method.context.regions = Nothing(context.encoder, context.features, None, "pooled")
    assert (method.predict(scene([halves(0, 1)], seed=7), (0, 1)).semantic[0] == VOID).all()
    method.close()


def test_k_larger_than_the_memory_lets_all_rows_vote(
    toy_context: Make, images: Images, caplog: pytest.LogCaptureFixture
) -> None:
    context = context_of(toy_context, options=KnnClipOptions(k=50))
    method = KnnClip(context)
    teach(method, TASKS[0], images([0, 1]))
    with caplog.at_level(logging.WARNING, "kc"):
        many = method.predict(images([0], seed=2), (0, 1)).scores
        method.predict(images([0], seed=2), (0, 1))
    method.setting = dataclasses.replace(method.setting, k=2)
    assert torch.equal(many, method.predict(images([0], seed=2), (0, 1)).scores)
    assert [r.message for r in caplog.records] == ["knn-clip: k is 50, but the memory holds 2 rows: all of them vote"]
    method.close()


def test_masks_of_another_size_and_no_base(toy_context: Make) -> None:
    context = context_of(toy_context, "semantic")
    batch = scene([halves(0, 1)])
    assert context.regions is not None
    regions = context.regions(batch)
    batch["raw"] = [np.zeros((8, 16, 3), np.uint8)]
    with pytest.raises(KcError, match=r"0-0: masks of \(16, 16\) for an image of \(8, 16\)"):
        base_predictions(context, batch, regions, (0, 1))
    with pytest.raises(KcError, match="ret-clip needs an open-vocabulary base"):
        RetClip(toy_context())
