"""Names of proposers. Nothing heavy loads until one is asked for.

Beside those of the registry, `oracle` (the true segments) and `fc-clip` (the masks of the run's base) are names of
regions for which no proposer is loaded.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from kc.errors import unknown_name
from kc.registry import PROPOSERS, forms, load_class, proposer_spec

if TYPE_CHECKING:
    from kc.proposals.base import Proposer


def check_proposals(name: str, others: tuple[str, ...] = ("oracle",)) -> None:
    """Refuse a proposer that does not exist or lacks a file or package, before torch or any model is loaded.

    `others`: names that are valid here and mean no proposer. Raises UnknownNameError, MissingExtraError or KcError.
    The `check` of a spec is called with the argument and the whole name.
    """
    if name in others:
        return
    family, colon, argument = name.partition(":")
    if family not in PROPOSERS or bool(colon) != bool(proposer_spec(family).argument):
        raise unknown_name("proposals", name, [*forms("proposer"), *others])
    if check := proposer_spec(family).check:
        module, _, function = check.partition(":")
        getattr(importlib.import_module(module), function)(argument, name)


def reads_names(name: str) -> bool:
    """Whether proposer `name` looks for things by their names."""
    family = name.partition(":")[0]
    return family in PROPOSERS and proposer_spec(family).reads_names


def load_proposer(name: str, names: Sequence[str] = (), **settings: Any) -> Proposer:
    """The proposer `name`; `settings` override its defaults; `names`: what to look for, for one that reads names.

    Raises:
        UnknownNameError: there is no such proposer.
        MissingExtraError: a package or a checkpoint that it stands on is missing.
        TypeError: it has no such setting.
    """
    check_proposals(name, others=())
    family, colon, argument = name.partition(":")
    found = load_class("proposer", family)
    if proposer_spec(family).reads_names:
        settings["names"] = names
    make: Any = getattr(found, "load", found)
    proposer: Proposer = make(argument, **settings) if colon else make(**settings)
    return proposer
