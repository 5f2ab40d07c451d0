"""`kc data list`, `show`, `fetch` and `preview`: what benchmarks there are, how to get them, what they look like."""

from __future__ import annotations

import io
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from kc.commands.console import Terminal, bars
from kc.commands.data import BenchmarkConfig, check_part
from kc.errors import DataError, KcError, stopped
from kc.spec import Count, DataOptions
from kc.types import SplitName, TaskKind

if TYPE_CHECKING:
    from kc.data.manifest import Manifest


@dataclass(frozen=True, kw_only=True)
class ListConfig(DataOptions):
    """List every benchmark: kind, classes, parts, and whether its data is here.

    Args:
        kind: Only benchmarks of this kind.
    """

    kind: TaskKind | None = None


def list_all(config: ListConfig) -> int:
    """`kc data list`. Returns the exit status."""
    from rich import box
    from rich.table import Table

    from kc.data.manifest import load_manifest, manifest_names

    table = Table(box=box.SIMPLE_HEAD)
    for name in ("benchmark", "kind", "classes", "parts", "task splits", "data"):
        table.add_column(name, overflow="fold", justify="right" if name == "classes" else "left")
    for name in manifest_names():
        manifest = load_manifest(name)
        if config.kind in (None, manifest.task_kind):
            here = _folder_of(manifest, config.data_root)
            parts, splits = " ".join(manifest.splits), " ".join(manifest.task_splits)
            table.add_row(
                name, manifest.task_kind, str(len(manifest.classes)), parts, splits, "no" if here is None else "yes"
            )
    Terminal().print(table)
    return 0


def _folder_of(manifest: Manifest, data_root: Path | None) -> str | None:
    """The folder of a benchmark's data, None where it is not here."""
    from kc.data.readers.open import resolve_data_root

    if manifest.source.reader == "embedded":
        return "in the installed packages"
    try:
        return str(resolve_data_root(manifest, data_root))
    except DataError:
        return None


@dataclass(frozen=True, kw_only=True)
class ShowConfig(BenchmarkConfig):
    """Show one benchmark: its classes, splits, licence, and how to get its data."""


def show(config: ShowConfig) -> int:
    """`kc data show`. Returns the exit status."""
    from kc.data.manifest import load_manifest

    manifest = load_manifest(config.benchmark)
    where = _folder_of(manifest, config.data_root)
    facts = {
        "kind": manifest.task_kind,
        "classes": f"{len(manifest.classes)}" + (f", {len(manifest.thing_ids)} things" if manifest.thing_ids else ""),
        "reader": manifest.source.reader,
        "data": where or f"not in {config.data_root or os.environ.get('KC_DATA') or 'KC_DATA or --data-root'}",
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
    console = Terminal()
    console.say(manifest.name, style="bold")
    for name, text in facts.items():
        if text:
            console.say(f"  {name:<14} {text}")
    console.say(f"  {'fingerprint':<14} {manifest.fingerprint[:16]}")
    for c in manifest.classes:
        tags = [tag for tag, on in (("background", c.background), ("thing", c.thing)) if on]
        more = f" ({', '.join(c.synonyms)})" if c.synonyms else ""
        line = f"  {c.id:>5}  {c.name}{more}" + (f"  [{', '.join(tags)}]" if tags else "")
        console.say(line)
    return 0


@dataclass(frozen=True, kw_only=True)
class FetchConfig(BenchmarkConfig):
    """Download the archives of a benchmark, verify and unpack them; the same command goes on after a stop.

    Args:
        keep_archives: Leave the archives in DATA_ROOT/.kc-downloads.
    """

    keep_archives: bool = False


def fetch(config: FetchConfig) -> int:
    """`kc data fetch`. Returns the exit status."""
    from kc.data.fetch import fetch as download
    from kc.data.manifest import load_manifest

    manifest = load_manifest(config.benchmark)
    root = config.data_root or os.environ.get("KC_DATA")
    if not root:
        raise DataError("say where the data shall go, with --data-root or KC_DATA")
    if manifest.download:
        print(f"{manifest.name}: {sum(a.size for a in manifest.download):,} bytes, licence: {manifest.licence}")
    with stopped("the same command goes on where it was"), bars("bytes") as advance:
        new = download(manifest, Path(root).expanduser(), keep=config.keep_archives, progress=advance)
    said = f"unpacked {', '.join(new)}" if new else "everything was there already"
    print(f"{manifest.name}: {said}; `kc data check {config.benchmark}` reads every file")
    return 0


@dataclass(frozen=True, kw_only=True)
class PreviewConfig(BenchmarkConfig):
    """Write a contact sheet of images with their labels, as PNG.

    Args:
        part: Split that is shown.
        images: How many images.
        columns: Images in a row.
        out: The PNG to write; default: BENCHMARK-PART.png.
    """

    part: SplitName = "train"
    images: Count = 12
    columns: Count = 3
    out: Path | None = None


def preview(config: PreviewConfig) -> int:
    """`kc data preview`. Returns the exit status."""
    from kc.data.manifest import load_manifest
    from kc.data.preview import contact_sheet
    from kc.data.readers.open import open_reader
    from kc.files import write_atomic

    manifest = load_manifest(config.benchmark)
    check_part(manifest, config.part)
    reader = open_reader(manifest, config.part, config.data_root, config.images)
    out = config.out or Path(f"{manifest.name}-{config.part}.png")
    if out.suffix.lower() != ".png":
        raise KcError(f"--out {out}: a preview is a PNG, so its name must end in .png")
    sheet = contact_sheet(manifest, reader, config.columns)
    content = io.BytesIO()
    sheet.save(content, format="PNG")
    write_atomic(out, content.getvalue())
    size = f"{sheet.width}x{sheet.height} pixels"
    print(f"written: {out}, {len(reader)} images of {manifest.name} {config.part}, {size}")
    return 0
