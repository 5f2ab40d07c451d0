"""The documentation builds without a warning, loads nothing from elsewhere, and its Python is run as it stands."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
NEEDS = {"detectron2.md": ("detectron2", "panopticapi")}
"""What the code of a page asks for beside us."""

BLOCK = re.compile(
    r"^```(?:python|yaml(?= title))(?: title=\"(?P<file>[^\"]+)\")?\n(?P<code>.*?)^```", re.DOTALL | re.MULTILINE
)
PAGES = [p for p in sorted((ROOT / "docs").rglob("*.md")) if BLOCK.search(p.read_text(encoding="utf-8"))]


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.relative_to(ROOT).as_posix())
def test_code_runs(page: Path, tmp_path: Path) -> None:
    """A block with a title is a file of that name; the others run one after another in one program."""
    for package in NEEDS.get(page.name, ()):
        pytest.importorskip(package, reason=f"{package} is not installed; docs/{page.name} says how")
    program = []
    for block in BLOCK.finditer(page.read_text(encoding="utf-8")):
        if block["file"]:
            (tmp_path / block["file"]).write_text(block["code"], encoding="utf-8")
        else:
            program.append(block["code"])
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(tmp_path)]), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", "\n".join(program)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        env=environment,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]


def test_pages_with_code_are_found() -> None:
    assert {"concepts.md", "metrics.md", "own-method.md", "own-encoder.md"} <= {p.name for p in PAGES}


def test_the_site_builds_and_loads_nothing_from_elsewhere(tmp_path: Path) -> None:
    pytest.importorskip("mkdocs", reason="the extra `docs` is not installed")
    # Not --quiet: it hides warnings from --strict.
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    foreign = re.compile(r"<(?:script|link|img)[^>]+(?:src|href)=\"(?:https?:)?//[^\"]+\"")
    for page in tmp_path.rglob("*.html"):
        text = page.read_text(encoding="utf-8")
        loaded = [tag for tag in foreign.findall(text) if 'rel="canonical"' not in tag]
        assert loaded == [], f"{page.relative_to(tmp_path)} loads {loaded[0]}"
    reference = (tmp_path / "reference" / "memory" / "index.html").read_text(encoding="utf-8")
    assert "kc.memory.disk.Memory.search" in reference
