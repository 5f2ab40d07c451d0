"""What `kc serve` is asked to do: the typed signature behind its command line. Loads in milliseconds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from kc.errors import KcError
from kc.parsing import parser, values_of


@dataclass(frozen=True)
class ServeConfig:
    """A page in the browser over one memory: drop a picture, ask, see who decided, teach, forget.

    Args:
        memory: Folder of the memory (kc remember makes one).
        run: Run folder whose memory is meant.
        data_root: Folder that holds the data sets, for thumbnails of neighbours; default: that of the run, or KC_DATA.
        base: Open-vocabulary base beside the memory: none, conse, clip ...; default: that of the run.
        host: Address to listen on; anyone who reaches it may change the memory, so it is this computer alone.
        port: Port to listen on; 0 takes a free one.
    """

    memory: Path | None = None
    run: Path | None = None
    data_root: Path | None = None
    base: str | None = None
    host: str = "127.0.0.1"
    port: int = 7860


def main(arguments: Sequence[str], prog: str) -> int:
    """`kc serve`. Returns the exit status when it is stopped."""
    p = parser(prog, ServeConfig, "A page over a memory: ask, look at neighbours, teach and forget.")
    config = ServeConfig(**values_of(p, arguments))
    if (config.run is None) == (config.memory is None):
        raise KcError("say which memory: --memory DIR or --run RUN, one of them")
    if not 0 <= config.port < 65536:
        raise KcError(f"--port {config.port}: must be from 0 to 65535")
    from kc.commands.serve import run_serve

    return run_serve(config)
