"""`knn`: images in which the encoder finds nothing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from torch import Tensor

from kc.encoders.base import Features
from kc.methods.base import Context
from kc.methods.retrieval.visual_memory import VisualMemory
from kc.methods.retrieval.vote_options import KnnOptions
from kc.stream.evaluate import answers
from kc.types import VOID, Task


@pytest.mark.parametrize("vote", ["softmax", "discriminant", "log-linear"])
def test_an_image_without_features_is_not_stored_and_has_no_answer(
    vote: Any,
    toy_context: Callable[..., Context],
    images: Any,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A white image gives an encoder that ends in a ReLU a key of zeros: as near to one row as to any other."""
    context = toy_context(options=KnnOptions(k=3, vote=vote))
    forward = context.encoder.forward

    def nothing_in_white(image: Tensor) -> Features:
        found = forward(image)
        return Features(found.pooled * (image.mean((1, 2, 3)) < 1)[:, None], found.levels, found.strides)

    monkeypatch.setattr(context.encoder, "forward", nothing_in_white)
    method = VisualMemory(context)
    batch = images([0, 1, 0, 1])
    batch["image"][0] = 1
    method.start_task(Task(0, (0, 1), (0, 1), ("a", "b")))
    method.observe(batch)
    method.store(0, 1)
    assert method.commit(0, 1) == 3
    assert "0-0" in caplog.text
    found = answers(method.predict(batch, (0, 1)))
    assert found[0] == VOID
    assert set(found[1:].tolist()) <= {0, 1}
    assert np.isnan(method.predict(batch, (0, 1)).scores[0]).all()  # type: ignore[index]
    method.close()
