"""Study 1: the base against base and memory, as the memory grows from nothing to all training images."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
from rich.console import Console
from torch import Tensor

from kc.memory.disk import Memory
from kc.studies.config import StudyConfig
from kc.studies.drawing import lines
from kc.studies.record import Row, Study, panels
from kc.studies.scenes import Bench, Regions, best_of, remembered
from kc.studies.tuning import alone, calibrated, given, shown

SHARES = (0.0, 0.02, 0.05, 0.1, 0.2, 0.4, 0.7, 1.0)


def study(config: StudyConfig, console: Console) -> Study:
    """A row a size and answer: base alone, memory alone (16-NN softmax vote), fused as given, fused and calibrated."""
    bench = Bench(config, console, config.benchmark, config.proposals)
    settings = bench.settings(config) | {"k": config.k}
    record = Study(config.out, "growth", settings)
    n = int(bench.train.image.max()) + 1
    order = np.random.default_rng(config.seed).permutation(n)
    said = bench.says(bench.test)
    for size in sorted({round(share * n) for share in SHARES}):
        stored = bench.train.named.of_images(order[:size].tolist())
        with remembered(stored) as memory:
            what = {"images": size, "rows": len(stored.label), "classes": len(np.unique(stored.label))}
            answers: dict[str, Callable[[], Row]] = {"base alone": lambda: bench.score(best_of(said, bench.ids))}
            if size:
                answers |= {
                    "memory alone": partial(alone, bench, memory, config.k),
                    "fused, as given": partial(shown, bench, memory, said, given(config.k)),
                    "fused, calibrated": partial(tuned, bench, memory, stored, said, config.seed),
                }
            for answer, compute in answers.items():
                record.row(f"{size} {answer}", partial(row, {**what, "answer": answer}, compute))
    metrics = ["pq", "miou", "accuracy"] if bench.panoptic else ["miou", "accuracy"]
    figure, axes = panels(len(metrics))
    for ax, metric in zip(axes, metrics, strict=True):
        lines(ax, record.rows, "images", metric, "answer", x_name="training images in memory")
    axes[0].legend(frameon=False, fontsize=8)
    record.figure(figure)
    return record


def tuned(bench: Bench, memory: Memory, stored: Regions, said: Tensor, seed: int) -> Row:
    """Scores of the calibrated fusion, and what was chosen."""
    return shown(bench, memory, said, calibrated(bench, memory, stored, seed))


def row(what: Row, compute: Callable[[], Row]) -> Row:
    """What was in the memory and what it scored."""
    return {**what, **compute()}
