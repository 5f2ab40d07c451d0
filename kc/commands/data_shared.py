"""What the sub-commands of `kc data` share: where data lies, files, tables, bars."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kc.errors import DataError, RunError
from kc.types import SplitName

if TYPE_CHECKING:
    from rich.console import Console

    from kc.data.manifest import Manifest


def has(manifest: Manifest, part: SplitName) -> None:
    if part not in manifest.splits:
        raise DataError(f"{manifest.name} has no part {part!r}; it has {', '.join(manifest.splits)}")


def folder_of(manifest: Manifest, data_root: Path | None) -> str | None:
    """The folder of a benchmark's data, None where it is not here."""
    from kc.data.readers.open import resolve_data_root

    if manifest.source.reader == "embedded":
        return "in the installed packages"
    try:
        return str(resolve_data_root(manifest, data_root))
    except DataError:
        return None


def write(path: Path, content: bytes) -> None:
    """A file that is there complete or not at all."""
    temporary = path.with_name(f".{path.name}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_bytes(content)
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise RunError(f"cannot write {path}: {error.strerror or error}") from error


def terminal() -> Console:
    from rich.console import Console

    # In a file or a pipe there is no width to keep to.
    return Console(markup=False) if sys.stdout.isatty() else Console(markup=False, width=160)


@contextmanager
def bars(unit: str = "images") -> Iterator[Callable[[str, int, int | None], Any]]:
    """A function (name, done, total) that draws one bar a name, one after another; see `kc.progress`."""
    from rich.console import Console

    from kc import progress

    with progress.bars(Console(stderr=True)) as drawn, ExitStack() as open_bars:
        shown: dict[str, progress.Bar] = {}

        def advance(name: str, done: int, total: int | None) -> None:
            if name not in shown:
                open_bars.close()  # the one before is done
                shown[name] = open_bars.enter_context(progress.one_bar(drawn, name, total, unit))
            shown[name].reach(done)

        yield advance


def number(value: int | None) -> str:
    return "" if value is None else f"{value:,}"
