"""What processes that train together owe each other, seen from each of them."""

from __future__ import annotations

import pytest
import torch

from kc.methods import distributed


def of_two(monkeypatch: pytest.MonkeyPatch, rank: int, other: int) -> None:
    """This process is `rank` of two; the other one counts `other`."""
    monkeypatch.setattr(distributed, "world", lambda: 2)
    monkeypatch.setattr(distributed, "process_rank", lambda: rank)
    monkeypatch.setattr(distributed.distributed, "all_reduce", lambda t: t.add_(other))


def test_one_process_weighs_nothing() -> None:
    assert distributed.weight_of(torch.tensor(3)) == 1.0
    assert distributed.local_shard([1, 2, 3]) == [1, 2, 3]
    batch = {"sample_id": ["a"], "label": torch.tensor([1])}
    assert distributed.all_gather_batch(batch) is batch


def test_means_of_unequal_counts_become_the_mean_of_all(monkeypatch: pytest.MonkeyPatch) -> None:
    values = [torch.tensor([1.0, 2.0, 6.0]), torch.tensor([7.0])]
    weighed = []
    for rank in (0, 1):
        of_two(monkeypatch, rank, len(values[1 - rank]))
        weighed.append(values[rank].mean() * distributed.weight_of(torch.tensor(len(values[rank]))))
    assert torch.stack(weighed).mean() == torch.cat(values).mean()  # DDP takes the mean over processes


def test_parts_of_a_draw_are_the_positions_of_the_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    for rank, expected in ((0, [0, 2, 4]), (1, [1, 3, 5])):
        of_two(monkeypatch, rank, 0)
        assert distributed.local_shard(list(range(6))) == expected


def test_the_whole_batch_has_its_order_back(monkeypatch: pytest.MonkeyPatch) -> None:
    parts = [
        {"sample_id": ["a", "c"], "label": torch.tensor([0, 2])},
        {"sample_id": ["b", "d"], "label": torch.tensor([1, 3])},
    ]
    of_two(monkeypatch, 0, 0)

    def gather(into: list[object], own: object) -> None:
        into[:] = parts

    monkeypatch.setattr(distributed.distributed, "all_gather_object", gather)
    found = distributed.all_gather_batch(parts[0])
    assert found["sample_id"] == ["a", "b", "c", "d"]
    assert found["label"].tolist() == [0, 1, 2, 3]
