"""What `kc dense` is asked to do: the typed signature behind its command line and YAML files. Loads in milliseconds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from kc.errors import KcError, unknown_name
from kc.parsing import parser, values_of

DENSE_TASKS = ("evaluate", "ablate", "similarity", "look")


@dataclass
class DenseConfig:
    """Measure and look into training-free dense CLIP, without a stream of tasks.

    Args:
        task: evaluate (rows on benchmarks, published figures beside), ablate (GCLIP's parts), similarity (of value
            embeddings within and across true masks) or look (into one image).
        rows: Rows of the table, separated by commas, or all.
        benchmarks: Names of benchmarks or paths of manifests, separated by commas.
        model: The CLIP: open_clip:MODEL[@FILE or TAG].
        proxy: Encoder whose features row proxyclip reads.
        split: Split of the benchmark that is measured.
        protocol: sclip, naclip, clearclip, proxyclip or whole-image; default: that of each row's paper.
        templates: Prompts: imagenet80, imagenet7, photo or name; default: the protocol's.
        pamr_steps: Steps of pixel-adaptive mask refinement; 0 is none.
        fuse_layers: Row gclip: blocks whose attention is fused, such as 6,7, or auto; default: the paper's for
            ViT-B-16-quickgelu, else auto.
        fuse_weights: Row gclip: one weight a fused block and one for the last block; default: their mean.
        head_mode: Row gclip: per_head or averaged.
        cs_layers: Blocks whose strongest channel is suppressed, such as 6,7, auto or none; default: the row's.
        precision: fp32, bf16 or fp16.
        device: cpu, cuda ...
        data_root: Folder that holds the data sets; default: the environment variable KC_DATA.
        limit_images: At most so many images, for a quick look.
        check_published: Say pass or miss beside each published figure and fail unless all pass.
        image: Image file to look into.
        save_attention: Task look: safetensors file for attention and values of every block.
        out: Folder for results and figures.
    """

    task: str = "evaluate"
    rows: str = "gclip"
    benchmarks: str = "camvid"
    model: str = "open_clip:ViT-B-16-quickgelu@openai"
    proxy: str | None = None
    split: str = "test"
    protocol: str | None = None
    templates: str | None = None
    pamr_steps: int = 0
    fuse_layers: str | None = None
    fuse_weights: str | None = None
    head_mode: str | None = None
    cs_layers: str | None = None
    precision: str = "fp32"
    device: str = "cpu"
    data_root: Path | None = None
    limit_images: int | None = None
    check_published: bool = False
    image: Path | None = None
    save_attention: Path | None = None
    out: Path = Path("runs/dense")

    def listed(self, field: str) -> list[str]:
        """The comma-separated values of `rows` or `benchmarks`."""
        return [part.strip() for part in str(getattr(self, field)).split(",") if part.strip()]


def check_dense(config: DenseConfig) -> None:
    """Refuse names that do not exist, before torch is loaded."""
    from kc.encoders.load import check_encoder_name
    from kc.openvocab.dense_clip.rows import ROWS

    for field, valid in (("task", DENSE_TASKS), ("precision", ("fp32", "bf16", "fp16"))):
        if getattr(config, field) not in valid:
            raise unknown_name(field, getattr(config, field), valid)
    for row in config.listed("rows"):
        if row not in ("all", *ROWS):
            raise unknown_name("row", row, ["all", *ROWS])
    for name in filter(None, (config.model, config.proxy)):
        check_encoder_name(name)
    if not config.model.startswith("open_clip:"):
        raise KcError(f"--model {config.model}: expected a CLIP, open_clip:MODEL@FILE")


def main(arguments: Sequence[str], prog: str) -> int:
    """`kc dense`. Returns the exit status, 1 where --check-published has a figure that is not met."""
    p = parser(prog, DenseConfig, "Measure and look into training-free dense CLIP, without a stream of tasks.")
    config = DenseConfig(**values_of(p, arguments))
    check_dense(config)
    from kc.commands.dense import run_dense

    return run_dense(config)
