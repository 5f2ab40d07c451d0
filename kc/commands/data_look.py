"""`kc data list`, `show`, `fetch` and `preview`: what benchmarks there are, how to get them, what they look like."""

from __future__ import annotations

import argparse
import io
import os
from pathlib import Path

from kc.commands.data_shared import bars, folder_of, has, terminal, write
from kc.errors import DataError, KcError, stopped


def run_list(given: argparse.Namespace) -> int:
    from rich import box
    from rich.table import Table

    from kc.data.manifest import load_manifest, manifest_names

    table = Table(box=box.SIMPLE_HEAD)
    for name in ("benchmark", "kind", "classes", "parts", "task splits", "data"):
        table.add_column(name, overflow="fold", justify="right" if name == "classes" else "left")
    for name in manifest_names():
        manifest = load_manifest(name)
        if given.kind in (None, manifest.task_kind):
            here = folder_of(manifest, given.data_root)
            parts, splits = " ".join(manifest.splits), " ".join(manifest.task_splits)
            table.add_row(
                name, manifest.task_kind, str(len(manifest.classes)), parts, splits, "no" if here is None else "yes"
            )
    terminal().print(table)
    return 0


def run_show(given: argparse.Namespace) -> int:
    from kc.data.manifest import load_manifest

    manifest = load_manifest(given.benchmark)
    where = folder_of(manifest, given.data_root)
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
    console = terminal()
    console.print(manifest.name, style="bold", highlight=False)
    for name, text in facts.items():
        if text:
            console.print(f"  {name:<14} {text}", highlight=False, soft_wrap=True)
    console.print(f"  {'fingerprint':<14} {manifest.fingerprint[:16]}", highlight=False)
    for c in manifest.classes:
        tags = [tag for tag, on in (("background", c.background), ("thing", c.thing)) if on]
        more = f" ({', '.join(c.synonyms)})" if c.synonyms else ""
        line = f"  {c.id:>5}  {c.name}{more}" + (f"  [{', '.join(tags)}]" if tags else "")
        console.print(line, highlight=False, soft_wrap=True)
    return 0


def run_fetch(given: argparse.Namespace) -> int:
    from kc.data.fetch import fetch
    from kc.data.manifest import load_manifest

    manifest = load_manifest(given.benchmark)
    root = given.data_root or os.environ.get("KC_DATA")
    if not root:
        raise DataError("say where the data shall go, with --data-root or KC_DATA")
    if manifest.download:
        print(f"{manifest.name}: {sum(a.size for a in manifest.download):,} bytes, licence: {manifest.licence}")
    with stopped("the same command goes on where it was"), bars("bytes") as advance:
        new = fetch(manifest, Path(root).expanduser(), keep=given.keep_archives, progress=advance)
    said = f"unpacked {', '.join(new)}" if new else "everything was there already"
    print(f"{manifest.name}: {said}; `kc data check {given.benchmark}` reads every file")
    return 0


def run_preview(given: argparse.Namespace) -> int:
    from kc.data.manifest import load_manifest
    from kc.data.preview import contact_sheet
    from kc.data.readers.open import open_reader

    manifest = load_manifest(given.benchmark)
    has(manifest, given.part)
    reader = open_reader(manifest, given.part, given.data_root, given.images)
    out = given.out or Path(f"{manifest.name}-{given.part}.png")
    if out.suffix.lower() != ".png":
        raise KcError(f"--out {out}: a preview is a PNG, so its name must end in .png")
    sheet = contact_sheet(manifest, reader, given.columns)
    content = io.BytesIO()
    sheet.save(content, format="PNG")
    write(out, content.getvalue())
    print(
        f"wrote {out}: {len(reader)} of the images of {manifest.name} {given.part}, {sheet.width}x{sheet.height} pixels"
    )
    return 0
