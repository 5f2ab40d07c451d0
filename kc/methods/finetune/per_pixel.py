"""What the segmentation methods share: the maps of the model and of the one before the task, side by side."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cached_property

from torch import Tensor, nn

from kc.methods.distributed import weight_of
from kc.methods.finetune.heads import Head, PixelHead
from kc.methods.finetune.losses import IGNORED, at_loss
from kc.methods.finetune.module import GradientMethod, Previous
from kc.types import Batch, Features


@dataclass(frozen=True)
class Maps:
    """What one model says of a batch of N images.

    `levels`: the encoder's maps, finest first, where the encoder is trained, else none. `body` (N, D, h, w): what the
    classifier reads. `logits` (N, C, h, w), column 0 the background. `scale`: see `at_loss`.
    """

    levels: tuple[Tensor, ...]
    body: Tensor
    logits: Tensor
    scale: int

    @cached_property
    def pixels(self) -> Tensor:
        """(N, C, scale h, scale w): the logits where losses of pixels are taken."""
        return at_loss(self.logits, self.scale)


class PerPixel(GradientMethod, ABC):
    """A method that compares its maps with those of the model before the task.

    Column 0 is the background: the benchmark's class, or the column HIDDEN, which is trained on pixels whose class the
    task may not see; both stand for every class that is not labelled.
    """

    keeps_previous = True
    head: PixelHead

    def make_head(self) -> Head:
        return PixelHead(self.context)

    @abstractmethod
    def loss_against(self, new: Maps, old: Maps, target: Tensor) -> Tensor:
        """The whole loss of a batch after the first task; `target` (N, H, W) columns or IGNORED at `new.pixels`."""

    def maps(self, model: Head | Previous, features: Features, network: nn.Module | None) -> Maps:
        """The maps of this head or the previous one, from features of its own encoder; with levels where it learns."""
        body = model.embed(features)
        levels = features.levels if network is not None else ()
        return Maps(levels, body, model.classifier(body), self.head.scale)

    def loss_on(self, batch: Batch) -> Tensor:
        features = self.features(batch)
        new = self.maps(self.head, features, self.network)
        target = self.head.target(batch)
        if self.previous is None:
            return self.loss(new.logits, target)
        old = self.maps(self.previous, self.previous.features(batch, features), self.previous.network)
        return self.loss_against(new, old, self.head.columns(target, new.pixels))

    def weight(self, target: Tensor) -> float:
        """Factor that makes the mean over a process's labelled pixels a mean over those of all processes."""
        return weight_of(target != IGNORED)

    def unlabelled(self, target: Tensor) -> Tensor:
        """(N, h, w) bool: where `target` (columns or IGNORED) may hide an old class.

        In panoptic benchmarks hidden labels are ignored, so that what is ignored counts too.
        """
        background = target == 0
        return background | (target == IGNORED) if self.context.kind == "panoptic" else background
