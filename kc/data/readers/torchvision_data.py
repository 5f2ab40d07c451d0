"""Data sets of torchvision.datasets by name, from files that are here: nothing is downloaded."""

from __future__ import annotations

import importlib
import inspect
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from kc.data.manifest import Manifest
from kc.data.readers.base import ItemReader
from kc.data.readers.files import decode_image, upright_rgb
from kc.data.sources import TorchvisionSource
from kc.data.splits import TorchvisionSplit
from kc.errors import DataError, unknown_name
from kc.types import Int64Array, Sample, SplitName

_LABELS = ("targets", "labels", "_labels")


@dataclass(frozen=True)
class TorchvisionReader(ItemReader[int]):
    """Samples of one data set in its order. Class numbers are positions in the manifest; label maps are read by value.

    `data`: the data set of torchvision.
    """

    data: Any

    @classmethod
    def open(cls, manifest: Manifest, split: SplitName, root: Path) -> TorchvisionReader:
        """Make the data set with `download=False`.

        Raises:
            UnknownNameError: torchvision has no such data set.
            DataError: its files are not here, its arguments do not fit, or its classes are another number.
        """
        part, source = manifest.splits[split], manifest.source
        assert isinstance(part, TorchvisionSplit)
        assert isinstance(source, TorchvisionSource)
        kind = dataset_class(source.dataset)
        parameters = inspect.signature(kind).parameters
        ours = {"download": False, "loader": _load}
        more = {name: value for name, value in ours.items() if name in parameters}
        said = ", ".join(f"{k}={v!r}" for k, v in part.arguments.items())
        try:
            data = kind(root=str(root), **more, **part.arguments)
        except Exception as error:  # each data set fails in its own way where its files are not as it expects
            raise DataError(
                f"splits.{split} of {manifest.name}: torchvision's {source.dataset}({said}) cannot be read from {root} "
                f"({type(error).__name__}: {error})"
            ) from error
        names = getattr(data, "classes", None)
        if manifest.task_kind == "classification" and names is not None and len(names) != len(manifest.classes):
            raise DataError(f"{source.dataset} has {len(names)} classes, {manifest.name} has {len(manifest.classes)}")
        return cls(manifest, split, tuple(range(len(data))), data)

    def name(self, item: int) -> str:
        """The number of the row, from 0, seven digits."""
        return f"{item:07d}"

    def where(self, index: int) -> str:
        return f"sample {self.items[index]} of torchvision's {type(self.data).__name__}"

    def column(self, index: int) -> int:
        """As the data set lists it, else of the decoded sample."""
        listed = next((getattr(self.data, n) for n in _LABELS if hasattr(self.data, n)), None)
        return self._column(index, self._pair(index)[1] if listed is None else listed[self.items[index]])

    def semantic(self, index: int) -> Int64Array:
        return self._semantic(index, self._pair(index)[1])

    def read(self, index: int) -> Sample:
        """Image and label, or label map, of a sample. Raises DataError where they are not of this kind."""
        image, target = self._pair(index)
        if not isinstance(image, Image.Image):
            raise DataError(f"{self.where(index)}: its first part is a {type(image).__name__}, not an image")
        picture = upright_rgb(image, self.where(index))
        if self.manifest.task_kind == "classification":
            return self.sample(index, picture, column=self._column(index, target))
        return self.sample(index, picture, semantic=self._semantic(index, target))

    def _pair(self, index: int) -> tuple[Any, Any]:
        try:
            found = self.data[self.items[index]]
        except (OSError, ValueError, SyntaxError) as error:
            raise DataError(f"{self.where(index)}: cannot be read ({error})") from error
        if not isinstance(found, tuple) or len(found) != 2:
            raise DataError(f"{self.where(index)}: expected an image and its label, got {type(found).__name__}")
        return found

    def _column(self, index: int, target: Any) -> int:
        value = target.item() if hasattr(target, "item") else target
        if not isinstance(value, int) or not 0 <= value < len(self.manifest.classes):
            raise DataError(
                f"{self.where(index)}: label {value!r}; expected 0 to {len(self.manifest.classes) - 1}, a position "
                f"among the classes of {self.manifest.name}"
            )
        return value

    def _semantic(self, index: int, target: Any) -> Int64Array:
        values: npt.NDArray[Any] = np.asarray(target) if hasattr(target, "convert") else np.zeros(0)
        if values.ndim != 2 or values.dtype.kind not in "ui":
            raise DataError(f"{self.where(index)}: its label is no map of class numbers")
        return self.values(values, self.where(index))


def _load(path: str) -> Image.Image:
    """How data sets that leave it to others read their image files: upright, RGB, with errors that name the file."""
    return Image.fromarray(decode_image(Path(path), path))


def dataset_class(name: str) -> Any:
    """The class `name` of torchvision.datasets that reads files below a root. Raises UnknownNameError."""
    module = importlib.import_module("torchvision.datasets")
    known = [n for n in module.__all__ if _reads_files(getattr(module, n))]
    if name not in known:
        raise unknown_name("torchvision data set", name, known)
    return getattr(module, name)


def _reads_files(kind: Any) -> bool:
    # LSUN unpickles a file of the working folder.
    wanted = isinstance(kind, type) and "root" in inspect.signature(kind).parameters
    return wanted and not kind.__name__.startswith("LSUN")
