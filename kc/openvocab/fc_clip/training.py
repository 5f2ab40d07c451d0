"""How FC-CLIP learns: Mask2Former's loss with text as the classifier, and the published optimiser."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, distributed, nn

from kc.errors import KcError
from kc.openvocab.fc_clip.network import FcClip, NetworkOutput, mask2former_config
from kc.openvocab.fc_clip.scores import with_void

Target = tuple[Tensor, Tensor]
"""Masks (n, H, W) float in {0, 1} of the padded input, and their positions (n,) int64 among the trained names."""


@dataclasses.dataclass(frozen=True)
class Recipe:
    """The published optimiser (configs/coco of bytedance/fc-clip at 2b0bbe2): AdamW, batches of 16, 368,750 steps, the
    rate a tenth after each of `drops` (shares of all steps), whole gradients cut at norm `clip_grad`; images cut from
    0.1 to 2 times their size to 1024 x 1024.

    Weights of norms and embeddings do not decay.
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
        self.weights: dict[str, float] = {
            "loss_cross_entropy": config.class_weight,
            "loss_mask": config.mask_weight,
            "loss_dice": config.dice_weight,
        }
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
        stages = [
            {"class_queries_logits": c, "masks_queries_logits": m} for c, m in zip(classes, answer.masks, strict=True)
        ]
        last = stages.pop()
        self.criterion.to(last["class_queries_logits"].device)
        losses = self.criterion(
            **last,
            mask_labels=[masks for masks, _ in targets],
            class_labels=[labels for _, labels in targets],
            auxiliary_predictions=stages,
        )
        return {
            key: value * weight
            for key, value in losses.items()
            for name, weight in self.weights.items()
            if key.startswith(name)
        }

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
    groups: list[dict[str, Any]] = [
        {"params": [], "lr": recipe.lr, "weight_decay": recipe.weight_decay},
        {"params": [], "lr": recipe.lr, "weight_decay": 0.0},
    ]
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
