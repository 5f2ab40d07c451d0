"""Names of encoders. This module loads neither torch nor a network until an encoder is asked for."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from kc.errors import unknown_name
from kc.registry import ENCODERS, encoder_spec, forms, load_class
from kc.spec import EncoderSpec

if TYPE_CHECKING:
    from kc.encoders.base import Encoder


def check_encoder_name(name: str) -> EncoderSpec:
    """The spec of encoder `name`, NAME or NAME:ARGUMENT; loads nothing. Raises UnknownNameError."""
    family, colon, argument = name.partition(":")
    if family not in ENCODERS:
        raise unknown_name("encoder", name, forms("encoder"))
    spec = encoder_spec(family)
    if bool(colon) != bool(spec.argument) or not re.fullmatch(spec.argument, argument):
        raise unknown_name("encoder", name, forms("encoder"))
    return spec


def load_encoder(name: str) -> Encoder:
    """The encoder `name`, in evaluation mode on the CPU.

    Raises UnknownNameError for a name that does not exist and MissingExtraError where its weights cannot be had
    or hold NaN.
    """
    from kc.encoders.base import check_finite

    check_encoder_name(name)
    family, _, argument = name.partition(":")
    encoder: Encoder = load_class("encoder", family).load(argument)
    check_finite(name, encoder.state_dict())
    return encoder
