"""Building one memory by several processes: each stages what it saw, rank 0 writes once, all see the same version.

Rows travel by gloo, on the CPU, whatever the processes compute with; nothing is pickled.
"""

from __future__ import annotations

import io
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import groupby, zip_longest

import numpy as np
import torch
import torch.distributed as dist

from kc.errors import RunError
from kc.types import Rows

MESSAGE_BYTES = 16 * 2**20
"""What one process sends at a time: rank 0 holds that many bytes of each process beside the rows themselves."""
_groups: dict[object, dist.ProcessGroup] = {}


def process_rank() -> int:
    """Number of this process among those of a run, 0 alone. Known before they are connected, from the environment
    that launchers set."""
    if dist.is_available() and dist.is_initialized():
        return dist.get_rank()
    return int(os.environ.get("RANK") or os.environ.get("LOCAL_RANK") or 0)


def gather_rows(staged: Sequence[Rows]) -> list[Rows]:
    """Rows of all processes on rank 0, nothing elsewhere. Every process must call it.

    Samples come in turn, one of each process, as `DistributedSampler` dealt them: ids are those of a single process
    that sees the same order. Samples dealt twice as padding are still twice in it; `Memory.add` takes the first.
    """
    received = _gather_bytes(_pack(staged))
    if not received:
        return []
    by_process = [_by_sample(_unpack(data)) for data in received]
    return [rows for turn in zip_longest(*by_process) for rows in turn if rows is not None]


def on_rank_0(work: Callable[[], int]) -> int:
    """Do `work` on rank 0 while the others wait; every process returns its result. Every process must call it.

    An error of rank 0 is raised there, and as RunError with its text on the others: none waits for ever.
    """
    result, error = 0, None
    if dist.get_rank() == 0:
        try:
            result = work()
        except Exception as caught:
            error = caught
    text = "" if error is None else f"{type(error).__name__}: {error}"
    data = json.dumps([result, text]).encode()
    size = torch.tensor([len(data)])
    dist.broadcast(size, 0, group=_group())
    body = torch.frombuffer(bytearray(data.ljust(int(size))[: int(size)]), dtype=torch.uint8)
    dist.broadcast(body, 0, group=_group())
    if error is not None:
        raise error
    result, text = json.loads(body.numpy().tobytes())
    if text:
        raise RunError(f"rank 0 failed: {text}")
    return int(result)


def _group() -> dist.ProcessGroup | None:
    """A gloo group of all processes; the default one where it is that."""
    if dist.get_backend() == "gloo":
        return None
    world = dist.group.WORLD
    if world not in _groups:
        _groups.clear()
        group: dist.ProcessGroup = dist.new_group(backend="gloo")  # type: ignore[assignment]  # of all ranks, so no int
        _groups[world] = group
    return _groups[world]


def _gather_bytes(data: bytes) -> list[bytes]:
    """What each process passed, on rank 0; nothing elsewhere. In messages of at most MESSAGE_BYTES."""
    group, n, here = _group(), dist.get_world_size(), dist.get_rank()
    sizes = [torch.zeros(1, dtype=torch.int64) for _ in range(n)]
    dist.all_gather(sizes, torch.tensor([len(data)]), group=group)
    parts: list[list[bytes]] = [[] for _ in range(n)]
    for first in range(0, max(int(s) for s in sizes), MESSAGE_BYTES):
        lengths = [max(0, min(MESSAGE_BYTES, int(s) - first)) for s in sizes]
        message = torch.zeros(max(lengths), dtype=torch.uint8)  # gloo gathers equal sizes
        if lengths[here]:
            message[: lengths[here]] = torch.frombuffer(
                bytearray(data[first : first + lengths[here]]), dtype=torch.uint8
            )
        inbox = [torch.empty_like(message) for _ in range(n)] if here == 0 else None
        dist.gather(message, inbox, dst=0, group=group)
        for rank, received in enumerate(inbox or []):
            parts[rank].append(received[: lengths[rank]].numpy().tobytes())
    return [b"".join(p) for p in parts] if here == 0 else []


def _pack(staged: Sequence[Rows]) -> bytes:
    """Arrays as .npz and names as JSON."""
    arrays: dict[str, np.ndarray] = {}
    names = []
    for i, rows in enumerate(staged):
        arrays |= {f"keys{i}": rows.keys, f"class{i}": rows.class_id, f"segment{i}": rows.segment}
        if rows.weight is not None:
            arrays[f"weight{i}"] = rows.weight
        names.append([list(rows.sample_id), rows.source])
    buffer = io.BytesIO()
    np.savez(buffer, names=np.frombuffer(json.dumps(names).encode(), np.uint8), **arrays)  # type: ignore[arg-type]
    return buffer.getvalue()


def _unpack(data: bytes) -> list[Rows]:
    with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
        names = json.loads(arrays["names"].tobytes())
        return [
            Rows(
                keys=arrays[f"keys{i}"],
                class_id=arrays[f"class{i}"],
                sample_id=tuple(sample_id),
                segment=arrays[f"segment{i}"],
                source=source,
                weight=arrays.get(f"weight{i}"),
            )
            for i, (sample_id, source) in enumerate(names)
        ]


def _by_sample(staged: Sequence[Rows]) -> list[Rows]:
    """Cut into the rows of one sample each, in the order they came."""
    cut = []
    for rows in staged:
        for _, run in groupby(range(len(rows)), key=lambda i, rows=rows: rows.sample_id[i]):  # type: ignore[misc]
            part = list(run)
            cut.append(
                replace(
                    rows,
                    keys=rows.keys[part],
                    class_id=rows.class_id[part],
                    sample_id=tuple(rows.sample_id[i] for i in part),
                    segment=rows.segment[part],
                    weight=None if rows.weight is None else rows.weight[part],
                )
            )
    return cut
