"""`kc predict`: overlay pictures and JSON of what a stored memory or method says."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from rich.console import Console

from kc.commands.predict_config import PredictConfig
from kc.data.readers.base import IMAGE_SUFFIXES, list_files, read_image
from kc.errors import DataError, KcError, stopped
from kc.files import write_atomic
from kc.predict.answer import Answer, as_json
from kc.predict.names import split_names
from kc.predict.opening import Overrides, open_memory, open_run
from kc.predict.predictor import Predictor
from kc.predict.video import each_frame, is_video
from kc.report.overlay import VOID_COLOR, Bar, Color, Entry, bars, overlay, picture
from kc.stream.loop import quiet_lightning
from kc.stream.progress import RunProgress
from kc.types import UInt8Array

TITLES = {"answer": "answer", "base": "base alone", "memory": "memory alone"}
BOTH = "memory and base"
BARS = 5
"""Classes shown below an image that is classified as a whole."""


def run_predict(config: PredictConfig, console: Console | None = None) -> int:
    """Do what `config` asks for; 1 where some pictures of a folder could not be read. Raises KcError."""
    console = console or Console(markup=False)
    quiet_lightning()
    names = None if config.names is None else split_names(config.names)
    if not config.source.exists():
        raise KcError(f"{config.source}: no such picture or folder")
    predictor = opened(config)
    views = views_of(config, predictor)
    if is_video(config.source):
        return _video(config, predictor, names, views, console)
    root, files = _pictures(config.source)
    broken: list[str] = []
    how = f"what is written stays in {config.out}; the same command begins anew"
    with stopped(how), RunProgress(console) as progress, progress.bar("predicting", len(files), "images") as bar:
        for file in files:
            try:
                image = read_image(root, file)
            except DataError as error:
                if len(files) == 1:
                    raise
                broken.append(str(error))
            else:
                answers = [predictor.predict(image, names, view) for view in views]
                write(answers, file, config.out)
                if len(files) == 1:
                    console.print(_sentence(answers[0]), highlight=False, markup=False, soft_wrap=True)
            bar.advance()
    for problem in broken:
        console.print(f"skipped: {problem}", highlight=False, markup=False, soft_wrap=True)
    done = len(files) - len(broken)
    what = config.out / f"{files[0]}.png" if len(files) == 1 else f"{done} pictures in {config.out}"
    console.print(f"written: {what}", highlight=False, markup=False, soft_wrap=True)
    return 1 if broken else 0


def opened(config: PredictConfig) -> Predictor:
    """The memory or the method of a run that is meant."""
    overrides = Overrides(config.base, config.proposals, config.k)
    if config.memory is not None:
        return open_memory(config.memory, overrides)
    assert config.run is not None
    return open_run(config.run, config.method, config.seed, overrides)


def views_of(config: PredictConfig, predictor: Predictor) -> list[str]:
    """What is shown: the answer; or base or memory alone; or both and the answer. KcError for what is not there."""
    wanted = [view for view, on in (("base", config.base_only), ("memory", config.memory_only)) if on]
    missing = [view for view in wanted if view not in predictor.views]
    if "base" in missing:
        raise KcError("--base-only: no base model answers here; give --base conse, or another base, with a memory")
    if missing:
        raise KcError("--memory-only: this method keeps no memory that could answer alone")
    return [*wanted, "answer"] if len(wanted) == 2 else wanted or ["answer"]


def _pictures(source: Path) -> tuple[Path, list[str]]:
    """The folder, and the pictures in it by their relative paths; masks that lie beside them are no pictures."""
    if source.is_file():
        return source.absolute().parent, [source.name]
    files = [f for f in list_files(source, ".", IMAGE_SUFFIXES, recursive=True) if not f.endswith(".mask.png")]
    if not files:
        raise KcError(f"{source}: no picture in it ({', '.join(sorted(IMAGE_SUFFIXES))})")
    return source, [f.removeprefix("./") for f in files]


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
        for id_, n in _by_size(answer):
            if answer.name(id_) not in listed:
                share = share_of(n / answer.semantic.size) if answer is last else ""
                entries.append(Entry(f"{answer.name(id_)}  {share}", answer.colors.get(id_, VOID_COLOR)))
    return entries


def share_of(part: float) -> str:
    """`63 %`; a part that is there is never `0 %`."""
    return "<1 %" if 0 < part < 0.005 else f"{100 * part:.0f} %"


def _by_size(answer: Answer) -> list[tuple[int, int]]:
    assert answer.semantic is not None
    ids, counts = np.unique(answer.semantic, return_counts=True)
    return [(int(ids[i]), int(counts[i])) for i in np.argsort(-counts, kind="stable")]


def _sentence(answer: Answer) -> str:
    if answer.scores is not None:
        said = ", ".join(f"{name} {score:.3g}" for name, score in answer.ranked()[:BARS])
        voters = answer.voters
    else:
        size = answer.image.shape[0] * answer.image.shape[1]
        said = ", ".join(f"{answer.name(id_)} {share_of(n / size)}" for id_, n in _by_size(answer)[:8])
        voters = answer.areas[0].voters if answer.areas else ()
    if not voters:
        return said
    rows = ", ".join(f"{v.name} ({v.sample}, {100 * v.share:.0f} %)" for v in voters[:3])
    return f"{said}\ndecided most for {voters[0].name}: {rows}"


def _video(
    config: PredictConfig, predictor: Predictor, names: Sequence[str] | None, views: Sequence[str], console: Console
) -> int:
    """OUT/NAME.mp4, and OUT/NAME.mp4.png: its first frame with a legend of all that is on any frame."""
    out = config.out / f"{config.source.name}.mp4"
    out.parent.mkdir(parents=True, exist_ok=True)
    first: list[tuple[str, UInt8Array]] = []
    pixels: Counter[tuple[str, Color]] = Counter()

    def shown(frame: UInt8Array) -> UInt8Array:
        answers = [predictor.predict(frame, names, view) for view in views]
        panels = [drawn(answer) for answer in answers]
        for answer in (a for a in answers if a.semantic is not None):
            for id_, n in _by_size(answer):
                pixels[answer.name(id_), answer.colors.get(id_, VOID_COLOR)] += n * (answer is answers[-1])
        if not first:
            first.extend(zip(titles_of(views), panels, strict=True))
        return np.concatenate(panels, axis=1)

    with stopped("the same command begins anew"), RunProgress(console) as progress:
        each_frame(config.source, out, shown, progress)
    console.print(f"written: {out}", highlight=False, markup=False, soft_wrap=True)
    if pixels:
        legend = out.with_name(f"{out.name}.png")
        whole = pixels.total()
        picture(first, [Entry(f"{name}  {share_of(n / whole)}", c) for (name, c), n in pixels.most_common()], legend)
        console.print(f"what the colours mean: {legend}", highlight=False, markup=False, soft_wrap=True)
    return 0
