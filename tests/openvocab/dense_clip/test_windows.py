"""Windows against a naive twin that upsamples, adds, counts and resizes maps of pixels."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from kc.openvocab.dense_clip.segmenter import axis, cut, join, linear, resized

CASES = {
    "overlap": ((32, 40), 16, 8, 0, (32, 40)),
    "last window moved back, resized": ((35, 50), 16, 12, 0, (70, 43)),
    "padded": ((33, 44), 20, 10, 8, (33, 44)),
    "one window, padded": ((21, 19), None, None, 8, (40, 30)),
    "crop larger than one side": ((12, 40), 16, 8, 0, (25, 40)),
}


@pytest.mark.parametrize("case", CASES)
def test_naive_twin(case: str, make_features: Callable[..., Tensor]) -> None:
    size, crop, stride, pad_to, out = CASES[case]
    rows, columns = (axis(n, crop, stride, pad_to) for n in size)
    starts = [(y, x) for y in rows.starts for x in columns.starts]
    windows = make_features(len(starts), 3, 2, 4)
    total, count = torch.zeros(3, *size), torch.zeros(size)
    for (y, x), cells in zip(starts, windows, strict=True):
        h, w = rows.window, columns.window
        padded = (h + rows.before + rows.after, w + columns.before + columns.after)
        up = F.interpolate(cells[None], size=padded, mode="bilinear")[0]
        total[:, y : y + h, x : x + w] += up[:, rows.before : rows.before + h, columns.before : columns.before + w]
        count[y : y + h, x : x + w] += 1
    assert count.min() >= 1
    wanted = F.interpolate((total / count)[None], size=out, mode="bilinear")[0]
    joined = join(windows, rows, columns)
    found = rows.matrix(2, out[0]) @ joined @ columns.matrix(4, out[1]).T
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-5)
    assert torch.equal(rows.counts()[:, None] * columns.counts(), count.double())


@pytest.mark.parametrize(
    ("length", "starts", "counts"),
    [
        (336, (0, 112), [(0, 1), (111, 1), (112, 2), (223, 2), (224, 1), (335, 1)]),
        (340, (0, 112, 116), [(0, 1), (112, 2), (116, 3), (223, 3), (224, 2), (335, 2), (336, 1), (339, 1)]),
        (224, (0,), [(0, 1), (223, 1)]),
        (200, (0,), [(0, 1), (199, 1)]),
    ],
)
def test_counts_are_exact_at_borders(length: int, starts: tuple[int, ...], counts: list[tuple[int, int]]) -> None:
    found = axis(length, 224, 112)
    assert found.starts == starts
    assert [int(found.counts()[pixel]) for pixel, _ in counts] == [count for _, count in counts]
    assert int(found.counts().sum()) == len(starts) * found.window


@pytest.mark.parametrize("case", CASES)
def test_a_constant_stays_constant(case: str) -> None:
    (height, _), crop, stride, pad_to, (out, _) = CASES[case]
    torch.testing.assert_close(axis(height, crop, stride, pad_to).matrix(5, out).sum(1), torch.ones(out))


def test_cut_pads_with_zeros_and_keeps_order() -> None:
    image = torch.arange(1, 4 * 6 + 1, dtype=torch.float32).view(1, 4, 6)
    rows, columns = axis(4, 3, 2, 4), axis(6, 3, 2, 4)
    assert (rows.starts, columns.starts, rows.before, rows.after) == ((0, 1), (0, 2, 3), 0, 1)
    windows = cut(image, rows, columns)
    assert windows.shape == (6, 1, 4, 4)
    assert torch.equal(windows[4, 0, :3, :3], image[0, 1:4, 2:5])
    assert windows[:, 0, 3].abs().sum() == windows[:, 0, :, 3].abs().sum() == 0


def test_linear_is_torchs() -> None:
    x = torch.arange(5, dtype=torch.float64) ** 2
    wanted = F.interpolate(x[None, None], size=13, mode="linear")[0, 0]
    torch.testing.assert_close(linear(5, 13) @ x, wanted)
    assert torch.equal(linear(4, 4), torch.eye(4, dtype=torch.float64))


@pytest.mark.parametrize(
    ("size", "short", "longest", "wanted"),
    [
        ((360, 480), 336, 2048, (336, 448)),
        ((100, 1000), 336, 2048, (205, 2048)),
        ((375, 500), 336, 2048, (336, 448)),
        ((333, 500), 448, 2048, (448, 673)),
        ((30, 20), None, 10, (30, 20)),
    ],
)
def test_resized(size: tuple[int, int], short: int | None, longest: int, wanted: tuple[int, int]) -> None:
    image = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    found = resized(image, short, longest)
    assert tuple(found.shape) == (3, *wanted)
    levels = found * 255
    torch.testing.assert_close(levels, levels.round(), atol=1e-3, rtol=0)
    assert 0 <= float(found.min()) <= float(found.max()) <= 1


def test_resized_does_not_blur() -> None:
    """One bright column of eight: without antialiasing half the size samples it whole or not at all."""
    image: Any = np.zeros((4, 8, 3), dtype=np.uint8)
    image[:, 4] = 200
    found = resized(image, 2, 100)[0, 0] * 255
    assert found.tolist() == pytest.approx([0.0, 0.0, 100.0, 0.0])
    assert not math.isclose(float(found.sum()), 200 / 4)
