"""`kc data shards`: a benchmark as tar shards that `source: shards` reads."""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path

from kc.commands.data_shared import bars, has
from kc.errors import stopped


def run_shards(given: argparse.Namespace) -> int:
    """Write the shards of every part, then the manifest that reads them. Returns the exit status."""
    from kc.data.bad_files import open_good
    from kc.data.content import content_key
    from kc.data.manifest import load_manifest
    from kc.data.shards.store import open_store
    from kc.data.shards.write import manifest_of_shards, write_shards

    manifest = load_manifest(given.benchmark)
    parts = given.part or list(manifest.splits)
    for part in parts:
        has(manifest, part)
    remote = "://" in given.out or given.out.lstrip().lower().startswith("pipe:")
    store = open_store(given.out if remote else Path(given.out))
    content = content_key(manifest, given.data_root)
    for part in parts:
        with stopped("the same command goes on after the last whole shard"), bars("shards") as advance:
            reader, bad = open_good(
                manifest, part, given.data_root, given.limit_images, skip=given.skip_bad, workers=given.num_workers
            )
            done = write_shards(
                manifest,
                part,
                reader,
                store,
                content,
                per_shard=given.per_shard,
                workers=given.num_workers,
                progress=partial(advance, f"{manifest.name} {part}"),
            )
        for problem in bad:
            print(f"skipped: {problem}")
        print(
            f"{manifest.name} {part}: {done.samples} images in {done.new + done.kept} shards, {done.bytes:,} bytes; "
            f"wrote {done.new}, {done.kept} were there" + (f"; skipped {len(bad)} bad files" if bad else "")
        )
    name = f"{manifest.name}.yaml"
    kept = manifest.model_copy(update={"splits": {p: manifest.splits[p] for p in parts}})
    folder = "." if remote else Path(given.out).resolve().name
    store.write(name, manifest_of_shards(kept, folder, given.out if remote else None).encode())
    if remote:
        print(f"manifest: {store.name}/{name}; copy it here, then --benchmark {name}")
    else:
        print(f"run on them with: --benchmark {Path(given.out) / name} --data-root {given.out}")
    return 0
