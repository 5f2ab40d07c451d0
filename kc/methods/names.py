"""A file of names that are asked for beside what was learned: one line a task."""

from __future__ import annotations

from pathlib import Path

from kc.errors import DataError, KcError

Name = tuple[str, ...]
"""A name and its synonyms."""


def read_names(path: Path) -> list[list[Name]]:
    """The names that each line adds: names separated by commas, synonyms by `|`; an empty line adds none.

    Line t (from 0) is that of task t. Raises KcError for a file that cannot be read, an empty name, or a name that
    stands twice in the file (upper and lower case are one).
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"names {path} cannot be read: {error}") from error
    found: list[list[Name]] = []
    known: dict[str, int] = {}
    for number, line in enumerate(lines, start=1):
        added: list[Name] = []
        for part in line.split(",") if line.strip() else []:
            name = tuple(synonym.strip() for synonym in part.split("|"))
            if not all(name):
                raise KcError(f"{path}, line {number}: an empty name in {line.strip()!r}")
            for synonym in name:
                if synonym.casefold() in known:
                    raise KcError(f"{path}, line {number}: {synonym!r} stands in line {known[synonym.casefold()]} too")
                known[synonym.casefold()] = number
            added.append(name)
        found.append(added)
    return found
