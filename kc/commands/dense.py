"""`kc dense`: measure training-free dense CLIP on benchmarks and look into it, without a stream of tasks."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from kc.actions import Table
from kc.commands.console import Terminal
from kc.commands.dense_options import FUSION, LookConfig, MeasuredConfig, check, listed
from kc.errors import KcError
from kc.openvocab.dense_clip.rows import ROWS

ACTIONS: Table = {
    "evaluate": ("kc.commands.dense:evaluate", "mIoU of rows on benchmarks, published figures beside"),
    "ablate": ("kc.commands.dense:ablate", "what each part of GCLIP changes"),
    "similarity": ("kc.commands.dense:similarity", "cosines of values within and across true masks, block by block"),
    "look": ("kc.commands.dense:look", "figures of one image: global tokens, norms, attention"),
}


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig(MeasuredConfig):
    """Measure the mIoU of rows of the table on benchmarks; published figures stand beside. Exit with 1 where
    --check-published has one that is not met.

    Args:
        rows: Rows of the table, separated by commas, or all.
        check_published: Say pass or miss beside each published figure and fail unless all pass.
    """

    rows: str = "gclip"
    check_published: bool = False


@dataclass(frozen=True, kw_only=True)
class AblateConfig(MeasuredConfig):
    """Measure row gclip without its parts: attention fusion and channel suppression each alone and together, then which
    blocks and which way of fusing."""


@dataclass(frozen=True, kw_only=True)
class SimilarityConfig(MeasuredConfig):
    """Measure cosines of value embeddings within and across true masks, for each block of the plain tower and of the
    one with suppressed channels."""


def evaluate(config: EvaluateConfig) -> int:
    """`kc dense evaluate`. Returns the exit status."""
    rows = list(ROWS) if config.rows == "all" else listed(config.rows)
    check(config, *rows)
    given = [f"--{name.replace('_', '-')}" for name in FUSION if getattr(config, name) is not None]
    if given and "gclip" not in rows:
        raise KcError(f"{', '.join(given)}: for row gclip, which is not asked")
    from kc.commands.dense_measure import Measurement

    console, measurement = Terminal(), Measurement.of(config, config.out / "evaluate.json")
    benchmarks = listed(config.benchmarks)
    for name in benchmarks:
        for row in rows:
            try:
                measurement.one(config, row, name, row, console)
            except KcError as error:
                # One missing data set must not cost the rest of the table; it is shown and counts as not met.
                if len(rows) * len(benchmarks) == 1:
                    raise
                measurement.missing(row, name, error)
    measurement.show(console)
    missed = [m for m in measurement.found if m.verdict in ("miss", "not run")]
    if config.check_published:
        judged = [m for m in measurement.found if m.verdict != "no figure"]
        console.say(f"published figures met: {len(judged) - len(missed)} of {len(judged)}")
    return 1 if missed and config.check_published else 0


def ablate(config: AblateConfig) -> int:
    """`kc dense ablate`. Returns the exit status."""
    check(config)
    from kc.commands.dense_measure import Measurement, base_of, variants

    console, measurement = Terminal(), Measurement.of(config, config.out / "ablate.json")
    chosen = base_of(config, measurement.clip, "gclip", None).segmenter.model.row
    assert chosen.fuse_layers is not None
    assert chosen.cs_layers is not None
    for name in listed(config.benchmarks):
        for label, changes in variants(chosen.fuse_layers, chosen.cs_layers).items():
            changed = dataclasses.replace(config, **{"fuse_weights": None, **changes})  # type: ignore[arg-type]
            measurement.one(changed, "gclip", name, label, console)
    measurement.show(console)
    return 0


def similarity(config: SimilarityConfig) -> int:
    """`kc dense similarity`. Returns the exit status."""
    check(config)
    from kc.commands.dense_measure import clip_of, similarity_of

    console, clip = Terminal(), clip_of(config)
    for name in listed(config.benchmarks):
        similarity_of(config, clip, name, console)
    return 0


def look(config: LookConfig) -> int:
    """`kc dense look`. Returns the exit status."""
    check(config, config.row)
    from kc.commands.dense_measure import look_into

    console = Terminal()
    for file in look_into(config, console):
        console.say(f"written: {file}")
    return 0
