"""open_clip:MODEL[@TAG or PATH]: the image tower of a CLIP model, and its text tower in the same space."""

from __future__ import annotations

import copy
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import open_clip
import torch
from torch import Tensor
from torch.func import functional_call

from kc.encoders.base import Encoder, normalized, weights_of
from kc.errors import UnknownNameError, unknown_name
from kc.spec import EncoderSpec
from kc.types import Features


class OpenClipEncoder(Encoder):
    """A CLIP model: pooled is the projected image embedding, the one level the normalised last block or stage.

    Transformer towers see the images resized to their own square (bilinear, antialiased), so that the level has the
    tower's grid whatever the input; its stride is nominal, in pixels of that square.
    """

    spec = EncoderSpec(
        "A CLIP of OpenCLIP, which also embeds names.", form="open_clip:MODEL[@FILE]", argument=r"[^@]+(@.+)?"
    )

    def __init__(self, model: str, network: Any) -> None:
        super().__init__()
        self.network: Any = network
        self.name = f"open_clip:{model}"
        self.architecture = model
        size = network.visual.image_size
        self.size: tuple[int, int] = (size, size) if isinstance(size, int) else (size[0], size[1])
        config = network.visual.preprocess_cfg
        self.preprocessing = (*config["mean"], *config["std"], *self.size)
        with torch.no_grad():
            pooled, level = self._run(torch.zeros(1, 3, *self.size))
        self.pooled_dim = pooled.shape[1]
        self.channels = (level.shape[1],)
        self.strides = (self.size[0] // level.shape[2],)
        self._tokenize: Any = None

    def forward(self, images: Tensor) -> Features:
        """Pooled (N, D), not normalised, and one level (N, C, h, w) of images (N, 3, H, W) in [0, 1]."""
        pooled, level = self._run(normalized(images, self.preprocessing, self.size))
        return Features(pooled, (level,), self.strides)

    def to_train(self) -> OpenClipEncoder:
        """The image tower alone: the text tower would be copied, stored and counted, but never get a gradient."""
        tower = torch.nn.Module()
        tower.visual = copy.deepcopy(self.network.visual)
        # The memo of deepcopy: wherever this encoder holds its network, the copy holds the tower.
        return copy.deepcopy(self, {id(self.network): tower}).requires_grad_(True)

    @torch.no_grad()
    def encode_text(self, texts: Sequence[str]) -> Tensor:
        """Unit embeddings (N, D) of `texts` (N), comparable with normalised pooled features."""
        if self._tokenize is None:
            self._tokenize = open_clip.get_tokenizer(self.architecture)
        tokens = self._tokenize(list(texts)).to(next(self.parameters()).device)
        mask = getattr(self.network, "attn_mask", None)
        if mask is None or self.network.text_pool_type != "argmax":
            return cast(Tensor, self.network.encode_text(tokens, normalize=True))
        # Under a causal mask nothing behind the end of the longest text counts, and prompts hold some 10 of 77 tokens.
        end = int(tokens.argmax(1).max()) + 1
        shorter = {"positional_embedding": self.network.positional_embedding[:end], "attn_mask": mask[:end, :end]}
        found = functional_call(self.network, shorter, kwargs={"text": tokens[:, :end]})
        return cast(Tensor, found["text_features"] if isinstance(found, dict) else found[1])

    def _run(self, x: Tensor) -> tuple[Tensor, Tensor]:
        out = self.network.visual.forward_intermediates(x, indices=1, normalize_intermediates=True)
        return out["image_features"], out["image_intermediates"][-1]

    @classmethod
    def load(cls, argument: str) -> OpenClipEncoder:
        """The encoder `MODEL[@FILE]`: see `load_open_clip`."""
        model, _, weights = argument.partition("@")
        return load_open_clip(model, weights or None)


def load_open_clip(model: str, weights: str | None = None) -> OpenClipEncoder:
    """The OpenCLIP model `model` with `weights`: a local file, a tag of the hub, or None for the model's first tag.

    In evaluation mode on the CPU. Raises UnknownNameError for a model OpenCLIP does not know, or whose activation is
    not that of the tag's weights, and MissingExtraError where the weights cannot be had or do not fit; it is never left
    with random ones. A bare file does not say which activation it was trained with.
    """
    if model not in open_clip.list_models():
        raise unknown_name("open_clip model", model, open_clip.list_models())
    with weights_of(f"open_clip:{model}", weights):
        source = weights if weights is not None else _first_tag(model)
        _check_activation(model, source)
        if (os.sep in source or Path(source).suffix) and not Path(source).is_file():
            raise FileNotFoundError(f"no such file: {source}")
        network = open_clip.create_model(
            model, pretrained=source, require_pretrained=True, weights_only=True, pretrained_text=False
        )
    return OpenClipEncoder(model, network.eval()).eval()


def _first_tag(model: str) -> str:
    tags = open_clip.list_pretrained_tags_by_model(model)
    if not tags:
        raise ValueError("no weights on the hub")
    return str(tags[0])


def _check_activation(model: str, tag: str) -> None:
    """Weights trained with QuickGELU give other numbers in a model with GELU, and nothing fails."""
    known = open_clip.get_pretrained_cfg(model, tag)
    config = open_clip.get_model_config(model) or {}
    if known and bool(known.get("quick_gelu")) != bool(config.get("quick_gelu")):
        other = model.removesuffix("-quickgelu") if config.get("quick_gelu") else f"{model}-quickgelu"
        raise UnknownNameError(f"weights {tag!r} have another activation than {model}: use open_clip:{other}@{tag}")
