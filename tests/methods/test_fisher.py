"""Fisher information of each sample, not of a batch."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kc.methods.finetune.ewc import diagonal_fisher, min_max_normalize, quadratic_penalty, running_fisher


def fixed(*shape: int, scale: float = 1.0, shift: float = 0.0) -> Tensor:
    values = torch.sin(torch.arange(math.prod(shape), dtype=torch.float64) * 1.7 + shift) * scale
    return values.reshape(shape)


def network() -> nn.Module:
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 3)).double()
    with torch.no_grad():
        for i, p in enumerate(model.parameters()):
            p.copy_(fixed(*p.shape, shift=i))
    return model


def six() -> dict[str, Any]:
    return {"x": fixed(6, 3, scale=2.0, shift=0.3), "y": torch.tensor([0, 1, 2, 0, 1, 2]), "sample_id": list("abcdef")}


def measured(model: nn.Module, batches: list[dict[str, Any]]) -> dict[str, Tensor]:
    return diagonal_fisher(lambda b: F.cross_entropy(model(b["x"]), b["y"]), dict(model.named_parameters()), batches)


def test_golden_numbers_of_avalanche() -> None:
    # avalanche-lib 0.6.0 (ContinualAI/avalanche), EWCPlugin.compute_importances on these very tensors, batch size 1.
    found = measured(network(), [six()])
    sums = {"0.weight": 0.485067427158, "0.bias": 0.103383757174, "2.weight": 2.380971670151, "2.bias": 0.866258025169}
    assert {k: v.sum().item() for k, v in found.items()} == pytest.approx(sums, rel=1e-6)
    assert found["0.bias"].tolist() == pytest.approx(
        [0.017623556777834892, 0.016646893694996834, 0.06697805970907211, 0.0021352479234337807], rel=1e-6
    )
    # The same plugin with a batch size of 3 squares batch means; this is what ours must not be.
    per_batch = {"0.weight": 0.174639254808, "2.bias": 0.093387760222}
    assert all(found[k].sum().item() > 2 * v for k, v in per_batch.items())


def test_batches_do_not_matter() -> None:
    model, whole = network(), six()
    parts = [{k: v[i : i + 2] for k, v in whole.items()} for i in (0, 2, 4)]
    for name, value in measured(model, [whole]).items():
        torch.testing.assert_close(measured(model, parts)[name], value, rtol=1e-12, atol=0)


def test_linear_classifier_by_hand() -> None:
    # d loss / d b = p - y: with p = (1/2, 1/2) every sample gives 1/4, though the mean gradient of the two is 0.
    model = nn.Linear(1, 2).double()
    nn.init.zeros_(model.weight)
    nn.init.zeros_(model.bias)
    x, y = torch.ones(2, 1, dtype=torch.float64), torch.tensor([0, 1])
    found = measured(model, [{"x": x, "y": y, "sample_id": ["a", "b"]}])
    assert found["bias"].tolist() == [0.25, 0.25]


def test_what_no_sample_touches_counts_nothing_and_no_sample_is_refused() -> None:
    unused = torch.ones(2, requires_grad=True)
    model, whole = network(), six()
    found = diagonal_fisher(lambda b: F.cross_entropy(model(b["x"]), b["y"]), {"unused": unused}, [whole])
    assert found["unused"].tolist() == [0.0, 0.0]
    with pytest.raises(ValueError, match="no sample"):
        measured(model, [])


def test_running_mean_as_the_authors_of_mib(wave: Callable[..., Tensor]) -> None:
    """`EWC` of fcdl94/MiB at 3da2fe3 (`utils/regularizer.py`): three updates, a penalty, three updates more."""
    shapes, offset = {"w": (2, 3), "b": (2,)}, {"w": 0.0, "b": 0.5}
    found: dict[str, Tensor | None] = {"w": None, "b": None}

    def three(phase: float) -> dict[str, Tensor]:
        for k, shape in shapes.items():
            for i in range(3):
                found[k] = running_fisher(found[k], wave(*shape, phase=phase + i + offset[k]))
        return {k: v.flatten() for k, v in found.items() if v is not None}

    first = three(2.0)
    golden = [2.0998349944339836, 3.712510073196633, 2.3050999744236726, 0.3204649611555113, 1.6429579336968765]
    assert first["w"].tolist() == pytest.approx([*golden, 3.7007580390623005])
    assert first["b"].tolist() == pytest.approx([3.4982261462722852, 3.0493151566686176])
    moved = {"w": wave(6, phase=5.0, scale=0.5), "b": wave(2, phase=6.0, scale=0.5)}
    zero = {k: torch.zeros_like(v) for k, v in moved.items()}
    importance = {k: min_max_normalize(v) for k, v in first.items()}
    assert quadratic_penalty(moved, zero, importance).item() == pytest.approx(0.3916344710133095)
    second = three(7.0)  # the running mean goes on, not its normalised copy
    golden = [0.9814471966855579, 0.483463138208338, 2.664181627037941, 3.6106691416271426, 1.3830017289845689]
    assert second["w"].tolist() == pytest.approx([*golden, 0.4383136300256197])
    assert second["b"].tolist() == pytest.approx([0.28503369669101375, 1.8606770158707984])
