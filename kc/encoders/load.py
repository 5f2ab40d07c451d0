"""Names of encoders. This module loads neither torch nor a network until an encoder is asked for."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING

from kc.errors import unknown_name

if TYPE_CHECKING:
    from kc.encoders.base import Encoder


def _lite0() -> Encoder:
    from kc.encoders.lite import load_lite0

    return load_lite0()


def _lite1() -> Encoder:
    from kc.encoders.lite import load_lite1

    return load_lite1()


def _lite2() -> Encoder:
    from kc.encoders.lite import load_lite2

    return load_lite2()


def _timm(model: str, path: str | None) -> Encoder:
    from kc.encoders.timm_model import load_timm

    return load_timm(model, path)


def _torchvision(model: str, path: str | None) -> Encoder:
    from kc.encoders.torchvision_model import load_torchvision

    return load_torchvision(model, path)


def _open_clip(model: str, path: str | None) -> Encoder:
    from kc.encoders.open_clip_model import load_open_clip

    return load_open_clip(model, path)


def _mlp(size: str, path: str | None) -> Encoder:
    from kc.encoders.mlp import load_mlp

    return load_mlp(size)


ENCODERS: dict[str, Callable[[], Encoder]] = {"lite0": _lite0, "lite1": _lite1, "lite2": _lite2}
"""Encoders with one fixed set of weights."""

FAMILIES: dict[str, Callable[[str, str | None], Encoder]] = {
    "timm": _timm,
    "torchvision": _torchvision,
    "open_clip": _open_clip,
    "mlp": _mlp,
}
"""Encoders named `family:MODEL` (weights from the hub) or `family:MODEL@PATH` (weights from a local file)."""

MLP_SIZE = re.compile(r"[1-9]\d*x[1-9]\d*")
"""What stands behind `mlp:`: units a layer x layers."""


def check_encoder_name(name: str) -> None:
    """Raise UnknownNameError unless `name` is an encoder, `family:MODEL[@PATH]` or `mlp:WIDTHxDEPTH`; loads nothing."""
    family, _, rest = name.partition(":")
    known = bool(MLP_SIZE.fullmatch(rest)) if family == "mlp" else family in FAMILIES and rest.partition("@")[0]
    if name not in ENCODERS and not known:
        weights = [f"{family}:MODEL[@PATH]" for family in FAMILIES if family != "mlp"]
        raise unknown_name("encoder", name, [*ENCODERS, "mlp:WIDTHxDEPTH", *weights])


def load_encoder(name: str) -> Encoder:
    """The encoder `name`, in evaluation mode on the CPU.

    Raises UnknownNameError for a name that does not exist and MissingExtraError where its weights cannot be had.
    """
    check_encoder_name(name)
    if name in ENCODERS:
        return ENCODERS[name]()
    family, _, rest = name.partition(":")
    model, _, path = rest.partition("@")
    return FAMILIES[family](model, path or None)
