"""What FC-CLIP is and how it is asked, as plain numbers. Loads no torch, so that mistakes show at once."""

from __future__ import annotations

import importlib.util
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kc.errors import KcError, MissingExtraError
from kc.spec import Fraction
from kc.types import TaskKind

PUBLISHED_CLIP = "convnext_large_d_320"
PUBLISHED_SIDES = {"cityscapes": (1024, 2560)}
"""Sides of the image the network sees, by the first word of a benchmark's name, where they are not 800 and 1333
(configs of bytedance/fc-clip at 2b0bbe2)."""
NAME = re.compile(r"fc-clip(?::(?P<clip>[^@]+))?(?:@(?P<file>.+))?")
OBTAIN = (
    "download the COCO checkpoint that the page https://github.com/bytedance/fc-clip links (ConvNeXt-L, about 1.5 GB), "
    "run `kc fc-clip convert fcclip_cocopan.pth fc-clip.safetensors`, and give the file: --base fc-clip@FILE"
)


@dataclass(frozen=True)
class FcClipConfig:
    """The architecture; the defaults are the published one (section 4 of the paper, configs of its repository).

    `clip`: name of a ConvNeXt model in open_clip. `width`, `mask_width`: channels of the decoders and of a mask's inner
    product, multiples of 32 the first. `layers`: of the transformer decoder; `pixel_layers`: of the pixel decoder;
    `ffn`, `pixel_ffn`: the width inside their feed-forward parts.
    """

    clip: str = PUBLISHED_CLIP
    width: int = 256
    mask_width: int = 256
    queries: int = 250
    heads: int = 8
    pixel_layers: int = 6
    pixel_ffn: int = 1024
    layers: int = 9
    ffn: int = 2048


@dataclass(frozen=True)
class FcClipOptions:
    """Settings of inference.

    `alpha`, `beta`: weight of the frozen CLIP in the ensemble for names the head was trained on, and for others (paper,
    eq. 6). `short_side`, `long_side`: pixels of the image that it sees. `score`, `overlap`: what a query must pass to
    be a panoptic segment. `cache`: folder for text embeddings. `device`: where the network runs.
    """

    alpha: float = 0.4
    beta: float = 0.8
    short_side: int = 800
    long_side: int = 1333
    score: float = 0.0
    overlap: float = 0.8
    cache: Path | None = None
    device: str = "cpu"

    def __post_init__(self) -> None:
        if not (0 <= self.alpha <= 1 and 0 <= self.beta <= 1):
            raise KcError(f"FC-CLIP's alpha and beta are shares in [0, 1], got {self.alpha} and {self.beta}")
        if not 32 <= self.short_side <= self.long_side:
            raise KcError(f"FC-CLIP needs sides of 32 <= SHORT <= LONG, got {self.short_side},{self.long_side}")


@dataclass(frozen=True)
class FcClipBaseOptions:
    """Options of the base fc-clip.

    Args:
        alpha: Weight of the frozen CLIP in the probabilities of names that the head was trained on (paper, eq. 6).
        beta: That weight for other names.
        sides: SHORT,LONG: pixels of the image that the network sees; default: 800,1333, on Cityscapes 1024,2560.
    """

    alpha: Fraction = 0.4
    beta: Fraction = 0.8
    sides: str | None = None


def options_for(benchmark: str, alpha: float = 0.4, beta: float = 0.8, sides: str | None = None) -> FcClipOptions:
    """The published options for a benchmark, with what a user gave instead; `sides` as `SHORT,LONG`. Raises KcError."""
    short, long = PUBLISHED_SIDES.get(re.split(r"[^a-z0-9]", benchmark)[0], (800, 1333))
    if sides is not None:
        try:
            short, long = (int(part) for part in sides.split(","))
        except ValueError as error:
            raise KcError(f"--fc-clip.sides {sides}: expected two whole numbers, SHORT,LONG") from error
    return FcClipOptions(alpha, beta, short, long)


def check_base(name: str, encoder: str, kind: TaskKind, benchmark: str, options: dict[str, Any]) -> None:
    """Raise KcError, before anything is loaded, unless FC-CLIP's weights and package are here and it fits the kind."""
    if kind == "classification":
        raise KcError(f"base {name!r} labels regions and pixels; this benchmark is classification")
    weights_of(name)
    if importlib.util.find_spec("transformers") is None:
        raise MissingExtraError(f"base {name!r} needs transformers: pip install 'kc-continual[masks]'")
    options_for(benchmark, **options)


def weights_of(name: str) -> tuple[str | None, Path]:
    """(CLIP model or None, weights) of `fc-clip@FILE` or `fc-clip:MODEL@FILE`; loads nothing.

    Raises MissingExtraError, which says what to download, where no file is given or it does not exist.
    """
    found = NAME.fullmatch(name)
    assert found is not None
    if found["file"] is None:
        raise MissingExtraError(f"base {name!r} needs its weights, which are not bundled: {OBTAIN}")
    path = Path(found["file"])
    if not path.is_file():
        raise MissingExtraError(f"base {name!r}: there is no file {path}; {OBTAIN}")
    return found["clip"], path
