"""Study 7: how far masked features lie from full ones, before and after retrieval."""

from __future__ import annotations

from functools import partial

import numpy as np
from rich.console import Console

from kc.errors import MissingExtraError
from kc.report.style import looks
from kc.studies.config import StudyConfig
from kc.studies.crops import views
from kc.studies.distance import kernel, permutation_test
from kc.studies.record import Row, Study, dress, panels
from kc.studies.scenes import Bench, Regions, remembered
from kc.types import VOID, Float32Array

TIMES = 500
MOST = 600


def study(config: StudyConfig, console: Console) -> Study:
    """MMD^2 of masked test crops to full ones, of what retrieval puts in their place, and of two halves of the full
    ones (what no shift looks like). Picture: t-SNE of all three.

    Retrieval: a masked crop asks a memory of masked training crops, and the mean of its neighbours' full crops takes
    its place.
    """
    bench = Bench(config, console, config.benchmark, config.proposals)
    record = Study(config.out, "spaces", bench.settings(config) | {"k": config.k, "permutations": TIMES, "most": MOST})
    stored, asked = views(bench, "train"), views(bench, "test")
    rng = np.random.default_rng(config.seed)
    chosen = np.sort(rng.permutation(np.flatnonzero(bench.test.label != VOID))[:MOST])
    full, masked = asked.keys["full"][chosen], asked.keys["masked"][chosen]
    rows = Regions(stored.keys["masked"], bench.train.codes, bench.train.label, bench.train.image)
    with remembered(rows) as memory:
        first = int(memory.labels().id[0])
        found = memory.search(masked, config.k).id - first
    retrieved = unit(stored.keys["full"][found].mean(1))
    half = rng.permutation(len(full))
    halves = full[half[: len(half) // 2]], full[half[len(half) // 2 :]]
    # One kernel for all: distances under kernels of different widths cannot be compared.
    _, gamma = kernel(full, masked)
    for name, x, y, paired in (
        ("full against full (two halves)", *halves, False),
        ("masked against full", masked, full, True),
        ("retrieved against full", retrieved, full, True),
    ):
        record.row(name, partial(compared, name, x, y, gamma, config.seed, paired=paired))
    draw(record, {"full": full, "masked": masked, "retrieved": retrieved}, config.seed)
    return record


def unit(keys: Float32Array) -> Float32Array:
    """L2-normalised rows."""
    result: Float32Array = keys / np.linalg.norm(keys, axis=1, keepdims=True)
    return result


def compared(name: str, x: Float32Array, y: Float32Array, gamma: float, seed: int, *, paired: bool) -> Row:
    """MMD^2 of two samples and its p-value; where they are two views of the same regions, their mean cosine too."""
    k, _ = kernel(x, y, gamma)
    value, p = permutation_test(k, len(x), TIMES, seed)
    same = float((x * y).sum(1).mean()) if paired else float("nan")
    return {"compared": name, "n": len(x), "m": len(y), "mmd2": value, "p": p, "cosine_of_pairs": same}


def draw(record: Study, samples: dict[str, Float32Array], seed: int) -> None:
    """One t-SNE of all samples, shown before and after retrieval; and the distances."""
    try:
        from sklearn.manifold import TSNE
    except ImportError as error:
        raise MissingExtraError(
            "the picture of spaces needs scikit-learn: pip install 'kc-continual[studies]'"
        ) from error
    sizes = np.cumsum([0, *(len(x) for x in samples.values())])
    joint = np.concatenate(list(samples.values()))
    perplexity = float(min(30, max(2, (len(joint) - 1) // 3)))
    at = TSNE(random_state=seed, perplexity=perplexity, init="pca").fit_transform(joint)
    place = {name: at[sizes[i] : sizes[i + 1]] for i, name in enumerate(samples)}
    look = looks(list(samples))
    figure, axes = panels(3, width=4)
    for ax, name, title in ((axes[0], "masked", "before retrieval"), (axes[1], "retrieved", "after retrieval")):
        for one in ("full", name):
            ax.scatter(
                place[one][:, 0], place[one][:, 1], s=6, color=look[one].color, label=one, linewidths=0, alpha=0.7
            )
        dress(ax, f"{title} (t-SNE)", "", "")
        ax.set(xticks=[], yticks=[])
        ax.legend(frameon=False, fontsize=8)
    rows = record.rows
    axes[2].barh([r["compared"].replace(" against", "\nagainst") for r in rows], [r["mmd2"] for r in rows], height=0.6,
                 color=[look[n].color for n in ("full", "masked", "retrieved")])  # fmt: skip
    for i, r in enumerate(rows):
        axes[2].text(max(r["mmd2"], 0), i, f" {r['mmd2']:.3f}, p {r['p']:.3f}", va="center", fontsize=8)
    axes[2].invert_yaxis()
    axes[2].margins(x=0.35)
    dress(axes[2], "distance to full features", "MMD²", "")
    record.figure(figure)
