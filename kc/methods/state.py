"""What a method holds beside weights, as state of modules: `state_dict` saves it, `load_state_dict` reads it."""

from __future__ import annotations

from collections import UserDict
from collections.abc import Callable, Mapping
from typing import Any, Generic, TypeVar

from torch import Tensor, nn

Key = TypeVar("Key", str, int)
EXTRA = "_extra_state"


class TensorState(nn.Module):
    """A module whose tensors come and go between tasks, on the CPU.

    Subclasses give `tensors` and `load_tensors`, and for JSON values, set first, `get_extra_state`, `set_extra_state`.
    """

    def tensors(self) -> dict[str, Tensor]:
        """The tensors to save, by name."""
        raise NotImplementedError

    def load_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        """Return to what `tensors` gave."""
        raise NotImplementedError

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        destination.update({prefix + name: value for name, value in self.tensors().items()})

    def _load_from_state_dict(self, state_dict: Mapping[str, Any], prefix: str, *_: Any) -> None:
        own = {k.removeprefix(prefix): v for k, v in state_dict.items() if k.startswith(prefix)}
        if EXTRA in own:
            self.set_extra_state(own.pop(EXTRA))
        self.load_tensors(own)


class NamedTensors(TensorState, UserDict[Key, Tensor], Generic[Key]):
    """A dictionary of tensors, such as one a weight or one a class.

    Args:
        key: type of the keys: `str` (dots are allowed) or `int`.
        moves: whether the tensors follow their owner to its device.
    """

    __hash__ = nn.Module.__hash__
    __eq__ = object.__eq__

    def __init__(self, key: type[Key], moves: bool = True) -> None:
        super().__init__()
        self._key: type[Key] = key
        self._moves = moves
        self.data: dict[Key, Tensor] = {}

    def assign(self, values: Mapping[Key, Tensor]) -> None:
        """Hold `values` in place of what there was."""
        self.data = dict(values)

    def tensors(self) -> dict[str, Tensor]:
        return {str(key): value for key, value in self.data.items()}

    def load_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        self.data = {self._key(name): value.clone() for name, value in tensors.items()}

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> NamedTensors[Key]:
        if self._moves:
            self.data = {key: fn(value) for key, value in self.data.items()}
        return self


class Unsaved(nn.Module):
    """Follows its owner to its device, but neither its weights nor its buffers are the owner's: they are not saved, not
    trained and not counted."""

    def __init__(self, **modules: nn.Module | None) -> None:
        super().__init__()
        self.held = modules
        self.__dict__.update(modules)  # not by setattr, by which torch registers modules

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Unsaved:
        for module in filter(None, self.held.values()):
            module._apply(fn)  # type: ignore[no-untyped-call]
        return self
