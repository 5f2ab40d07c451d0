"""FC-CLIP's weights: the authors' detectron2 checkpoints under our names, and safetensors that say what they hold."""

from __future__ import annotations

import dataclasses
import json
import pickle
import re
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from kc.errors import KcError
from kc.files import atomic_path
from kc.openvocab.base import Names
from kc.openvocab.fc_clip.network import FcClip
from kc.openvocab.fc_clip.options import PUBLISHED_CLIP, FcClipConfig

FORMAT = "kc-fc-clip-1"
IGNORED = ("criterion.empty_weight",)
"""Constants of the authors' loss that their checkpoints carry."""

_PIXEL, _HEAD = "sem_seg_head.pixel_decoder.", "sem_seg_head.predictor."
_ENCODER, _OFFICIAL = r"pixel_decoder\.encoder\.layers\.(\d+)\.", rf"{_PIXEL}transformer.encoder.layers.\1."
_LAYER = r"decoder\.decoder\.layers\.(\d+)\."
_RULES: tuple[tuple[str, str], ...] = (
    (r"clip\.(.*)", r"backbone.clip_model.\1"),
    (r"void\.(.*)", r"void_embedding.\1"),
    (r"logit_scale", rf"{_HEAD}logit_scale"),
    (r"class_head\.pooled\.(.*)", rf"{_HEAD}_mask_pooling_proj.\1"),
    (r"class_head\.layers\.(.*)", rf"{_HEAD}class_embed.layers.\1"),
    (r"decoder\.decoder\.mask_predictor\.mask_embedder\.(\d+)\.0\.(.*)", rf"{_HEAD}mask_embed.layers.\1.\2"),
    (r"decoder\.queries_features\.(.*)", rf"{_HEAD}query_feat.\1"),
    (r"decoder\.queries_embedder\.(.*)", rf"{_HEAD}query_embed.\1"),
    (r"decoder\.level_embed\.(.*)", rf"{_HEAD}level_embed.\1"),
    (r"decoder\.decoder\.layernorm\.(.*)", rf"{_HEAD}decoder_norm.\1"),
    (rf"{_LAYER}self_attn\.[qkv]_proj\.(.*)", rf"{_HEAD}transformer_self_attention_layers.\1.self_attn.in_proj_\2"),
    (rf"{_LAYER}self_attn\.out_proj\.(.*)", rf"{_HEAD}transformer_self_attention_layers.\1.self_attn.out_proj.\2"),
    (rf"{_LAYER}self_attn_layer_norm\.(.*)", rf"{_HEAD}transformer_self_attention_layers.\1.norm.\2"),
    (rf"{_LAYER}cross_attn\.(.*)", rf"{_HEAD}transformer_cross_attention_layers.\1.multihead_attn.\2"),
    (rf"{_LAYER}cross_attn_layer_norm\.(.*)", rf"{_HEAD}transformer_cross_attention_layers.\1.norm.\2"),
    (rf"{_LAYER}fc([12])\.(.*)", rf"{_HEAD}transformer_ffn_layers.\1.linear\2.\3"),
    (rf"{_LAYER}final_layer_norm\.(.*)", rf"{_HEAD}transformer_ffn_layers.\1.norm.\2"),
    (r"pixel_decoder\.level_embed", rf"{_PIXEL}transformer.level_embed"),
    (r"pixel_decoder\.input_projections\.(.*)", rf"{_PIXEL}input_proj.\1"),
    (r"pixel_decoder\.mask_projection\.(.*)", rf"{_PIXEL}mask_features.\1"),
    (r"pixel_decoder\.(adapter|layer)_1\.0\.weight", rf"{_PIXEL}\1_1.weight"),
    (r"pixel_decoder\.(adapter|layer)_1\.1\.(.*)", rf"{_PIXEL}\1_1.norm.\2"),
    (rf"{_ENCODER}self_attn\.(.*)", rf"{_OFFICIAL}self_attn.\2"),
    (rf"{_ENCODER}fc([12])\.(.*)", rf"{_OFFICIAL}linear\2.\3"),
    (rf"{_ENCODER}self_attn_layer_norm\.(.*)", rf"{_OFFICIAL}norm1.\2"),
    (rf"{_ENCODER}final_layer_norm\.(.*)", rf"{_OFFICIAL}norm2.\2"),
)
"""Our key -> the official one, which joins the projections of query, key and value of self-attention in one tensor."""


def official_key(key: str) -> tuple[str, int | None]:
    """The authors' name of our weight `key`, and which third of that tensor it is (None: all of it)."""
    third = re.search(r"layers\.\d+\.self_attn\.([qkv])_proj\.", key) if key.startswith("decoder.") else None
    for pattern, replacement in _RULES:
        if found := re.fullmatch(pattern, key):
            return found.expand(replacement), None if third is None else "qkv".index(third[1])
    raise KeyError(key)


def load_fc_clip(path: Path, clip: str | None = None, *, allow_pickle: bool = False) -> FcClip:
    """The network in `path`, in evaluation mode on the CPU.

    Args:
        path: what `convert` wrote (.safetensors), or the authors' checkpoint (.pth, read with weights_only=True; .pkl,
            which can run code when it is read, only with `allow_pickle`, and with a warning).
        clip: open_clip's name of the CLIP inside; default: what the file says, else the published one.

    Raises:
        KcError: the file cannot be read, or does not fit; every key and shape that does not is listed.
    """
    if path.suffix == ".safetensors":
        return _load_own(path, clip)
    state = {k: v for k, v in read_checkpoint(path, allow_pickle=allow_pickle).items() if k not in IGNORED}
    network = FcClip(config_of(state, clip or PUBLISHED_CLIP, path))
    own: dict[str, Tensor] = {}
    missing, used = [], set()
    for key in network.state_dict():
        name, third = official_key(key)
        used.add(name)
        if name not in state:
            missing.append(name)
        else:
            own[key] = state[name] if third is None else state[name].chunk(3)[third]
    _fill(network, own, path, sorted(set(missing)), sorted(set(state) - used))
    return network


def convert(
    source: Path, target: Path, clip: str | None = None, names: Names | None = None, *, allow_pickle: bool = False
) -> FcClip:
    """Write the authors' checkpoint `source` as safetensors `target`, with its architecture and trained names inside.

    `names`: per class what the head was trained on; default: COCO panoptic, as the published ones. Raises KcError as
    `load_fc_clip`, RunError where `target` cannot be written.
    """
    network = load_fc_clip(source, clip, allow_pickle=allow_pickle)
    if names is not None:
        network.names = tuple(tuple(synonyms) for synonyms in names)
    save_fc_clip(network, target)
    return network


def save_fc_clip(network: FcClip, path: Path) -> None:
    """Weights, architecture and trained names in one safetensors file. Raises RunError where it cannot be written."""
    state = {k: v.detach().cpu().clone().contiguous() for k, v in network.state_dict().items()}
    config = json.dumps(dataclasses.asdict(network.config))
    metadata = {"format": FORMAT, "config": config, "names": json.dumps(network.names)}
    with atomic_path(path, failures=(OSError, SafetensorError)) as temporary:
        save_file(state, temporary, metadata=metadata)


def read_checkpoint(path: Path, *, allow_pickle: bool = False) -> dict[str, Tensor]:
    """The tensors of a detectron2 checkpoint, float32, by the authors' names. Raises KcError."""
    if path.suffix == ".pkl":
        if not allow_pickle:
            how = "take the .pth that the authors publish, or, if you trust its source, convert it with --allow-pickle"
            raise KcError(f"{path} is a pickle, which can run any code when it is read: {how}")
        warnings.warn(f"{path} is a pickle: reading it runs whatever code is in it", stacklevel=2)
    try:
        if path.suffix == ".pkl":
            content = pickle.loads(path.read_bytes())
        else:
            content = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, pickle.UnpicklingError, EOFError, ValueError, AttributeError, ImportError) as error:
        raise KcError(f"{path} cannot be read as a checkpoint of tensors ({str(error).splitlines()[0]})") from error
    model = content.get("model", content) if isinstance(content, Mapping) else None
    if not isinstance(model, Mapping) or not all(isinstance(v, (Tensor, np.ndarray)) for v in model.values()):
        raise KcError(f'{path}: expected a detectron2 checkpoint, {{"model": {{name: tensor}}}}')
    return {str(k): torch.as_tensor(v).float() for k, v in model.items()}


def config_of(state: Mapping[str, Tensor], clip: str, path: Path) -> FcClipConfig:
    """The architecture that the shapes of a checkpoint (authors' names) say. Raises KcError where they do not."""
    first = f"{_PIXEL}transformer.encoder.layers.0."
    wanted = {
        "queries": f"{_HEAD}query_feat.weight",
        "mask": f"{_PIXEL}mask_features.weight",
        "offsets": f"{first}self_attn.sampling_offsets.weight",
        "pixel_ffn": f"{first}linear1.weight",
        "ffn": f"{_HEAD}transformer_ffn_layers.0.linear1.weight",
    }
    absent = [name for name in wanted.values() if name not in state]
    if absent:
        raise KcError(f"{path} is not a checkpoint of FC-CLIP: it has no {', '.join(absent)}")
    shape = {key: state[name].shape for key, name in wanted.items()}
    return FcClipConfig(
        clip=clip, width=shape["queries"][1], mask_width=shape["mask"][0], queries=shape["queries"][0],
        heads=shape["offsets"][0] // (3 * 4 * 2),  # levels, points and coordinates of deformable attention
        pixel_layers=_count(state, rf"{re.escape(_PIXEL)}transformer\.encoder\.layers\.(\d+)\."),
        layers=_count(state, rf"{re.escape(_HEAD)}transformer_ffn_layers\.(\d+)\."),
        pixel_ffn=shape["pixel_ffn"][0], ffn=shape["ffn"][0],
    )  # fmt: skip


def _count(state: Mapping[str, Tensor], pattern: str) -> int:
    return len({found[1] for key in state if (found := re.match(pattern, key))})


def _load_own(path: Path, clip: str | None) -> FcClip:
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            if metadata.get("format") != FORMAT:
                raise KcError(f"{path} is not a converted FC-CLIP: make one with `kc fc-clip convert IN OUT`")
            state = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118  (it is no dict)
        config = FcClipConfig(**json.loads(metadata["config"]))
        names = tuple(tuple(synonyms) for synonyms in json.loads(metadata["names"]))
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
        raise KcError(f"{path} cannot be read as a converted FC-CLIP ({error})") from error
    if clip is not None and clip != config.clip:
        raise KcError(f"{path} holds an FC-CLIP on {config.clip}, not on {clip}: ask for fc-clip:{config.clip}@{path}")
    network = FcClip(config, names=names)
    expected = network.state_dict()
    _fill(network, state, path, sorted(set(expected) - set(state)), sorted(set(state) - set(expected)))
    return network


def _fill(
    network: FcClip, state: dict[str, Tensor], path: Path, missing: Sequence[str], unknown: Sequence[str]
) -> None:
    """Load, or raise KcError listing everything that does not fit."""
    expected: dict[str, Any] = network.state_dict()
    shapes = [
        f"{key} is {tuple(value.shape)}, not {tuple(expected[key].shape)}"
        for key, value in state.items()
        if key in expected and value.shape != expected[key].shape
    ]
    wrong = {"missing": missing, "unknown": unknown, "of another shape": shapes}
    if parts := [f"{what}: {', '.join(found)}" for what, found in wrong.items() if found]:
        raise KcError(f"{path} does not fit an FC-CLIP on {network.config.clip}; {'; '.join(parts)}")
    network.load_state_dict(state, assign=True)
    network.requires_grad_(True).eval()
    network.clip.requires_grad_(False)
