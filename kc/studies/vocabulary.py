"""Study 9: a vocabulary that grows to thousands of names: what it costs, and what it does to the old ones."""

from __future__ import annotations

import time
from functools import partial
from typing import Any

import numpy as np
import torch
from rich.console import Console
from timm.data.imagenet_info import ImageNetInfo

from kc.errors import KcError
from kc.report.style import looks
from kc.studies.config import StudyConfig
from kc.studies.record import Row, Study, column, dress, panels
from kc.studies.scenes import Bench, Regions, best_of, fused, held, numbers, remembered
from kc.studies.simulate import around, spreads
from kc.studies.tuning import given
from kc.types import VOID

ROWS_A_NAME = 10


def study(config: StudyConfig, console: Console) -> Study:
    """A row a size of the vocabulary: accuracy on real test regions, whose classes are the benchmark's own; rows,
    bytes, and seconds to learn the step's rows and names, and to answer one region.

    Names beyond the benchmark's are those of ImageNet-12k; their rows are simulated: a centre as far from a real row
    as rows of other classes are, and rows around it as far as rows of one class are.
    """
    sizes = numbers(config.names, "names")
    bench = Bench(config, console, config.benchmark, config.proposals)
    record = Study(config.out, "vocabulary", bench.settings(config) | {"k": config.k, "names": sizes})
    more = other_names(bench)
    if max(sizes) > len(bench.ids) + len(more):
        raise KcError(f"--names {config.names}: there are {len(bench.ids) + len(more)} names")
    for size in sizes:
        record.row(str(size), partial(row, bench, more[: max(0, size - len(bench.ids))], config))
    draw(record)
    return record


def other_names(bench: Bench) -> list[str]:
    """First names of ImageNet-12k that the benchmark does not have, each once."""
    known = {n.casefold() for c in bench.classes.values() for n in (c.name, *c.synonyms)}
    info: Any = ImageNetInfo("imagenet-12k")
    found: dict[str, str] = {}
    for i in range(info.num_classes()):
        name = info.index_to_description(i).split(",")[0].strip()
        if name.casefold() not in known:
            found.setdefault(name.casefold(), name)
    return list(found.values())


def row(bench: Bench, names: list[str], config: StudyConfig) -> Row:
    """One size of the vocabulary."""
    real = bench.train.named
    simulated = around_names(real, len(names), max(bench.ids) + 1, config.seed)
    every = Regions(
        *(np.concatenate([a, b]) for a, b in zip(vars(real).values(), vars(simulated).values(), strict=True))
    )
    ids = (*bench.ids, *(int(c) for c in np.unique(simulated.label)))
    spoken = [*([c.name, *c.synonyms] for c in bench.classes.values()), *([n] for n in names)]
    start = time.perf_counter()
    bench.base.scores_from_codes(torch.from_numpy(bench.test.codes[:1]), spoken)
    read = time.perf_counter() - start
    start = time.perf_counter()
    with remembered(every) as memory:
        learned = time.perf_counter() - start
        start = time.perf_counter()
        said = bench.base.scores_from_codes(torch.from_numpy(bench.test.codes), spoken)
        found = memory.search(bench.test.keys, config.k)
        scores = fused(said, found, ids, held(memory, ids), given(config.k))
        answered = time.perf_counter() - start
        stored = int(memory.stats()["bytes"])
    inside = set(bench.ids)
    answers = {name: best_of(x, ids) for name, x in (("fused", scores), ("base", said))}
    shown = {name: np.array([c if c in inside else VOID for c in a.tolist()]) for name, a in answers.items()}
    together, base = bench.score(shown["fused"]), bench.score(shown["base"])
    return {
        "names": len(ids), "rows": len(every.label), "simulated": len(simulated.label), "bytes": stored,
        "seconds_to_read_names": read, "seconds_to_learn": learned,
        "milliseconds_a_region": 1000 * answered / len(bench.test.label),
        **together, **{f"base_{name}": value for name, value in base.items()},
        "answered_with_another_name": float((shown["fused"] == VOID)[bench.test.label != VOID].mean()),
    }  # fmt: skip


def around_names(real: Regions, n: int, first: int, seed: int) -> Regions:
    """`ROWS_A_NAME` simulated rows of each of `n` names, numbered from `first` on."""
    inner, outer = spreads(real)
    rng = np.random.default_rng(seed)
    origin = rng.integers(0, len(real.label), n)
    centre = np.repeat(around(real.keys[origin], outer, seed), ROWS_A_NAME, axis=0)
    return Regions(
        around(centre, inner, seed + 1) if n else real.keys[:0],
        np.repeat(real.codes[origin], ROWS_A_NAME, axis=0),
        np.repeat(np.arange(n) + first, ROWS_A_NAME),
        np.arange(n * ROWS_A_NAME) + int(real.image.max()) + 1,
    )


def draw(record: Study) -> None:
    """Accuracy, bytes and times against names."""
    rows = record.rows
    x = column(rows, "names")
    figure, axes = panels(3)
    look = looks(["fused", "base", "rows"])
    for name, key in (("base and memory", "accuracy"), ("base alone", "base_accuracy")):
        one = look["fused" if key == "accuracy" else "base"]
        axes[0].plot(x, 100 * column(rows, key), color=one.color, marker=one.marker, label=name)
    dress(axes[0], "real test regions", "names", "accuracy × 100")
    axes[0].legend(frameon=False, fontsize=8)
    axes[0].set_ylim(bottom=0)
    axes[1].plot(x, column(rows, "bytes") / 2**20, color=look["rows"].color, marker="o")
    for r in rows:
        note = f"{r['rows']:,} rows\n{r['simulated']:,} simulated"
        axes[1].annotate(note, (r["names"], r["bytes"] / 2**20), xytext=(0, 6), textcoords="offset points", fontsize=7,
                         ha="center")  # fmt: skip
    dress(axes[1], "memory", "names", "MiB")
    axes[1].margins(0.25)
    for key, title in (("seconds_to_learn", "learn all rows (s)"), ("seconds_to_read_names", "read all names (s)"),
                       ("milliseconds_a_region", "answer a region (ms)")):  # fmt: skip
        axes[2].plot(x, column(rows, key), marker="o", label=title)
    dress(axes[2], "time", "names", "")
    axes[2].set_yscale("log")
    axes[2].legend(frameon=False, fontsize=8)
    for ax in axes:
        ax.set_xscale("log")
    record.figure(figure)
