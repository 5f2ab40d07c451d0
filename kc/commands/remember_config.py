"""What `kc remember` and `kc forget` are asked to do: the typed signatures behind their command lines."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from kc.errors import KcError
from kc.parsing import parser, values_of

DEFAULTS: dict[str, str | int] = {"encoder": "lite0", "proposals": "superpixels", "keys": "pooled", "size": 224}
"""How keys of a new memory are made where it is not said."""


@dataclass(frozen=True)
class RememberConfig:
    """Teach a memory what a few pictures show. Where the thing is may be said by files beside `photo.jpg`:
    photo.mask.png (not 0: the thing), boxes.csv (image,x,y,width,height), annotations.json (COCO), or photo.json
    (LabelMe); without one it is all over the picture.

    Args:
        folder: Folder of pictures that show the thing.
        name: What it is called; any characters.
        memory: Folder of the memory; a new one is made where there is none.
        outside: Name under which what lies outside the masks is remembered too.
        run: Run folder that says how keys are made, for a memory that was moved out of its run.
        encoder: New memory: encoder of the keys; default: lite0.
        proposals: New memory: where regions come from, superpixels or felzenszwalb, or none to remember whole images;
            default: superpixels.
        keys: New memory: how a region becomes a key, pooled or masked; default: pooled.
        size: New memory: side in pixels to which images are resized for the encoder; default: 224.
    """

    folder: Path
    name: str | None = None
    memory: Path | None = None
    outside: str | None = None
    run: Path | None = None
    encoder: str | None = None
    proposals: str | None = None
    keys: str | None = None
    size: int | None = None


@dataclass(frozen=True)
class ForgetConfig:
    """Erase a name and every row of it from every version of a memory, and prove it.

    Args:
        name: What is to be forgotten.
        memory: Folder of the memory.
    """

    name: str
    memory: Path | None = None


def main(arguments: Sequence[str], prog: str) -> int:
    """`kc remember`. Returns the exit status."""
    p = parser(prog, RememberConfig, "Teach a memory a new thing from a few pictures.", ("folder",))
    config = RememberConfig(**values_of(p, arguments))
    if config.name is None or config.memory is None:
        raise KcError("say what is taught to whom: --name NAME and --memory DIR")
    if config.size is not None and not 32 <= config.size <= 1024:
        raise KcError(f"--size {config.size}: must be from 32 to 1024 pixels")
    from kc.commands.remember import run_remember

    return run_remember(config)


def main_forget(arguments: Sequence[str], prog: str) -> int:
    """`kc forget`. Returns the exit status: 1 where something was still found."""
    p = parser(prog, ForgetConfig, "Erase a name from a memory, with proof.", ("name",))
    config = ForgetConfig(**values_of(p, arguments))
    if config.memory is None:
        raise KcError("say which memory: --memory DIR")
    from kc.commands.remember import run_forget

    return run_forget(config)
