"""Mask2Former (Cheng et al. 2022, arXiv 2112.01527) from `transformers`, without its classifier."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn

from kc.encoders.base import Encoder, Pyramid
from kc.errors import KcError, MissingExtraError
from kc.types import Features

SMALL = 64
"""Width of a network over the run's encoder."""
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Queries:
    """What the decoder says of N images after each of its L stages; Q queries, each one a mask.

    `states`: L tensors (N, Q, D), what a classifier reads. `masks`: L tensors (N, Q, h, w), logits at stride 4.
    """

    states: tuple[Tensor, ...]
    masks: tuple[Tensor, ...]


@dataclass(frozen=True)
class Pixels:
    """What the pixel decoder says of N images: all that queries read.

    `levels`: three tensors (h w, N, D), coarsest first, and `positions` of the same shapes; `sizes` their (h, w).
    `embeddings`: (N, E, H, W) at stride 4, of which a mask is an inner product.
    """

    levels: tuple[Tensor, ...]
    positions: tuple[Tensor, ...]
    sizes: tuple[tuple[int, int], ...]
    embeddings: Tensor


class MaskNetwork(nn.Module):
    """Backbone, pixel decoder and transformer decoder of a Mask2Former; the classes are someone else's.

    `normal`: the backbone wants images of ImageNet's mean and deviation; False for one that sees to it itself.
    """

    def __init__(self, model: Any, *, normal: bool = True) -> None:
        super().__init__()
        self.model = model
        self.normal = normal
        self.width = int(model.config.hidden_dim)

    @property
    def backbone(self) -> nn.Module:
        return cast(nn.Module, self.model.pixel_level_module.encoder)

    def forward(self, features: Features) -> Queries:
        """The network's own queries in N images, as `pixels` reads them."""
        return self.own_queries(self.pixels(features))

    def levels(self, images: Tensor) -> tuple[Tensor, ...]:
        """The levels of the backbone, finest first, of images (N, 3, H, W) float RGB in [0, 1]."""
        if self.normal:
            mean, std = images.new_tensor([MEAN, STD]).view(2, 1, 3, 1, 1)
            images = (images - mean) / std
        return tuple(self.backbone(images).feature_maps)

    def pixels(self, features: Features) -> Pixels:
        """What `decode` reads of N images, from the backbone's levels, finest first, where there are any, else from
        the images in `pooled`, (N, 3, H, W) float RGB in [0, 1]."""
        part, maps = self.model.transformer_module, features.levels or self.levels(features.pooled)
        out = self.model.pixel_level_module.decoder(maps, output_hidden_states=True)
        levels, positions = [], []
        for i, level in enumerate(out.multi_scale_features):
            place = part.position_embedder(level.shape, level.device, level.dtype, None)
            level_of = part.input_projections[i](level) + part.level_embed.weight[i][:, None, None]
            levels.append(level_of.flatten(2).permute(2, 0, 1))
            positions.append(place.flatten(2).permute(2, 0, 1))
        sizes = tuple((x.shape[2], x.shape[3]) for x in out.multi_scale_features)
        return Pixels(tuple(levels), tuple(positions), sizes, out.mask_features)

    def own_queries(self, pixels: Pixels) -> Queries:
        """The queries of the network itself."""
        part = self.model.transformer_module
        positions = part.queries_embedder.weight.expand(len(part.decoder.layers), -1, -1)
        return self.decode(pixels, part.queries_features.weight, positions)

    def decode(
        self, pixels: Pixels, contents: Tensor, positions: Tensor, mask_head: nn.Module | None = None
    ) -> Queries:
        """Queries of one's own through the layers of the transformer decoder, which has one position for all of them.

        Args:
            pixels: of N images.
            contents: (Q, D), what each query is before the first layer.
            positions: (L, Q, D), what is added to it in each layer.
            mask_head: (N, Q, D) -> (N, Q, E) in place of the network's own.
        """
        decoder = self.model.transformer_module.decoder
        head = decoder.mask_predictor.mask_embedder if mask_head is None else mask_head
        states, masks = [], []

        def read(hidden: Tensor) -> None:
            state = decoder.layernorm(hidden).transpose(0, 1)
            states.append(state)
            masks.append(torch.einsum("nqe,nehw->nqhw", head(state), pixels.embeddings))

        n, heads = pixels.embeddings.shape[0], decoder.mask_predictor.num_heads
        hidden = contents[:, None].expand(-1, n, -1)
        read(hidden)
        for i, layer in enumerate(decoder.layers):
            size = pixels.sizes[i % len(pixels.sizes)]
            small = nn.functional.interpolate(masks[-1].detach(), size=size, mode="bilinear", align_corners=False)
            outside = small.sigmoid().flatten(2) < 0.5
            outside &= ~outside.all(-1, keepdim=True)  # an empty mask looks everywhere
            place, mask = positions[i][:, None].expand(-1, n, -1), outside.repeat_interleave(heads, 0)
            others = (i % len(pixels.sizes), None, pixels.positions, place, pixels.levels)
            hidden = layer(hidden, *others, encoder_attention_mask=mask)[0]
            read(hidden)
        return Queries(tuple(states), tuple(masks))


def tiny_config(**other: Any) -> Any:
    """A Mask2Former of 0.5 million weights, for tests and CPUs; `other`: settings of transformers in place of these."""
    from transformers import Mask2FormerConfig, SwinConfig

    swin: dict[str, Any] = {
        "embed_dim": 16, "depths": [1, 1, 1, 1], "num_heads": [1, 2, 4, 4], "window_size": 4,
        "out_features": ["stage1", "stage2", "stage3", "stage4"],
    }  # fmt: skip
    tiny: dict[str, Any] = {
        "feature_size": 64, "mask_feature_size": 64, "hidden_dim": 64, "encoder_feedforward_dim": 64,
        "dim_feedforward": 64, "encoder_layers": 1, "decoder_layers": 3, "num_attention_heads": 4, "num_queries": 20,
        "train_num_points": 1024,
    }  # fmt: skip
    return Mask2FormerConfig(backbone_config=SwinConfig(**swin), **(tiny | other))


class EncoderBackbone(nn.Module):
    """The run's encoder in the place of a Mask2Former's backbone.

    Raises KcError for an encoder without three levels.
    """

    def __init__(self, encoder: Encoder) -> None:
        super().__init__()
        if len(encoder.pyramid_channels) < 3:
            has = f"{encoder.name} has {len(encoder.pyramid_channels)} dense levels, a mask classifier reads three"
            raise KcError(f"{has}: take a convolutional or hierarchical encoder, such as lite0")
        self.pyramid = Pyramid(encoder.to_train())

    def forward(self, images: Tensor) -> Any:
        """The levels of images (N, 3, H, W) in [0, 1], finest first, as transformers' backbones return them."""
        from transformers.modeling_outputs import BackboneOutput

        levels: Any = self.pyramid(images).levels
        return BackboneOutput(feature_maps=levels)


def _over_encoder(encoder: Encoder, model: Any) -> MaskNetwork:
    """A small Mask2Former, for a CPU, whose backbone is a copy of `encoder` with its weights; the rest is random."""
    backbone = EncoderBackbone(encoder)
    config = tiny_config(
        feature_size=SMALL, mask_feature_size=SMALL, hidden_dim=SMALL, encoder_feedforward_dim=2 * SMALL,
        dim_feedforward=4 * SMALL, train_num_points=256,
        feature_strides=list(encoder.pyramid_strides), common_stride=encoder.pyramid_strides[0],
    )  # fmt: skip
    built: Any = model(config)
    module = built.pixel_level_module
    decoder = type(module.decoder)(config, feature_channels=list(backbone.pyramid.channels))
    decoder.apply(built._init_weights)  # a decoder built alone has not even finite weights
    module.encoder, module.decoder = backbone, decoder
    return MaskNetwork(built, normal=False)


def load_mask_network(name: str, encoder: Encoder | None = None) -> MaskNetwork:
    """`tiny` (random weights); `encoder`: a small one over `encoder`, of which a copy is trained; or a published
    Mask2Former: a folder that `transformers` saved, or a name on the hub.

    The classifier of a published one is left out. Raises MissingExtraError where transformers is not installed or the
    weights cannot be had or do not fill the network; it is never left with random ones.
    """
    try:
        from transformers import Mask2FormerModel as Model
    except ImportError as error:
        raise MissingExtraError("mask2former needs transformers: pip install 'kc-continual[masks]'") from error
    if name == "tiny":
        return MaskNetwork(Model(tiny_config()))
    if name == "encoder" and encoder is not None:
        return _over_encoder(encoder, Model)
    loader: Any = Model
    try:
        model, info = loader.from_pretrained(name, output_loading_info=True)
        if info["missing_keys"]:
            raise ValueError(f"the keys do not fit; missing {sorted(info['missing_keys'])}")
    except Exception as error:  # a hub can fail in many ways: network, cache, file format
        hint = "Give a folder that save_pretrained wrote"
        raise MissingExtraError(f"cannot have the Mask2Former {name!r} ({error}). {hint}") from error
    return MaskNetwork(model)
