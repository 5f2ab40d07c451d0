"""Error against the number of rows, the fitted law, and which encoder buys the error with fewer bytes."""

from __future__ import annotations

from functools import cache

import numpy as np
from matplotlib.figure import Figure

from kc.memory.vote.evaluation import is_correct
from kc.memory.vote.votes import VOTES
from kc.report.style import looks
from kc.studies.record import Row, column, dress, panels
from kc.studies.visual_memory.axes import log_axes
from kc.studies.visual_memory.command import Asked
from kc.studies.visual_memory.keys import Keys, memory_of
from kc.studies.visual_memory.law import Law, axis, fit_law

QUERIES = 2_000
"""Test rows that are asked, at random with seed 0: cells are a million."""
KINDS = tuple(VOTES)


def sizes(n_rows: int) -> list[int]:
    """Powers of the square root of ten from 100 on, and all rows."""
    found = [round(10 ** (e / 2)) for e in range(4, 40)]
    return [n for n in found if n < 0.9 * n_rows] + [n_rows]


def run(asked: Asked) -> Figure:
    """A row an encoder, size and seed: error of each vote; then a row an encoder: the law of the rank vote at k, its
    interval, predicted sizes, and the parameters of the encoder."""
    for name in asked.encoders:
        train = asked.source.keys(name, "train")

        @cache
        def queries(name: str = name) -> Keys:
            test = asked.source.keys(name, "test")
            chosen = np.random.default_rng(0).permutation(len(test))[:QUERIES]
            return test.take(np.sort(chosen))

        for size in sizes(len(train)):
            for seed in asked.seeds if size < len(train) else asked.seeds[:1]:

                def row(size: int = size, seed: int = seed, train: Keys = train, name: str = name) -> Row:
                    order = np.random.default_rng([seed, 77]).permutation(len(train))[:size]
                    asked_keys = queries(name)
                    with memory_of(train.take(np.sort(order))) as memory:
                        found = memory.search(asked_keys.key, asked.clamp(asked.k, size))
                    right = {k: is_correct(found, asked_keys.label, k, **asked.knobs).mean() for k in KINDS}
                    error = {f"error {kind}": 100 * float(1 - share) for kind, share in right.items()}
                    size_mb = size * train.key.shape[1] * 4 / 2**20
                    return {"encoder": name, "rows": size, "seed": seed, "memory MiB": size_mb, **error}

                asked.study.row(f"{name} {size} {seed}", row)
    laws = {name: law_of(asked, name) for name in asked.encoders}
    for name, law in laws.items():
        if law is not None:
            asked.study.row(f"law {name}", lambda name=name, law=law: summary(asked, name, law))  # type: ignore[misc]
    return drawn(asked, laws)


def points(asked: Asked, name: str) -> list[Row]:
    """The measured rows of an encoder."""
    return [r for r in asked.study.rows if r["encoder"] == name and "seed" in r]


def law_of(asked: Asked, name: str) -> Law | None:
    """The law of the rank vote over the mean of the seeds at each size."""
    rows = points(asked, name)
    size, error = column(rows, "rows"), column(rows, "error rank")
    distinct = np.unique(size)
    return fit_law(distinct, np.array([error[size == s].mean() for s in distinct]))


def summary(asked: Asked, name: str, law: Law) -> Row:
    """The law as a row of the table: rows that an error takes, and the memory's keys and the encoder in float32."""
    network = asked.source.encoder(name)
    n_parameters = sum(p.numel() for p in network.parameters())
    row_mb = points(asked, name)[0]["memory MiB"] / points(asked, name)[0]["rows"]
    predicted = {}
    for error in asked.wanted:
        predicted[f"rows for {error:g} %"] = law.rows(error)
        predicted[f"MiB for {error:g} %"] = n_parameters * 4 / 2**20 + row_mb * law.rows(error)
    return {
        "encoder": name, "slope": law.slope, "slope low": law.slope_low, "slope high": law.slope_high,
        "intercept": law.intercept, "R2": law.r2, "points": law.n,
        "encoder parameters": n_parameters,
        **{what: value if np.isfinite(value) else None for what, value in predicted.items()},
    }  # fmt: skip


def drawn(asked: Asked, laws: dict[str, Law | None]) -> Figure:
    """Left the paper's axes, rank vote; right the same errors against the bytes of the memory."""
    figure, (left, right) = panels(2, width=4.6, height=3.6)
    look = looks(list(asked.encoders))
    ticks: set[int] = set()
    for name in asked.encoders:
        rows, style = points(asked, name), look[name]
        size, error = column(rows, "rows"), column(rows, "error rank")
        shown = error > 0
        ticks |= {int(s) for s in size}
        left.scatter(
            axis(size[shown]), np.log10(error[shown]), s=16, color=style.color, marker=style.marker, label=name
        )
        right.scatter(column(rows, "memory MiB")[shown], error[shown], s=16, color=style.color, marker=style.marker)
        law = laws[name]
        if law is None:
            continue
        line = np.geomspace(size.min(), 10 * size.max(), 60)
        low, high = law.band(line)
        left.plot(axis(line), np.log10(law.error(line)), color=style.color, linewidth=1.2)
        left.fill_between(axis(line), np.log10(low), np.log10(high), color=style.color, alpha=0.15, linewidth=0)
    decades = [10**e for e in range(1, 10) if min(ticks) / 2 <= 10**e <= 20 * max(ticks)]
    left.set_xticks([float(axis(float(d))) for d in decades], [f"$10^{{{int(np.log10(d))}}}$" for d in decades])
    left.legend(fontsize=8, frameon=False)
    dress(
        left, f"{asked.source.manifest.name}, {asked.source.kind}, rank vote, k = {asked.k}",
        "rows (axis: log10 log10)", "log10 of the error in %",
    )  # fmt: skip
    log_axes(right, y=True)
    dress(right, "what the error costs in memory", "memory, MiB", "error, %")
    return figure
