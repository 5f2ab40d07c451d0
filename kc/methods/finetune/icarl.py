"""`icarl` (Rebuffi et al. 2017, arXiv 1611.07725): herded exemplars, distillation, nearest mean of exemplars."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from kc.methods.base import Context
from kc.methods.distributed import weight_of_rows
from kc.methods.finetune.losses import icarl_loss, to_columns
from kc.methods.finetune.replay import Exemplar, Replay
from kc.methods.state import NamedTensors
from kc.spec import TUNE_LR, MethodSpec
from kc.types import Batch, Prediction, Task


def herd(features: Tensor, n: int) -> list[int]:
    """Rows chosen one by one so that their mean stays closest to the mean of all (algorithm 4).

    Args:
        features: (N, D), each of norm 1.
        n: rows wanted; all N where there are fewer.

    Returns:
        Row numbers in the order of their choice: any first m of them are the choice for m. Ties go to the lower row.
    """
    mean, total = features.mean(0), torch.zeros_like(features[0])
    chosen: list[int] = []
    for k in range(1, min(n, len(features)) + 1):
        distance = (mean - (total + features) / k).norm(dim=1)
        distance[chosen] = torch.inf
        chosen.append(int(distance.argmin()))
        total = total + features[chosen[-1]]
    return chosen


class ICarl(Replay):
    """Exemplars as in `replay`, but herded; half of each batch is exemplars where the paper mixes one data set."""

    name = "icarl"
    spec = MethodSpec(
        summary="Herded exemplars, distillation, and the nearest mean of exemplars as the answer.",
        keeps="images, class means",
        paper="Rebuffi et al. 2017, arXiv 1611.07725",
        formula=r"s_c = \cos(f(x), \mu_c), \quad \mu_c \text{ the mean of exemplars}",
        kinds=("classification",),
        streams=("class", "task", "online", "long-tailed"),
        second_pass=True,
        exemplars=True,
        answers_late=True,
        tune=TUNE_LR,
    )
    keeps_previous = True

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self.means: NamedTensors[int] = NamedTensors(int)

    def loss_on(self, batch: Batch) -> Tensor:
        features, previous = self.features(batch), self.previous
        old = None if previous is None else previous.logits(previous.features(batch, features))
        columns = to_columns(self.head.target(batch), self.classifier.class_ids)
        return icarl_loss(self.logits(features), columns, old) * weight_of_rows(columns)

    def _offer(self, batch: Batch) -> None:
        """Nothing is chosen on the way: herding needs the features of the trained network."""

    @torch.no_grad()
    def unit(self, batch: Batch) -> Tensor:
        """(N, D) embeddings of norm 1."""
        return F.normalize(self.head.embed(self.features(batch)), dim=1)

    def end_task(self, task: Task) -> None:
        quota = self._quota(task)
        was_training = self.training
        self.eval()
        chosen = self._herded(task, quota)
        kept: dict[int, list[Exemplar]] = {}
        for exemplar in self.exemplars:  # stored in the order of their choice
            if exemplar.classes[0] not in task.class_ids:
                kept.setdefault(exemplar.classes[0], []).append(exemplar)
        self.stored.items = [e for of_class in kept.values() for e in of_class[:quota]] + chosen
        self._average()
        self.train(was_training)
        super(Replay, self).end_task(task)

    def _herded(self, task: Task, quota: int) -> list[Exemplar]:
        of_class: dict[int, list[tuple[Tensor, str]]] = {}
        for batch in self.task_batches():
            for x, label, sample_id in zip(self.unit(batch), batch["label"].tolist(), batch["sample_id"], strict=True):
                of_class.setdefault(label, []).append((x, sample_id))
        order = {
            rows[row][1]: (label, rank)
            for label, rows in of_class.items()
            for rank, row in enumerate(herd(torch.stack([x for x, _ in rows]), quota))
        }
        # Images are read a second time, so that a task's images need not fit in memory.
        found: dict[tuple[int, int], Exemplar] = {}
        for batch in self.task_batches():
            images = (batch["image"] * 255).round().to("cpu", torch.uint8)
            for image, label, sample_id in zip(images, batch["label"].cpu(), batch["sample_id"], strict=True):
                if place := order.get(sample_id):
                    found[place] = Exemplar(sample_id, task.index, image.clone(), label.clone(), (int(label),))
        return [found[key] for key in sorted(found)]

    def _average(self) -> None:
        """The mean of each class's exemplars under the network as it is now, of norm 1."""
        rows: dict[int, list[Tensor]] = {}
        for start in range(0, len(self.exemplars), 64):
            part = self.exemplars[start : start + 64]
            images = torch.stack([e.image for e in part]).to(self.device) / 255
            units = self.unit({"image": images, "sample_id": [e.sample_id for e in part]})
            for exemplar, x in zip(part, units, strict=True):
                rows.setdefault(exemplar.classes[0], []).append(x)
        self.means.assign({c: F.normalize(torch.stack(x).mean(0), dim=0) for c, x in rows.items()})

    @torch.no_grad()
    def predict(self, batch: Batch, vocabulary: Sequence[int]) -> Prediction:
        x = self.unit(batch)
        nothing = x.new_zeros(x.shape[1])
        scores = x @ torch.stack([self.means.get(c, nothing).to(x) for c in vocabulary]).T
        # A class without a training image has no mean and is never answered.
        scores[:, [c not in self.means for c in vocabulary]] = -2.0
        return Prediction(tuple(vocabulary), scores=scores)
