"""What one step of ECLIPSE learns (Kim et al. 2024, arXiv 2403.20126): prompts for a frozen mask network."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from kc.methods.finetune.mask_network import MaskNetwork, Pixels, Queries


class PromptSet(nn.Module):
    """Queries of one step, with a position of their own in every layer, a mask head and a "no object" column.

    They start from the frozen network: its mean query, its mask head, its "no object" column. The sets never attend to
    one another, so that what an old one answers does not change.

    Args:
        network: the frozen network.
        no_object: classifier (..., D) -> (..., 1) of the first task.
        n: queries of the set.
    """

    def __init__(self, network: MaskNetwork, no_object: nn.Module, n: int) -> None:
        super().__init__()
        part = network.model.transformer_module
        self.contents = _repeated(part.queries_features.weight, n)
        self.positions = _repeated(part.queries_embedder.weight, len(part.decoder.layers), n)
        self.mask_head = copy.deepcopy(part.decoder.mask_predictor.mask_embedder)
        self.no_object = copy.deepcopy(no_object)

    def forward(self, network: MaskNetwork, pixels: Pixels) -> Queries:
        """What the set sees in the images of `pixels`."""
        return network.decode(pixels, self.contents, self.positions, self.mask_head)


def _repeated(queries: Tensor, *shape: int) -> nn.Parameter:
    """The mean of (Q, D) as (*shape, D)."""
    return nn.Parameter(queries.detach().mean(0).repeat(*shape, 1))


def manipulated(logits: Tensor, own: slice, delta: float) -> Tensor:
    """Logit manipulation: what the queries of one step say of all classes, as probabilities.

    A query answers only for the classes of its own step. What its step did not know drifts in its "no object"; the
    classifiers of the other steps know better, before and after it: where they see one of their classes, there is no
    object for this query.

    Args:
        logits: (..., 1 + C), column 0 the step's own "no object", then the classes of all steps.
        own: the columns of the step.
        delta: above 0: p_0 = delta * min(1, sum over the other classes of sigmoid(z)); below 0: p_0 = -delta *
            sigmoid(z_0), which the authors take for few, large steps; 0: sigmoid(z_0). With no other class there is
            nothing to learn it from, and it is sigmoid(z_0) too.

    Returns:
        (..., 1 + C): p_0 and, for its own classes, sigmoid(z); 0 for those of other steps. They do not add up to 1.
    """
    p = logits.sigmoid()
    other = torch.ones(p.shape[-1], dtype=torch.bool, device=p.device)
    other[0], other[own] = False, False
    nothing = p[..., 0]
    if delta < 0:
        nothing = -delta * nothing
    elif delta > 0 and bool(other.any()):
        nothing = delta * p[..., other].sum(-1).clamp_max(1)
    return torch.cat([nothing[..., None], p.masked_fill(other, 0)[..., 1:]], dim=-1)


def where_objects(p: Tensor) -> Tensor:
    """`p` (..., 1 + C) with every class at 0 in queries whose best column is "no object"."""
    return torch.where(p.argmax(-1, keepdim=True) > 0, p, torch.cat([p[..., :1], torch.zeros_like(p[..., 1:])], -1))
