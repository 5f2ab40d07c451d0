"""How FC-CLIP learns: Mask2Former's loss with text as the classifier, and the published optimiser."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, distributed, nn

from kc.errors import KcError
from kc.openvocab.fc_clip.geometry import Frame, prepare
from kc.openvocab.fc_clip.network import FcClip, NetworkOutput, mask2former_config, with_void
from kc.openvocab.mask_inference import loss_terms, loss_weights
from kc.proposals.oracle import propose_from
from kc.types import VOID, Int32Array, Sample, UInt8Array

Target = tuple[Tensor, Tensor]
"""Masks (n, H, W) float in {0, 1} of the padded input, and their positions (n,) int64 among the trained names."""


@dataclasses.dataclass(frozen=True)
class Recipe:
    """The published optimiser (configs/coco of bytedance/fc-clip at 2b0bbe2): AdamW, batches of 16, 368,750 steps, the
    rate a tenth after each of `drops` (shares of all steps), whole gradients cut at norm `clip_grad`; images cut from
    0.1 to 2 times their size to 1024 x 1024. Weights of norms and embeddings do not decay.
    """

    lr: float = 1e-4
    weight_decay: float = 0.05
    clip_grad: float = 0.01
    batch_size: int = 16
    steps: int = 368_750
    drops: tuple[float, float] = (327_778 / 368_750, 355_092 / 368_750)
    crop: int = 1024
    scales: tuple[float, float] = (0.1, 2.0)


class FcClipLoss:
    """Hungarian matching, then cross entropy of names and "no object" (weight 2, 0.1 for "no object"), binary cross
    entropy (5) and dice (5) of masks at `points` sampled points, at every stage of the decoder (paper, section 4).

    Args:
        network: whose names are learned.
        text: (M, D) unit embeddings of all names, class after class.
        counts: (C) names of each class.
        points: sampled per mask.
    """

    def __init__(self, network: FcClip, text: Tensor, counts: Sequence[int], points: int = 12_544) -> None:
        from transformers.models.mask2former.modeling_mask2former import Mask2FormerLoss

        base: Any = Mask2FormerLoss

        class Loss(base):  # type: ignore[misc]
            def get_num_masks(self, class_labels: Any, device: Any) -> Tensor:
                return mean_over_processes(sum(len(own) for own in class_labels), device)

        config = mask2former_config(network.config)
        config.num_labels, config.train_num_points = len(counts), points
        self.weights = loss_weights(config)
        self.network, self.text, self.counts = network, text, list(counts)
        self.criterion: Any = Loss(config, self.weights)

    def terms(self, answer: NetworkOutput, targets: Sequence[Target]) -> dict[str, Tensor]:
        """Each weighted term of each stage, the last stage without a number.

        Args:
            answer: of all stages.
            targets: of each image. Raises KcError for masks of another size than the padded input.
        """
        net = self.network
        classes = [with_void(c, self.text, self.counts, net.logit_scale, net.void.weight) for c in answer.classes]
        size = tuple(4 * side for side in answer.masks[-1].shape[-2:])
        wrong = [tuple(masks.shape[1:]) for masks, _ in targets if tuple(masks.shape[1:]) != size]
        if wrong:
            raise KcError(f"masks of {wrong[0]} pixels for an input of {size}: pad them as the image")
        return loss_terms(self.criterion, self.weights, classes, answer.masks, targets)

    def __call__(self, images: Tensor, targets: Sequence[Target]) -> Tensor:
        """The loss of normalised images (N, 3, H, W), H and W multiples of 32."""
        return torch.stack(list(self.terms(self.network(images, all_stages=True), targets).values())).sum()


def mean_over_processes(count: int, device: torch.device) -> Tensor:
    """Mean of a count over the processes that train together, at least 1."""
    total = torch.tensor(float(count), device=device)
    if distributed.is_available() and distributed.is_initialized():
        distributed.all_reduce(total)
        total /= distributed.get_world_size()
    return total.clamp_min(1)


def parameter_groups(network: FcClip, recipe: Recipe) -> list[dict[str, Any]]:
    """Everything but CLIP; norms and embeddings without weight decay."""
    plain = (nn.LayerNorm, nn.GroupNorm, nn.Embedding)
    decays = (recipe.weight_decay, 0.0)
    groups: list[dict[str, Any]] = [{"params": [], "lr": recipe.lr, "weight_decay": decay} for decay in decays]
    for module in network.modules():
        for parameter in module.parameters(recurse=False):
            if parameter.requires_grad:
                groups[isinstance(module, plain)]["params"].append(parameter)
    return groups


def optimizer_for(network: FcClip, recipe: Recipe | None = None) -> torch.optim.AdamW:
    """AdamW over `parameter_groups`; the gradients are to be cut with `clip_gradients` before each step."""
    return torch.optim.AdamW(parameter_groups(network, recipe or Recipe()))


def clip_gradients(network: FcClip, recipe: Recipe) -> Tensor:
    """Cut the norm of all gradients together; returns the norm before."""
    return nn.utils.clip_grad_norm_([p for p in network.parameters() if p.requires_grad], recipe.clip_grad)


GREY = 128
"""Colour beside an image that is smaller than the square, as in detectron2."""


def jitter(
    image: UInt8Array, labels: Int32Array, side: int, scales: tuple[float, float], rng: np.random.Generator
) -> tuple[UInt8Array, Int32Array]:
    """A square of `image` (H, W, 3) and of its `labels` (H, W, 2), mirrored every other time.

    The image is resized to fit a square of `side` times a factor drawn from `scales`; what exceeds the square is cut at
    a random place, what is missing is grey and VOID.
    """
    if rng.random() < 0.5:
        image, labels = image[:, ::-1], labels[:, ::-1]
    height, width = image.shape[:2]
    scale = rng.uniform(*scales) * side / max(height, width)
    size = (max(1, round(height * scale)), max(1, round(width * scale)))
    place = [int(rng.integers(0, max(0, length - side) + 1)) for length in size]
    resized = Image.fromarray(np.ascontiguousarray(image)).resize(size[::-1], Image.Resampling.BILINEAR)
    rows, columns = (
        np.minimum(((np.arange(length) + 0.5) * own / length).astype(np.int64), own - 1)
        for length, own in zip(size, (height, width), strict=True)
    )
    window = tuple(slice(start, start + side) for start in place)
    cut, marked = np.asarray(resized)[window], labels[np.ix_(rows, columns)][window]
    square: UInt8Array = np.full((side, side, 3), GREY, np.uint8)
    square[: cut.shape[0], : cut.shape[1]] = cut
    void: Int32Array = np.full((side, side, 2), (VOID, 0), np.int32)
    void[: cut.shape[0], : cut.shape[1]] = marked
    return square, void


def labels_of(sample: Sample) -> Int32Array:
    """(H, W, 2) classes and instances of a sample; crowds are VOID, of semantic samples each class is one instance."""
    if sample.panoptic is None:
        assert sample.semantic is not None
        return np.stack([sample.semantic, np.zeros_like(sample.semantic)], axis=-1).astype(np.int32)
    labels = sample.panoptic.copy()
    if sample.crowd:
        labels[np.isin(labels[..., 1], sorted(sample.crowd))] = (VOID, 0)
    return labels


def example(
    sample: Sample, positions: Mapping[int, int], side: int, scales: tuple[float, float], rng: np.random.Generator
) -> tuple[Tensor, Target]:
    """The network's input (3, side, side) and its target; classes without a position among the names are left out."""
    image, labels = jitter(sample.image, labels_of(sample), side, scales, rng)
    segments, ids = propose_from(labels)
    assert segments.masks is not None
    known = np.array([int(c) in positions for c in ids], dtype=bool)
    masks = torch.from_numpy(segments.masks[known]).float()
    found = torch.tensor([positions[int(c)] for c in ids[known]], dtype=torch.int64)
    return prepare(image, Frame((side, side), (side, side))), (masks, found)
