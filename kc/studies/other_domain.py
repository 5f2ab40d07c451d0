"""Study 10: a memory of one benchmark asked about the other, and how few rows of the new one recover the loss."""

from __future__ import annotations

from functools import partial

import numpy as np
from rich.console import Console
from torch import Tensor

from kc.errors import KcError
from kc.studies.config import StudyConfig
from kc.studies.drawing import lines
from kc.studies.record import Row, Study, panels
from kc.studies.scenes import Bench, Regions, best_of, both, remembered
from kc.studies.tuning import alone, given, shown

FOREIGN_ID = 10_000
"""Rows whose class the queried benchmark lacks are numbered from here: they take places, and win nothing."""
SIZES = (0, 10, 30, 100, 300, 1_000, 3_000)


def study(config: StudyConfig, console: Console) -> Study:
    """A row a direction and number of new rows: memory alone and fused, with and without the rows of the other
    benchmark, which keep their names: classes with a name or synonym in common are one."""
    pair = both(config, console)
    record = Study(
        config.out, "other-domain", {str(i): bench.settings(config) for i, bench in enumerate(pair)} | {"k": config.k}
    )
    for asked, origin in (pair, pair[::-1]):
        names = translation(origin, asked)
        shared = len({c for c in names.values() if c < FOREIGN_ID})
        if not shared:
            raise KcError(f"{origin.name} and {asked.name} have no name in common: nothing could be carried over")
        foreign = origin.train.named
        foreign = Regions(
            foreign.keys, foreign.codes, np.array([names[int(c)] for c in foreign.label]), foreign.image + 1_000_000
        )
        own = asked.train.named
        own = own.at(np.random.default_rng(config.seed).permutation(len(own.label)))
        said = asked.says(asked.test)
        what = {"asked": asked.name, "origin": origin.name, "shared_classes": shared, "classes": len(asked.ids)}
        record.row(f"{asked.name} base", partial(of_base, asked, said, what))
        for n in [*(n for n in SIZES if n < len(own.label)), len(own.label)]:
            for with_foreign in (True, False):
                if n or with_foreign:
                    rows = joined_rows(foreign, own, n) if with_foreign else own.at(np.arange(n))
                    name = f"memory of {origin.name} + new rows" if with_foreign else "new rows alone"
                    values = {**what, "memory": name, "new_rows": n, "rows": len(rows.label)}
                    record.row(f"{asked.name} {n} {with_foreign}", partial(row, asked, rows, said, values, config.k))
    draw(record, pair)
    return record


def translation(origin: Bench, asked: Bench) -> dict[int, int]:
    """Class id of `origin` -> id of the class of `asked` that has a name or synonym in common (the same first name
    wins); FOREIGN_ID + id where there is none."""
    named = {n.casefold(): c.id for c in reversed(asked.classes.values()) for n in c.synonyms}
    named |= {c.name.casefold(): c.id for c in asked.classes.values()}
    found = {}
    for c in origin.classes.values():
        own = [n.casefold() for n in (c.name, *c.synonyms)]
        found[c.id] = next((named[n] for n in own if n in named), FOREIGN_ID + c.id)
    return found


def joined_rows(foreign: Regions, own: Regions, n: int) -> Regions:
    """All foreign rows and the first `n` of the own ones."""
    parts = zip(vars(foreign).values(), vars(own.at(np.arange(n))).values(), strict=True)
    return Regions(*(np.concatenate([a, b]) for a, b in parts))


def of_base(asked: Bench, said: Tensor, what: Row) -> Row:
    """The base alone."""
    return {**what, "memory": "none", "answer": "base alone", **asked.score(best_of(said, asked.ids))}


def row(asked: Bench, rows: Regions, said: Tensor, values: Row, k: int) -> Row:
    """Base and memory together; the memory's own vote beside it."""
    with remembered(rows) as memory:
        fused = shown(asked, memory, said, given(k))
        by_memory = alone(asked, memory, k)
    return {**values, "answer": "fused", **fused, **{f"memory_{name}": value for name, value in by_memory.items()}}


def draw(record: Study, pair: tuple[Bench, Bench]) -> None:
    """The queried benchmark's metric against rows of its own, a panel a direction."""
    figure, axes = panels(2, width=4.6)
    for ax, bench in zip(axes, pair, strict=True):
        rows = [r for r in record.rows if r["asked"] == bench.name]
        base, fused = rows[0], [r for r in rows if r["answer"] == "fused"]
        lines(
            ax, fused, "new_rows", bench.metric, "memory", x_name=f"rows of {bench.name}", title=f"asked: {bench.name}"
        )
        ax.axhline(100 * base[bench.metric], color="#7f7f7f", linestyle=":", linewidth=1, label="base alone")
        ax.set_xscale("symlog", linthresh=10)
        ax.set_xlim(left=-1)
        ax.set_ylim(bottom=0)
        ax.legend(framealpha=1, edgecolor="white", fontsize=8)
    record.figure(figure)
