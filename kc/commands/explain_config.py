"""What `kc explain` is asked to do: the typed signature behind its command line. Loads in milliseconds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from kc.parsing import parser, values_of


@dataclass(frozen=True)
class ExplainConfig:
    """Show which rows of a memory decided what an image is. What is not given is as in the run that made the memory.

    Args:
        image: Image file, or a sample of the benchmark such as test/7; a sample that is stored does not vote on itself.
        point: In a memory of regions, the region at this pixel, ROW,COLUMN; default: the largest.
        memory: Folder of the memory; default: that of --run.
        run: Run folder; default: the one that holds the memory.
        benchmark: Benchmark whose classes, input size and images are meant.
        data_root: Folder that holds the data sets; default: the environment variable KC_DATA.
        encoder: Encoder of the keys.
        k: Neighbours that vote.
        vote: plurality, distance, softmax, rank or tip.
        tau: Temperature of the softmax vote.
        alpha: Offset of the rank vote.
        tip_beta: Sharpness of the tip vote.
        at: The memory as it was after this task, counted from 1; default: the present.
        out: Picture to write (.png, .svg or .pdf); default: explain-IMAGE.png.
    """

    image: str
    point: str | None = None
    memory: Path | None = None
    run: Path | None = None
    benchmark: str | None = None
    data_root: Path | None = None
    encoder: str | None = None
    k: int | None = None
    vote: str | None = None
    tau: float | None = None
    alpha: float | None = None
    tip_beta: float | None = None
    at: int | None = None
    out: Path | None = None


def main(arguments: Sequence[str], prog: str) -> int:
    """`kc explain`. Returns the exit status."""
    p = parser(prog, ExplainConfig, "Show which rows of a memory decided what an image is.", ("image",))
    config = ExplainConfig(**values_of(p, arguments))
    from kc.commands.explain import run_explain

    return run_explain(config)
