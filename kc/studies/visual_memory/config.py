"""What `python experiments/visual_memory.py` is asked to do: the typed signature. Loads in milliseconds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from kc.parsing import parser, values_of

STUDIES = {
    "votes": "accuracy of every vote against k, for each encoder",
    "pruning": "rows kept against accuracy: hard, soft, greedy k-centre, random",
    "noise": "0 to 60 % random labels: what they cost, and how well they are found",
    "scaling": "error against the number of rows, on the paper's axes; small and large encoders",
    "unknowns": "classes that are not in memory: AUROC, FPR95; risk against coverage",
    "corruptions": "clean memory, corrupted queries: what swapping or adding memory recovers",
    "migrate": "from one encoder to another: old, migrated and re-encoded memories",
    "compositionality": "query minus its neighbour: is the second answer also in the scene?",
    "rerank": "the top neighbours ordered again by a vision-language model",
    "dimensions": "PCA, random projection, int8 and binary keys: accuracy against bytes",
    "deletion": "time of one deletion, and answers as if the rows had never been added",
}
"""Study -> what it answers."""


@dataclass(frozen=True)
class VisualMemoryConfig:
    """Studies of the visual memory: each writes a table (CSV), a figure (PNG, SVG) and a JSON, and resumes.

    Args:
        study: votes, pruning, noise, scaling, unknowns, corruptions, migrate, compositionality, rerank, dimensions or
            deletion.
        benchmark: Name of a benchmark, or path of a manifest (YAML). Segmentation: one row a true segment.
        queries: Benchmark of the test rows where it is another (imagenet-a, ninco): classes are matched by their names
            in the files, else by their names, and the memory keeps those that both have. unknowns: classes that the
            memory lacks are the unknown ones. Not in compositionality and rerank.
        data_root: Folder that holds the data sets; default: the environment variable KC_DATA.
        encoder: Encoders, separated by commas; the first is the one that is studied where one is enough.
        rows: What becomes a row: segments (segmentation's default), images (classification's) or cells (every
            position of the finest feature map, projected at random to --dim values: many real rows).
        k: Numbers of neighbours, separated by commas; studies that vary something else take the first.
        tau: Temperature of the softmax vote.
        alpha: Offset of the rank vote.
        beta: Sharpness of the Tip-Adapter vote.
        seeds: Seeds of what is drawn at random, separated by commas.
        dim: Values of a key of cells, and of the simulated rows of deletion.
        size: deletion: simulated rows of the timing.
        wanted: scaling: errors in per cent whose memory sizes are predicted, separated by commas.
        model: rerank: conse, open_clip:MODEL[@FILE] or transformers:PATH.
        top: rerank: neighbours that are ordered again.
        limit_images: At most so many images a split, for a quick look.
        published: Figures of papers to show beside: what -> per cent.
        out: Folder for the results; each benchmark and study gets a folder in it.
    """

    study: str
    benchmark: str = "digits"
    queries: str | None = None
    data_root: Path | None = None
    encoder: str = "lite0"
    rows: str | None = None
    k: str = "10,1,4,16,50,100"
    tau: float = 0.07
    alpha: float = 2.0
    beta: float = 5.5
    seeds: str = "0,1,2"
    dim: int = 64
    size: int = 1_000_000
    wanted: str = "5,2,1"
    model: str = "conse"
    top: int = 50
    limit_images: int | None = None
    published: dict[str, float] | None = None
    out: Path = Path("runs/visual_memory")


def main(arguments: Sequence[str], prog: str | None = None) -> int:
    """`python experiments/visual_memory.py`. Returns the exit status."""
    p = parser(prog, VisualMemoryConfig, "Studies of the visual memory.", ("study",))
    config = VisualMemoryConfig(**values_of(p, arguments))
    from kc.studies.visual_memory.command import run_study

    return run_study(config)
