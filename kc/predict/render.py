"""Answers as pictures with a legend, as JSON and as a sentence."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from kc.files import write_atomic
from kc.methods.retrieval.visual_memory import REMEMBERED
from kc.predict.answer import Answer, Voter, as_json
from kc.progress import counted
from kc.report.overlay import VOID_COLOR, Bar, Entry, bars, overlay, picture
from kc.types import UInt8Array

TITLES = {"answer": "answer", "base": "base alone", "memory": "memory alone"}
BOTH = "memory and base"
BARS = 5
"""Classes shown below an image that is classified as a whole."""


def write(answers: Sequence[Answer], file: str, out: Path) -> None:
    """OUT/FILE.png and OUT/FILE.json."""
    target = out / file
    target.parent.mkdir(parents=True, exist_ok=True)
    titles = titles_of([a.view for a in answers])
    panels = [(title, drawn(a)) for title, a in zip(titles, answers, strict=True)]
    picture(panels, legend_of(answers), target.with_name(f"{target.name}.png"))
    text = json.dumps(as_json(answers, file), ensure_ascii=False, indent=1, allow_nan=False)
    write_atomic(target.with_name(f"{target.name}.json"), text.encode())


def titles_of(views: Sequence[str]) -> list[str]:
    """What stands above the panels: an answer beside others is said to be that of both."""
    titles = TITLES if len(views) == 1 else TITLES | {"answer": BOTH}
    return [titles[view] for view in views]


def drawn(answer: Answer) -> UInt8Array:
    """One panel."""
    if answer.semantic is not None:
        return overlay(answer.image, answer.semantic, answer.colors, answer.panoptic)
    scores = answer.scores
    assert scores is not None
    ranked = answer.ranked()[:BARS]
    ids = {name: id_ for id_, name in answer.names.items()}
    shares = bool((scores >= 0).all() and np.isclose(scores.sum(), 1, atol=1e-3))
    low, high = (0.0, 1.0) if shares else (float(scores.min()), max(float(scores.max()), float(scores.min()) + 1e-9))
    texts = [f"{name}  {100 * s:.1f} %" if shares else f"{name}  {s:.3g}" for name, s in ranked]
    lengths = [(s - low) / (high - low) for _, s in ranked]
    return bars(
        answer.image,
        [Bar(t, x, answer.colors[ids[name]]) for t, x, (name, _) in zip(texts, lengths, ranked, strict=True)],
    )


def legend_of(answers: Sequence[Answer]) -> list[Entry]:
    """What is on the maps, the largest first, with its share of the pixels of the last one."""
    last = answers[-1]
    if last.semantic is None:
        return []
    entries: list[Entry] = []
    for answer in reversed(answers):
        assert answer.semantic is not None
        listed = {e.text.rpartition("  ")[0] for e in entries}
        for id_, n in by_size(answer):
            if answer.name(id_) not in listed:
                share = share_of(n / answer.semantic.size) if answer is last else ""
                entries.append(Entry(f"{answer.name(id_)}  {share}", answer.colors.get(id_, VOID_COLOR)))
    return entries


def share_of(part: float) -> str:
    """`63 %`; a part that is there is never `0 %`."""
    return "<1 %" if 0 < part < 0.005 else f"{100 * part:.0f} %"


def by_size(answer: Answer) -> list[tuple[int, int]]:
    """Class ids of a map and their pixels, the largest first."""
    assert answer.semantic is not None
    ids, counts = np.unique(answer.semantic, return_counts=True)
    return [(int(ids[i]), int(counts[i])) for i in np.argsort(-counts, kind="stable")]


def sentence(answer: Answer) -> str:
    """What is on an image, and the rows that decided most, as text."""
    if answer.scores is not None:
        said = ", ".join(f"{name} {score:.3g}" for name, score in answer.ranked()[:BARS])
        voters = answer.voters
    else:
        size = answer.image.shape[0] * answer.image.shape[1]
        said = ", ".join(f"{answer.name(id_)} {share_of(n / size)}" for id_, n in by_size(answer)[:8])
        voters = answer.areas[0].voters if answer.areas else ()
    if not voters:
        return said
    shares: dict[tuple[str, str], list[float]] = {}
    for voter in voters:
        shares.setdefault((voter.name, picture_of(voter)), []).append(voter.share)
    images = sorted(shares.items(), key=lambda item: -sum(item[1]))[:3]
    listed = ", ".join(f"{n} ({image}, {counted(len(of), 'rows')}, {share_of(sum(of))})" for (n, image), of in images)
    return f"{said}\ndecided most for {voters[0].name}: {listed}"


def picture_of(voter: Voter) -> str:
    """The image of a row, without the hash that distinguishes added images of one name."""
    return voter.sample.rpartition(" ")[0] if voter.sample.startswith(f"{REMEMBERED}/") else voter.sample
