"""Exact search on a torch device: a short list in bf16 there, decided in float64 on the CPU.

Answers are those of the CPU up to ties: where the rounding of bf16 could hide a row behind the end of a query's list,
a longer list is made, and then every row within reach is scored. The rows lie on the device in bf16 where they fit and
stream to it otherwise; the scores of one step never take more than `gpu_bytes`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from kc.errors import KcError, MissingExtraError
from kc.memory.search.exact import OVERFETCH, Search
from kc.memory.search.threads import faiss
from kc.memory.store.view import Columns, View
from kc.types import BoolArray, Float32Array, Int64Array

UPLOAD_ROWS = 65_536
ROOM = 0.7
"""Share of the device's free memory that rows may take."""
FEW = 0.5
"""Below this share of a block's rows, they are gathered on the device instead of masked."""
FAISS_LONGEST = 2048
"""FAISS on a GPU keeps no longer list."""


class DeviceRows:
    """The keys of all stored rows on `device`, bf16, in blocks of `UPLOAD_ROWS`.

    room: bytes they may take there; what does not fit is uploaded block by block at every use.
    """

    def __init__(self, columns: Columns, device: str, room: int | None = None) -> None:
        self.columns = columns
        self.device = checked_device(device)
        if room is None:
            free = torch.cuda.mem_get_info(self.device)[0] if self.device.type == "cuda" else 2**62
            room = int(ROOM * free)
        self._room = room
        self._kept: dict[int, Tensor] = {}
        self.bounds = [(a, min(a + UPLOAD_ROWS, len(columns))) for a in range(0, len(columns), UPLOAD_ROWS)]

    def block(self, number: int) -> Tensor:
        """(rows, D) bf16."""
        kept = self._kept.get(number)
        if kept is None:
            keys = self.columns.vectors(np.arange(*self.bounds[number]))
            kept = torch.from_numpy(keys).to(self.device, torch.bfloat16)
            size = kept.numel() * kept.element_size()
            if size <= self._room:
                self._room -= size
                self._kept[number] = kept
        return kept


def checked_device(name: str) -> torch.device:
    """The torch device `name`; KcError if this machine has none such."""
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise KcError(f"{name!r} is not a torch device: {error}") from None
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise KcError(f"search on {name!r}: torch sees {torch.cuda.device_count()} CUDA devices here; use device='cpu'")
    return device


def bf16_margin(dim: int) -> float:
    """How far a score in bf16 may be from the cosine: half a step of the result, and the sum of `dim` rounded products
    (their errors are independent: six standard deviations)."""
    return float(2.0**-9 + 6 * 2.0**-9 / np.sqrt(dim))


class TorchSearch(Search):
    """Exact search whose short list is made by torch."""

    def __init__(self, view: View, mask: BoolArray, rows: DeviceRows, gpu_bytes: int) -> None:
        super().__init__(view, mask)
        self.rows = rows
        self.gpu_bytes = gpu_bytes
        self._chosen: dict[int, Tensor | None] = {}
        for number, (first, last) in enumerate(rows.bounds):
            keep = mask[first:last]
            if keep.all():
                self._chosen[number] = None
            elif keep.mean() < FEW:
                self._chosen[number] = torch.from_numpy(np.flatnonzero(keep)).to(rows.device)
            else:
                self._chosen[number] = torch.from_numpy(~keep).to(rows.device)

    def _list_length(self, k: int) -> int:
        return 2 * k + OVERFETCH

    def _margin(self, dim: int) -> float:
        return bf16_margin(dim)

    def _short_list(self, fast: Float32Array, wanted: int) -> tuple[Int64Array, Float32Array]:
        queries = torch.from_numpy(fast).to(self.rows.device, torch.bfloat16)
        step = max(1, self.gpu_bytes // (2 * max(1, len(fast))))
        score = torch.full((len(fast), 0), 0.0, dtype=torch.bfloat16, device=self.rows.device)
        position = torch.zeros((len(fast), 0), dtype=torch.int64, device=self.rows.device)
        for number, (first, _) in enumerate(self.rows.bounds):
            chosen = self._chosen[number]
            if chosen is not None and chosen.dtype == torch.int64 and len(chosen) == 0:
                continue
            block = self.rows.block(number)
            index = torch.arange(len(block), device=block.device)
            hidden = None
            if chosen is not None and chosen.dtype == torch.int64:
                block, index = block[chosen], chosen
            elif chosen is not None:
                hidden = chosen
            for start in range(0, len(block), step):
                part = slice(start, start + step)
                products = queries @ block[part].T
                if hidden is not None:
                    products.masked_fill_(hidden[part], -torch.inf)
                scores, row = products.topk(min(wanted, products.shape[1]), dim=1, sorted=False)
                score = torch.cat([score, scores], dim=1)
                position = torch.cat([position, first + index[part][row]], dim=1)
                if score.shape[1] > wanted:
                    score, keep = score.topk(wanted, dim=1, sorted=False)
                    position = position.gather(1, keep)
        return position.cpu().numpy(), score.float().cpu().numpy()


class FaissGpuSearch(Search):
    """Exact search whose short list is made by FAISS on a GPU, in float32."""

    def __init__(self, view: View, mask: BoolArray, device: str) -> None:
        super().__init__(view, mask)
        if not hasattr(faiss, "GpuIndexFlatIP"):
            raise MissingExtraError(
                "engine 'faiss' on a GPU needs faiss-gpu-cu12, and this is faiss-cpu: uninstall faiss-cpu, then "
                "`pip install kc-continual[gpu]`; or use engine 'torch'"
            )
        self._index: Any = None
        self._device = checked_device(device).index or 0
        self._positions = np.flatnonzero(mask)

    def _short_list(self, fast: Float32Array, wanted: int) -> tuple[Int64Array, Float32Array]:
        if wanted > FAISS_LONGEST:
            return super()._short_list(fast, wanted)
        if self._index is None:
            config = faiss.GpuIndexFlatConfig()
            config.device = self._device
            self._resources = faiss.StandardGpuResources()
            self._index = faiss.GpuIndexFlatIP(self._resources, fast.shape[1], config)
            for first in range(0, self.n_rows, UPLOAD_ROWS):
                self._index.add(self.columns.vectors(self._positions[first : first + UPLOAD_ROWS]))
        score, row = self._index.search(fast, wanted)
        return self._positions[row], score
