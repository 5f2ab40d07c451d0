"""docs/tutorial.md does what docs/tutorial.py runs, and what it says of the figure is so."""

from __future__ import annotations

import importlib.util
import json
import re
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from PIL import Image

DOCS = Path(__file__).parents[1] / "docs"


@pytest.fixture(scope="module")
def tutorial() -> ModuleType:
    spec = importlib.util.spec_from_file_location("tutorial", DOCS / "tutorial.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_page_shows_the_commands_that_are_run(tutorial: ModuleType) -> None:
    text = (DOCS / "tutorial.md").read_text(encoding="utf-8")
    shown = [line for block in re.findall(r"```\n(.*?)```", text, flags=re.S) for line in block.splitlines()]
    assert [line for line in shown if line.startswith("kc ")] == [f"kc {c}" for step in tutorial.STEPS for c in step]
    boxes = [line for line in shown if line.startswith("left.png,")]
    assert boxes == [",".join(["left.png", *map(str, box)]) for box in tutorial.BOXES["sky"]]


def test_a_name_is_learned_and_forgotten_on_a_photograph(
    tutorial: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert tutorial.run(tmp_path) == 0
    said = capsys.readouterr().out
    text = (DOCS / "tutorial.md").read_text(encoding="utf-8")
    for quoted in re.findall(r"^> (.*)$", text, flags=re.M):
        numbers = re.findall(r"\d+", quoted.partition(" files")[0])  # sizes of files depend on versions of libraries
        assert re.search(r"\D+".join(rf"\b{n}\b" for n in numbers), said) or not numbers, quoted
    share = {}
    for step in ("before", "after", "forgotten"):
        record = json.loads((tmp_path / step / "new.png.json").read_text(encoding="utf-8"))
        total = record["size"]["height"] * record["size"]["width"]
        share[step] = {s["name"]: round(100 * s["area"] / total) for s in record["answers"][0]["segments"]}
    assert share["before"] == share["forgotten"] == pytest.approx({"sky": 54, "palace": 46}, abs=2)
    assert share["after"] == pytest.approx({"sky": 43, "tree": 37, "palace": 20}, abs=2)
    before, after = (np.asarray(Image.open(tmp_path / s / "new.png.png")) for s in ("before", "forgotten"))
    assert (before == after).all()
    figure, committed = Image.open(tmp_path / "tutorial.png"), Image.open(DOCS / "tutorial.png")
    assert figure.size == committed.size
