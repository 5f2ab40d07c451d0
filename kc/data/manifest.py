"""Read and verify `data_manifests/*.yaml`: what a benchmark is, said once, as data.

A manifest runs nothing: YAML is read with the safe loader, every path is relative to the data folder, and addresses
that would run a command are refused. No torch import here, so names are checked before anything heavy loads.
"""

from __future__ import annotations

import hashlib
import json
import sysconfig
from collections import Counter
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, ValidationError, field_validator, model_validator

from kc.data.addresses import Archive, Channel, Positive, RelativePath, Sha256, Strict, WebAddress, models_of
from kc.data.sources import EmbeddedSource, Source
from kc.data.splits import Split
from kc.errors import ManifestError, nearest, unknown_name
from kc.outside import read_yaml
from kc.types import ClassInfo, SplitName, TaskKind

_KINDS: dict[str, tuple[TaskKind, ...]] = {
    "folder": ("classification",),
    "csv": ("classification",),
    "cub": ("classification",),
    "cifar_binary": ("classification",),
    "index_png": ("semantic", "panoptic"),
    "voc_xml": ("classification",),
    "pascal_context": ("semantic",),
    "ade20k_full": ("panoptic", "semantic"),
    "coco_instances": ("panoptic", "semantic"),
    "torchvision": ("classification", "semantic"),
    "huggingface": ("classification", "semantic"),
    "labelme": ("panoptic", "semantic"),
    "coco_panoptic": ("panoptic", "semantic"),
    "shards": ("classification", "semantic", "panoptic"),
    "digit-scenes": ("panoptic", "semantic"),
    "digits": ("classification",),
    "detectron2": ("panoptic", "semantic"),
}
_NAMES_FOLDERS = ("folder", "csv", "cub", "labelme", "coco_panoptic", "coco_instances", "voc_xml", "huggingface")
_OWN_NUMBERS = ("pascal_context", "ade20k_full")
_HAVE_VALUES = ("index_png", "torchvision", "huggingface", *_OWN_NUMBERS)


MOST_CLASS_ID = 65_534
"""The highest class id: label maps are kept as PNGs of 16 bits, where 65535 is void."""
MOST_VALUE = (1 << 24) - 1
"""The highest value of a mask that a manifest may name."""
MaskValue = Annotated[int, Field(ge=0, le=MOST_VALUE)]


class ClassSpec(Strict):
    """One class as the manifest writes it.

    `id`: at most MOST_CLASS_ID. `folder`: its name in the files (of a class folder, in a table, in a JSON) where that
    differs from the class name. `values`: in index masks further values beside the id that mean this class, such as all
    stuff for a background; in data with numbers of its own (PASCAL-Context, the full ADE20K) the numbers of this class.
    """

    id: Annotated[int, Field(ge=0, le=MOST_CLASS_ID)]
    name: Annotated[str, Field(min_length=1)]
    synonyms: tuple[str, ...] = ()
    thing: bool = False
    color: tuple[Channel, Channel, Channel] = (0, 0, 0)
    background: bool = False
    folder: RelativePath | None = None
    values: tuple[MaskValue, ...] = ()


class Recommended(Strict):
    """Settings that suit a benchmark; a flag on the command line wins over them."""

    proposals: str | None = None
    keys: str | None = None
    decoder: str | None = None


class Manifest(Strict):
    """A verified benchmark description. Classes keep the file's order, which is the natural class order.

    `ignore`: the value or values in mask files that mean unlabelled. `input_size`: (H, W) that networks see.
    `task_splits`: name -> number of new classes a step (a background class counts in the first step).
    `recommended`: proposals, keys and decoder that suit it.
    `obtain`: how to get the data; `download`: what `kc data fetch` gets, where no login is needed (no part of the
    fingerprint: an address may move). `checksum`: relative file -> "sha256:...", verified when a reader opens.
    """

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]*$")]
    task_kind: TaskKind
    licence: Annotated[str, Field(min_length=1)] = "not stated"
    homepage: WebAddress | None = None
    obtain: str = ""
    source: Source
    splits: Annotated[dict[SplitName, Split], Field(min_length=1)]
    classes: Annotated[tuple[ClassSpec, ...], Field(min_length=1)]
    ignore: MaskValue | tuple[MaskValue, ...] | None = None
    input_size: tuple[Positive, Positive]
    task_splits: dict[str, tuple[Positive, ...]] = Field(default_factory=dict)
    recommended: Recommended = Field(default_factory=Recommended)
    checksum: dict[RelativePath, Sha256] = Field(default_factory=dict)
    download: tuple[Archive, ...] = ()

    @model_validator(mode="before")
    @classmethod
    def _splits_follow_reader(cls, data: Any) -> Any:
        # A split's keys depend on the reader, which is said once, in `source`: copy it where the union looks.
        if not isinstance(data, dict) or not isinstance(data.get("splits"), dict):
            return data
        source = data.get("source")
        reader = source.get("reader") if isinstance(source, dict) else None
        splits: dict[Any, Any] = {}
        for name, split in data["splits"].items():
            if isinstance(split, dict) and split.get("reader", reader) != reader:
                raise ValueError(f"splits.{name}.reader: the reader is said once, in source.reader")
            splits[name] = {**split, "reader": reader} if isinstance(split, dict) else split
        return {**data, "splits": splits}

    @field_validator("classes")
    @classmethod
    def _classes_are_distinct(cls, classes: tuple[ClassSpec, ...]) -> tuple[ClassSpec, ...]:
        for what, values in (("id", [c.id for c in classes]), ("name", [c.name for c in classes])):
            twice = [value for value, n in Counter(values).items() if n > 1]
            if twice:
                raise ValueError(f"duplicate class {what} {twice[0]!r}; each {what} may appear once")
        background = [c for c in classes if c.background]
        if len(background) > 1:
            raise ValueError(f"{len(background)} background classes; at most one is allowed")
        if background and background[0].thing:
            raise ValueError(f"class {background[0].name!r} is background and a thing; background must be stuff")
        return classes

    @model_validator(mode="after")
    def _parts_fit(self) -> Manifest:
        kind_of = self.source.collection if isinstance(self.source, EmbeddedSource) else self.source.reader
        if self.task_kind not in _KINDS[kind_of]:
            raise ValueError(f"task_kind: {kind_of!r} gives {' or '.join(_KINDS[kind_of])}, not {self.task_kind!r}")
        for name, steps in self.task_splits.items():
            if sum(steps) != len(self.classes):
                n = len(self.classes)
                raise ValueError(f"task_splits.{name}: the steps add up to {sum(steps)} classes; the manifest has {n}")
        if (self.ignored or any(c.values for c in self.classes)) and self.source.reader not in _HAVE_VALUES:
            key = "ignore" if self.ignored else "values"
            raise ValueError(f"{key}: only {', '.join(_HAVE_VALUES)} have values, not {self.source.reader!r}")
        if self.task_kind == "panoptic" and self.source.reader == "index_png":
            for name, part in self.splits.items():
                if getattr(part, "objects", None) is None:
                    raise ValueError(f"splits.{name}.objects: a panoptic benchmark of index_png needs this folder")
        twice = [v for v, n in Counter([*self.mask_values(), *self.ignored]).items() if n > 1]
        if twice:
            raise ValueError(f"the mask value {twice[0]} has two meanings among class ids, values and ignore")
        if self.task_kind == "classification" and any(c.background or c.thing for c in self.classes):
            raise ValueError("classes: `background` and `thing` have no meaning in classification")
        if self.source.reader not in _NAMES_FOLDERS and any(c.folder for c in self.classes):
            raise ValueError(f"classes: `folder` is only for the readers {', '.join(_NAMES_FOLDERS)}")
        return self

    @property
    def info(self) -> tuple[ClassInfo, ...]:
        """The classes in manifest order, as the type that crosses rooms."""
        return tuple(ClassInfo(c.id, c.name, c.synonyms, c.thing, c.color, c.background) for c in self.classes)

    def names_in_files(self) -> tuple[str, ...]:
        """How the files call each class (a class folder, a cell of a table, a JSON), in manifest order."""
        return tuple(c.folder or c.name for c in self.classes)

    @property
    def ignored(self) -> tuple[int, ...]:
        """Values in mask files that mean unlabelled."""
        if self.ignore is None:
            return ()
        return (self.ignore,) if isinstance(self.ignore, int) else self.ignore

    def mask_values(self) -> list[int]:
        """Every value of a mask that means a class, in the order of the classes: see `values_of`."""
        return [v for c in self.classes for v in self.values_of(c)]

    def values_of(self, spec: ClassSpec) -> tuple[int, ...]:
        """The values in masks that mean a class: its id and `values`; `values` alone in data with own numbers."""
        if self.source.reader in _OWN_NUMBERS and spec.values:
            return spec.values
        return (spec.id, *spec.values)

    def class_ids(self) -> tuple[int, ...]:
        """Global class ids in manifest order."""
        return tuple(c.id for c in self.classes)

    def class_names(self) -> tuple[str, ...]:
        """Class names in manifest order."""
        return tuple(c.name for c in self.classes)

    @property
    def background_id(self) -> int | None:
        """Id of the background class, None where the benchmark has none."""
        return next((c.id for c in self.classes if c.background), None)

    @property
    def thing_ids(self) -> tuple[int, ...]:
        """Ids of the classes with instances."""
        return tuple(c.id for c in self.classes if c.thing)

    @property
    def fingerprint(self) -> str:
        """sha256 (hex) of the canonical content: the same for the same benchmark, wherever the file lies."""
        # Without defaults: a key that manifests gain later leaves the fingerprints of today's alone.
        values = self.model_dump(mode="json", exclude_defaults=True, exclude={"download"})
        content = json.dumps(values, sort_keys=True, ensure_ascii=False)
        return hashlib.sha256(content.encode()).hexdigest()


def manifest_folder() -> Path:
    """Where the named manifests lie: beside the package in a checkout, else in the environment's data folder."""
    checkout = Path(__file__).resolve().parents[2]
    if (checkout / "pyproject.toml").is_file() and (checkout / "data_manifests").is_dir():
        return checkout / "data_manifests"
    return Path(sysconfig.get_path("data")) / "share" / "kc" / "data_manifests"


def manifest_names() -> list[str]:
    """Names of the benchmarks that come with kc, sorted."""
    return sorted(path.stem for path in manifest_folder().glob("*.yaml"))


def is_path(name_or_path: str | Path) -> bool:
    """Whether this says where a manifest is, instead of naming one that comes with the package."""
    text = str(name_or_path)
    return isinstance(name_or_path, Path) or text.endswith((".yaml", ".yml")) or "/" in text or "\\" in text


def load_manifest(name_or_path: str | Path) -> Manifest:
    """The verified manifest of a benchmark name ("camvid") or of a YAML file ("my/benchmark.yaml").

    Raises:
        UnknownNameError: no benchmark of this name; names the nearest ones.
        ManifestError: the file is missing, is not YAML, or breaks a rule; names file, key and what is allowed.
    """
    text = str(name_or_path)
    if is_path(name_or_path):
        path = Path(name_or_path).expanduser()
    else:
        names = manifest_names()
        if text not in names:
            raise unknown_name("benchmark", text, names)
        path = manifest_folder() / f"{text}.yaml"
    content = read_yaml(path, error=ManifestError)
    if not isinstance(content, dict):
        raise ManifestError(f"{path}: expected a mapping of keys such as name, task_kind, source; got {content!r:.80}")
    try:
        return Manifest.model_validate(content)
    except ValidationError as error:
        raise ManifestError(_explain(path, error)) from error


def _model_at(location: tuple[int | str, ...]) -> type[Strict]:
    """The model whose key an error location ends in."""
    if location[:1] == ("source",) and len(location) == 3:
        return models_of(Source)[str(location[1])]
    if location[:1] == ("splits",) and len(location) == 4:
        return models_of(Split)[str(location[2])]
    if location[:1] == ("classes",) and len(location) == 3:
        return ClassSpec
    if location[:1] == ("download",) and len(location) == 3:
        return Archive
    return Manifest


def _explain(path: Path, error: ValidationError) -> str:
    """One readable message: the file, then each problem as `key: what is wrong and what is allowed`."""
    problems = error.errors(include_url=False)
    if any(p["loc"][:1] == ("source",) for p in problems):  # a wrong reader makes every split wrong: say it once
        problems = [p for p in problems if p["loc"][:1] != ("splits",)] or problems
    lines = []
    for problem in problems:
        location = problem["loc"]
        dropped = {"source": 1, "splits": 2}.get(str(location[0]), -1) if location else -1
        # Positions 1 and 2 carry the union's tag, which is no key of the file.
        shown = [str(part) for i, part in enumerate(location) if i != dropped and part != "[key]"]
        key = ".".join(shown)
        message = problem["msg"].removeprefix("Value error, ")
        if problem["type"] == "extra_forbidden":
            allowed = [k for k in _model_at(location).model_fields if k != "reader" or location[0] == "source"]
            close = nearest(shown[-1], allowed, n=1)
            hint = f" Did you mean {close[0]!r}?" if close else ""
            message = f"unknown key.{hint} Allowed: {', '.join(allowed)}"
        elif problem["type"] == "missing":
            message = "this key is missing"
        elif problem["type"] not in ("value_error", "union_tag_invalid") and not isinstance(problem["input"], dict):
            message = f"{message}, got {problem['input']!r:.80}"
        lines.append(f"{key}: {message}" if key else message)
    return f"{path}: {lines[0]}" if len(lines) == 1 else f"{path}:\n" + "\n".join(f"  {line}" for line in lines)
