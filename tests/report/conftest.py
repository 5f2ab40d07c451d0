"""A made-up but realistic results object, seeded."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from kc.report.records import Results

DIGITS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
# How much of a task's score is left after each later task, and how good a freshly learned task is.
CHARACTER = {"finetune": (0.35, 0.78), "replay": (0.93, 0.75), "joint": (1.0, 0.8), "knn": (0.985, 0.68)}


def build(
    n_tasks: int = 10, methods: tuple[str, ...] = ("finetune", "replay", "joint", "knn"), seeds: tuple[int, ...] = (0,)
) -> Results:
    """Results of `n_tasks` tasks of one digit each (the first also has the background) with plausible decay."""
    tasks = [["background", "zero"]] + [[DIGITS[t % 10] + ("" if t < 10 else f" {t}")] for t in range(1, n_tasks)]
    records: list[dict[str, Any]] = []
    for index, name in enumerate(methods):
        for seed in seeds:
            rng = np.random.default_rng([index, seed])
            keep, fresh = CHARACTER.get(name, (0.8, 0.7))
            matrix = np.full((n_tasks, n_tasks), np.nan)
            for t in range(n_tasks):
                for i in range(n_tasks):
                    mean = fresh * keep ** (t - i) if i <= t else 0.02
                    matrix[t, i] = np.clip(mean + rng.normal(0, 0.02), 0, 1)
            final = matrix[-1]
            drop = [matrix[:-1, i].max() - final[i] for i in range(n_tasks - 1)]
            per_class = {
                c: [float("nan") if t < i else matrix[t, i] for t in range(n_tasks)]
                for i, names in enumerate(tasks)
                for c in names
            }
            records.append(
                {
                    "name": name,
                    "seed": seed,
                    "config": {"epochs": 3, "batch_size": 16},
                    "metric": "miou",
                    "matrix": matrix,
                    "metrics": {
                        "average": final.mean(),
                        "average_incremental": np.mean([matrix[t, : t + 1].mean() for t in range(n_tasks)]),
                        "forgetting": np.mean(drop) if drop else None,
                        "backward_transfer": np.mean([final[i] - matrix[i, i] for i in range(n_tasks - 1)])
                        if n_tasks > 1
                        else None,
                        "forward_transfer": None,
                        "intransigence": None if name == "joint" else 0.03,
                    },
                    "undefined": {"forward_transfer": "the score before any training was not measured"}
                    | ({"intransigence": "joint training is its own reference"} if name == "joint" else {}),
                    "seen": [matrix[t, : t + 1].mean() for t in range(n_tasks)],
                    "final": {"miou": final.mean(), "pq": final.mean() * 0.8, "sq": 0.81, "rq": 0.62},
                    "confusion": {
                        "old_right": 0.5 + 0.1 * min(index, 4),
                        "old_as_old": 0.1,
                        "old_as_new": 0.4 - 0.1 * min(index, 4),
                        "old_as_none": 0.0,
                        "new_right": 0.75,
                        "new_as_old": 0.25,
                        "new_as_new": 0.0,
                        "new_as_none": 0.0,
                    },
                    "per_class": per_class,
                    "cost": [
                        {
                            "seconds": 2.5 + index + 0.1 * t + rng.uniform(0, 0.2),
                            "peak_rss_bytes": int(1.1e9 + 3e7 * t),
                            "trained_parameters": 0 if name == "knn" else 1_234_567,
                            "stored_bytes": int(3e5 * (t + 1)) if name == "knn" else 4_900_000,
                        }
                        for t in range(n_tasks)
                    ],
                }
            )
    return Results.model_validate(
        {
            "schema": 1,
            "benchmark": "digit-scenes",
            "task_kind": "panoptic",
            "split": None,
            "setting": "overlapped",
            "seed": seeds[0] if len(seeds) == 1 else list(seeds),
            "tasks": tasks,
            "methods": records,
            "versions": {"kc": "0.1.0", "torch": "2.6.0", "python": "3.11.9"},
            "fingerprints": {"encoder": "lite0:0123456789abcdef", "benchmark": "ab" * 32},
            "config": {"tasks": n_tasks, "methods": list(methods), "encoder": "lite0", "limit_images": None},
        }
    )


@pytest.fixture
def make_results() -> Callable[..., Results]:
    """The builder above."""
    return build
