"""`kc predict`: overlay pictures and JSON of what a stored memory or method says."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from kc.commands.console import Terminal
from kc.errors import DataError, KcError, stopped
from kc.spec import Count, LinkOptions

if TYPE_CHECKING:
    from kc.predict.predictor import Predictor
    from kc.types import UInt8Array


@dataclass(frozen=True, kw_only=True)
class PredictConfig(LinkOptions):
    r"""Say what is on pictures, and by which rows of the memory it was decided.

    Args:
        source: Image, folder of images, or video.
        run: Run folder: the stored state of one of its methods answers.
        memory: Folder of a memory that answers.
        names: Names to choose among, separated by commas (write \, for a comma in a name); default: all it knows.
        method: Method of the run; default: the only one, or knn.
        seed: Seed of the method; default: the first one of the run.
        base: Open-vocabulary base beside the memory: none, conse, clip ...; default: that of the run.
        proposals: Where regions come from: superpixels or felzenszwalb; default: as the memory's keys were made.
        k: Neighbours that vote; default: as in the run.
        base_only: Show what the base alone says.
        memory_only: Show what the memory alone says; with --base-only both, and the two together, side by side.
        out: Folder to write NAME.png and NAME.json to, for each picture NAME.
    """

    source: Path
    run: Path | None = None
    memory: Path | None = None
    names: str | None = None
    method: str | None = None
    seed: int | None = None
    base: str | None = None
    proposals: str | None = None
    k: Count | None = None
    base_only: bool = False
    memory_only: bool = False
    out: Path = Path("predictions")


def run(config: PredictConfig) -> int:
    """`kc predict`. Returns the exit status: 1 where some pictures of a folder could not be read."""
    if (config.run is None) == (config.memory is None):
        raise KcError("say who answers: --run RUN or --memory DIR, one of them")
    from kc.data.readers.files import read_image
    from kc.predict.names import split_names
    from kc.predict.render import sentence, write
    from kc.predict.video import is_video
    from kc.stream.loop import quiet_lightning
    from kc.stream.progress import RunProgress

    console = Terminal()
    quiet_lightning()
    names = None if config.names is None else split_names(config.names)
    if not config.source.exists():
        raise KcError(f"{config.source}: no such image or folder")
    predictor = opened(config)
    views = views_of(config, predictor)
    if is_video(config.source):
        return _video(config, predictor, names, views, console)
    root, files = _pictures(config.source, console)
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
                    console.say(sentence(answers[0]))
            bar.advance()
    for problem in broken:
        console.say(f"skipped: {problem}")
    done = len(files) - len(broken)
    what = config.out / f"{files[0]}.png" if len(files) == 1 else f"{done} pictures in {config.out}"
    console.say(f"written: {what}")
    return 1 if broken else 0


def opened(config: PredictConfig) -> Predictor:
    """The memory or the method of a run that is meant."""
    from kc.predict.opening import Overrides, open_memory, open_run

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


def _pictures(source: Path, console: Terminal) -> tuple[Path, list[str]]:
    """The folder, and the pictures in it by their relative paths; masks that lie beside them are no pictures."""
    from kc.data.readers.files import IMAGE_SUFFIXES, left_out, list_files

    if source.is_file():
        return source.absolute().parent, [source.name]
    from kc.predict.examples import is_answer, is_mask

    found = list_files(source, ".", IMAGE_SUFFIXES, recursive=True)
    files = [f for f in found if not is_mask(f) and not is_answer(source, f)]
    if len(files) < len(found):
        console.say(f"not asked: {len(found) - len(files)} pictures that are masks, or answers of kc predict")
    for lost in left_out(source, ".", recursive=True):
        console.say(f"not asked: {lost}")
    if not files:
        raise KcError(f"{source}: no image in it ({', '.join(sorted(IMAGE_SUFFIXES))})")
    return source, [f.removeprefix("./") for f in files]


def _video(
    config: PredictConfig, predictor: Predictor, names: Sequence[str] | None, views: Sequence[str], console: Terminal
) -> int:
    """OUT/NAME.mp4, and OUT/NAME.mp4.png: its first frame with a legend of all that is on any frame."""
    import numpy as np

    from kc.predict.render import by_size, drawn, share_of, titles_of
    from kc.predict.video import each_frame
    from kc.report.overlay import VOID_COLOR, Color, Entry, picture
    from kc.stream.progress import RunProgress

    out = config.out / f"{config.source.name}.mp4"
    out.parent.mkdir(parents=True, exist_ok=True)
    first: list[tuple[str, UInt8Array]] = []
    pixels: Counter[tuple[str, Color]] = Counter()

    def shown(frame: UInt8Array) -> UInt8Array:
        answers = [predictor.predict(frame, names, view) for view in views]
        panels = [drawn(answer) for answer in answers]
        for answer in (a for a in answers if a.semantic is not None):
            for id_, n in by_size(answer):
                pixels[answer.name(id_), answer.colors.get(id_, VOID_COLOR)] += n * (answer is answers[-1])
        if not first:
            first.extend(zip(titles_of(views), panels, strict=True))
        return np.concatenate(panels, axis=1)

    with stopped("the same command begins anew"), RunProgress(console) as progress:
        each_frame(config.source, out, shown, progress)
    console.say(f"written: {out}")
    if pixels:
        legend = out.with_name(f"{out.name}.png")
        whole = pixels.total()
        picture(first, [Entry(f"{name}  {share_of(n / whole)}", c) for (name, c), n in pixels.most_common()], legend)
        console.say(f"what the colours mean: {legend}")
    return 0
