"""What a user may choose of a row, as given on the command line. Loads no torch, so that mistakes show at once."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from kc.encoders.load import check_encoder_name
from kc.errors import KcError, unknown_name
from kc.openvocab.dense_clip.protocol import DEFAULT_PRESET, InferenceProtocol, preset, table_name
from kc.openvocab.dense_clip.rows import ROWS, Row
from kc.spec import Whole, option_name
from kc.types import TaskKind

PAPER_LAYERS = {"ViT-B-16-quickgelu": ((6, 7), (6, 7, 8, 9, 10))}
"""Model -> (fused, suppressed) blocks of GCLIP's paper; all of what is suppressed is not published: 6 to 10 is the
working reading. For every other model they are found (`study.resolve`)."""


@dataclass(frozen=True)
class DenseClipOptions:
    """Options of a dense CLIP; None leaves a value to the row or the preset.

    Args:
        protocol: How images are cut and scores decided: sclip, naclip, clearclip, proxyclip or whole-image; default:
            that of the row's paper.
        fuse_layers: Blocks whose attention is fused (gclip): 6,7 ..., auto or none; default: the paper's for
            ViT-B-16-quickgelu, else auto.
        fuse_weights: One weight a fused block and one for the last block (gclip); default: their mean.
        head_mode: Whether head h of every fused block meets head h of the last one, or maps are averaged over heads.
        cs_layers: Blocks whose strongest channel is suppressed: 6,7 ..., auto or none; default: the row's.
        pamr_steps: Steps of pixel-adaptive mask refinement; 0 is none; default: the preset's.
        templates: Prompts around names; default: the preset's.
    """

    protocol: str | None = None
    fuse_layers: str | None = None
    fuse_weights: str | None = None
    head_mode: Literal["per_head", "averaged"] | None = None
    cs_layers: str | None = None
    pamr_steps: Whole | None = None
    templates: str | None = None


@dataclass(frozen=True)
class DenseOptions(DenseClipOptions):
    """With `benchmark`, the name of the benchmark whose adjustments of the preset apply, and `cache`, the folder for
    text embeddings."""

    benchmark: str | None = None
    cache: Path | None = None


def row_of(name: str, options: DenseOptions, model: str) -> Row:
    """The row `name` for CLIP `model` with the options; layers left to be found are None. Raises KcError."""
    if name not in ROWS:
        raise unknown_name("dense CLIP row", name, ROWS)
    row = ROWS[name]
    if name == "gclip" and model in PAPER_LAYERS:
        fuse, suppress = PAPER_LAYERS[model]
        row = dataclasses.replace(row, fuse_layers=fuse, cs_layers=suppress)
    given = {name: value for name, value in vars(options).items() if value is not None}
    changes: dict[str, Any] = {k: _layers(k, given[k]) for k in ("fuse_layers", "cs_layers") if k in given}
    changes |= {k: given[k] for k in ("head_mode",) if k in given}
    if options.fuse_weights is not None:
        try:
            changes["fuse_weights"] = tuple(float(w) for w in options.fuse_weights.split(","))
        except ValueError as error:
            raise KcError(f"fuse-weights {options.fuse_weights!r}: expected numbers separated by commas") from error
    return dataclasses.replace(row, **changes)


def protocol_of(name: str, options: DenseOptions) -> InferenceProtocol:
    """The protocol of row `name` with the options, as its paper adjusts it for the benchmark. Raises KcError."""
    found = preset(options.protocol or DEFAULT_PRESET[name], table_name(options.benchmark))
    changes: dict[str, Any] = {name: getattr(options, name) for name in ("pamr_steps", "templates")}
    return dataclasses.replace(found, **{name: value for name, value in changes.items() if value is not None})


def _layers(field: str, text: str) -> tuple[int, ...] | None:
    if text in ("auto", "none"):
        return None if text == "auto" else ()
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError as error:
        expected = "expected auto, none, or block numbers separated by commas"
        raise KcError(f"{option_name(field)} {text!r}: {expected}") from error


def check_base(name: str, encoder: str, kind: TaskKind, benchmark: str, options: dict[str, Any]) -> None:
    """Raise KcError, before anything is loaded, unless `ROW` or `ROW:MODEL[@FILE]` fits encoder, kind and options."""
    row, colon, model = name.partition(":")
    if colon:
        check_encoder_name(f"open_clip:{model}")
    elif not encoder.startswith("open_clip:"):
        how = (
            f"take one as the encoder (--encoder open_clip:MODEL@FILE), or give the base one (--base {row}:MODEL@FILE)"
        )
        raise KcError(f"base {name!r} reads a CLIP: {how}")
    if ROWS[row].attention == "proxy" and not colon:
        how = "give it the CLIP (--base proxyclip:MODEL@FILE); the run's --encoder is its proxy"
        raise KcError(f"base 'proxyclip' reads two models: {how}")
    if colon and kind == "classification":
        how = f"use --base {row} --encoder open_clip:{model}"
        raise KcError(f"base {name!r} classifies whole images by the run's encoder: {how}")
    chosen = DenseOptions(benchmark=benchmark, **options)
    row_of(row, chosen, (model if colon else encoder.removeprefix("open_clip:")).partition("@")[0])
    protocol_of(row, chosen)
