"""Names of open-vocabulary bases. This module loads neither torch nor a network until a base is asked for."""

from __future__ import annotations

import importlib
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from kc.errors import MissingExtraError, unknown_name
from kc.registry import BASES, base_spec, forms, load_class
from kc.types import TaskKind

if TYPE_CHECKING:
    from kc.encoders.base import Encoder
    from kc.openvocab.base import OpenVocabulary


def base_family(name: str) -> str:
    """`NAME` of a base `NAME`, `NAME:ARGUMENT` or `NAME@FILE`. Raises UnknownNameError; loads nothing."""
    family = re.split("[:@]", name, maxsplit=1)[0]
    if family not in BASES or not re.fullmatch(base_spec(family).argument, name.removeprefix(family)):
        raise unknown_name("base", name, ["none", *BASES, *forms("base")])
    return family


def check_base(name: str, encoder: str, kind: TaskKind, benchmark: str = "", **options: Any) -> None:
    """Raise KcError, before anything is loaded, unless base `name` fits the encoder's name and the benchmark's kind.

    The `check` of a spec is called with all of these, options as a dict.
    """
    spec = base_spec(base_family(name))
    if spec.check:
        module, _, function = spec.check.partition(":")
        getattr(importlib.import_module(module), function)(name, encoder, kind, benchmark, options)
    if spec.package and importlib.util.find_spec(spec.package) is None:
        raise MissingExtraError(f"base {name!r} needs {spec.package}: pip install 'kc-continual[{spec.extra}]'")


def load_base(
    name: str, encoder: Encoder, *, benchmark: str = "", cache: Path | None = None, device: str = "cpu", **options: Any
) -> OpenVocabulary:
    """The base `name` beside the run's `encoder`, with its own options.

    `benchmark`: whose published settings apply; `cache`: folder for text embeddings; `device`: where a network of the
    base's own runs. Raises UnknownNameError for a name that does not exist, KcError where the encoder does not fit the
    base and MissingExtraError where the base's weights are not installed.
    """
    make: Any = load_class("base", base_family(name))
    return cast("OpenVocabulary", make.load(name, encoder, benchmark=benchmark, cache=cache, device=device, **options))
