"""FC-CLIP's network: a frozen ConvNeXt CLIP, Mask2Former's decoders from `transformers`, a head that reads masks."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, cast

import open_clip
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kc.errors import KcError, MissingExtraError, unknown_name
from kc.openvocab.base import Names
from kc.openvocab.fc_clip.coco import COCO_NAMES
from kc.openvocab.fc_clip.options import PUBLISHED_CLIP, FcClipConfig


@dataclass(frozen=True)
class NetworkOutput:
    """What the network says of N images of one size, whatever the names; Q queries, each one a mask.

    `classes`: of each stage asked for (N, Q, D), what the trained head compares with text. `masks`: of the same stages
    (N, Q, h, w), logits at stride 4. `states` (N, Q, W): the queries after the last stage. `pixels` (N, E, h, w): what
    masks are inner products with. `dense` (N, C, h / 8, w / 8): what CLIP would pool.
    """

    classes: tuple[Tensor, ...]
    masks: tuple[Tensor, ...]
    states: Tensor
    pixels: Tensor
    dense: Tensor


class ClassHead(nn.Module):
    """Embeds a query together with what its mask covers, in CLIP's space."""

    def __init__(self, width: int, mask_width: int, dim: int) -> None:
        super().__init__()
        self.pooled = nn.Sequential(nn.LayerNorm(mask_width), nn.Linear(mask_width, width))
        self.layers = nn.ModuleList([nn.Linear(width, width), nn.Linear(width, width), nn.Linear(width, dim)])

    def forward(self, pooled: Tensor, states: Tensor) -> Tensor:
        """(N, Q, D) of averages of pixel features (N, Q, E) and queries (N, Q, W)."""
        x = self.pooled(pooled) + states
        for layer in self.layers[:-1]:
            x = layer(x).relu()
        return cast(Tensor, self.layers[-1](x))


class FcClip(nn.Module):
    """The network. `clip` is frozen and stays in evaluation mode; everything else learns. `names`: what it is, or is to
    be, trained on, per class its name and synonyms.

    Raises MissingExtraError where transformers is not installed, KcError for a CLIP that is no ConvNeXt.
    """

    def __init__(self, config: FcClipConfig, clip: Any | None = None, names: Names = COCO_NAMES) -> None:
        super().__init__()
        decoder_config = mask2former_config(config)
        from transformers.models.mask2former import modeling_mask2former as mask2former

        self.config = config
        self.names = tuple(tuple(synonyms) for synonyms in names)
        self.clip: Any = make_clip(config.clip) if clip is None else clip
        self.clip.requires_grad_(False).eval()
        channels = tuple(int(level["num_chs"]) for level in self.clip.visual.trunk.feature_info)
        self.pixel_decoder: Any = mask2former.Mask2FormerPixelDecoder(decoder_config, feature_channels=channels)
        self.decoder: Any = mask2former.Mask2FormerTransformerModule(config.width, decoder_config)
        self.class_head = ClassHead(config.width, config.mask_width, self.dim)
        self.logit_scale = nn.Parameter(torch.tensor(math.log(1 / 0.07)))
        self.void = nn.Embedding(1, self.dim)
        _initialise(self)

    @property
    def dim(self) -> int:
        return int(self.clip.text_projection.shape[-1])

    def train(self, mode: bool = True) -> FcClip:
        super().train(mode)
        self.clip.eval()
        return self

    def forward(self, images: Tensor, all_stages: bool = False) -> NetworkOutput:
        """The answer for normalised images (N, 3, H, W), H and W multiples of 32; of the last stage or of every one."""
        with torch.no_grad():
            maps, dense = levels(self.clip.visual, images)
        # Deformable attention is unstable in half precision, so the authors leave it out of mixed precision.
        with torch.autocast(images.device.type, enabled=False):
            pixel = self.pixel_decoder([m.float() for m in maps], return_dict=True)
        out = self.decoder(list(pixel.multi_scale_features), pixel.mask_features)
        states = [s.transpose(0, 1) for s in out.intermediate_hidden_states]
        masks = list(out.masks_queries_logits)
        if not all_stages:
            states, masks = states[-1:], masks[-1:]
        classes = [self.embed(pixel.mask_features, m, s) for m, s in zip(masks, states, strict=True)]
        return NetworkOutput(tuple(classes), tuple(masks), states[-1], pixel.mask_features, dense)

    def embed(self, pixels: Tensor, masks: Tensor, states: Tensor) -> Tensor:
        """Class embeddings (N, Q, D) of queries (N, Q, W) with mask logits (N, Q, h, w) over `pixels` (N, E, h, w)."""
        return cast(Tensor, self.class_head(mask_pool(pixels, masks), states))

    def clip_embed(self, dense: Tensor, masks: Tensor) -> Tensor:
        """CLIP's embeddings (N, Q, D), not normalised, of what mask logits (N, Q, h, w) cover of `dense`."""
        return project(self.clip.visual, mask_pool(dense, masks))


def mask2former_config(config: FcClipConfig) -> Any:
    """`transformers`' configuration of the decoders and of the loss, with the published weights of its terms."""
    try:
        from transformers import Mask2FormerConfig
    except ImportError as error:
        raise MissingExtraError("base fc-clip needs transformers: pip install 'kc-continual[masks]'") from error
    return Mask2FormerConfig(
        feature_size=config.width, mask_feature_size=config.mask_width, hidden_dim=config.width,
        encoder_feedforward_dim=config.pixel_ffn, encoder_layers=config.pixel_layers,
        decoder_layers=config.layers + 1,  # transformers counts the learned queries as one
        num_attention_heads=config.heads, dim_feedforward=config.ffn, num_queries=config.queries, dropout=0.0,
    )  # fmt: skip


def _initialise(network: FcClip) -> None:
    """The authors' start; transformers leaves one weight unset outside of its own models."""
    pixel = network.pixel_decoder
    for layer in pixel.encoder.layers:
        for weight in (p for p in layer.parameters() if p.dim() > 1):
            nn.init.xavier_uniform_(weight)
        attention = layer.self_attn
        for part in (attention.sampling_offsets, attention.attention_weights, attention.value_proj,
                     attention.output_proj):  # fmt: skip
            nn.init.zeros_(part.bias)
        nn.init.zeros_(attention.sampling_offsets.weight)
        nn.init.zeros_(attention.attention_weights.weight)
        # Each head looks into a direction of its own, its points further and further away.
        angle = torch.arange(attention.n_heads) * (2 * math.pi / attention.n_heads)
        way = torch.stack([angle.cos(), angle.sin()], -1)
        way = (way / way.abs().amax(-1, keepdim=True)).view(-1, 1, 1, 2)
        steps = torch.arange(1, attention.n_points + 1).view(1, 1, -1, 1)
        with torch.no_grad():
            attention.sampling_offsets.bias.copy_((way * steps).expand(-1, attention.n_levels, -1, -1).reshape(-1))
    nn.init.normal_(pixel.level_embed)
    for projection in pixel.input_projections:
        nn.init.xavier_uniform_(projection[0].weight)
        nn.init.zeros_(projection[0].bias)
    nn.init.kaiming_uniform_(pixel.mask_projection.weight, a=1)
    nn.init.zeros_(pixel.mask_projection.bias)
    for convolutions in (*pixel.lateral_convolutions, *pixel.output_convolutions):
        nn.init.kaiming_uniform_(convolutions[0].weight, a=1)
    for layer in network.decoder.decoder.layers:
        for weight in (p for p in layer.parameters() if p.dim() > 1):
            nn.init.xavier_uniform_(weight)


def check_convnext(name: str) -> None:
    """Raise KcError unless open_clip has a model `name` whose image tower is a ConvNeXt; builds nothing."""
    if name not in open_clip.list_models():
        raise unknown_name("open_clip model", name, open_clip.list_models())
    timm_name = str((open_clip.get_model_config(name) or {}).get("vision_cfg", {}).get("timm_model_name", ""))
    if "convnext" not in timm_name:
        has = f"open_clip's {name} has {timm_name or 'another one'}: use a convnext model, such as {PUBLISHED_CLIP}"
        raise KcError(f"FC-CLIP reads the dense features of a ConvNeXt tower; {has}")


def make_clip(name: str) -> Any:
    """The open_clip model `name` with random weights. Raises KcError as `check_convnext`."""
    check_convnext(name)
    root = logging.getLogger()
    root.addFilter(_not_about_weights)
    try:
        return open_clip.create_model(name, pretrained_text=False)
    finally:
        root.removeFilter(_not_about_weights)


def _not_about_weights(record: logging.LogRecord) -> bool:
    """open_clip warns that weights are random; here a checkpoint fills them, or training is about to start."""
    return "No pretrained weights" not in record.getMessage()


def levels(visual: Any, images: Tensor) -> tuple[tuple[Tensor, ...], Tensor]:
    """Four levels (N, C_l, h_l, w_l) at strides 4 to 32 of normalised images (N, 3, H, W), and what CLIP would pool."""
    trunk = visual.trunk
    _, *found = accumulate(trunk.stages, lambda x, stage: stage(x), initial=trunk.stem(images))
    return tuple(found), trunk.norm_pre(found[-1])


def project(visual: Any, pooled: Tensor) -> Tensor:
    """CLIP's embeddings (..., D), not normalised, of averages (..., C) over the last level.

    The average over all positions gives `encode_image`.
    """
    flat = pooled.reshape(-1, pooled.shape[-1], 1, 1)
    embedded: Tensor = visual.head(visual.trunk.head(flat))
    return embedded.view(*pooled.shape[:-1], embedded.shape[-1])


def mask_pool(features: Tensor, masks: Tensor) -> Tensor:
    """Averages (N, Q, C) of `features` (N, C, h, w) where mask logits (N, Q, h', w') are above 0, no gradient to masks.

    Masks are resized to the grid of the features, bilinear, before the cut; an empty one gives 0 (paper, section 3.3).
    """
    with torch.no_grad():
        if masks.shape[-2:] != features.shape[-2:]:
            masks = F.interpolate(masks, size=features.shape[-2:], mode="bilinear", align_corners=False)
        inside = (masks > 0).to(features.dtype)
        weights = inside / (inside.sum((-1, -2), keepdim=True) + 1e-8)
    return torch.einsum("nchw,nqhw->nqc", features, weights)


MAX_SCALE = 100.0
"""CLIP's own limit of exp(logit scale)."""


def name_logits(embeddings: Tensor, text: Tensor, counts: Sequence[int], logit_scale: Tensor) -> Tensor:
    """Logits (..., C) of classes: scaled cosines of `embeddings` (..., D) with their names, the best of each class.

    Args:
        text: (M, D) unit embeddings of all names, class after class.
        counts: (C) names of each class, at least one.
        logit_scale: natural logarithm of the scale, which is cut at `MAX_SCALE`.

    Raises ValueError where counts and names do not agree. A class's logit does not depend on the other classes.
    """
    if any(count < 1 for count in counts) or sum(counts) != len(text):
        raise ValueError(f"{len(text)} names do not divide into classes with {list(counts)}")
    each = logit_scale.exp().clamp(max=MAX_SCALE) * F.normalize(embeddings, dim=-1) @ text.to(embeddings).T
    return torch.stack([of_class.amax(-1) for of_class in torch.split(each, list(counts), dim=-1)], dim=-1)


def with_void(embeddings: Tensor, text: Tensor, counts: Sequence[int], logit_scale: Tensor, void: Tensor) -> Tensor:
    """Logits (..., C + 1) as `name_logits`, the last against the learned embedding `void` (1, D) of no class."""
    text = torch.cat([text.to(embeddings), F.normalize(void, dim=-1)])
    return name_logits(embeddings, text, [*counts, 1], logit_scale)


def mixed(in_vocabulary: Tensor, out_of_vocabulary: Tensor, seen: Tensor, alpha: float, beta: float) -> Tensor:
    """The geometric ensemble (..., C) of two logits (..., C), as logits (paper, eq. 6).

    log(P_in^(1 - w) P_out^w) with w = `alpha` for names that the head was trained on, `seen` (C,) bool, else `beta`.
    """
    weight = torch.where(seen.to(in_vocabulary.device), alpha, beta).to(in_vocabulary)
    return (1 - weight) * in_vocabulary.log_softmax(-1) + weight * out_of_vocabulary.log_softmax(-1)


def ensemble(in_vocabulary: Tensor, out_of_vocabulary: Tensor, seen: Tensor, alpha: float, beta: float) -> Tensor:
    """Probabilities (..., 1 + C), the first of "no object", of the head's logits (..., C + 1) and CLIP's (..., C).

    "No object" is the head's alone; the rest is shared by `mixed`. The authors' 1e-8 under a logarithm is kept.
    """
    void = in_vocabulary.softmax(-1)[..., -1:]
    named = mixed(in_vocabulary[..., :-1], out_of_vocabulary, seen, alpha, beta).softmax(-1) * (1 - void)
    p = torch.cat([void, named], dim=-1) + 1e-8
    return p / p.sum(-1, keepdim=True)
