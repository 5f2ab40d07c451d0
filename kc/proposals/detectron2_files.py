"""The two files of a detectron2 model, checked without torch: none that could run code."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import yaml

from kc.errors import KcError, MissingExtraError

PLACES = "CONFIG.yaml,WEIGHTS.pth"


def check_detectron2(places: str, option: str) -> tuple[Path, Path]:
    """Config and weights of `places`; builds nothing.

    Raises MissingExtraError where detectron2 or a file is not here, KcError for files that could run code. `option`:
    how the user named it, for the message.
    """
    if importlib.util.find_spec("detectron2") is None:
        raise MissingExtraError(f"{option} needs detectron2, which is built from its source: see docs/detectron2.md")
    config, _, weights = places.partition(",")
    if not config or not weights:
        raise KcError(f"{option}: expected two files, detectron2:{PLACES}")
    if Path(config).suffix not in (".yaml", ".yml"):
        raise KcError(f"{option}: {config} is no YAML config; a LazyConfig (.py) is a program and is not run")
    if Path(weights).suffix not in (".pth", ".safetensors"):
        how = "a .pkl could run code; write its tensors with torch.save({'model': tensors}, 'WEIGHTS.pth')"
        raise KcError(f"{option}: {weights} is neither .pth nor .safetensors: {how}")
    paths = Path(config).expanduser(), Path(weights).expanduser()
    for path in paths:
        if not path.is_file():
            raise MissingExtraError(f"{option}: there is no file {path}")
    _check_bases(paths[0], option)
    return paths


def check_proposals(argument: str, name: str) -> None:
    """`check_detectron2` of `--proposals`."""
    check_detectron2(argument, f"--proposals {name}")


def check_base(name: str, encoder: str, kind: str, benchmark: str, options: object) -> None:
    """`check_detectron2` of `--base`, which labels regions and pixels only."""
    check_detectron2(name.partition(":")[2], f"--base {name}")
    if kind == "classification":
        raise KcError(f"base {name!r} labels regions and pixels; this benchmark is classification")


def _check_bases(config: Path, option: str) -> None:
    """Every config that this one builds upon is a file here: detectron2 would download an address."""
    for _ in range(20):
        try:
            content = yaml.safe_load(config.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
            raise KcError(f"{option}: {config} is not plain YAML ({' '.join(str(error).split())})") from error
        base = content.get("_BASE_") if isinstance(content, dict) else None
        if base is None:
            return
        if not isinstance(base, str) or "://" in base:
            raise KcError(f"{option}: {config} builds upon {base!r}; expected one file beside it")
        config = config.parent / Path(base).expanduser()
    raise KcError(f"{option}: {config} builds upon a chain of configs without end")
