"""What `kc votes` is asked to do: the typed signature behind its command line. Loads in milliseconds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from kc.parsing import parser, values_of


@dataclass(frozen=True)
class VotesConfig:
    """Accuracy of every vote against k, from one search at the largest; pruning; planted label noise.

    Args:
        benchmark: Name of a benchmark of images, or path of a manifest (YAML).
        data_root: Folder that holds the data sets; default: the environment variable KC_DATA.
        encoder: Encoders, separated by commas.
        k: Numbers of neighbours, separated by commas.
        queries: test (the test images) or leave-one-out (each training image asks all others).
        tau: Temperature of the softmax vote.
        alpha: Offset of the rank vote.
        beta: Sharpness of the Tip-Adapter vote, exp(-beta (1 - cosine)).
        noise: Also plant wrong labels in the memory, these per cent of them, and look for them: 0,10,20,30,40,50,60.
        prune: Also prune by leave-one-out votes: rows kept against accuracy on the test images.
        limit_images: At most so many images a split, for a quick look.
        seed: Seed of the planted labels.
        out: Folder for the results.
    """

    benchmark: str = "digits"
    data_root: Path | None = None
    encoder: str = "lite0"
    k: str = "1,4,16,64"
    queries: str = "test"
    tau: float = 0.07
    alpha: float = 2.0
    beta: float = 5.5
    noise: str | None = None
    prune: bool = False
    limit_images: int | None = None
    seed: int = 0
    out: Path = Path("runs/votes")


def main(arguments: Sequence[str], prog: str) -> int:
    """`kc votes`. Returns the exit status."""
    p = parser(prog, VotesConfig, "Accuracy of every vote against k; pruning; planted label noise.")
    config = VotesConfig(**values_of(p, arguments))
    from kc.commands.votes import run_votes

    return run_votes(config)
