"""timm:MODEL[@PATH]: any timm network with `forward_intermediates`, convolutional or transformer."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import timm
import torch
from timm.models import load_state_dict as read_weights
from torch import Tensor

from kc.encoders.base import Encoder, normalized, weights_of
from kc.errors import UnknownNameError, nearest
from kc.spec import EncoderSpec
from kc.types import Features

WANTED = (8, 16, 32)
FINE = 4


class TimmEncoder(Encoder):
    """A timm network without its classifier.

    Levels are the stages at strides 8, 16 and 32 of a hierarchical network, or the normalised last block of a plain
    transformer (one level at its patch stride). Input is (rgb - mean) / std of the model's own configuration. Plain
    transformers take any size: position embeddings are interpolated, sizes padded to whole patches; their class and
    register tokens are in no level. `size` (H, W): of a network that takes no other; every image is resized to it
    (bilinear, antialiased), and strides are in pixels of that size.
    """

    spec = EncoderSpec(
        "A timm model with dense features; weights from a file or the hub.",
        form="timm:MODEL[@FILE]",
        argument=r"[^@]+(@.+)?",
    )

    def __init__(self, model: str, network: Any, size: tuple[int, int] | None = None) -> None:
        super().__init__()
        self.network: Any = network
        self.name = f"timm:{model}"
        self.architecture = model
        reductions = [int(stage["reduction"]) for stage in network.feature_info]
        every = [int(stage["num_chs"]) for stage in network.feature_info]
        # A plain transformer repeats one stride; its last block, normalised as for the head, says most.
        self._plain = len(set(reductions)) == 1
        last = len(reductions) - 1
        self._indices = [i for i, stride in enumerate(reductions) if (i == last if self._plain else stride in WANTED)]
        # Of several stages at one stride the last says most.
        fine = [i for i, stride in enumerate(reductions) if stride == FINE and not self._plain][-1:]
        self._pyramid = [*fine, *self._indices]
        self._every = (tuple(every[i] for i in self._pyramid), tuple(reductions[i] for i in self._pyramid))
        self.strides = tuple(reductions[i] for i in self._indices)
        self.channels = tuple(every[i] for i in self._indices)
        self.pooled_dim = int(network.head_hidden_size)
        config = network.pretrained_cfg
        self.size = size
        self.preprocessing = (*config["mean"], *config["std"], *(size or ()))

    def forward(self, images: Tensor) -> Features:
        """Pooled (N, D), what the model's classifier would read, and the levels; images (N, 3, H, W) in [0, 1]."""
        final, levels = self._stages(images, self._indices)
        pooled = self.network.forward_head(final, pre_logits=True)
        return Features(pooled, tuple(levels), self.strides)

    def _stages(self, images: Tensor, indices: list[int]) -> tuple[Tensor, list[Tensor]]:
        x = normalized(images, self.preprocessing, self.size)
        final, levels = self.network.forward_intermediates(x, indices=indices, norm=self._plain, output_fmt="NCHW")
        return final, levels

    @property
    def pyramid_channels(self) -> tuple[int, ...]:
        return self._every[0]

    @property
    def pyramid_strides(self) -> tuple[int, ...]:
        return self._every[1]

    def pyramid(self, images: Tensor) -> tuple[Tensor, ...]:
        return tuple(self._stages(images, self._pyramid)[1])

    @classmethod
    def load(cls, argument: str) -> TimmEncoder:
        """The timm model `MODEL[@FILE]`, weights from a file (safetensors, or one torch reads with `weights_only`) or
        the hub.

        In evaluation mode on the CPU. A file holds the state dict of this very timm model. Raises UnknownNameError for
        a model timm does not know or cannot read densely, MissingExtraError where the weights cannot be had or do not
        fill the network: it is never left with random ones.
        """
        model, at, path = argument.partition("@")
        base = model.partition(".")[0]
        if not timm.is_model(base):
            close = " or ".join(repr(name) for name in nearest(base, timm.list_models()))
            raise UnknownNameError(f"unknown timm model {base!r}. Did you mean {close}? See timm.list_models()")
        try:
            with torch.device("meta"):
                probe: Any = timm.create_model(model, pretrained=False)
        except RuntimeError as error:
            tags = ", ".join(timm.list_pretrained(f"{base}.*"))
            raise UnknownNameError(f"unknown timm weights {model!r} ({error}). Valid: {tags}") from error
        if not hasattr(probe, "forward_intermediates"):
            raise UnknownNameError(f"timm model {model!r} gives no dense features (it has no forward_intermediates)")
        # Plain transformers fix the input size unless told otherwise.
        known = inspect.signature(type(probe).__init__).parameters
        options: dict[str, Any] = {name: True for name in ("dynamic_img_size", "dynamic_img_pad") if name in known}
        with weights_of(f"timm:{model}", path or None):
            network = timm.create_model(model, pretrained=not at, num_classes=0, **options)
            if at:
                _fill(network, path)
        return cls(model, network, own_size(network)).eval()


def own_size(network: Any) -> tuple[int, int] | None:
    """The input (H, W) of a network that takes no other; None for convolutions and for transformers that interpolate.

    timm's own word for it, `fixed_input_size`, is about the network as it is made without `dynamic_img_size`.
    """
    config = network.pretrained_cfg
    if not config.get("fixed_input_size") or getattr(network, "dynamic_img_size", False):
        return None
    _, height, width = config["input_size"]
    return int(height), int(width)


def _fill(network: Any, path: str) -> None:
    """Load `path`; the file may hold a classifier beside, everything else must match exactly."""
    if not Path(path).is_file():
        raise FileNotFoundError(f"no such file: {path}")
    missing, extra = network.load_state_dict(read_weights(path, weights_only=True), strict=False)
    classifier = network.pretrained_cfg["classifier"]
    heads = (classifier,) if isinstance(classifier, str) else tuple(classifier)
    extra = [key for key in extra if not key.startswith(tuple(f"{head}." for head in heads))]
    if missing or extra:
        raise ValueError(f"{path}: {len(missing)} tensors missing {missing[:3]}, {len(extra)} unknown {extra[:3]}")
