"""The shared LightningModule of all methods that learn by gradient."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import lightning as L
import torch
from torch import Tensor, nn

from kc.encoders.base import Encoder
from kc.errors import DivergedError, KcError
from kc.methods.base import Batch, Context, as_map, n_bytes, semantic_from_scores
from kc.methods.distributed import weight_of
from kc.methods.finetune.decoders import decoder_of
from kc.methods.finetune.heads import GrowingClassifier, PooledVector
from kc.methods.finetune.losses import (
    IGNORED,
    at_loss,
    at_resolution,
    pixel_cross_entropy,
    to_columns,
    vector_cross_entropy,
)
from kc.methods.finetune.optim import make_optimizer, make_schedule
from kc.methods.finetune.previous import Previous
from kc.methods.regions import best, to_prediction, with_keys
from kc.proposals.merge import semantic_to_panoptic
from kc.spec import at_task
from kc.types import HIDDEN, Features, Prediction, Task


class FinetuneModule(L.LightningModule):
    """Encoder (frozen and cached, or trained) + small decoder + growing classifier, cross entropy on what is labelled.

    In segmentation it classifies pixels (`decoder="fpn"`) or, over the frozen encoder, the same regions by the same
    keys as the memory (`decoder="regions"`): then only the way of learning differs. Heads always have one column for
    "none of the classes": the benchmark's background class where it has one, else the column HIDDEN, which is trained
    on hidden pixels and never predicted.
    """

    name = "finetune"
    train_scope = "task"
    open_vocabulary = False
    keeps_previous = False
    """True for methods that compare with the model before the task: `self.previous` while they learn."""

    stores_images = False
    """True for methods that keep images of what they learn from."""
    beside: tuple[str, ...] = ()
    """First names of the tensors that `state` holds beside the weights; a method reads its own in `load_state`."""
    loss_scale = 1
    """Resolution at which losses are taken, as a multiple of the decoder's: see `losses.at_loss`."""

    def __init__(self, context: Context) -> None:
        super().__init__()
        self.context = context
        config = context.config
        if config.train not in ("head", "full"):
            raise KcError(f"train={config.train!r}: expected 'head' or 'full'")
        self.network: Encoder | None = context.encoder.to_train() if self.trains_all else None
        encoder = context.encoder
        self.regions = context.regions if config.decoder == "regions" else None
        self.needs_raw = self.regions is not None
        self.decoder: nn.Module = PooledVector(encoder.unit_pooled)
        if context.kind == "classification":
            self.classifier = GrowingClassifier(encoder.pooled_dim)
        else:
            if self.regions is not None:
                self.classifier = GrowingClassifier(self.regions.dim)
            elif encoder.channels:
                self.decoder, width, self.loss_scale = decoder_of(config.decoder, encoder.channels)
                self.classifier = GrowingClassifier(width, pointwise=True)
            else:
                raise KcError(f"encoder {encoder.name} gives no dense features: it classifies images only")
            none_id = context.background_id
            self.none_id = HIDDEN if none_id is None else none_id
            self.classifier.grow([self.none_id])
        self.previous: Previous | None = None
        self.task_index = 0

    @property
    def trains_all(self) -> bool:
        """True when the encoder learns too."""
        return self.context.config.train == "full"

    @property
    def needs_images(self) -> bool:
        """False where only cached features are read, and the cache has them all."""
        reads = self.network is not None or self.regions is not None or self.stores_images
        return reads or self.context.input_size is None

    @property
    def encoder_share(self) -> float:
        """Learning rate of a trained encoder as a share of the head's."""
        return self.context.config.encoder_lr

    # -- learning ---------------------------------------------------------------------------------------------------

    def start_task(self, task: Task) -> None:
        """Keep a frozen copy where the method wants one, then give every class of the task a column."""
        self.task_index = task.index
        self.previous = Previous(self) if self.keeps_previous and task.index > 0 else None
        known = set(self.classifier.class_ids)
        self.classifier.grow([c for c in task.seen_ids if c not in known])

    def end_task(self, task: Task) -> None:
        """Let go of the copy: what was learned is in the weights."""
        self.previous = None

    def on_train_start(self) -> None:
        """Every task begins in the same mode (a new encoder comes in evaluation mode) and without gradients."""
        self.train()
        self.zero_grad()

    def transfer_batch_to_device(self, batch: Batch, device: torch.device, dataloader_idx: int) -> Batch:
        """The tensors of a batch on `device`; Lightning would look into every list of names for more."""
        return {k: v.to(device, non_blocking=True) if isinstance(v, Tensor) else v for k, v in batch.items()}

    def on_after_batch_transfer(self, batch: Batch, dataloader_idx: int) -> Batch:
        """Add what is classified to a training batch: the keys of its regions and their classes."""
        return batch if self.regions is None else with_keys(batch, self.regions, self.context.config.purity)

    def features(self, batch: Batch) -> Features:
        """Features of a batch: frozen and cached, or from the network that is being trained.

        With regions their keys take the place of pooled features: (M, D) for the M regions of the batch.
        """
        if self.regions is not None:
            return Features(torch.cat(batch["keys"]), (), ())
        return self.context.encode(batch) if self.network is None else self.network(batch["image"])

    def embed(self, features: Features) -> Tensor:
        """What the classifier reads: (N, D), or the decoder's map (N, D, h, w)."""
        body: Tensor = self.decoder(features)
        return body

    def logits(self, features: Features) -> Tensor:
        """(N, C) or (N, C, h, w) over the classifier's columns."""
        return self.classifier(self.embed(features))  # type: ignore[no-any-return]

    def loss(self, logits: Tensor, target: Tensor) -> Tensor:
        """Cross entropy of logits against class ids."""
        columns = to_columns(target, self.classifier.class_ids)
        if self.classifier.pointwise:
            logits = at_loss(logits, self.loss_scale)
            columns = at_resolution(columns, logits.shape[-2:])
        loss = pixel_cross_entropy if self.classifier.pointwise else vector_cross_entropy
        return loss(logits, columns) * weight_of(columns != IGNORED)

    def target(self, batch: Batch) -> Tensor:
        """Class ids of a training batch: (N,), (N, H, W), or (M,) for M regions."""
        if self.regions is not None:
            return torch.cat(batch["key_labels"])
        value = batch["label"] if self.context.kind == "classification" else batch["semantic"]
        assert isinstance(value, Tensor)
        return value

    def extra_loss(self, batch: Batch, features: Features, logits: Tensor) -> Tensor | None:
        """What a method adds to the base loss of a batch: a regulariser, a distillation; None for nothing.

        `features` and `logits` are those of the base loss, with their gradients.
        """
        return None

    def loss_on(self, batch: Batch) -> Tensor:
        """The whole loss of one batch: the base loss and what the method adds."""
        features = self.features(batch)
        logits = self.logits(features)
        loss = self.loss(logits, self.target(batch))
        extra = self.extra_loss(batch, features, logits)
        return loss if extra is None else loss + extra

    def task_batches(self) -> Iterator[Batch]:
        """The training images of the task once more, on the module's device, for statistics."""
        for batch in self.trainer.datamodule.statistics_dataloader():  # type: ignore[attr-defined]
            moved = {k: v.to(self.device) if isinstance(v, Tensor) else v for k, v in batch.items()}
            yield self.on_after_batch_transfer(moved, 0)

    def trained(self) -> dict[str, nn.Parameter]:
        """What gradients change, by name."""
        return {k: p for k, p in self.named_parameters() if p.requires_grad}

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """One step on one batch; a loss that is not finite stops the run."""
        loss = self.loss_on(batch)
        if not torch.isfinite(loss):
            raise DivergedError(
                f"{self.name}: the loss is {loss.item()} at step {self.global_step} of task {self.task_index + 1}; "
                f"try a smaller --lr"
            )
        return loss

    def optimizer_step(
        self, epoch: int, batch_idx: int, optimizer: Any, optimizer_closure: Callable[[], Any] | None = None
    ) -> None:
        """Learn, and let go of the gradients: the next forward pass has their memory."""
        super().optimizer_step(epoch, batch_idx, optimizer, optimizer_closure)
        optimizer.zero_grad()

    def optimizer_zero_grad(self, epoch: int, batch_idx: int, optimizer: Any) -> None:
        """Nothing: `optimizer_step` has let go of them."""

    def configure_optimizers(self) -> Any:
        """The optimiser and the schedule of the task; the encoder, where it is trained, at a share of the rate."""
        config = self.context.config
        optimizer = make_optimizer(self.parameter_groups(at_task(config.lr, self.task_index)), config)
        schedule = make_schedule(optimizer, config, max(1, int(self.trainer.estimated_stepping_batches)))
        if schedule is None:
            return optimizer
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def parameter_groups(self, rate: float) -> list[dict[str, Any]]:
        """What learns, in groups with their learning rates; `rate` is the head's."""
        head = [*self.decoder.parameters(), *self.classifier.parameters()]
        groups: list[dict[str, Any]] = [{"params": [p for p in head if p.requires_grad], "lr": rate}]
        if self.network is not None:
            learns = [p for p in self.network.parameters() if p.requires_grad]
            groups.append({"params": learns, "lr": rate * self.encoder_share})
        return groups

    # -- answering --------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def predict(self, batch: Batch, vocabulary: Sequence[int]) -> Prediction:
        """Scores over `vocabulary`; its classes must have been learned."""
        vocab = tuple(vocabulary)
        columns = self.classifier.columns(vocab)
        if self.regions is not None:
            regions = self.regions(batch)
            keys = torch.cat([torch.from_numpy(r.keys) for r in regions]).to(self.device)
            scores = self.logits(Features(keys, (), ()))[:, columns]
            parts = torch.split(scores, [len(r.keys) for r in regions])
            return to_prediction(self.context, vocab, regions, [best(z, vocab) for z in parts])
        logits = self.logits(self.features(batch))[:, columns]
        if self.context.kind == "classification":
            return Prediction(vocab, scores=logits)
        maps = [
            as_map(semantic_from_scores(z, vocab, size)) for z, size in zip(logits, batch["original_size"], strict=True)
        ]
        panoptic = (
            [semantic_to_panoptic(m, self.context.thing_ids) for m in maps] if self.context.kind == "panoptic" else []
        )
        return Prediction(vocab, semantic=maps, panoptic=panoptic)

    # -- state ------------------------------------------------------------------------------------------------------

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Weights that were trained and the class of each column."""
        state = self.state_dict()
        tensors = {k: v.detach().cpu().contiguous() for k, v in state.items() if not k.startswith("previous.")}
        head = self.classifier
        return tensors, {"class_ids": list(head.class_ids), "columns_per_step": list(head.step_sizes)}

    def load_state(self, tensors: Mapping[str, Tensor], meta: Mapping[str, Any]) -> None:
        """Rebuild the head step by step, then read the weights; keys that do not fit are listed in one error."""
        ids, start = list(meta["class_ids"]), len(self.classifier.class_ids)
        position = 0
        for size in meta["columns_per_step"]:
            step = ids[position : position + size]
            position += size
            if position > start:
                self.classifier.grow(step)
        own = {k: v for k, v in tensors.items() if k.partition(".")[0] not in self.beside}
        have = self.state_dict()
        shapes = [f"{k} {tuple(v.shape)}" for k, v in own.items() if k in have and have[k].shape != v.shape]
        if shapes:  # torch raises an error of its own for these
            raise KcError(f"{self.name}: the checkpoint does not fit; of other shapes {shapes}")
        missing, unexpected = self.load_state_dict(own, strict=False)
        if missing or unexpected:
            raise KcError(f"{self.name}: the checkpoint does not fit; missing {missing}, unexpected {unexpected}")

    def close(self) -> None:
        """No file is held open."""

    def trained_parameters(self) -> int:
        """Parameters that gradients change."""
        return sum(p.numel() for p in self.trained().values())

    def stored_bytes(self) -> int:
        """Bytes kept beside the shared frozen encoder: every weight that was trained."""
        return n_bytes(self.trained().values())
