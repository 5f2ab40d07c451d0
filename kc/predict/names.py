r"""Names of things as a user writes them: `car, traffic light, Salat\, gemischt, 猫`."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Mapping

from kc.errors import KcError, UnknownNameError, unknown_name

LONGEST = 200
"""Characters of a name."""


def split_names(text: str) -> list[str]:
    r"""The names in `text`, separated by commas; `\,` is a comma in a name and `\\` a backslash.

    Raises KcError for an empty list, an empty name, or a name that is there twice.
    """
    parts, current, escaped = [], "", False
    for character in text:
        if escaped:
            current += character if character in ",\\" else "\\" + character
            escaped = False
        elif character == "\\":
            escaped = True
        elif character == ",":
            parts.append(current)
            current = ""
        else:
            current += character
    parts.append(current + "\\" * escaped)
    names = [clean_name(part) for part in parts]
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise KcError(f"the name {name!r} is given twice")
        seen.add(name)
    return names


def clean_name(text: str) -> str:
    """One name in Unicode's composed form, blanks joined. Raises KcError where nothing is left or it cannot be shown.

    The composed form, so that `é` typed on one system is the `é` of another.
    """
    name = unicodedata.normalize("NFC", " ".join(text.split()))
    if not name:
        raise KcError(f"{text!r} is no name: give at least one character, and commas only between names")
    if len(name) > LONGEST:
        raise KcError(f"the name {name[:40]!r}... has {len(name)} characters; at most {LONGEST}")
    if any(unicodedata.category(character) in ("Cc", "Cs") for character in name):
        raise KcError(f"the name {name!r} holds a control character")
    return name


def new_id(taken: Iterable[int]) -> int:
    """The id after the highest one taken."""
    return max([-1, *taken]) + 1


def _unknown(name: str, known: Iterable[str], where: str) -> UnknownNameError:
    return UnknownNameError(f"{unknown_name('name', name, known)} These are the names of {where}.")


def ids_of(names: Iterable[str], known: Mapping[int, str], more: bool, where: str) -> dict[int, str]:
    """Id -> name of the `names` asked for, in their order; those that are not `known` get new ids where `more` may be.

    Raises UnknownNameError, with the nearest, for a name that is not known, and says `where` it was looked for.
    """
    by_name = {name: id_ for id_, name in known.items()}
    found: dict[int, str] = {}
    for name in names:
        if name not in by_name and not more:
            raise _unknown(name, by_name, where)
        id_ = by_name[name] if name in by_name else new_id([*known, *found])
        found[id_] = name
    return found
