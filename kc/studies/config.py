"""What a study of the open vocabulary is asked to do: the typed signature behind its command line."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from kc.errors import unknown_name
from kc.parsing import parser, values_of

STUDIES = {
    "growth": "the base against base and memory, as the memory grows from nothing to all training images",
    "sweep": "lambda, T and k of kNN-CLIP from cached scores, beside the calibrated setting",
    "ann": "exact search against an index: accuracy against speed",
    "domain-shift": "the base on full crops and on masked ones, and retrieval between the two",
    "coverage": "memories of 1,000 to 100,000 rows that hold 50, 75 and 100 % of the classes",
    "transfer": "weights tuned on one benchmark and used on the other",
    "spaces": "how far masked features lie from full ones (MMD), before and after retrieval",
    "continual": "kNN-CLIP, RetCLIP and hybrids beside fine-tuning: new, old and never-trained classes",
    "vocabulary": "vocabularies of up to 10,000 names: accuracy, rows, bytes and seconds",
    "other-domain": "a memory of one benchmark asked about images of the other, and what new rows recover",
}


@dataclass(frozen=True)
class StudyConfig:
    """One experiment on base and memory. Stopped, the same command goes on where it was.

    Args:
        name: The study.
        benchmark: Benchmark of regions, or path of a manifest.
        other: The second benchmark of ann, transfer and other-domain.
        data_root: Folder that holds the data sets; default: the environment variable KC_DATA.
        encoder: Encoder of the keys.
        base: Open-vocabulary base model that reads the encoder's features: conse.
        proposals: Regions of --benchmark: oracle, superpixels ...
        other_proposals: Regions of --other.
        k: Neighbours that vote, where they are not varied.
        tasks: Tasks of the study continual.
        epochs: Epochs a task of the study continual.
        methods: Methods of the study continual, separated by commas.
        names: Sizes of the vocabulary in the study vocabulary, separated by commas.
        rows: Sizes of the memory in ann and coverage, separated by commas.
        other_images: At most so many images a split of --other; frames of a video are alike.
        limit_images: At most so many images a split, for a quick look.
        seed: Seed of every draw.
        out: Folder in which each study has a folder of its own.
    """

    name: str
    benchmark: str = "coco200-panoptic"
    other: str = "camvid"
    data_root: Path | None = None
    encoder: str = "lite0"
    base: str = "conse"
    proposals: str = "oracle"
    other_proposals: str = "superpixels"
    k: int = 16
    tasks: int = 10
    epochs: int = 5
    methods: str = "zeroshot,knn,knn-clip,ret-clip,finetune,lwf,replay,hybrid,hybrid-replay,joint"
    names: str = "133,1000,10000"
    rows: str = "1000,10000,100000"
    other_images: int = 60
    limit_images: int | None = None
    seed: int = 0
    out: Path = Path("runs/open-vocabulary")


def main(arguments: Sequence[str], prog: str | None = None) -> int:
    """`experiments/open_vocabulary.py NAME`. Returns the exit status."""
    about = "Experiments on an open-vocabulary base and a memory:\n" + "\n".join(
        f"{n}: {t};" for n, t in STUDIES.items()
    )
    config = StudyConfig(**values_of(parser(prog, StudyConfig, about, positional=("name",)), arguments))
    if config.name not in STUDIES:
        raise unknown_name("study", config.name, STUDIES)
    from kc.studies.run import run_study

    run_study(config)
    return 0
