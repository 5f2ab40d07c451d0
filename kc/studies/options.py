"""The spec of a study, and the options that several studies share. Loads in milliseconds."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from kc.spec import Count, DataOptions, Positive, Spec, Whole


@dataclass(frozen=True)
class StudySpec(Spec):
    """What a study is. `summary`: what it measures. `plots`: what its figure shows. `paper`: where it comes from."""

    plots: str = ""


@dataclass(frozen=True)
class StudyOptions(DataOptions):
    """Options of every study.

    Args:
        benchmark: Name of a benchmark, or path of a manifest (YAML).
        encoder: Encoder of the keys; some studies compare several, separated by commas.
        limit_images: At most so many images a split, for a quick look.
        published: Published figures to print with the results: what -> per cent.
        out: Folder for the results; each benchmark and study gets a folder in it.
    """

    benchmark: str = "digits"
    encoder: str = "lite0"
    limit_images: Count | None = None
    published: dict[str, float] | None = None
    out: Path = Path("runs/studies")


@dataclass(frozen=True)
class VoteOptions(StudyOptions):
    """Options of studies in which neighbours vote.

    Args:
        k: Numbers of neighbours, separated by commas; studies that vary something else take the first.
        tau: Temperature of the softmax vote.
        rank_offset: Offset of the rank vote.
        sharpness: Sharpness of the Tip-Adapter vote, exp(-sharpness (1 - cosine)).
    """

    k: str = "10,1,4,16,50,100"
    tau: Positive = 0.07
    rank_offset: Positive = 2.0
    sharpness: Positive = 5.5


@dataclass(frozen=True)
class KeyOptions(VoteOptions):
    """Options of studies of a memory of images, segments or cells.

    Args:
        queries: Benchmark of the test rows where it is another (imagenet-a, ninco): classes are matched by their names
            in the files, else by their names, and the memory keeps those that both have. unknowns: classes that the
            memory lacks are the unknown ones.
        rows: What becomes a row: segments (segmentation's default), images (classification's) or cells (every
            position of the finest feature map, projected at random to --dim values: many real rows).
        dim: Values of a key of cells, and of the simulated rows of deletion.
    """

    queries: str | None = None
    rows: str | None = None
    dim: Count = 64


@dataclass(frozen=True)
class SeededOptions(KeyOptions):
    """Options of studies that draw at random more than once.

    Args:
        seeds: Seeds of what is drawn at random, separated by commas.
    """

    seeds: str = "0,1,2"


@dataclass(frozen=True)
class RegionOptions(StudyOptions):
    """Options of studies of regions, a memory and an open-vocabulary base.

    Args:
        base: Open-vocabulary base model that reads the encoder's features: conse.
        proposals: Regions of --benchmark: oracle, superpixels ...
        k: Neighbours that vote, where they are not varied.
        seed: Seed of every draw.
    """

    benchmark: str = "coco200-panoptic"
    base: str = "conse"
    proposals: str = "oracle"
    k: Count = 16
    seed: Whole = 0


@dataclass(frozen=True)
class SizedOptions(RegionOptions):
    """Options of studies of memories of several sizes.

    Args:
        rows: Sizes of the memory, separated by commas.
    """

    rows: str = "1000,10000,100000"


@dataclass(frozen=True)
class PairOptions(RegionOptions):
    """Options of studies of two benchmarks of regions.

    Args:
        other: The second benchmark.
        other_proposals: Regions of --other.
        other_images: At most so many images a split of --other; frames of a video are alike.
    """

    other: str = "camvid"
    other_proposals: str = "superpixels"
    other_images: Count = 60
