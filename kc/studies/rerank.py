"""The top neighbours ordered again by a vision-language model, and the questions for a model outside."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache, partial

import numpy as np
from matplotlib.figure import Figure
from torch import Tensor

from kc.errors import KcError
from kc.memory.vote.evaluation import first_k, is_correct
from kc.methods.retrieval.rerank import check_reranker_name, load_reranker, prompts, rerank
from kc.report.style import looks
from kc.spec import Count
from kc.studies.base import Row, column
from kc.studies.figures import curve, legend, log_axes, panels, style_axes
from kc.studies.keys import VoteStudy
from kc.studies.options import StudySpec, VoteOptions
from kc.types import Neighbours

ORDERS = {"memory": "memory's order", "model": "model's order", "only the model": "only the model",
          "possible": "possible"}  # fmt: skip
"""What is scored -> its name in the figure."""


@dataclass(frozen=True)
class RerankOptions(VoteOptions):
    """Options of rerank.

    Args:
        model: conse, open_clip:MODEL[@FILE] or transformers:PATH.
        top: Neighbours that are ordered again.
    """

    model: str = "conse"
    top: Count = 50


class Rerank(VoteStudy[RerankOptions]):
    """A row a k and order: accuracy of the rank vote of the memory's order and of the model's; of the model alone over
    all classes; and how often the true class is among the neighbours at all. Also writes prompts.jsonl."""

    spec = StudySpec(
        summary="The top neighbours ordered again by a vision-language model.",
        plots="accuracy against k, a line an order",
        paper="arXiv 2408.08172",
        options=RerankOptions,
    )

    def run(self) -> Figure:
        source, model, top = self.source, self.options.model, self.options.top
        if source.kind != "images":
            raise KcError(f"rerank reads whole images; {self.of} is {source.manifest.task_kind}")
        check_reranker_name(model)
        train, test = self.both()
        ids = sorted(source.names)

        @cache
        def found() -> Neighbours:
            return self.answers(train, test.key, max(*self.ks, top))

        @cache
        def similar() -> Tensor:
            height, width = source.manifest.input_size
            reader = source.reader("test")
            images = [reader.read(i).image for i in range(len(reader))]
            names = [source.names[c].replace("_", " ") for c in ids]
            return load_reranker(model, (height, width)).similarity(images, names)

        def row(order: str, k: int) -> Row:
            if order == "only the model":
                right = np.asarray(ids)[similar().argmax(1).numpy()] == test.label
            elif order == "possible":
                right = (first_k(found(), k).class_id == test.label[:, None]).any(1)
            else:
                ordered = found() if order == "memory" else rerank(found(), similar(), ids, top)
                right = is_correct(first_k(ordered, k), test.label, "rank", **self.votes)
            return {
                "order": order, "k": k, "model": model, "top": top, "queries": len(test),
                "accuracy": 100 * float(right.mean()),
            }  # fmt: skip

        for k in sorted(self.ks):
            for order in ORDERS:
                self.row(f"{order} {k}", partial(row, order, k))
        sources = dict(enumerate(train.sample_id))
        self.record.write("prompts.jsonl", prompts(test.sample_id, found(), sources, source.names, top))
        figure, (ax,) = panels(1, width=5, height=3.4)
        look = looks(list(ORDERS))
        for order, label in ORDERS.items():
            rows = [r for r in self.rows if r["order"] == order]
            curve(ax, column(rows, "k"), column(rows, "accuracy"), look[order], label)
        log_axes(ax)
        legend(ax)
        style_axes(ax, f"{self.of}: top {top} ordered by {model}", "neighbours k", "accuracy, %")
        return figure
