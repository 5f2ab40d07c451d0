"""Names of open-vocabulary bases. This module loads neither torch nor a network until a base is asked for."""

from __future__ import annotations

import importlib.util
from typing import TYPE_CHECKING

from kc.encoders.load import check_encoder_name
from kc.errors import KcError, MissingExtraError, unknown_name
from kc.openvocab.dense_clip.options import DenseOptions, protocol_of, row_of
from kc.openvocab.dense_clip.rows import ROWS
from kc.openvocab.fc_clip.options import FcClipOptions, is_fc_clip, weights_of
from kc.proposals.detectron2_files import check_detectron2

if TYPE_CHECKING:
    from kc.encoders.base import Encoder
    from kc.openvocab.base import OpenVocabulary

BASES = ("conse", *ROWS, "fc-clip", "detectron2")
"""Every base; those of `ROWS` also as `ROW:MODEL[@FILE]`, with a CLIP of their own; fc-clip as `fc-clip@FILE`;
detectron2 as `detectron2:CONFIG.yaml,WEIGHTS.pth`."""


def check_base_name(name: str) -> None:
    """Raise UnknownNameError unless `name` is a base; loads nothing."""
    if is_fc_clip(name):
        return
    row, colon, model = name.partition(":")
    if row == "detectron2":
        check_detectron2(model, f"--base {name}")
        return
    if row not in BASES or (colon and row not in ROWS):
        raise unknown_name("base", name, [*BASES, *(f"{r}:MODEL[@FILE]" for r in ROWS), "fc-clip[:MODEL]@FILE"])
    if colon:
        check_encoder_name(f"open_clip:{model}")


def check_base(name: str, encoder: str, kind: str, options: DenseOptions | None = None) -> None:
    """Raise KcError, before anything is loaded, unless base `name` fits the encoder's name and the benchmark's kind."""
    check_base_name(name)
    if is_fc_clip(name):
        check_fc_clip(name, kind)
    row, colon, model = name.partition(":")
    if row == "detectron2" and kind == "classification":
        raise KcError(f"base {name!r} labels regions and pixels; this benchmark is classification")
    if row not in ROWS:
        return
    if not colon and not encoder.startswith("open_clip:"):
        raise KcError(
            f"base {name!r} reads a CLIP: take one as the encoder (--encoder open_clip:MODEL@FILE) or give it to the "
            f"base (--base {row}:MODEL@FILE)"
        )
    if ROWS[row].attention == "proxy" and not colon:
        raise KcError(
            "base 'proxyclip' reads two models: give it the CLIP (--base proxyclip:MODEL@FILE); "
            "the run's --encoder is its proxy"
        )
    if colon and kind == "classification":
        raise KcError(f"base {name!r} classifies whole images by the run's encoder: use --base {row} "
                      f"--encoder open_clip:{model}")  # fmt: skip
    options = options or DenseOptions()
    row_of(row, options, (model if colon else encoder.removeprefix("open_clip:")).partition("@")[0])
    protocol_of(row, options)


def check_fc_clip(name: str, kind: str) -> None:
    """Raise KcError, before anything is loaded, unless FC-CLIP's weights and package are here and it fits the kind."""
    if kind == "classification":
        raise KcError(f"base {name!r} labels regions and pixels; this benchmark is classification")
    weights_of(name)
    if importlib.util.find_spec("transformers") is None:
        raise MissingExtraError(f"base {name!r} needs transformers: pip install 'kc-continual[masks]'")


def load_base(
    name: str, encoder: Encoder, options: DenseOptions | None = None, fc_clip: FcClipOptions | None = None
) -> OpenVocabulary:
    """The base `name` beside the run's `encoder`; `options` are for the bases of `ROWS`, `fc_clip` for that base.

    Raises UnknownNameError for a name that does not exist, KcError where the encoder does not fit the base and
    MissingExtraError where the base's weights are not installed.
    """
    check_base_name(name)
    if is_fc_clip(name):
        from kc.openvocab.fc_clip.base import load_fc_clip_base

        return load_fc_clip_base(name, fc_clip)
    if name.startswith("detectron2:"):
        from kc.openvocab.detectron2_model import Detectron2Base

        return Detectron2Base(name.removeprefix("detectron2:"))
    if name != "conse":
        from kc.openvocab.dense_clip.base import load_dense

        return load_dense(name, encoder, options or DenseOptions())
    from kc.encoders.lite import Lite0
    from kc.encoders.text import load_text_encoder
    from kc.openvocab.conse import Conse

    if not isinstance(encoder, Lite0):
        raise KcError(f"base 'conse' reads the ImageNet posterior of encoder 'lite0', got {encoder.name!r}")
    return Conse(encoder, load_text_encoder())
