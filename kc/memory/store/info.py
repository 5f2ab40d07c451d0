"""What a memory says of itself: how its keys were made, what its classes are, and how it is asked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any, Literal, get_args

from kc.types import ClassInfo, TaskKind

KeySource = Literal["pooled", "masked"]


@dataclass(frozen=True)
class MemoryInfo:
    """How the keys of a memory were made and how it is asked: all that another image needs to be encoded alike.

    It is stored in the manifest when the memory is created, and never guessed. ValueError names a field out of range.

    Args:
        encoder: Name of the encoder, as `--encoder` takes it.
        kind: Kind of the tasks: classification (a key is an image), semantic or panoptic (a key is a region).
        input_size: (height, width) in pixels that the encoder sees.
        classes: Class id (at least 0) -> class.
        proposals: Name of the regions, as `--proposals` takes it; empty where a key is an image.
        keys: How a region becomes a key: pooled from the image's feature map, or masked (crop, black out, encode).
        purity: A region of a labelled image is stored where at least this share of its pixels is of one class, (0, 1].
        benchmark: Name or path of the benchmark; empty for a memory made without one.
        base: Open-vocabulary base whose scores are fused with the votes, as `--base` takes it; empty: none.
        method: Name of the method that queries the memory; empty: none, its defaults hold.
        options: Owner (a method, a base, an encoder, proposals) -> its options as JSON values, such as
            `{"knn": {"k": 16, "vote": "softmax", "tau": 0.07}}`.
    """

    encoder: str
    kind: TaskKind
    input_size: tuple[int, int]
    classes: Mapping[int, ClassInfo] = field(default_factory=dict)
    proposals: str = ""
    keys: KeySource = "pooled"
    purity: float = 0.5
    benchmark: str = ""
    base: str = ""
    method: str = ""
    options: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.encoder:
            raise ValueError("encoder must be the name of an encoder, got none")
        for name, value, valid in (("kind", self.kind, get_args(TaskKind)), ("keys", self.keys, get_args(KeySource))):
            if value not in valid:
                raise ValueError(f"{name} must be one of {', '.join(valid)}, got {value!r}")
        if len(self.input_size) != 2 or not all(isinstance(n, int) and n > 0 for n in self.input_size):
            raise ValueError(f"input_size must be (height, width) in pixels, got {self.input_size}")
        if not 0 < self.purity <= 1:
            raise ValueError(f"purity must be above 0 and at most 1, got {self.purity}")
        for id_, info in self.classes.items():
            if id_ != info.id or id_ < 0:
                raise ValueError(f"classes must map ids of at least 0 to their classes, got {id_}: {info}")

    @property
    def class_names(self) -> dict[int, str]:
        """Class id -> name."""
        return {id_: info.name for id_, info in self.classes.items()}

    def with_names(self, names: Mapping[int, str]) -> MemoryInfo:
        """The same with exactly the classes of `names` (class id -> name); what else is known of a class stays."""
        classes = {i: replace(self.classes.get(i, ClassInfo(i, name)), name=name) for i, name in names.items()}
        return replace(self, classes=classes)

    def to_json(self) -> dict[str, Any]:
        """JSON values from which `from_json` makes an equal record."""
        body = {f.name: getattr(self, f.name) for f in fields(self)}
        return body | {
            "input_size": list(self.input_size),
            "classes": [_changed(info) for info in self.classes.values()],
            "options": {owner: dict(options) for owner, options in self.options.items()},
        }

    @classmethod
    def from_json(cls, body: Mapping[str, Any] | None) -> MemoryInfo | None:
        """The record that `to_json` wrote, None of None. ValueError or TypeError for anything else."""
        if body is None:
            return None
        plain: list[dict[str, Any]] = [
            {k: tuple(v) if isinstance(v, list) else v for k, v in c.items()} for c in body["classes"]
        ]
        size = tuple(body["input_size"])
        return cls(**{**body, "input_size": size, "classes": {c["id"]: ClassInfo(**c) for c in plain}})


def _changed(info: ClassInfo) -> dict[str, Any]:
    """Id, name, and what differs from the defaults: thousands of classes stay small."""
    plain = asdict(ClassInfo(info.id, info.name))
    return {"id": info.id, "name": info.name} | {k: v for k, v in asdict(info).items() if v != plain[k]}
