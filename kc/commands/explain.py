"""`kc explain`: the rows of a memory that voted on an image, as a table and as a picture."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from rich.table import Table

from kc.commands.console import Terminal
from kc.commands.memory import class_names, data_root_of, name_of, opened, task_index
from kc.errors import KcError
from kc.spec import Count, DataOptions, Positive
from kc.types import Neighbours, UInt8Array

if TYPE_CHECKING:
    from kc.memory.disk import Memory
    from kc.memory.store.table import RowTable
    from kc.predict.query import Query
    from kc.types import Sample

RULE: dict[str, Any] = {"k": 16, "vote": "softmax", "tau": 0.07, "rank_offset": 2.0, "sharpness": 1.0}
"""How a memory that does not say it is queried."""
PICTURED = 12
"""Neighbours in the picture; all are in the table."""


@dataclass(frozen=True, kw_only=True)
class ExplainConfig(DataOptions):
    """Show which rows of a memory decided what an image is. What is not given is as in the run that made the memory.

    Args:
        image: Image file, or a sample of the benchmark such as test/7; a sample that is stored does not vote on itself.
        point: In a memory of regions, the region at this pixel, ROW,COLUMN; default: the largest.
        memory: Folder of the memory; default: that of --run.
        run: Run folder; default: the one that holds the memory.
        benchmark: Benchmark whose classes, input size and images are meant.
        k: Neighbours that vote.
        vote: How neighbours vote, or what is fitted on the rows.
        tau: Temperature of the softmax vote.
        rank_offset: Offset of the rank vote.
        sharpness: Sharpness of the tip vote.
        at: The memory as it was after this task, counted from 1; default: the present.
        out: Picture to write (.png, .svg or .pdf); default: explain-IMAGE.png.
    """

    image: str
    point: str | None = None
    memory: Path | None = None
    run: Path | None = None
    benchmark: str | None = None
    k: Count | None = None
    vote: Literal["plurality", "distance", "softmax", "rank", "tip", "discriminant", "log-linear"] | None = None
    tau: Positive | None = None
    rank_offset: Positive | None = None
    sharpness: Positive | None = None
    at: Count | None = None
    out: Path | None = None


def run(config: ExplainConfig) -> int:
    """`kc explain`. Returns the exit status."""
    import numpy as np

    from kc.memory.vote.evaluation import ACCEPTED, first_k, neighbour_cosines, novelty_threshold
    from kc.memory.vote.log_linear import LogLinear
    from kc.memory.vote.votes import contributions, decide, vote
    from kc.methods.retrieval.vote_options import is_fitted
    from kc.predict.query import background_of, read_query, search
    from kc.report.attribution import Voter, attribution, region_crop
    from kc.session import config_of_memory

    console = Terminal()
    path = memory_of(config)
    memory = opened(path)
    own = {name: value for name, value in config_of_memory(memory.info).of(memory.info.method).items() if name in RULE}
    settings = {**RULE, **own, **{name: value for name, value in vars(config).items() if value is not None}}
    names = class_names(memory, config.benchmark)
    sources, query = read_query(
        memory, config.image, config.point, config.benchmark, data_root_of(path, config.data_root, config.run)
    )
    at = task_index(memory, config.at)
    background = background_of(memory)
    kind, seed = settings["vote"], config_of_memory(memory.info).seeds[0]
    fitted = LogLinear(kind, background, seed) if is_fitted(kind) else None
    wide = search(memory, query, max(settings["k"], fitted.k if fitted else 0), at, background)
    found = first_k(wide, settings["k"])
    n_found = found.id.shape[1]
    if n_found < settings["k"]:
        console.say(f"k {settings['k']} is clamped to the {n_found} rows that there are")
    classes = np.unique(found.class_id if fitted is None else background.labels(memory, at).class_id).tolist()
    rule: dict[str, Any] = {
        "kind": "softmax" if fitted else kind,
        "tau": float(settings["tau"]),
        "rank_offset": float(settings["rank_offset"]),
        "sharpness": float(settings["sharpness"]),
    }
    cast = contributions(found, classes, **rule)[0].numpy()
    if fitted is None:
        totals = vote(found, classes, **rule)[0].numpy()
        winner = int(decide(found, classes, **rule)[0])
    else:
        totals = fitted.probabilities(memory, query.key, wide, classes, at)[0].numpy()
        winner = classes[int(totals.argmax())]
    rows = memory.rows_of(found.id[0])
    sure = background.inferred(memory, at).confidence_of(found.id[0])
    console.print(neighbour_table(found, rows, names, cast / cast.sum(), sure))
    of = {int(c): float(t / totals.sum()) for c, t in zip(classes, totals, strict=True)}
    ranked = sorted(of, key=lambda c: (c != winner, -of[c]))
    said = ", ".join(f"{names.get(c, c)} {100 * of[c]:.1f} %" for c in ranked[:5])
    rule_name = f"{kind} vote of {n_found} rows" if fitted is None else f"{kind} of all rows"
    truth = None if query.label is None else names.get(query.label, str(query.label))
    console.say(f"{rule_name}: {said}" + (f" (true class: {truth})" if truth else ""))
    if fitted is not None and len(ranked) > 1:
        votes, rest = fitted.lead(memory, query.key, wide, (ranked[0], ranked[1]), at)
        lead = f"lead of {name_of(ranked[0], names)} over {name_of(ranked[1], names)}"
        console.say(f"{lead}, in logits: {votes:+.2f} by the votes of its neighbours, {rest:+.2f} by the discriminant")
    nearest, near = float(found.score[0, 0]), neighbour_cosines(memory, at)
    strange = nearest < novelty_threshold(near)
    if strange:
        console.say(
            f"unknown? the nearest row has cosine {nearest:.3f}, but {100 * ACCEPTED:.0f} % of the stored rows have "
            f"{novelty_threshold(near):.3f} or more with one of another image: perhaps a class that is not in memory"
        )
    if len(query.own):
        console.say("the query is stored; its own row was left out")
    if sources.missing:
        console.say(f"some images cannot be shown: {sources.missing}")
    voters = []
    for i in range(min(n_found, PICTURED)):
        sample = sources.sample(rows.sample_id[i])
        picture = None if sample is None else pictured(query, sample, memory, int(rows.id[i]))
        name, task = name_of(found.class_id[0, i], names), int(rows.task[i]) + 1
        share = float(cast[i] / cast.sum())
        voters.append(Voter(picture, rows.sample_id[i], name, task, float(found.score[0, i]), share))
    shares = [(str(names.get(c, c)), of[c]) for c in ranked]
    out = config.out or Path(f"explain-{Path(config.image).stem}.png")
    title = f"{config.image}: {names.get(winner, winner)}" + (", or unknown" if strange else "")
    title += f" (true class: {truth})" if truth else ""
    more = n_found - len(voters)
    shown = query.image if query.mask is None else region_crop(query.image, query.mask)
    attribution(shown, title, voters, shares, rule_name, more, out)
    console.say(f"written: {out}")
    return 0


def memory_of(config: ExplainConfig) -> Path:
    """The memory that is meant: the one given, or the only one of the run."""
    if config.memory is not None:
        return config.memory
    if config.run is None:
        raise KcError("say which memory: --memory DIR or --run RUN")
    found = sorted(config.run.glob("methods/*/memory"))
    if len(found) != 1:
        shown = ", ".join(str(p) for p in found) or "none"
        raise KcError(f"{config.run} holds {len(found)} memories ({shown}): say which one with --memory")
    return found[0]


def pictured(query: Query, sample: Sample, memory: Memory, row: int) -> UInt8Array:
    """The image of a row that voted; of a row of regions, its region."""
    from kc.predict.query import stored_mask
    from kc.report.attribution import region_crop

    mask = None if query.session is None else stored_mask(query.session, sample, memory, row)
    return sample.image if mask is None else region_crop(sample.image, mask)


def neighbour_table(
    found: Neighbours, rows: RowTable, names: dict[int, str], share: Any = None, sure: Any = None
) -> Table:
    """One line a neighbour, nearest first; `sure`: confidence of inferred classes, NaN for those that were stored."""
    table = Table("#", "row", "class", "task", "sample", "source", "cosine", "weight")
    if share is not None:
        table.add_column("vote, %", justify="right")
    for i in range(len(rows)):
        said = name_of(int(found.class_id[0, i]), names)
        if sure is not None and sure[i] == sure[i]:
            said += f" (inferred, {sure[i]:.2f})"
        cells = [str(i + 1), str(rows.id[i]), said, str(rows.task[i] + 1)]
        cells += [rows.sample_id[i], rows.source[i] or "–", f"{found.score[0, i]:.4f}", f"{found.weight[0, i]:g}"]
        table.add_row(*cells, *([] if share is None else [f"{100 * share[i]:.1f}"]))
    return table
