"""Options that several actions of `kc dense` share."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from kc.actions import FLAG
from kc.encoders.load import check_encoder_name
from kc.errors import KcError, unknown_name
from kc.openvocab.dense_clip.options import DenseClipOptions
from kc.openvocab.dense_clip.rows import ROWS
from kc.spec import Count, DataOptions
from kc.types import SplitName

FUSION = ("fuse_layers", "fuse_weights", "head_mode")
"""Options of row gclip alone."""


@dataclass(frozen=True, kw_only=True)
class ModelConfig(DenseClipOptions):
    """A CLIP read as a row of the table says.

    Args:
        model: The CLIP: open_clip:MODEL[@FILE or TAG].
        proxy: Encoder whose features row proxyclip reads.
        precision: Numbers of the image tower.
        device: cpu, cuda ...
        out: Folder for results and figures.
    """

    model: str = "open_clip:ViT-B-16-quickgelu@openai"
    proxy: str | None = None
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    device: str = "cpu"
    out: Path = Path("runs/dense")


@dataclass(frozen=True, kw_only=True)
class MeasuredConfig(ModelConfig, DataOptions):
    """What is measured on benchmarks.

    Args:
        benchmarks: Names of benchmarks or paths of manifests, separated by commas.
        split: Split of the benchmark that is measured.
        limit_images: At most so many images, for a quick look.
    """

    benchmarks: str = "camvid"
    split: SplitName = "test"
    limit_images: Count | None = None


@dataclass(frozen=True, kw_only=True)
class LookConfig(ModelConfig):
    """Draw figures of one image, and store its attention where wanted.

    Args:
        image: Image file to look into.
        row: Row of the table.
        save_attention: safetensors file for attention and values of every block.
    """

    image: Annotated[Path, FLAG]
    row: str = "gclip"
    save_attention: Path | None = None


def listed(text: str) -> list[str]:
    """Values separated by commas."""
    return [part.strip() for part in text.split(",") if part.strip()]


def check(config: ModelConfig, *rows: str) -> None:
    """Refuse names that do not exist, before torch is loaded."""
    for row in rows:
        if row not in ROWS:
            raise unknown_name("row", row, ["all", *ROWS])
    for name in filter(None, (config.model, config.proxy)):
        check_encoder_name(name)
    if not config.model.startswith("open_clip:"):
        raise KcError(f"--model {config.model}: expected a CLIP, open_clip:MODEL@FILE")
