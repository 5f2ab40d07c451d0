"""Names of proposers. Nothing heavy loads until one is asked for."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from kc.errors import unknown_name

if TYPE_CHECKING:
    from kc.proposals.base import Proposer


def _superpixels(**settings: Any) -> Proposer:
    from kc.proposals.superpixels import Superpixels

    return Superpixels(**settings)


def _felzenszwalb(**settings: Any) -> Proposer:
    from kc.proposals.felzenszwalb import Felzenszwalb

    return Felzenszwalb(**settings)


PROPOSERS: dict[str, Callable[..., Proposer]] = {"superpixels": _superpixels, "felzenszwalb": _felzenszwalb}
"""Proposers that need nothing but the image; ground truth as regions is `kc.proposals.oracle`."""


def load_proposer(name: str, **settings: Any) -> Proposer:
    """The proposer `name`; `settings` override its defaults.

    Raises:
        UnknownNameError: there is no such proposer.
        TypeError: it has no such setting.
    """
    if name not in PROPOSERS:
        raise unknown_name("proposals", name, PROPOSERS)
    return PROPOSERS[name](**settings)
