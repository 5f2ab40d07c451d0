"""Accuracy of every vote against k, for each encoder, from one search at the largest k."""

from __future__ import annotations

from functools import cache

from matplotlib.figure import Figure

from kc.memory.vote.evaluation import accuracies
from kc.memory.vote.votes import VOTES
from kc.report.style import looks
from kc.studies.record import column, dress, panels
from kc.studies.visual_memory.axes import log_axes
from kc.studies.visual_memory.command import Asked

MARKED = 12
"""Points of a line that are marked."""


def run(asked: Asked) -> Figure:
    """A row an encoder and k: accuracy of each vote in per cent."""
    source, ks = asked.source, sorted(asked.ks)
    for name in asked.encoders:

        @cache
        def found(name: str = name) -> tuple[dict[str, list[float]], int, int]:
            train, test = source.keys(name, "train"), source.keys(name, "test")
            scores = accuracies(asked.answers(train, test.key, ks[-1]), test.label, ks, **asked.knobs)
            return scores, len(train), len(test)

        for i, k in enumerate(ks):

            def row(i: int = i, k: int = k, name: str = name) -> dict[str, object]:
                scores, n_rows, n_queries = found()
                accuracy = {kind: 100 * scores[kind][i] for kind in VOTES}
                return {"encoder": name, "k": k, "rows": n_rows, "queries": n_queries, **accuracy}

            asked.study.row(f"{name} {k}", row)
    figure, axes = panels(len(asked.encoders))
    look = looks(list(VOTES))
    for ax, name in zip(axes, asked.encoders, strict=True):
        rows = [r for r in asked.study.rows if r["encoder"] == name]
        for kind in VOTES:
            style = look[kind]
            ax.plot(
                column(rows, "k"), column(rows, kind), color=style.color, marker=style.marker, markersize=4,
                dashes=style.dash or (), label=kind, markevery=max(1, len(rows) // MARKED),
            )  # fmt: skip
        log_axes(ax)
        dress(ax, f"{asked.study.folder.parent.name}, {name}, {rows[0]['rows']:,} rows", "neighbours k", "accuracy, %")
    axes[0].legend(fontsize=8, frameon=False)
    return figure
