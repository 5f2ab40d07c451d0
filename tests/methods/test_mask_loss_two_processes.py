"""Two processes with unequal numbers of masks: the mean of their gradients is the gradient of the whole batch."""

from __future__ import annotations

import os
import socket
from pathlib import Path
from unittest import mock

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from safetensors.torch import load_file, save_file
from torch import Tensor

from kc.methods.finetune.comformer import query_distillation
from kc.methods.finetune.mask_head import MaskLoss, MaskSet
from kc.methods.finetune.mask_network import Queries, tiny_config

N_MASKS = [3, 2, 1, 0]


def gradients(images: slice, focal: bool) -> dict[str, Tensor]:
    """Of the loss of some of four images in what scales all logits; masks are plain."""
    generator = torch.Generator().manual_seed(0)
    classes = torch.randn(2, 4, 5, 4, generator=generator)
    masks = torch.randn(2, 4, 5, 1, 1, generator=generator).expand(-1, -1, -1, 8, 8)
    scales = {name: torch.ones((), requires_grad=True) for name in ("classes", "masks", "kd")}
    sets: list[MaskSet] = [(torch.ones(n, 8, 8), torch.arange(n) + 1) for n in N_MASKS]
    stages = [classes[i, images] * scales["classes"] for i in range(2)]
    found = tuple(masks[i, images] * scales["masks"] for i in range(2))
    # Points at the border are mixed with the zeros outside: all are drawn in the middle.
    with mock.patch("torch.rand", lambda *shape, **_: torch.full(shape, 0.5)):
        MaskLoss(tiny_config(), 3, focal)(stages, Queries(tuple(stages), found), sets[images]).backward()
    query_distillation(classes[0, images] * scales["kd"], classes[1, images, :, :3] * 3).backward()
    return {name: scale.grad for name, scale in scales.items() if scale.grad is not None}


def learn(rank: int, folder: Path, port: int, focal: bool) -> None:
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    found = gradients(slice(2 * rank, 2 * rank + 2), focal)
    for gradient in found.values():  # as DDP does
        dist.all_reduce(gradient)
        gradient /= 2
    if rank == 0:
        save_file(found, folder / "gradients.safetensors")
    dist.barrier()
    dist.destroy_process_group()
    os._exit(0)  # threads of gloo that are still ending may abort an orderly exit


@pytest.mark.parametrize("focal", [False, True])
def test_the_mean_over_processes_is_the_whole(focal: bool, tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    mp.spawn(learn, (tmp_path, port, focal), nprocs=2)
    found, expected = load_file(tmp_path / "gradients.safetensors"), gradients(slice(0, 4), focal)
    assert expected.keys() == found.keys() == {"classes", "masks", "kd"}
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, msg=name)
    apart = [gradients(slice(i, i + 2), focal) for i in (0, 2)]
    for name in ("masks", "kd"):
        assert not torch.allclose(torch.stack([g[name] for g in apart]).mean(), expected[name], rtol=1e-2)
