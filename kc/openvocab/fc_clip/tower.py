"""The ConvNeXt tower of an open_clip model: its levels, and CLIP's own embedding of anything pooled from the last."""

from __future__ import annotations

import logging
from typing import Any

import open_clip
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kc.errors import KcError, unknown_name


def check_convnext(name: str) -> None:
    """Raise KcError unless open_clip has a model `name` whose image tower is a ConvNeXt; builds nothing."""
    if name not in open_clip.list_models():
        raise unknown_name("open_clip model", name, open_clip.list_models())
    timm_name = str((open_clip.get_model_config(name) or {}).get("vision_cfg", {}).get("timm_model_name", ""))
    if "convnext" not in timm_name:
        raise KcError(
            f"FC-CLIP reads the dense features of a ConvNeXt tower; open_clip's {name} has "
            f"{timm_name or 'another one'}: use a convnext model, such as convnext_large_d_320"
        )


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


def level_channels(visual: Any) -> tuple[int, ...]:
    """Channels of the four levels."""
    return tuple(int(level["num_chs"]) for level in visual.trunk.feature_info)


def levels(visual: Any, images: Tensor) -> tuple[tuple[Tensor, ...], Tensor]:
    """Four levels (N, C_l, h_l, w_l) at strides 4 to 32 of normalised images (N, 3, H, W), and what CLIP would pool."""
    trunk = visual.trunk
    x: Tensor = trunk.stem(images)
    found = []
    for stage in trunk.stages:
        x = stage(x)
        found.append(x)
    return tuple(found), trunk.norm_pre(x)


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


def freeze(module: nn.Module) -> None:
    """No gradient to any weight, and evaluation mode."""
    module.requires_grad_(False).eval()
