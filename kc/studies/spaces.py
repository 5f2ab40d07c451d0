"""How far masked features lie from full ones, before and after retrieval.

Measured by the maximum mean discrepancy between two samples, with a permutation test (Gretton et al. 2012, JMLR 13).
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import numpy as np
import numpy.typing as npt
from matplotlib.figure import Figure

from kc.errors import MissingExtraError
from kc.report.style import looks
from kc.studies.base import Row
from kc.studies.figures import legend, panels, style_axes
from kc.studies.keys import memory_of
from kc.studies.options import RegionOptions, StudySpec
from kc.studies.regions import RegionStudy, views
from kc.types import VOID, Float32Array

Matrix = npt.NDArray[np.floating]
TIMES = 500
"""Permutations."""
MOST = 600
"""Regions at most."""


class Spaces(RegionStudy[RegionOptions]):
    """MMD^2 of masked test crops to full ones, of what retrieval puts in their place, and of two halves of the full
    ones (what no shift looks like). Picture: t-SNE of all three.

    Retrieval: a masked crop is the query to a memory of masked training crops, and the mean of its neighbours' full
    crops takes its place.
    """

    spec = StudySpec(
        summary="How far masked features lie from full ones (MMD), before and after retrieval.",
        plots="t-SNE before and after retrieval, and the distances",
        paper="Gretton et al. 2012, JMLR 13; arXiv 2601.12779",
        options=RegionOptions,
    )

    def run(self) -> Figure:
        bench, seed = self.bench, self.options.seed
        stored, queries = views(bench, "train"), views(bench, "test")
        rng = np.random.default_rng(seed)
        chosen = np.sort(rng.permutation(np.flatnonzero(bench.test.label != VOID))[:MOST])
        full, masked = queries.keys["full"][chosen], queries.keys["masked"][chosen]
        # Unlabelled regions are stored too: their class is not read.
        rows = replace(bench.train, keys=stored.keys["masked"], label=np.zeros_like(bench.train.label))
        with memory_of(rows.rows()) as memory:
            found = memory.search(masked, self.options.k).id
        mean = stored.keys["full"][found].mean(1)
        retrieved: Float32Array = mean / np.linalg.norm(mean, axis=1, keepdims=True)
        half = rng.permutation(len(full))
        halves = full[half[: len(half) // 2]], full[half[len(half) // 2 :]]
        # One kernel for all: distances under kernels of different widths cannot be compared.
        _, gamma = kernel(full, masked)
        for name, x, y, paired in (
            ("full against full (two halves)", *halves, False),
            ("masked against full", masked, full, True),
            ("retrieved against full", retrieved, full, True),
        ):
            self.row(name, partial(compared, name, x, y, gamma, seed, paired=paired))
        return self.draw({"full": full, "masked": masked, "retrieved": retrieved})

    def draw(self, samples: dict[str, Float32Array]) -> Figure:
        try:
            from sklearn.manifold import TSNE
        except ImportError as error:
            needs = "the picture of spaces needs scikit-learn: pip install 'kc-continual[studies]'"
            raise MissingExtraError(needs) from error
        sizes = np.cumsum([0, *(len(x) for x in samples.values())])
        both = np.concatenate(list(samples.values()))
        perplexity = float(min(30, max(2, (len(both) - 1) // 3)))
        at = TSNE(random_state=self.options.seed, perplexity=perplexity, init="pca").fit_transform(both)
        place = {name: at[sizes[i] : sizes[i + 1]] for i, name in enumerate(samples)}
        look = looks(list(samples))
        figure, axes = panels(3, width=4)
        for ax, name, title in ((axes[0], "masked", "before retrieval"), (axes[1], "retrieved", "after retrieval")):
            for one in ("full", name):
                x, y = place[one].T
                ax.scatter(x, y, s=6, color=look[one].color, label=one, linewidths=0, alpha=0.7)
            style_axes(ax, f"{title} (t-SNE)", "", "")
            ax.set(xticks=[], yticks=[])
            legend(ax)
        rows, ax = self.rows, axes[2]
        names = [r["compared"].replace(" against", "\nagainst") for r in rows]
        colors = [look[n].color for n in ("full", "masked", "retrieved")]
        ax.barh(names, [r["mmd2"] for r in rows], height=0.6, color=colors)
        for i, r in enumerate(rows):
            ax.text(max(r["mmd2"], 0), i, f" {r['mmd2']:.3f}, p {r['p']:.3f}", va="center", fontsize=8)
        ax.invert_yaxis()
        ax.margins(x=0.35)
        style_axes(ax, "distance to full features", "MMD²", "")
        return figure


def compared(name: str, x: Float32Array, y: Float32Array, gamma: float, seed: int, *, paired: bool) -> Row:
    """MMD^2 of two samples and its p-value; where they are two views of the same regions, their mean cosine too."""
    k, _ = kernel(x, y, gamma)
    value, p = permutation_test(k, len(x), TIMES, seed)
    same = float((x * y).sum(1).mean()) if paired else float("nan")
    return {"compared": name, "n": len(x), "m": len(y), "mmd2": value, "p": p, "cosine_of_pairs": same}


def kernel(x: Matrix, y: Matrix, gamma: float | None = None) -> tuple[npt.NDArray[np.float64], float]:
    """Gaussian kernel exp(-gamma |a - b|^2) of the joint sample (N + M, N + M), and gamma.

    gamma defaults to 1 / the median of the squared distances between different points (the median heuristic; 1 where
    that is 0).
    """
    both = np.concatenate([x, y]).astype(np.float64)
    norm = (both**2).sum(1)
    squared = np.maximum(norm[:, None] + norm[None] - 2 * both @ both.T, 0)
    if gamma is None:
        middle = float(np.median(squared[np.triu_indices(len(both), 1)]))
        gamma = 1 / middle if middle > 0 else 1.0
    return np.exp(-gamma * squared), gamma


def mmd2(k: npt.NDArray[np.float64], n: int) -> float:
    """Unbiased MMD^2 (eq. 3) from the joint kernel matrix, whose first `n` rows are one sample. May be below 0.

    ValueError unless both samples have two points.
    """
    m = len(k) - n
    if min(n, m) < 2:
        raise ValueError(f"both samples need two points, got {n} and {m}")
    xx, yy, xy = k[:n, :n], k[n:, n:], k[:n, n:]
    return float((xx.sum() - np.trace(xx)) / (n * (n - 1)) + (yy.sum() - np.trace(yy)) / (m * (m - 1)) - 2 * xy.mean())


def permutation_test(k: npt.NDArray[np.float64], n: int, times: int, seed: int) -> tuple[float, float]:
    """MMD^2 and the share of `times` random divisions, the real one counted in, whose MMD^2 is at least as large."""
    real, rng = mmd2(k, n), np.random.default_rng(seed)
    total, m = len(k), len(k) - n
    inner, diagonal, larger = k.sum(), np.diag(k), 1
    for _ in range(times):
        side = np.zeros(total)
        side[rng.permutation(total)[:n]] = 1
        row = k @ side
        xx, xy = float(side @ row), float((1 - side) @ row)
        yy = float(inner) - xx - 2 * xy
        value = (xx - float(side @ diagonal)) / (n * (n - 1)) - 2 * xy / (n * m)
        value += (yy - float((1 - side) @ diagonal)) / (m * (m - 1))
        larger += value >= real - 1e-12
    return real, larger / (times + 1)
