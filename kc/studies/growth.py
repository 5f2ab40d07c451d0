"""The base against base and memory, as the memory grows from nothing to all training images."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
from matplotlib.figure import Figure

from kc.studies.base import Row
from kc.studies.figures import curves, legend, panels
from kc.studies.fusion import calibrated_setting, default_setting, score_base, score_fused, score_memory
from kc.studies.keys import memory_of
from kc.studies.options import RegionOptions, StudySpec
from kc.studies.regions import RegionStudy

SHARES = (0.0, 0.02, 0.05, 0.1, 0.2, 0.4, 0.7, 1.0)


class Growth(RegionStudy[RegionOptions]):
    """A row a size and answer: base alone, memory alone (softmax vote of k), fused as given, fused and calibrated."""

    spec = StudySpec(
        summary="The base against base and memory, as the memory grows to all training images.",
        plots="scores against the images in memory, a line an answer",
        paper="arXiv 2404.09447",
        options=RegionOptions,
    )

    def run(self) -> Figure:
        bench, base, k, seed = self.bench, self.base_scores, self.options.k, self.options.seed
        n = int(bench.train.image.max()) + 1
        order = np.random.default_rng(seed).permutation(n)

        def row(what: Row, compute: Callable[[], Row]) -> Row:
            return {**what, **compute()}

        for size in sorted({round(share * n) for share in SHARES}):
            stored = bench.train.named.of_images(order[:size].tolist())
            what = {"images": size, "rows": len(stored.label), "classes": len(np.unique(stored.label))}
            with memory_of(stored.rows()) as memory:
                answers: dict[str, Callable[[], Row]] = {"base alone": partial(score_base, bench, base)}
                if size:
                    answers |= {
                        "memory alone": partial(score_memory, bench, memory, k),
                        "fused, as given": partial(score_fused, bench, memory, base, default_setting(k)),
                        "fused, calibrated": lambda memory=memory, stored=stored: score_fused(  # type: ignore[misc]
                            bench, memory, base, calibrated_setting(bench, memory, stored, seed)
                        ),
                    }
                for answer, compute in answers.items():
                    self.row(f"{size} {answer}", partial(row, {**what, "answer": answer}, compute))
        metrics = ["pq", "miou", "accuracy"] if bench.panoptic else ["miou", "accuracy"]
        figure, axes = panels(len(metrics))
        for ax, metric in zip(axes, metrics, strict=True):
            curves(ax, self.rows, "images", metric, "answer", x_name="training images in memory")
        legend(axes[0])
        return figure
