"""The head and the memory of one stream together: the fusion by its formula, in images, regions and pixels."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from kc.config import RunConfig
from kc.errors import KcError
from kc.memory.vote.fusion import knn_clip, retrieval_logits
from kc.methods.base import Context
from kc.methods.finetune.heads import region_means
from kc.methods.hybrid import Hybrid, HybridOptions, HybridReplay
from kc.resolve import resolve
from kc.types import Segments, Task

TASKS = [Task(0, (0, 1), (0, 1), ("0", "1")), Task(1, (2,), (0, 1, 2), ("2",))]


@pytest.mark.parametrize("kind", [Hybrid, HybridReplay])
def test_a_head_and_a_memory_answer_together(
    kind: type[Any], toy_context: Callable[..., Context], learn: Callable[..., None],
    images: Callable[..., dict[str, Any]], tmp_path: Path,
) -> None:  # fmt: skip
    context = toy_context(options=HybridOptions(k=3, lambda_=0.25))
    method = kind(context)
    learn(method, TASKS[0], [images([0, 1, 0, 1])], epochs=2)
    learn(method, TASKS[1], [images([2, 2], seed=1)], epochs=2)
    assert len(method.reader.memory) == 6
    asked = images([0, 1, 2], seed=2)
    head = method.posterior(asked, None, (0, 1, 2))
    assert head.sum(1) == pytest.approx(torch.ones(3))
    keys = torch.nn.functional.normalize(context.encode(asked).pooled, dim=1).numpy()
    p, has = retrieval_logits(method.reader.memory.search(keys, 3), (0, 1, 2))
    got = method.predict(asked, (0, 1, 2)).scores
    assert torch.allclose(got, knn_clip(head.double(), p, has, 0.25, 1.01), atol=1e-6)
    assert not any(name.startswith("_reader") for name in method.state()[0])
    weights, meta = method.state()
    method.close()
    again = kind(context)
    again.load_state(weights, meta)
    assert torch.allclose(again.predict(asked, (0, 1, 2)).scores, got)
    assert again.stored_bytes() > sum(p.numel() * 4 for p in again.trained().values())
    again.close()


def test_means_over_regions_by_hand() -> None:
    maps = torch.tensor([[[0.0, 1.0]], [[1.0, 0.0]]])  # two classes over two cells side by side
    masks = np.array([[[1, 1, 0, 0]], [[0, 1, 1, 1]], [[0, 0, 0, 0]]], bool)
    found = region_means(maps, Segments((1, 4), np.ones(3, np.float32), masks=masks))
    assert found.tolist() == [[0, 1], pytest.approx([2 / 3, 1 / 3]), [0, 0]]
    partition = Segments((1, 4), np.ones(2, np.float32), partition=np.array([[0, 1, 1, 1]], np.int32))
    assert region_means(maps, partition).tolist() == [[0, 1], pytest.approx([2 / 3, 1 / 3])]


def test_it_learns_in_several_processes_but_reads_images_twice() -> None:
    resolve(RunConfig(benchmark="digits", methods="hybrid", devices=2))
    with pytest.raises(KcError, match="online"):
        resolve(RunConfig(benchmark="digits", methods="hybrid", stream="online", epochs=1))
