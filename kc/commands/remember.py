"""`kc remember`: store what images show under a name."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from annotated_types import Ge, Le

from kc.actions import FLAG
from kc.commands.console import Terminal
from kc.commands.memory import next_task
from kc.errors import DataError, KcError, stopped, unknown_name
from kc.spec import LinkOptions, Whole

if TYPE_CHECKING:
    from kc.config import RunConfig
    from kc.predict.edit import Added
    from kc.predict.examples import ExampleImage, Examples
    from kc.session import Facts, Session

NEW: dict[str, Any] = {"encoder": "lite0", "proposals": "superpixels", "keys": "pooled", "size": 224}
"""How keys of a new memory are made where it is not said."""


@dataclass(frozen=True, kw_only=True)
class RememberConfig(LinkOptions):
    """Add rows of a few images under a name. A mask beside `photo.jpg` says which pixels count: photo.mask.png (those
    that are not 0), boxes.csv (image,x,y,width,height), annotations.json (COCO), or photo.json (LabelMe); without one
    the whole image counts. Rows that are stored already are not stored twice.

    Args:
        images: Image or folder of images; without --name, folder of folders of images, each called by its name.
        memory: Folder of the memory; a new one is made where there is none.
        name: Name of the class; any characters.
        outside: Add the regions outside the masks too, under this name.
        source: Source of the new rows; default: remembered.
        task: Task as whose version they are committed, counted from 1; default: one after the newest.
        dry_run: Say what would be stored, and store nothing.
        encoder: New memory: encoder of the keys; default: lite0.
        proposals: New memory: where regions come from, superpixels or felzenszwalb, or none to remember whole images;
            default: superpixels.
        keys: New memory: how a region becomes a key; default: pooled.
        size: New memory: side in pixels to which images are resized for the encoder; default: 224.
    """

    images: Path
    memory: Annotated[Path, FLAG]
    name: str | None = None
    outside: str | None = None
    source: str | None = None
    task: Whole | None = None
    dry_run: bool = False
    encoder: str | None = None
    proposals: str | None = None
    keys: Literal["pooled", "masked"] | None = None
    size: Annotated[int, Ge(32), Le(1024)] | None = None


def run(config: RememberConfig) -> int:
    """`kc remember`. Returns the exit status. Raises KcError for what a user can act on; then nothing was stored."""
    from kc.predict.names import clean_name

    for name in filter(None, (config.name, config.outside)):
        clean_name(name)
    from kc.memory.disk import Memory
    from kc.memory.store.manifest import NAME
    from kc.methods.retrieval.visual_memory import REMEMBERED
    from kc.predict.edit import collect, create, open_session, store
    from kc.predict.examples import Examples
    from kc.session import Session
    from kc.stream.progress import RunProgress

    console = Terminal()
    folders = {name: Examples(folder) for name, folder in folders_of(config).items()}
    new = not (config.memory / NAME).exists()
    if new:
        made, facts = _new_settings(config)
        session = Session.open(made, facts) if config.dry_run else create(config.memory, made, facts)
    else:
        session = open_session(config.memory)
        _check_same(config, session)
    task = None if new else next_task(Memory.open(config.memory), config.task)
    n_images = sum(map(len, folders.values()))
    again = "the same command begins anew; what was stored is not stored twice"
    with stopped(again), RunProgress(console) as progress:
        with progress.bar("encoding", n_images, "images") as bar:
            shown = _each(folders, bar.advance)
            collected = collect(session, shown, config.outside, config.source or REMEMBERED)
        if new and config.dry_run:
            n_rows = sum(len(part) for own in collected.values() for part in own.rows)
            console.say(f"would make {config.memory} of {n_rows:,} rows from {n_images} pictures")
            return 0
        before = len(Memory.open(config.memory))
        added = store(config.memory, collected, task, config.dry_run)
    for what in added:
        console.say(_sentence(what))
    n_new = sum(what.rows for what in added)
    would = "would be " if config.dry_run else ""
    as_task = f"{would}task {1 if task is None else task + 1}" if n_new else "nothing new is committed"
    console.say(f"rows: {before:,} before, {before + n_new:,} after; {as_task}")
    console.say(f"memory: {config.memory}")
    return 0


def folders_of(config: RememberConfig) -> dict[str, Path]:
    """Name -> its image, or the folder of its images. DataError where that is not there, KcError without a name."""
    if not config.images.exists():
        raise DataError(f"{config.images}: no such image or folder")
    if config.images.is_file() and config.name is None:
        raise KcError(f"{config.images} is one image: say with --name what it shows")
    if config.name is not None:
        return {config.name: config.images}
    found = {path.name: path for path in sorted(config.images.iterdir()) if path.is_dir()}
    if not found:
        raise KcError(f"{config.images} holds no folders that are called what they show: say with --name what it shows")
    return found


def _each(folders: dict[str, Examples], advance: Callable[[], None]) -> Iterator[tuple[str, ExampleImage]]:
    for name, examples in folders.items():
        for shown in examples:
            yield name, shown
            advance()


def _sentence(added: Added) -> str:
    text = f"{added.name}: {added.rows:,} new rows from {added.images} picture{'s' * (added.images != 1)}"
    if added.known:
        text += f"; {added.known:,} were there already"
    if added.whole:
        text += f"; {added.whole} masks were smaller than any region and count as one region each"
    return text


def _check_same(config: RememberConfig, session: Session) -> None:
    """KcError for a flag that would make other keys than those of the memory; the flags that made it may stand."""
    run, whole = session.config, session.facts.kind == "classification"
    made: dict[str, object] = {
        "encoder": run.encoder,
        "proposals": "none" if whole else run.proposals,
        "keys": run.keys,
        "size": session.facts.input_size[0],
    }
    for name, value in made.items():
        if getattr(config, name) not in (None, value):
            raise KcError(f"--{name} {getattr(config, name)}: the keys of {config.memory} are made with {value}")


def _new_settings(config: RememberConfig) -> tuple[RunConfig, Facts]:
    from kc.config import RunConfig
    from kc.registry import PROPOSERS
    from kc.resolve import with_options
    from kc.session import Facts

    encoder, proposals, keys, size = (getattr(config, name) or default for name, default in NEW.items())
    if proposals not in (*PROPOSERS, "none"):
        raise unknown_name("proposals", proposals, [*PROPOSERS, "none"])
    run = RunConfig(methods="knn", encoder=encoder, keys=keys, proposals=proposals, decoder="fpn")
    return with_options(run), Facts("", "classification" if proposals == "none" else "semantic", (size, size), {})
