"""The house keeps its shape: imports between rooms follow the arrows, and importing kc is cheap."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import kc

ROOT = Path(kc.__file__).parent
BASE = {"types", "errors", "label_png", "progress", "process", "budget", "spec", "registry", "files"}
# Room -> rooms it may import beside itself. The modules at the top (cli, config, experiment ...) may import everything.
ARROWS = {
    "types": set(),
    "errors": set(),
    "spec": {"types", "errors"},
    "registry": {"errors", "spec"},
    "progress": set(),
    "process": set(),
    "budget": {"errors"},
    "files": {"errors"},
    "label_png": {"errors", "types"},
    "config": BASE | {"methods.config"},
    "data": BASE,
    "encoders": BASE,
    "proposals": BASE,
    "memory": BASE,
    "metrics": BASE,
    "report": BASE,
    "openvocab": BASE | {"encoders", "proposals"},
    "methods": BASE | {"encoders", "proposals", "memory", "openvocab"},
    "stream": BASE | {"methods", "metrics", "report.records"},
    # One image at a time: what a run wires together is opened again from its folder.
    "predict": BASE
    | {"config", "parsing", "resolve", "session"}
    | {"data", "encoders", "proposals", "memory", "openvocab", "methods", "stream", "report.overlay", "report.records"},
    "serve": BASE | {"predict", "memory", "report.overlay"},
}
MAY_IMPORT_LIGHTNING = {"methods/module.py", "data/datamodule.py"}
TOP = {
    "cli",
    "compare",
    "commands",
    "config",
    "resolve",
    "session",
    "parsing",
    "registry",
    "tracking",
    "showcase",
    "studies",
    "__init__",
}


def modules() -> list[Path]:
    return sorted(ROOT.rglob("*.py"))


def imported(path: Path) -> Iterator[str]:
    """Absolute names of everything a file imports, also inside functions; not what is for type checkers only."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    guarded = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        if id(node) in guarded:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative imports hide the arrows"
            yield node.module or ""


def room(name: str) -> str:
    return name.split(".")[1]


@pytest.mark.parametrize("path", modules(), ids=lambda p: p.relative_to(ROOT).as_posix())
def test_imports_follow_the_arrows(path: Path) -> None:
    here = path.relative_to(ROOT).with_suffix("").parts[0]
    if here in TOP - {"config"}:
        return
    for name in imported(path):
        if not name.startswith("kc.") or room(name) == here:
            continue
        allowed = ARROWS[here]
        assert room(name) in allowed or name.removeprefix("kc.") in allowed, f"{here} may not import {name}"


@pytest.mark.parametrize("path", modules(), ids=lambda p: p.relative_to(ROOT).as_posix())
def test_lightning_stays_in_its_rooms(path: Path) -> None:
    relative = path.relative_to(ROOT)
    here = relative.with_suffix("").parts[0]
    if relative.as_posix() in MAY_IMPORT_LIGHTNING or here in TOP | {"stream"}:
        return
    assert not any(n.split(".")[0] in ("lightning", "pytorch_lightning") for n in imported(path))


def loaded_by(statement: str) -> set[str]:
    code = f"import sys; {statement}; print(*sorted({{m.split('.')[0] for m in sys.modules}}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


@pytest.mark.parametrize(
    "statement",
    [
        "import kc",
        "import kc.types, kc.errors, kc.config",
        "from kc.commands.sweep_config import SweepConfig, check_sweep; check_sweep(SweepConfig(split='5-5'))",
        "from kc.parsing import parse; parse(['--tasks', '5', '--benchmark', 'digits'])",
    ],
)
def test_names_are_checked_without_torch(statement: str) -> None:
    heavy = {"torch", "lightning", "faiss", "timm", "skimage", "matplotlib", "wandb", "transformers"}
    assert not heavy & loaded_by(statement)
