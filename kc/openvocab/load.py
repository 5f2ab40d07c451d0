"""Names of open-vocabulary bases. This module loads neither torch nor a network until a base is asked for."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from kc.errors import KcError, unknown_name

if TYPE_CHECKING:
    from kc.encoders.base import Encoder
    from kc.openvocab.base import OpenVocabulary


def _conse(encoder: Encoder) -> OpenVocabulary:
    from kc.encoders.lite import Lite0
    from kc.encoders.text import load_text_encoder
    from kc.openvocab.conse import Conse

    if not isinstance(encoder, Lite0):
        raise KcError(f"base 'conse' reads the ImageNet posterior of encoder 'lite0', got {encoder.name!r}")
    return Conse(encoder, load_text_encoder())


BASES: dict[str, Callable[[Encoder], OpenVocabulary]] = {"conse": _conse}


def check_base_name(name: str) -> None:
    """Raise UnknownNameError unless `name` is a base; loads nothing."""
    if name not in BASES:
        raise unknown_name("base", name, BASES)


def load_base(name: str, encoder: Encoder) -> OpenVocabulary:
    """The base `name` over the features of `encoder`.

    Raises UnknownNameError for a name that does not exist, KcError where the encoder does not fit the base and
    MissingExtraError where the base's weights are not installed.
    """
    check_base_name(name)
    return BASES[name](encoder)
