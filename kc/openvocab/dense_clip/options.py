"""What a user may choose of a row, as given on the command line. Loads no torch, so that mistakes show at once."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path

from kc.errors import KcError, unknown_name
from kc.openvocab.dense_clip.protocol import DEFAULT_PRESET, Protocol, preset
from kc.openvocab.dense_clip.published import table_name
from kc.openvocab.dense_clip.rows import ROWS, Row

PAPER_LAYERS = {"ViT-B-16-quickgelu": ((6, 7), (6, 7, 8, 9, 10))}
"""Model -> (fused, suppressed) blocks of GCLIP's paper; all of what is suppressed is not published: 6 to 10 is the
working reading. For every other model they are found (`layers.resolve`)."""


@dataclass(frozen=True)
class DenseOptions:
    """None leaves a value to the row or the preset. Layers: `auto`, `none`, or block numbers separated by commas.

    `protocol`: name of a preset; `benchmark`: name of the benchmark whose adjustments of the preset apply; `cache`:
    folder for text embeddings.
    """

    protocol: str | None = None
    benchmark: str | None = None
    fuse_layers: str | None = None
    fuse_weights: str | None = None
    head_mode: str | None = None
    cs_layers: str | None = None
    pamr_steps: int | None = None
    templates: str | None = None
    cache: Path | None = None


def row_of(name: str, options: DenseOptions, model: str) -> Row:
    """The row `name` for CLIP `model` with the options; layers left to be found are None. Raises KcError."""
    if name not in ROWS:
        raise unknown_name("dense CLIP row", name, ROWS)
    row = ROWS[name]
    if name == "gclip" and model in PAPER_LAYERS:
        fuse, suppress = PAPER_LAYERS[model]
        row = dataclasses.replace(row, fuse_layers=fuse, cs_layers=suppress)
    changes: dict[str, object] = {}
    if options.fuse_layers is not None:
        changes["fuse_layers"] = _layers("--fuse-layers", options.fuse_layers)
    if options.cs_layers is not None:
        changes["cs_layers"] = _layers("--cs-layers", options.cs_layers)
    if options.head_mode is not None:
        changes["head_mode"] = options.head_mode
    if options.fuse_weights is not None:
        try:
            changes["fuse_weights"] = tuple(float(w) for w in options.fuse_weights.split(","))
        except ValueError as error:
            raise KcError(f"--fuse-weights {options.fuse_weights!r}: expected numbers separated by commas") from error
    return dataclasses.replace(row, **changes)  # type: ignore[arg-type]  # checked by Row


def protocol_of(name: str, options: DenseOptions) -> Protocol:
    """The protocol of row `name` with the options, as its paper adjusts it for the benchmark. Raises KcError."""
    found = preset(options.protocol or DEFAULT_PRESET[name], table_name(options.benchmark))
    if options.pamr_steps is not None:
        found = dataclasses.replace(found, pamr_steps=options.pamr_steps)
    return found if options.templates is None else dataclasses.replace(found, templates=options.templates)


def _layers(flag: str, text: str) -> tuple[int, ...] | None:
    if text == "auto":
        return None
    if text == "none":
        return ()
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError as error:
        raise KcError(f"{flag} {text!r}: expected auto, none, or block numbers separated by commas") from error
