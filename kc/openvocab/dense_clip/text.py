"""Class names as unit vectors in CLIP's space: prompts, their mean, and a cache by name and template set."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path

import open_clip
import torch
import torch.nn.functional as F
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from kc.encoders.open_clip_model import OpenClipEncoder
from kc.errors import KcError, unknown_name
from kc.files import write_atomic

Template = Callable[[str], str]

TEMPLATES: dict[str, tuple[Template, ...]] = {
    "imagenet80": tuple(open_clip.OPENAI_IMAGENET_TEMPLATES),
    "imagenet7": tuple(open_clip.SIMPLE_IMAGENET_TEMPLATES),
    "photo": ("a photo of a {}.".format,),
    "name": ("{}".format,),
    "vild14": (
        "a photo of a {}.".format, "This is a photo of a {}".format, "There is a {} in the scene".format,
        "There is the {} in the scene".format, "a photo of a {} in the scene".format,
        *(f"a photo of a {size} {{}}.".format for size in ("small", "medium", "large")),
        *(f"This is a photo of a {size} {{}}.".format for size in ("small", "medium", "large")),
        *(f"There is a {size} {{}} in the scene.".format for size in ("small", "medium", "large")),
    ),
}  # fmt: skip
"""Prompt sets by name. imagenet80: the 80 of Radford et al. 2021, used by every published row of the table. vild14:
those of ViLD (Gu et al. 2021) that FC-CLIP reads, some without a full stop."""
WRITE_EVERY = 32
"""Names after which the cache is written: hundreds of names take minutes on a CPU and a run may be stopped."""


class TextBank:
    """Embeddings of names, each computed once: kept in memory, and in `folder` where one is given.

    A name's embedding depends on nothing but the name, the templates and the weights: its prompts are encoded together
    and apart from other names. One file a (weights, templates); damaged files are made again.
    """

    def __init__(self, tower: OpenClipEncoder, templates: str = "imagenet80", folder: Path | None = None) -> None:
        """Raises UnknownNameError for a template set that does not exist."""
        if templates not in TEMPLATES:
            raise unknown_name("templates", templates, TEMPLATES)
        self.tower, self.templates = tower, templates
        self._rows: dict[str, Tensor] = {}
        self._file: Path | None = None
        if folder is not None:
            # What the templates say belongs to the name of the file, should a library change them.
            wording = "|".join(template("{}") for template in TEMPLATES[templates])
            digest = hashlib.sha256(f"{tower.fingerprint} {wording}".encode()).hexdigest()[:16]
            self._file = folder / f"{templates}-{digest}.safetensors"
            self._rows = _read(self._file)

    @torch.no_grad()
    def embed(self, names: Sequence[str]) -> Tensor:
        """Unit embeddings (M, D) float32 of `names` (M) on the CPU: mean of the unit embeddings of all prompts,
        normalised again. Underscores read as spaces. Raises KcError for an empty name, RunError where the cache
        cannot be written."""
        clean = [" ".join(name.replace("_", " ").split()) for name in names]
        if not all(clean):
            raise KcError(f"empty class names, by position: {[i for i, name in enumerate(clean) if not name]}")
        new = [name for name in dict.fromkeys(clean) if name not in self._rows]
        for start in range(0, len(new), WRITE_EVERY):
            self._rows |= {name: self._embed(name) for name in new[start : start + WRITE_EVERY]}
            if self._file is not None:
                _write(self._file, self._rows)
        return torch.stack([self._rows[name] for name in clean])

    def _embed(self, name: str) -> Tensor:
        each = self.tower.encode_text([template(name) for template in TEMPLATES[self.templates]])
        return F.normalize(F.normalize(each.float(), dim=1).mean(0), dim=0).cpu()


def class_scores(cosines: Tensor, counts: Sequence[int], scale: float) -> Tensor:
    """Scores (..., C) of classes from cosines (..., M) with all their names, class after class, `counts` (C) of each.

    One softmax over all names, then the highest of each class; the scores of a row do not add up to 1 where a class
    has several names. Raises ValueError for a class without a name.
    """
    if any(count < 1 for count in counts) or sum(counts) != cosines.shape[-1]:
        raise ValueError(f"{cosines.shape[-1]} names do not divide into classes with {list(counts)}")
    p = (cosines.float() * scale).softmax(-1)
    if len(counts) == p.shape[-1]:
        return p
    owner = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts)).to(p.device)
    result = torch.zeros(*p.shape[:-1], len(counts), dtype=p.dtype, device=p.device)
    return result.scatter_reduce_(-1, owner.expand_as(p), p, "amax")


def _read(path: Path) -> dict[str, Tensor]:
    try:
        with safe_open(path, framework="pt") as file:
            names = json.loads((file.metadata() or {})["names"])
            rows = file.get_tensor("rows")
    except (OSError, SafetensorError, KeyError, ValueError):
        return {}
    return dict(zip(names, rows, strict=True)) if len(names) == len(rows) else {}


def _write(path: Path, rows: dict[str, Tensor]) -> None:
    # Another process may have added names meanwhile; equal names have equal rows.
    rows = {**_read(path), **rows}
    data = save({"rows": torch.stack(list(rows.values()))}, metadata={"names": json.dumps(list(rows))})
    write_atomic(path, data, sync=False)
