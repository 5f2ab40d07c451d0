"""The Encoder contract: one network, one pass, pooled and dense features, and a fingerprint of what produced them."""

from __future__ import annotations

import copy
import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from itertools import chain
from pathlib import Path
from pickle import UnpicklingError

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kc.errors import MissingExtraError, UnknownNameError
from kc.outside import no_weights, one_line
from kc.types import Features


class Encoder(nn.Module, ABC):
    """A network that maps RGB images to `Features` and normalises its own input.

    Subclasses set the attributes, implement `forward` and register the network as a submodule. The result of
    `forward` is differentiable; `encode` is the frozen view of the same network. `to_train` gives an
    independent copy for fine-tuning.
    """

    name: str
    """As given on the command line; first part of the fingerprint."""
    architecture: str
    strides: tuple[int, ...]
    """Strides of the levels in input pixels, finest first."""
    channels: tuple[int, ...]
    """Channels of each level."""
    pooled_dim: int
    unit_pooled: bool = True
    """Whether classifiers scale pooled features to one norm; False for a network that is trained from nothing."""
    preprocessing: tuple[float, ...]
    """Constants of the input normalisation, part of the fingerprint."""

    def __init__(self) -> None:
        super().__init__()
        self._fingerprint: tuple[tuple[tuple[int, int], ...], str] | None = None

    def to_train(self) -> Encoder:
        """An independent copy whose weights take gradients."""
        return copy.deepcopy(self).requires_grad_(True)

    @property
    def pyramid_channels(self) -> tuple[int, ...]:
        """Channels of each level of `pyramid`."""
        return self.channels

    @property
    def pyramid_strides(self) -> tuple[int, ...]:
        """Strides of the levels of `pyramid`, finest first."""
        return self.strides

    def pyramid(self, images: Tensor) -> tuple[Tensor, ...]:
        """The levels that a mask classifier reads, of `images` as for `forward`: with stride 4, where there is one."""
        return self(images).levels  # type: ignore[no-any-return]

    @abstractmethod
    def forward(self, images: Tensor) -> Features:
        """Features of `images` (N, 3, H, W), float RGB in [0, 1]; differentiable, batch norm as the mode says."""

    @torch.no_grad()
    def encode(self, images: Tensor) -> Features:
        """Features of `images` (N, 3, H, W), float RGB in [0, 1], without gradient and in evaluation mode.

        On a CPU the images pass one at a time: convolution kernels choose their blocking by batch size, so that the
        features of lite0 differ by up to 2e-5 between batches of 1 and 16 (measured at 128 to 224 pixels, with and
        without channels_last; `torch.equal` is false) and the features of an image would depend on its batch mates.
        One at a time costs nothing at 224 pixels and above, up to twice at 160 (7 ms an image, two threads).
        On other devices the batch passes at once; there repeatability across batch compositions is not promised.
        The last digits still depend on the number of torch threads, which is fixed within a run.
        """
        training = [module for module in self.modules() if module.training]
        for module in training:
            module.training = False
        try:
            if images.device.type != "cpu" or len(images) <= 1:
                return self(images)  # type: ignore[no-any-return]
            parts: list[Features] = [self(images[i : i + 1]) for i in range(len(images))]
        finally:
            for module in training:
                module.training = True
        levels = tuple(torch.cat([p.levels[i] for p in parts]) for i in range(len(parts[0].levels)))
        return Features(torch.cat([p.pooled for p in parts]), levels, parts[0].strides)

    @property
    def fingerprint(self) -> str:
        """`name:` and 16 hex digits of the SHA-256 over architecture, weights and preprocessing.

        Computed once and again only after the weights changed (in-place updates raise a tensor's version), so that a
        fine-tuned copy never answers with the fingerprint of the weights it started from.
        """
        version = tuple((tensor.data_ptr(), tensor._version) for tensor in chain(self.parameters(), self.buffers()))
        if self._fingerprint is None or self._fingerprint[0] != version:
            value = digest((self.architecture, self.preprocessing), self.state_dict())
            self._fingerprint = (version, f"{self.name}:{value}")
        return self._fingerprint[1]


def digest(header: object, state: Mapping[str, Tensor]) -> str:
    """16 hex digits of the SHA-256 over `header` and the names, types, shapes and bytes of `state`, sorted by name."""
    result = hashlib.sha256(repr(header).encode())
    for key in sorted(state):
        tensor = state[key].detach().cpu().contiguous()
        result.update(f"{key} {tensor.dtype} {tuple(tensor.shape)}".encode())
        result.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return result.hexdigest()[:16]


def check_images(images: Tensor) -> None:
    """Raise ValueError unless `images` is a floating (N, 3, H, W) tensor."""
    if images.ndim != 4 or images.shape[1] != 3 or not images.is_floating_point():
        raise ValueError(f"expected float images (N, 3, H, W) in [0, 1], got {images.dtype} {tuple(images.shape)}")


def normalized(images: Tensor, preprocessing: tuple[float, ...], size: tuple[int, int] | None = None) -> Tensor:
    """(rgb - mean) / std of `images` as `check_images` wants them; `preprocessing` begins with three means, three stds.

    `size`: (H, W) that they are resized to before, bilinear and antialiased; None: as they come.
    """
    check_images(images)
    if size is not None and images.shape[-2:] != size:
        images = F.interpolate(images, size=size, mode="bilinear", antialias=True, align_corners=False)
    mean, std = torch.unbind(images.new_tensor(preprocessing[:6]).view(2, 1, 3, 1, 1))
    return (images - mean) / std


@contextmanager
def weights_of(name: str, path: str | None = None) -> Iterator[None]:
    """Every failure to get the weights of encoder `name`, from the file `path` or the hub, is a MissingExtraError, but
    for UnknownNameError."""
    try:
        yield
    except UnknownNameError:
        raise
    except Exception as error:  # a hub can fail in many ways: network, cache, file format
        reason = one_line(error)
        if path is None or not Path(path).is_file():
            hint = f"Give a local file: {name}@PATH"
            raise MissingExtraError(f"cannot have the weights of {name} ({reason}). {hint}") from error
        if isinstance(error, UnpicklingError):
            reason = "it holds objects beside tensors (weights_only): give torch.save(network.state_dict(), NEW)"
        raise MissingExtraError(f"{path}: no weights of {name}; {no_weights(Path(path)) or reason}") from error


def check_finite(name: str, state: Mapping[str, Tensor]) -> None:
    """Raise MissingExtraError, which names the tensor, where weights hold NaN or infinity."""
    for key, value in state.items():
        if value.is_floating_point() and not bool(value.isfinite().all()):
            n = int((~value.isfinite()).sum())
            raise MissingExtraError(f"{name}: {n} of {value.numel()} values of {key} are NaN or infinite: give another")


class Pyramid(Encoder):
    """A view of `encoder` whose levels are those of its `pyramid`, with an empty pooled vector.

    It has a fingerprint of its own: in a cache the two never meet.
    """

    pooled_dim = 0

    def __init__(self, encoder: Encoder) -> None:
        super().__init__()
        self.name = f"{encoder.name}-pyramid"
        self.architecture, self.preprocessing = encoder.architecture, encoder.preprocessing
        self.channels, self.strides = tuple(encoder.pyramid_channels), tuple(encoder.pyramid_strides)
        self.encoder = encoder

    def forward(self, images: Tensor) -> Features:
        """Pooled (N, 0) and the levels of `encoder.pyramid`, of `images` (N, 3, H, W) float RGB in [0, 1]."""
        return Features(images.new_zeros(len(images), 0), tuple(self.encoder.pyramid(images)), self.strides)


def dense(features: Features, stride: int) -> Tensor:
    """One dense map (N, sum of C_l, h, w) at `stride`: every level L2-normalised over its channels, resized, joined.

    Each level has norm 1 at its own grid, so that no level outweighs another; the joined map is not renormalised. The
    grid is that of the level with `stride`, or of the finest level scaled where no level has it. Resizing is bilinear
    with cell centres aligned (`align_corners=False`). Raises ValueError where the encoder gave no dense level.
    """
    if not features.levels:
        raise ValueError("these features have no dense level: the encoder gives pooled features only")
    if stride in features.strides:
        size = features.levels[features.strides.index(stride)].shape[-2:]
    else:
        height, width = features.levels[0].shape[-2:]
        scale = features.strides[0] / stride
        size = torch.Size((max(1, round(height * scale)), max(1, round(width * scale))))
    units = (F.normalize(level, dim=1) for level in features.levels)
    resize = partial(F.interpolate, size=size, mode="bilinear", align_corners=False)
    return torch.cat([x if x.shape[-2:] == size else resize(x) for x in units], dim=1)
