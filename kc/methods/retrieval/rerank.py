"""Neighbours ordered again by a model that reads image and class names (arXiv 2408.08172 does so for 50 neighbours).

The interface is one method, the similarity of images to names: `conse`, any OpenCLIP model, any CLIP-like model of
transformers. For a model outside, `prompts` writes the prompts.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from kc.encoders.load import load_encoder
from kc.errors import KcError, MissingExtraError, unknown_name
from kc.types import Neighbours, UInt8Array

PROMPT = "a photo of a {}."
MODELS = ("conse", "open_clip:MODEL[@FILE]", "transformers:PATH")


class Reranker(Protocol):
    """Compares images with names."""

    def similarity(self, images: Sequence[UInt8Array], names: Sequence[str]) -> Tensor:
        """(Q, C) float of images (H, W, 3) uint8 RGB and class names, higher is more alike; comparable in a row."""


def rerank(neighbours: Neighbours, similarity: Tensor, class_ids: Sequence[int], top: int) -> Neighbours:
    """The first `top` neighbours of each query in the order of the similarity (Q, C) of their classes, ties as before.

    Cosines stay with their rows, so that only votes by rank or count follow the new order. Rows of a class that
    `class_ids` (C) lacks go behind the others. ValueError for top below 1.
    """
    if top < 1:
        raise ValueError(f"top must be at least 1, got {top}")
    column = {c: i for i, c in enumerate(class_ids)}
    table = np.concatenate([similarity.double().numpy(), np.full((len(similarity), 1), -np.inf)], axis=1)
    head = neighbours.class_id[:, :top]
    at = np.vectorize(lambda c: column.get(int(c), len(column)), otypes=[np.int64])(head)
    order = np.argsort(-np.take_along_axis(table, at, 1), axis=1, kind="stable")
    whole = np.concatenate([order, np.tile(np.arange(head.shape[1], neighbours.id.shape[1]), (len(order), 1))], axis=1)
    return Neighbours(**{name: np.take_along_axis(values, whole, 1) for name, values in vars(neighbours).items()})


class OpenClipReranker:
    """An OpenCLIP model: cosine of image and prompt."""

    def __init__(self, name: str) -> None:
        self.encoder: Any = load_encoder(name).eval()

    @torch.no_grad()
    def similarity(self, images: Sequence[UInt8Array], names: Sequence[str]) -> Tensor:
        texts = self.encoder.encode_text([PROMPT.format(name) for name in names])
        keys = [self.encoder.encode(_tensor(image)).pooled for image in images]
        return cast(Tensor, F.normalize(torch.cat(keys), dim=1) @ texts.T)


class TransformersReranker:
    """A CLIP-like model of transformers (CLIP, SigLIP, ALIGN ...) in a local folder: its own logits_per_image.

    Raises MissingExtraError where the folder is none, holds another kind of model, or transformers is missing.
    """

    def __init__(self, path: str) -> None:
        try:
            from transformers import AutoImageProcessor, AutoModel, AutoTokenizer
        except ImportError as error:
            raise MissingExtraError("transformers:PATH needs transformers: pip install 'kc-continual[text]'") from error
        if not (Path(path) / "config.json").is_file():
            raise MissingExtraError(f"transformers:{path}: no folder with a config.json; give a saved model")
        try:
            processor: Any = AutoImageProcessor
            self.model: Any = AutoModel.from_pretrained(path, local_files_only=True).eval()
            self.images: Any = processor.from_pretrained(path, local_files_only=True)
            self.texts: Any = AutoTokenizer.from_pretrained(path, local_files_only=True)
        except (OSError, ValueError, KeyError) as error:
            raise MissingExtraError(f"transformers:{path} cannot be loaded ({error})") from error
        if not hasattr(self.model, "get_text_features"):
            raise MissingExtraError(f"transformers:{path} does not compare images with text: take a CLIP-like model")

    @torch.no_grad()
    def similarity(self, images: Sequence[UInt8Array], names: Sequence[str]) -> Tensor:
        tokens = self.texts([PROMPT.format(name) for name in names], padding=True, return_tensors="pt")
        rows = []
        for image in images:
            pixels = self.images(images=image, return_tensors="pt")["pixel_values"]
            rows.append(self.model(pixel_values=pixels, **tokens).logits_per_image)
        return torch.cat(rows)


class BaseReranker:
    """The project's own zero-shot base `conse`: it needs no download."""

    def __init__(self, size: tuple[int, int]) -> None:
        from kc.openvocab.load import load_base

        self.size = size
        self.encoder: Any = load_encoder("lite0").eval()
        self.base: Any = load_base("conse", self.encoder)

    @torch.no_grad()
    def similarity(self, images: Sequence[UInt8Array], names: Sequence[str]) -> Tensor:
        keys = [self.encoder.encode(_tensor(image, self.size)).pooled for image in images]
        return cast(Tensor, self.base.scores_from(torch.cat(keys), [(name,) for name in names]))


def check_reranker_name(name: str) -> None:
    """UnknownNameError unless `name` is one of MODELS; loads nothing."""
    family, _, rest = name.partition(":")
    if name != "conse" and not (family in ("open_clip", "transformers") and rest):
        raise unknown_name("re-ranking model", name, MODELS)


def load_reranker(name: str, size: tuple[int, int]) -> Reranker:
    """The model `name`; `size` (H, W) is what `conse` sees, the others know theirs."""
    check_reranker_name(name)
    family, _, rest = name.partition(":")
    if name == "conse":
        return BaseReranker(size)
    return OpenClipReranker(name) if family == "open_clip" else TransformersReranker(rest)


def prompts(
    sample_ids: Sequence[str], neighbours: Neighbours, sources: Mapping[int, str], names: Mapping[int, str], top: int
) -> bytes:
    """JSON lines, one a query: the prompt for a model outside about its first `top` neighbours.

    `sources`: row id -> sample id of the row. Each line has `query`, `neighbours` (sample, class) nearest first,
    `classes` to choose from in the order of their nearest row, and `prompt`. KcError for a class without a name.
    """
    lines = []
    for i, query in enumerate(sample_ids):
        ids, classes = neighbours.id[i, :top].tolist(), neighbours.class_id[i, :top].tolist()
        unnamed = sorted(set(classes) - names.keys())
        if unnamed:
            raise KcError(f"classes without a name cannot be asked for: {unnamed}")
        said = [{"sample": sources[r], "class": names[c]} for r, c in zip(ids, classes, strict=True)]
        choice = list(dict.fromkeys(names[c] for c in classes))
        text = (
            "The first image is the query. The images after it are its nearest neighbours in a memory, nearest first, "
            f"labelled: {'; '.join(str(s['class']) for s in said)}. Which one of these classes does the query show? "
            f"Answer with one of: {', '.join(choice)}."
        )
        lines.append(json.dumps({"query": query, "neighbours": said, "classes": choice, "prompt": text}))
    return "".join(line + "\n" for line in lines).encode()


def _tensor(image: UInt8Array, size: tuple[int, int] | None = None) -> Tensor:
    """(1, 3, H, W) float in [0, 1]."""
    found = torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1)[None].float() / 255
    if size is None:
        return found
    return F.interpolate(found, size=size, mode="bilinear", antialias=True, align_corners=False)
