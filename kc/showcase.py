"""A few test images with the truth and each method's answer, kept in the run folder for the report."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from kc.data.datamodule import IncrementalDataModule
from kc.methods.base import ContinualMethod
from kc.report.examples import save_example, save_prediction
from kc.stream.evaluate import answers, to_device

N_EXAMPLES = 6


def example_indices(data: IncrementalDataModule, n: int = N_EXAMPLES) -> list[int]:
    """`n` positions of the last test set, spread evenly, so that several tasks are shown."""
    size = data.n_images("test", len(data.tasks) - 1, "seen")
    return sorted({(2 * i + 1) * size // (2 * n) for i in range(min(n, size))})


def _batches(data: IncrementalDataModule) -> Iterator[dict[str, Any]]:
    from kc.data.dataset import collate_evaluation

    dataset = data.dataset("test", len(data.tasks) - 1, "seen", raw=True)
    for i in example_indices(data):
        yield collate_evaluation([dataset[i]])


def save_examples(folder: Path, data: IncrementalDataModule, method: ContinualMethod, name: str) -> None:
    """Image and truth once, and the prediction of `method` after the last task."""
    kind = data.manifest.task_kind
    infos = list(data.classes.values())
    vocabulary = data.tasks[-1].seen_ids
    module: Any = method
    module.eval()
    for number, batch in enumerate(_batches(data)):
        example = f"example-{number:02d}"
        truth: Any = batch["label"][0].item() if kind == "classification" else np.asarray(batch[kind][0])
        save_example(folder, example, np.asarray(batch["raw"][0]), truth, infos)
        prediction = method.predict(to_device(batch, module.device), vocabulary)
        if kind == "classification":
            save_prediction(folder, example, name, int(answers(prediction)[0]))
        else:
            save_prediction(folder, example, name, getattr(prediction, kind)[0])
