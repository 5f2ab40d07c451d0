"""The top neighbours ordered again by a vision-language model, and the questions for a model outside."""

from __future__ import annotations

from functools import cache, partial

import numpy as np
from matplotlib.figure import Figure
from torch import Tensor

from kc.files import write_atomic
from kc.memory.vote.evaluation import first_k, is_correct
from kc.methods.retrieval.rerank import load_reranker, prompts, rerank
from kc.report.style import looks
from kc.studies.record import Row, column, dress, panels
from kc.studies.visual_memory.axes import log_axes
from kc.studies.visual_memory.command import Asked
from kc.types import Neighbours

ORDERS = ("memory", "model", "only the model", "possible")


def run(asked: Asked) -> Figure:
    """A row a k and order: accuracy of the rank vote of the memory's order and of the model's; of the model alone over
    all classes; and how often the true class is among the neighbours at all. Writes prompts.jsonl beside."""
    name, source, top = asked.encoders[0], asked.source, asked.config.top
    train, test = (source.keys(name, split) for split in ("train", "test"))
    ids = sorted(source.names)

    @cache
    def found() -> Neighbours:
        return asked.answers(train, test.key, max(*asked.ks, top))

    @cache
    def similar() -> Tensor:
        height, width = source.manifest.input_size
        model, reader = load_reranker(asked.config.model, (height, width)), source.reader("test")
        images = [reader.read(i).image for i in range(len(reader))]
        return model.similarity(images, [source.names[c].replace("_", " ") for c in ids])

    def row(order: str, k: int) -> Row:
        if order == "only the model":
            right = np.asarray(ids)[similar().argmax(1).numpy()] == test.label
        elif order == "possible":
            right = (first_k(found(), k).class_id == test.label[:, None]).any(1)
        else:
            ordered = found() if order == "memory" else rerank(found(), similar(), ids, top)
            right = is_correct(first_k(ordered, k), test.label, "rank", **asked.knobs)
        return {
            "order": order, "k": k, "model": asked.config.model, "top": top, "queries": len(test),
            "accuracy": 100 * float(right.mean()),
        }  # fmt: skip

    for k in sorted(asked.ks):
        for order in ORDERS:
            asked.study.row(f"{order} {k}", partial(row, order, k))
    sources = dict(enumerate(train.sample_id))
    write_atomic(asked.study.folder / "prompts.jsonl", prompts(test.sample_id, found(), sources, source.names, top))
    figure, (ax,) = panels(1, width=5, height=3.4)
    look = looks(list(ORDERS))
    for order in ORDERS:
        rows, style = [r for r in asked.study.rows if r["order"] == order], look[order]
        ax.plot(
            column(rows, "k"), column(rows, "accuracy"), color=style.color, marker=style.marker, markersize=4,
            dashes=style.dash or (), label={"memory": "memory's order", "model": "model's order"}.get(order, order),
        )  # fmt: skip
    log_axes(ax)
    ax.legend(fontsize=8, frameon=False)
    dress(ax, f"{source.manifest.name}: top {top} ordered by {asked.config.model}", "neighbours k", "accuracy, %")
    return figure
