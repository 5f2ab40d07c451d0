"""The LightningModule that every method of the project is."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import lightning as L
import torch
from torch import Tensor

from kc.errors import KcError
from kc.methods.base import Context
from kc.spec import MethodSpec
from kc.types import REPEATED, Batch, Prediction, Task


class ContinualMethod(L.LightningModule):
    """The contract between the stream and a method; KcError where the context is none for its spec.

    What `state_dict` holds is its checkpoint: parameters, buffers, `TensorState`s, JSON values of `get_extra_state`.
    """

    name: str
    spec: MethodSpec
    train_scope = "task"
    """`task`: sees the current task's images only; `seen`: all images up to now (joint training)."""
    open_vocabulary = False
    """True when classes that were never learned can be named too; their scores are then defined."""
    needs_raw = False
    """True when batches must carry the original images (proposals are made on them)."""
    needs_images = True
    """False when the batches of training need not carry the network's input: all features are cached."""

    def __init__(self, context: Context) -> None:
        super().__init__()
        if context.kind not in self.spec.kinds:
            raise KcError(f"method {self.name!r} does {', '.join(self.spec.kinds)}; this benchmark is {context.kind}")
        if self.spec.base == "required" and context.base is None:
            raise KcError(f"{self.name} needs an open-vocabulary base model, for example --base conse")
        self.context = context
        # Those of a spec that was read from the text of a module are of a class of their own.
        self.options: Any = self.spec.options(**({} if context.options is None else vars(context.options)))

    def start_task(self, task: Task) -> None:
        """Prepare for a task: grow a head, open a memory version."""

    def end_task(self, task: Task) -> None:
        """Close a task: update exemplars or prototypes."""

    def predict(self, batch: Batch, vocabulary: Sequence[int]) -> Prediction:
        """The prediction for a batch over the class ids of `vocabulary`."""
        raise NotImplementedError

    def task_batches(self) -> Iterator[Batch]:
        """The training images of the task once more, on the module's device, all of them in every process."""
        for batch in self.trainer.datamodule.statistics_dataloader():  # type: ignore[attr-defined]
            moved = {k: v.to(self.device) if isinstance(v, Tensor) else v for k, v in batch.items()}
            yield self.on_after_batch_transfer(moved, 0)

    def saves(self, key: str) -> bool:
        """Whether an entry of `state_dict` is part of a checkpoint; what is not must be there before one is loaded."""
        return True

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Everything learned so far but what a memory on disk holds: tensors on the CPU, and JSON values."""
        held = {k: v for k, v in self.state_dict().items() if self.saves(k)}
        tensors = {k: v.detach().cpu().contiguous() for k, v in held.items() if isinstance(v, Tensor)}
        return tensors, {k: v for k, v in held.items() if k not in tensors}

    def load_state(self, tensors: Mapping[str, Tensor], meta: Mapping[str, Any]) -> None:
        """Return to what `state` gave. Raises KcError that lists the entries that do not fit."""
        try:
            missing, unexpected = self.load_state_dict({**tensors, **meta}, strict=False)
        except RuntimeError as error:  # other shapes
            raise KcError(f"{self.name}: the checkpoint does not fit: {error}") from error
        missing = [key for key in missing if self.saves(key)]
        if missing or unexpected:
            raise KcError(f"{self.name}: the checkpoint does not fit; missing {missing}, unexpected {unexpected}")

    def stored_bytes(self) -> int:
        """Bytes kept beside the shared frozen encoder: all tensors of the checkpoint."""
        return sum(v.nbytes for k, v in self.state_dict().items() if isinstance(v, Tensor) and self.saves(k))

    def trained_parameters(self) -> int:
        """Number of parameters that gradients change."""
        return sum(p.numel() for p in self.parameters() if p.requires_grad)

    def close(self) -> None:
        """Let go of files that are held open."""


class OnePassMethod(ContinualMethod):
    """One epoch, no gradient: `observe` sees each batch once. What commits rows to a memory is `Remembers` too."""

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self.automatic_optimization = False
        self.needs_raw = context.kind != "classification"
        self.task: Task | None = None
        # Lightning's DDP refuses a module without a parameter. It takes part in nothing.
        self.unused = torch.nn.Parameter(torch.zeros(1))

    def start_task(self, task: Task) -> None:
        """Note which classes the labels of this task may name."""
        self.task = task

    def observe(self, batch: Batch) -> None:
        """Take what is to be learned from one batch."""
        raise NotImplementedError

    def training_step(self, batch: Batch, batch_idx: int) -> None:
        if REPEATED not in batch:
            self.observe(batch)

    def configure_optimizers(self) -> None:
        """Nothing is optimised."""

    def saves(self, key: str) -> bool:
        """All but the parameter that is none."""
        return key != "unused"

    def trained_parameters(self) -> int:
        """No parameter is trained."""
        return 0
