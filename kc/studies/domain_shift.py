"""Study 4: the base on whole images, crops and masked crops, and retrieval among them."""

from __future__ import annotations

import dataclasses
from functools import partial

import numpy as np
from rich.console import Console

from kc.report.style import looks
from kc.studies.config import StudyConfig
from kc.studies.crops import Views, views
from kc.studies.record import Row, Study, dress, panels
from kc.studies.scenes import Bench, Regions, best_of, remembered, voted
from kc.types import VOID, Float32Array, Int64Array

RETRIEVALS = (("full", "full"), ("full", "masked"), ("masked", "masked"))
"""(what the memory stores, what asks)."""


def study(config: StudyConfig, console: Console) -> Study:
    """A row an answer: the base on each view of a region; retrieval with stored and asking views, alike and not."""
    bench = Bench(config, console, config.benchmark, config.proposals)
    record = Study(config.out, "domain-shift", bench.settings(config) | {"k": config.k})
    stored, asked = views(bench, "train"), views(bench, "test")
    for name, what in (("whole", "whole image"), ("full", "full crop"), ("masked", "masked crop")):
        record.row(f"base {name}", partial(of_base, bench, asked, name, f"base on the {what}"))
    for key, query in RETRIEVALS:
        record.row(f"{key} {query}", partial(of_memory, bench, stored.keys[key], asked.keys[query], key, query, config))
    record.row("pooled", partial(of_pooled, bench, config))
    draw(record)
    return record


def of_base(bench: Bench, asked: Views, view: str, what: str) -> Row:
    """The base on one view."""
    regions = dataclasses.replace(bench.test, codes=asked.codes[view])
    return {"answer": what, **bench.score(best_of(bench.says(regions), bench.ids))}


def of_memory(
    bench: Bench, stored: Float32Array, asked: Float32Array, key: str, query: str, config: StudyConfig
) -> Row:
    """The vote of a memory of one view, asked with another."""
    rows = dataclasses.replace(bench.train, keys=stored).named
    what = f"retrieval: {query} crops ask {key} ones"
    return {"answer": what, **bench.score(answers(bench, rows, asked, config.k))}


def of_pooled(bench: Bench, config: StudyConfig) -> Row:
    """Retrieval by keys pooled from the image's feature map: no crop at all."""
    return {"answer": "retrieval: pooled from the map", **bench.score(
        answers(bench, bench.train.named, bench.test.keys, config.k)
    )}  # fmt: skip


def answers(bench: Bench, rows: Regions, asked: Float32Array, k: int) -> Int64Array:
    """The memory's vote for each key asked."""
    with remembered(rows) as memory:
        found = voted(memory.search(asked, k), bench.ids)
    return np.where(np.isin(found, bench.ids), found, VOID)


def draw(record: Study) -> None:
    """Accuracy over regions and over classes, a bar an answer."""
    rows = record.rows
    names = [row["answer"] for row in rows]
    look = looks(["base", "retrieval"])
    figure, axes = panels(2, width=5.2)
    for ax, metric in zip(axes, ("accuracy", "mean_class_accuracy"), strict=True):
        values = [100 * row[metric] for row in rows]
        ax.barh(names, values, color=[look[n.split()[0].rstrip(":")].color for n in names], height=0.65)
        for at, value in enumerate(values):
            ax.text(value, at, f" {value:.1f}", va="center", fontsize=8, color="#333333")
        ax.invert_yaxis()
        dress(ax, metric.replace("_", " "), "× 100", "")
        ax.margins(x=0.15)
    axes[1].set_yticklabels([])
    record.figure(figure)
