"""`kc data`: what benchmarks there are, whether their data is sound, what is in it, what it looks like."""

from __future__ import annotations

import argparse
import io
import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, get_args

from kc.errors import DataError, KcError, RunError, unknown_name
from kc.types import SplitName

if TYPE_CHECKING:
    from rich.console import Console

    from kc.data.manifest import Manifest
    from kc.data.stats import Counts, Stats
    from kc.types import Task

PARTS: tuple[SplitName, ...] = get_args(SplitName)


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in the way of the other commands."""

    def error(self, message: str) -> NoReturn:
        raise KcError(f"{message} (see `{self.prog} --help`)")


def parser(prog: str = "kc data") -> argparse.ArgumentParser:
    """The parser of `kc data` and its sub-commands."""
    top = _Parser(prog=prog, description=__doc__, allow_abbrev=False)
    commands = top.add_subparsers(dest="command", metavar="COMMAND", required=True)

    def command(name: str, run: Callable[[argparse.Namespace], int], text: str) -> argparse.ArgumentParser:
        result = commands.add_parser(name, help=text, description=text, allow_abbrev=False)
        result.set_defaults(run=run)
        result.add_argument("--data-root", type=Path, help="folder of the data sets (default: KC_DATA)")
        if name != "list":
            result.add_argument("benchmark", help="name of a benchmark, or path of a manifest")
        return result

    def reading(result: argparse.ArgumentParser) -> None:
        result.add_argument("--limit-images", type=_positive, help="at most so many images of a part")
        result.add_argument("--num-workers", type=_positive, help="threads that read (default: one a core, at most 8)")

    def streaming(result: argparse.ArgumentParser) -> None:
        result.add_argument("--tasks", type=_positive, help="number of tasks; classes are divided evenly")
        result.add_argument("--split", help="one of the benchmark's named task splits, such as 15-1")
        result.add_argument("--class-order", default="natural", help="natural, shuffle:SEED, or a file of class names")
        result.add_argument("--seed", type=_natural, default=0, help="of the setting `partition` (default: 0)")

    listing = command("list", _list, "every benchmark: kind, classes, parts, and whether its data is here")
    listing.add_argument("--kind", choices=("classification", "semantic", "panoptic"), help="only of this kind")
    command("show", _show, "one benchmark: its classes, splits, licence, and how to get its data")
    fetching = command(
        "fetch", _fetch, "download its archives, verify and unpack them; goes on where it was interrupted"
    )
    fetching.add_argument("--keep-archives", action="store_true", help="leave the archives in DATA_ROOT/.kc-downloads")
    checking = command("check", _check, "read every file and report everything that is wrong; status 1 if anything is")
    checking.add_argument("--part", choices=PARTS, action="append", help="train, val or test (default: all)")
    checking.add_argument("--strict", action="store_true", help="notes (equal images, empty classes) count as problems")
    reading(checking)
    counting = command("stats", _stats, "count images, pixels and instances of every class, task, step and setting")
    counting.add_argument("--part", choices=PARTS, default="train", help="train (default), val or test")
    counting.add_argument("--out", type=Path, help="also write everything, with the images of every step, as JSON")
    streaming(counting)
    reading(counting)
    previewing = command("preview", _preview, "a contact sheet of images with their labels, as PNG")
    previewing.add_argument("--part", choices=PARTS, default="train", help="train (default), val or test")
    previewing.add_argument("--images", type=_positive, default=12, help="how many (default: 12)")
    previewing.add_argument("--columns", type=_positive, default=3, help="in a row (default: 3)")
    previewing.add_argument("--out", type=Path, help="the PNG to write (default: BENCHMARK-PART.png)")
    return top


def run_data(arguments: Sequence[str], prog: str = "kc data") -> int:
    """Run one sub-command. Returns the exit status. Raises KcError for what a user can mend."""
    choices = ("list", "show", "fetch", "check", "stats", "preview")
    if arguments and not arguments[0].startswith("-") and arguments[0] not in choices:
        raise unknown_name("command of kc data", arguments[0], choices)
    given = parser(prog).parse_args(list(arguments) or ["--help"])
    status: int = given.run(given)
    return status


def _list(given: argparse.Namespace) -> int:
    from rich import box
    from rich.table import Table

    from kc.data.manifest import load_manifest, manifest_names

    table = Table(box=box.SIMPLE_HEAD)
    for name in ("benchmark", "kind", "classes", "parts", "task splits", "data"):
        table.add_column(name, overflow="fold", justify="right" if name == "classes" else "left")
    for name in manifest_names():
        manifest = load_manifest(name)
        if given.kind in (None, manifest.task_kind):
            here = _where(manifest, given.data_root)
            parts, splits = " ".join(manifest.splits), " ".join(manifest.task_splits)
            table.add_row(
                name, manifest.task_kind, str(len(manifest.classes)), parts, splits, "no" if here is None else "yes"
            )
    _console().print(table)
    return 0


def _show(given: argparse.Namespace) -> int:
    from rich.markup import escape

    from kc.data.manifest import load_manifest

    manifest = load_manifest(given.benchmark)
    where = _where(manifest, given.data_root)
    facts = {
        "kind": manifest.task_kind,
        "classes": f"{len(manifest.classes)}" + (f", {len(manifest.thing_ids)} things" if manifest.thing_ids else ""),
        "reader": manifest.source.reader,
        "data": where or "not here",
        "to get it": manifest.obtain,
        "to fetch": ", ".join(f"{a.url} ({a.size:,} bytes)" for a in manifest.download),
        "homepage": manifest.homepage or "",
        "licence": manifest.licence,
        "input size": "{} x {} (H x W)".format(*manifest.input_size),
        "ignored value": "" if manifest.ignore is None else str(manifest.ignore),
    }
    for part, split in manifest.splits.items():
        said = split.model_dump(exclude={"reader"}, exclude_defaults=True)
        facts[f"part {part}"] = ", ".join(f"{key} {value}" for key, value in said.items())
    for named, steps in manifest.task_splits.items():
        facts[f"split {named}"] = f"{len(steps)} tasks of {', '.join(map(str, steps))} classes"
    console = _console()
    console.print(f"[bold]{escape(manifest.name)}[/bold]")
    for name, text in facts.items():
        if text:
            console.print(f"  {name:<14} {escape(text)}", highlight=False, soft_wrap=True)
    console.print(f"  {'fingerprint':<14} {manifest.fingerprint[:16]}", highlight=False)
    for c in manifest.classes:
        tags = [tag for tag, on in (("background", c.background), ("thing", c.thing)) if on]
        more = f" ({', '.join(c.synonyms)})" if c.synonyms else ""
        line = f"  {c.id:>5}  {c.name}{more}" + (f"  [{', '.join(tags)}]" if tags else "")
        console.print(escape(line), highlight=False, soft_wrap=True)
    return 0


def _fetch(given: argparse.Namespace) -> int:
    from kc.data.fetch import fetch
    from kc.data.manifest import load_manifest

    manifest = load_manifest(given.benchmark)
    root = given.data_root or os.environ.get("KC_DATA")
    if not root:
        raise DataError("say where the data shall go, with --data-root or KC_DATA")
    if manifest.download:
        print(f"{manifest.name}: {sum(a.size for a in manifest.download):,} bytes, licence: {manifest.licence}")
    with _bars() as advance:
        new = fetch(manifest, Path(root).expanduser(), keep=given.keep_archives, progress=advance)
    said = f"unpacked {', '.join(new)}" if new else "everything was there already"
    print(f"{manifest.name}: {said}; `kc data check {given.benchmark}` reads every file")
    return 0


def _check(given: argparse.Namespace) -> int:
    from kc.data.check import check
    from kc.data.manifest import load_manifest

    manifest = load_manifest(given.benchmark)
    for part in given.part or ():
        _has(manifest, part)
    with _bars() as advance:
        report = check(
            manifest,
            given.part,
            given.data_root,
            limit=given.limit_images,
            workers=given.num_workers,
            progress=lambda part, done, total: advance(f"{manifest.name} {part}", done, total),
        )
    for problem in report.problems:
        print(f"problem: {problem}")
    for note in report.notes:
        print(f"note: {note}")
    read = ", ".join(f"{n} {part}" for part, n in report.n_read.items()) or "none"
    print(f"{manifest.name}: read {read}; {len(report.problems)} problems, {len(report.notes)} notes")
    return 1 if report.problems or (given.strict and report.notes) else 0


def _stats(given: argparse.Namespace) -> int:
    from kc.data.manifest import load_manifest
    from kc.data.split import build_tasks
    from kc.data.stats import as_json, count

    manifest = load_manifest(given.benchmark)
    _has(manifest, given.part)
    tasks = build_tasks(manifest, given.tasks, given.split, given.class_order)
    with _bars() as advance:
        stats = count(
            manifest,
            given.part,
            tasks,
            given.data_root,
            seed=given.seed,
            limit=given.limit_images,
            workers=given.num_workers,
            progress=lambda done, total: advance(f"{manifest.name} {given.part}", done, total),
        )
    _print_stats(manifest, stats, tasks)
    if given.out is not None:
        _write(given.out, (json.dumps(as_json(stats, manifest, tasks), indent=1, ensure_ascii=False) + "\n").encode())
        print(f"wrote {given.out}")
    return 0


def _print_stats(manifest: Manifest, stats: Stats, tasks: Sequence[Task]) -> None:
    from rich import box
    from rich.table import Table

    console = _console()
    console.print(f"{manifest.name} {stats.split}: {_number(stats.n_images)} images", highlight=False)
    if stats.n_pixels:
        share = (stats.void_pixels or 0) / stats.n_pixels
        console.print(f"{_number(stats.n_pixels)} pixels, of which {share:.1%} are void", highlight=False)
    has_pixels, has_things = stats.n_pixels is not None, any(c.instances is not None for c in stats.classes)

    def numbers(counts: Counts) -> list[str]:
        cells = [_number(counts.images)]
        if has_pixels:
            cells.append(_number(counts.pixels))
            cells.append(f"{(counts.pixels or 0) / stats.n_pixels:.2%}" if stats.n_pixels else "")
        return cells + ([_number(counts.instances)] if has_things else [])

    heads = ["images", *(["pixels", "share"] if has_pixels else []), *(["instances"] if has_things else [])]
    of_classes = Table("id", "class", box=box.SIMPLE_HEAD)
    for head in heads:
        of_classes.add_column(head, justify="right")
    for c, counts in zip(manifest.classes, stats.classes, strict=True):
        of_classes.add_row(str(c.id), c.name, *numbers(counts))
    console.print(of_classes)
    if len(tasks) == 1:
        return
    settings = list(stats.steps) if manifest.task_kind != "classification" else ["overlapped"]
    of_tasks = Table("task", "classes", box=box.SIMPLE_HEAD)
    for head in (*heads, *(settings if len(settings) > 1 else [])):
        of_tasks.add_column(head, justify="right")
    for t, (task, counts) in enumerate(zip(tasks, stats.tasks, strict=True)):
        names = ", ".join(task.class_names[:3]) + (
            f", ... ({len(task.class_names)})" if len(task.class_names) > 3 else ""
        )
        in_steps = [_number(len(stats.steps[s][t].sample_ids)) for s in stats.steps] if len(settings) > 1 else []
        of_tasks.add_row(str(t), names, *numbers(counts), *in_steps)
    console.print(of_tasks)
    if len(settings) > 1:
        console.print("Under a setting: how many images that step trains on.", highlight=False)


def _preview(given: argparse.Namespace) -> int:
    from kc.data.manifest import load_manifest
    from kc.data.preview import contact_sheet
    from kc.data.readers.open import open_reader

    manifest = load_manifest(given.benchmark)
    _has(manifest, given.part)
    reader = open_reader(manifest, given.part, given.data_root, given.images)
    out = given.out or Path(f"{manifest.name}-{given.part}.png")
    if out.suffix.lower() != ".png":
        raise KcError(f"--out {out}: a preview is a PNG, so its name must end in .png")
    sheet = contact_sheet(manifest, reader, given.columns)
    content = io.BytesIO()
    sheet.save(content, format="PNG")
    _write(out, content.getvalue())
    print(
        f"wrote {out}: {len(reader)} of the images of {manifest.name} {given.part}, {sheet.width}x{sheet.height} pixels"
    )
    return 0


def _has(manifest: Manifest, part: SplitName) -> None:
    if part not in manifest.splits:
        raise DataError(f"{manifest.name} has no part {part!r}; it has {', '.join(manifest.splits)}")


def _where(manifest: Manifest, data_root: Path | None) -> str | None:
    """The folder of a benchmark's data, None where it is not here."""
    from kc.data.readers.open import resolve_data_root

    if manifest.source.reader == "embedded":
        return "in the installed packages"
    try:
        return str(resolve_data_root(manifest, data_root))
    except DataError:
        return None


def _write(path: Path, content: bytes) -> None:
    """A file that is there complete or not at all."""
    temporary = path.with_name(f".{path.name}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_bytes(content)
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise RunError(f"cannot write {path}: {error.strerror or error}") from error


def _console() -> Console:
    from rich.console import Console

    # In a file or a pipe there is no width to keep to.
    return Console() if sys.stdout.isatty() else Console(width=160)


@contextmanager
def _bars() -> Iterator[Callable[[str, int, int | None], Any]]:
    """A function (name, done, total) that draws one bar a name on the terminal; in a log it draws nothing."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bars:
        shown: dict[str, Any] = {}

        def advance(name: str, done: int, total: int | None) -> None:
            if name not in shown:
                shown[name] = bars.add_task(name, total=total)
            bars.update(shown[name], completed=done)

        yield advance


def _number(value: int | None) -> str:
    return "" if value is None else f"{value:,}"


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number above 0")
    return int(text)


def _natural(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 0")
    return int(text)
