"""The code keeps its structure: docs/architecture.md is the map, and imports follow it."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import kc

ROOT = Path(kc.__file__).parent
MAP = ROOT.parent / "docs" / "architecture.md"
LONGEST = 350
MAY_IMPORT_LIGHTNING = {"methods/module.py", "data/datamodule.py"}
LIGHTNING_ROOMS = {"compare", "session", "tracking", "commands", "studies", "stream"}
HEAVY = {"torch", "lightning", "faiss", "timm", "skimage", "matplotlib", "wandb", "transformers"}
MODULES = {".".join(("kc", *p.relative_to(ROOT).with_suffix("").parts)).removesuffix(".__init__"): p
           for p in sorted(ROOT.rglob("*.py"))}  # fmt: skip


def imported(path: Path, *, typing: bool = False) -> Iterator[str]:
    """Absolute names of everything a file imports, also inside functions; `typing`: also for type checkers only."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    guarded = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        if id(node) in guarded and not typing:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative imports hide the arrows"
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                yield inner if inner in MODULES else node.module or ""


def room(module: str) -> str:
    return module.split(".")[1] if "." in module else "__init__"


def arrows_of_files(*, typing: bool = False) -> dict[str, set[str]]:
    return {name: {m for m in imported(path, typing=typing) if m in MODULES} - {name} for name, path in MODULES.items()}


def arrows_of_rooms() -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for name, arrows in arrows_of_files().items():
        found.setdefault(room(name), set()).update({room(a) for a in arrows} - {room(name), "__init__"})
    return found


def the_map() -> tuple[dict[str, set[str]], set[str]]:
    """Room -> rooms it imports, and the files of the ground floor."""
    above, _, ground = MAP.read_text(encoding="utf-8").partition("## Ground floor")
    rows = re.findall(r"^\| `(\w+)` \| [^|]+\. \|([^|]*)\|$", above, re.MULTILINE)
    floor = re.findall(r"^\| `(\w+)` \| [^|]+\. \|$", ground, re.MULTILINE)
    return {name: set(re.findall(r"\w+", arrows)) for name, arrows in rows}, set(floor)


def circle(arrows: Mapping[str, set[str]]) -> list[str]:
    try:
        TopologicalSorter(arrows).prepare()
    except CycleError as error:
        return list(error.args[1])
    return []


def test_every_room_is_on_the_map_once() -> None:
    rooms, floor = the_map()
    assert not rooms.keys() & floor
    assert rooms.keys() | floor | {"__init__"} == arrows_of_rooms().keys()


@pytest.mark.parametrize("name", sorted(arrows_of_rooms().keys() - {"__init__"}))
def test_imports_are_those_of_the_map(name: str) -> None:
    rooms, floor = the_map()
    found = arrows_of_rooms()[name]
    if name in floor:
        assert found <= floor, f"{name} is of the ground floor: it may not import {found - floor}"
    else:
        assert found - floor == rooms[name], f"docs/architecture.md: {name} imports {', '.join(sorted(found - floor))}"


def test_nothing_imports_in_a_circle() -> None:
    assert not circle(arrows_of_files(typing=True))
    assert not circle(arrows_of_rooms())
    assert circle({"a": {"b"}, "b": {"c"}, "c": {"a"}})


@pytest.mark.parametrize("path", MODULES.values(), ids=lambda p: p.relative_to(ROOT).as_posix())
def test_no_file_is_long(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) <= LONGEST


@pytest.mark.parametrize("path", MODULES.values(), ids=lambda p: p.relative_to(ROOT).as_posix())
def test_lightning_stays_in_its_rooms(path: Path) -> None:
    relative = path.relative_to(ROOT)
    if relative.as_posix() in MAY_IMPORT_LIGHTNING or relative.with_suffix("").parts[0] in LIGHTNING_ROOMS:
        return
    assert not any(n.split(".")[0] in ("lightning", "pytorch_lightning") for n in imported(path))


@pytest.mark.parametrize("path", sorted((ROOT / "report").glob("*.py")), ids=lambda p: p.name)
def test_reports_are_made_of_records_alone(path: Path) -> None:
    above = {m for m in imported(path, typing=True) if m.startswith("kc.")} - {"kc.__init__"}
    assert {room(m) for m in above} - the_map()[1] <= {"report"}


def loaded_by(statement: str) -> set[str]:
    code = f"import sys; {statement}; print(*sorted({{m.split('.')[0] for m in sys.modules}}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


@pytest.mark.parametrize(
    "statement",
    [
        "import kc",
        *(f"import kc.{name}" for name in sorted(the_map()[1])),
        "import kc.config, kc.resolve, kc.parsing",
        "from kc.commands.sweep_plan import SweepConfig, check_sweep; check_sweep(SweepConfig(split='5-5'))",
        "from kc.parsing import parse; parse(['--tasks', '5', '--benchmark', 'digits'])",
        "from kc.cli import main; main(['--help'])",
    ],
)
def test_names_are_checked_without_torch(statement: str) -> None:
    assert not HEAVY & loaded_by(statement)
