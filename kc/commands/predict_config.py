"""What `kc predict` is asked to do: the typed signature behind its command line. Loads in milliseconds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from kc import actions
from kc.errors import KcError


@dataclass(frozen=True)
class PredictConfig:
    r"""Say what is on pictures, and by which rows of the memory it was decided.

    Args:
        source: Picture, folder of pictures, or video.
        run: Run folder: the stored state of one of its methods answers.
        memory: Folder of a memory that answers; of one that was copied out of its run, with --run.
        names: Names to choose among, separated by commas (write \, for a comma in a name); default: all it knows.
        method: Method of the run; default: the only one, or knn.
        seed: Seed of the method; default: the first one of the run.
        base: Open-vocabulary base beside the memory: none, conse, clip ...; default: that of the run.
        proposals: Where regions come from: superpixels or felzenszwalb; default: as the memory's keys were made.
        k: Neighbours that vote; default: as in the run.
        base_only: Show what the base alone says.
        memory_only: Show what the memory alone says; with --base-only both, and the two together, side by side.
        out: Folder to write NAME.png and NAME.json to, for each picture NAME.
    """

    source: Path
    run: Path | None = None
    memory: Path | None = None
    names: str | None = None
    method: str | None = None
    seed: int | None = None
    base: str | None = None
    proposals: str | None = None
    k: int | None = None
    base_only: bool = False
    memory_only: bool = False
    out: Path = Path("predictions")


def main(arguments: Sequence[str], prog: str) -> int:
    """`kc predict`. Returns the exit status: 1 where some pictures of a folder could not be read."""
    config = actions.read(PredictConfig, arguments, prog)
    if config is None:
        return 0
    if config.run is None and config.memory is None:
        raise KcError("say who answers: --run RUN or --memory DIR")
    if config.k is not None and config.k < 1:
        raise KcError(f"--k {config.k}: must be at least 1")
    from kc.commands.predict import run_predict

    return run_predict(config)
