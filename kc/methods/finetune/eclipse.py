"""`eclipse` (Kim et al. 2024, arXiv 2403.20126): after the first task only prompts are learned."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import torch
from torch import Tensor, nn

from kc.methods.base import Context
from kc.methods.finetune.heads import Head, copy_column
from kc.methods.finetune.mask2former import Mask2Former
from kc.methods.finetune.mask_head import MaskHead, MaskLoss, MaskSet, mask_sets
from kc.methods.finetune.mask_network import MaskNetwork, Pixels, Queries
from kc.methods.finetune.mask_options import MASK_SPEC, MaskOptions
from kc.spec import Count, Positive, SignedPerTask, at_task
from kc.types import Batch, Task


class PromptSet(nn.Module):
    """Queries of one step, with a position of their own in every layer, a mask head and a "no object" column.

    They start from the frozen network's mean query, mask head and "no object" column, and attend to no other set.

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
        return network.decode(pixels, self.contents, self.positions, self.mask_head)


def _repeated(queries: Tensor, *shape: int) -> nn.Parameter:
    """The mean of (Q, D) as (*shape, D)."""
    return nn.Parameter(queries.detach().mean(0).repeat(*shape, 1))


def manipulated(logits: Tensor, own: slice, delta: float) -> Tensor:
    """Logit manipulation: what the queries of one step say of all classes, as probabilities.

    A query predicts only the classes of its own step. What its step did not know drifts in its "no object"; where the
    classifiers of other steps see one of their classes, there is no object for this query.

    Args:
        logits: (..., 1 + C), column 0 the step's own "no object", then the classes of all steps.
        own: the columns of the step.
        delta: above 0: p_0 = delta * min(1, sum over the other classes of sigmoid(z)); below 0: p_0 = -delta *
            sigmoid(z_0), which the authors take for few, large steps; 0, or no other class: sigmoid(z_0).

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


CLASS_WEIGHT = 10.0
"""Weight of the class loss after the first task, in every script of clovaai/ECLIPSE at 9266720."""


class PromptHead(MaskHead):
    """A mask classifier with a set of prompts for each task after the first; step 0 is the first task.

    Args:
        context: of a segmentation benchmark.
        network: see `load_mask_network`.
        limits: see `MaskHead`.
        n_prompts: queries of a set.
        delta: logit manipulation of each step (see `manipulated`), separated by commas.
    """

    def __init__(
        self, context: Context, network: str, limits: tuple[float, float], n_prompts: int, delta: float | str
    ) -> None:
        super().__init__(context, network, 3, limits)
        self.prompts = nn.ModuleList()
        self.n_prompts, self.delta = n_prompts, delta

    def add_prompts(self) -> None:
        self.prompts.append(PromptSet(self.decoder, self.classifier.steps[0], self.n_prompts))

    def get_extra_state(self) -> int:
        return len(self.prompts)

    def set_extra_state(self, state: int) -> None:
        while len(self.prompts) < state:
            self.add_prompts()

    def own(self, step: int) -> slice:
        """The columns of the classes of a step."""
        start = sum(self.classifier.step_sizes[: step + 1])
        return slice(start, start + self.classifier.step_sizes[step + 1])

    def queries(self, pixels: Pixels, step: int) -> Queries:
        """What the queries of a step see: those of the network itself in the first."""
        own = self.decoder.own_queries(pixels) if step == 0 else self.prompts[step - 1](self.decoder, pixels)
        return cast(Queries, own)

    def classes(self, state: Tensor, step: int) -> Tensor:
        """(N, Q, 1 + C) logits, the first column the "no object" of the step."""
        logits: Tensor = self.classifier(state)
        if step == 0:
            return logits
        return torch.cat([cast(PromptSet, self.prompts[step - 1]).no_object(state), logits[..., 1:]], dim=-1)

    def mask_sets(self, batch: Batch) -> list[MaskSet]:
        """The masks of the classes of the last step."""
        own = self.own(len(self.prompts))
        return mask_sets(batch, {self.classifier.class_ids[i]: i for i in range(own.start, own.stop)})

    def answers(self, batch: Batch, vocabulary: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Probabilities (N, Q, 1 + C) and mask logits (N, Q, h, w) of the queries of all steps."""
        pixels = self.decoder.pixels(self.features(batch, None))
        columns = [0, *self.classifier.columns(vocabulary)]
        classes, masks = [], []
        for step in range(len(self.prompts) + 1):
            queries = self.queries(pixels, step)
            p = manipulated(self.classes(queries.states[-1], step), self.own(step), at_task(self.delta, step))
            classes.append(where_objects(p)[..., columns])
            masks.append(queries.masks[-1])
        return torch.cat(classes, 1), torch.cat(masks, 1)


@dataclass(frozen=True)
class EclipseOptions(MaskOptions):
    """Options of ECLIPSE.

    Args:
        focal: Factor of the focal loss, a mean over the columns of the head; 50 in the authors' code, for 100 classes
            and more. Half the number of columns gives each column of a small head the weight it has there.
        prompts: Queries that each task after the first adds.
        delta: Logit manipulation: share of what other tasks' classifiers see that counts as "no object"; below 0: share
            of the task's own "no object".
    """

    focal: Positive = 50.0
    prompts: Count = 10
    delta: SignedPerTask = "0.4,0.5"


class Eclipse(Mask2Former):
    """Mask2Former with sigmoid classifiers of three layers, frozen after the first task; each later task learns a set
    of deep prompts, their mask head and its own classes, from its own labels only.

    The authors train one "no object" classifier in all steps, here each step has a copy; they paint semantic maps like
    panoptic ones, here they are Mask2Former's sum over queries.
    """

    name = "eclipse"
    spec = replace(
        MASK_SPEC,
        summary="A mask classifier that is frozen after the first task; later tasks learn prompts.",
        keeps="its network, prompts",
        paper="Kim et al. 2024, arXiv 2403.20126",
        formula=r"p_0 = \delta \min(1, \textstyle\sum_{c \in O} \sigma(z_c)) \text{, O: classes of other tasks}",
        options=EclipseOptions,
        streams=("class", "task", "online", "long-tailed"),
    )
    head: PromptHead
    options: EclipseOptions
    panoptic_limits = (0.0, 0.0)
    """As in the authors' configurations: a query is a segment where "no object" is not its best column."""

    def make_head(self) -> Head:
        options = self.options
        return PromptHead(self.context, options.model, self.limits(), options.prompts, options.delta)

    def start_task(self, task: Task) -> None:
        """After the first task: freeze all there is, then add what the step learns."""
        super().start_task(task)
        if task.index == 0:
            return
        # Every new column starts as "no object", as with the authors.
        copy_column(self.classifier.steps[0], self.classifier.steps[-1])
        self.head.add_prompts()
        self._freeze()

    def make_criterion(self, n_classes: int) -> MaskLoss:
        """Sigmoids in place of the softmax; classes count more after the first task."""
        weight, config = CLASS_WEIGHT if self.task_index else None, self.head.decoder.model.config
        return MaskLoss(config, n_classes, True, weight, self.options.focal)

    def _freeze(self) -> None:
        self.requires_grad_(False)
        for part in (self.head.prompts[-1], self.classifier.steps[-1]):
            part.requires_grad_(True)

    def on_train_start(self) -> None:
        """What is frozen also stays in evaluation mode."""
        super().on_train_start()
        if self.head.prompts:
            self.head.decoder.eval()

    def loss_on(self, batch: Batch) -> Tensor:
        head, step = self.head, len(self.head.prompts)
        queries = head.queries(head.decoder.pixels(self.features(batch)), step)
        classes = [head.classes(state, step) for state in queries.states]
        return self.criterion(classes, queries, head.mask_sets(batch))

    def load_state(self, tensors: Mapping[str, Tensor], meta: Mapping[str, Any]) -> None:
        super().load_state(tensors, meta)
        if self.head.prompts:
            self._freeze()
