"""Our methods on your own folder of images: `python examples/own_folder.py FOLDER`.

FOLDER has one sub-folder of images a class. 80 per cent of the files of each class are for training, the rest for the
test. The program writes a manifest of the benchmark and compares three methods on it, two classes a task.
"""

from __future__ import annotations

import sys
from pathlib import Path

import yaml

from kc.compare import run
from kc.config import RunConfig


def write_manifest(folder: Path, path: Path) -> int:
    """Describe `folder` in a manifest at `path`. Returns the number of classes."""
    classes = sorted(p.name for p in folder.iterdir() if p.is_dir() and not p.name.startswith("."))
    manifest = {
        "name": "own-folder",
        "task_kind": "classification",
        "source": {"reader": "folder", "folder": folder.name},
        "splits": {"train": {"path": ".", "share": [0, 80]}, "test": {"path": ".", "share": [80, 100]}},
        # `folder` is the name on the disk, `name` what people and text encoders read.
        "classes": [{"id": i, "name": c.replace("_", " "), "folder": c} for i, c in enumerate(classes)],
        "input_size": [128, 128],
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump(manifest, sort_keys=False), encoding="utf-8")
    return len(classes)


def compare(folder: Path, out: Path, methods: str = "finetune,ncm,knn") -> Path:
    """The run folder: results.json, report.html, the memory of `knn` for `kc predict` ..."""
    folder = folder.resolve()
    n_classes = write_manifest(folder, out / "own-folder.yaml")
    config = RunConfig(
        benchmark=str(out / "own-folder.yaml"),
        data_root=folder.parent,
        tasks=max(n_classes // 2, 1),
        methods=methods,
        accelerator="cpu",
        wandb="disabled",
        out=out,
    )
    return run(config)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python examples/own_folder.py FOLDER")
    compare(Path(sys.argv[1]), Path("runs"))
