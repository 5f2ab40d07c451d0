"""The commands of docs/tutorial.md as one script: `python docs/tutorial.py FOLDER` writes its images and figures there.

The photograph is `china.jpg` of scikit-learn (by Jeff Werner, CC BY 2.0), which mlxtend installs. Its left part is for
learning, its right part is segmented.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from PIL import Image
from sklearn.datasets import load_sample_image

from kc.cli import main

CUT = 230
"""Column at which the photograph is cut in two."""

BOXES = {
    "sky": [(0, 0, 230, 30), (0, 30, 60, 100)],
    "palace": [(105, 110, 125, 130), (120, 60, 100, 50), (95, 280, 120, 60)],
    "tree": [(0, 340, 200, 87), (0, 150, 40, 100)],
}
"""x, y, width, height in the left part."""

STEPS = (
    ("remember sky --name sky --memory mine",),
    ("remember palace --name palace --memory mine", "predict new.png --memory mine --out before"),
    ("remember tree --name tree --memory mine", "predict new.png --memory mine --out after"),
    ("forget tree --memory mine", "predict new.png --memory mine --out forgotten"),
)
"""The commands of docs/tutorial.md, in its order."""


def make_pictures(folder: Path) -> None:
    """`folder`/NAME/left.png with a table of boxes for each name, and `folder`/new.png."""
    photograph = load_sample_image("china.jpg")
    for name, boxes in BOXES.items():
        (folder / name).mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.ascontiguousarray(photograph[:, :CUT])).save(folder / name / "left.png")
        rows = ["image,x,y,width,height", *(",".join(["left.png", *map(str, box)]) for box in boxes)]
        (folder / name / "boxes.csv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    Image.fromarray(np.ascontiguousarray(photograph[:, CUT:])).save(folder / "new.png")


def figure(folder: Path) -> Path:
    """The three predictions beside each other, `folder`/tutorial.png."""
    panels = [Image.open(folder / step / "new.png.png").convert("RGB") for step in ("before", "after", "forgotten")]
    sheet = Image.new("RGB", (sum(p.width + 10 for p in panels) - 10, max(p.height for p in panels)), "white")
    left = 0
    for panel in panels:
        sheet.paste(panel, (left, 0))
        left += panel.width + 10
    sheet.save(folder / "tutorial.png", optimize=True)
    return folder / "tutorial.png"


def run(folder: Path) -> int:
    """Every step, in `folder`. Returns the first exit status that is not 0."""
    make_pictures(folder)
    for commands in STEPS:
        for command in commands:
            words = command.split()
            places = {"sky", "palace", "tree", "mine", "new.png", "before", "after", "forgotten"}
            names = {i for i, word in enumerate(words) if words[i - 1] in ("--name", "forget")}
            told = [str(folder / w) if w in places and i not in names else w for i, w in enumerate(words)]
            print("$ kc", command)
            if status := main(told):
                return status
    figure(folder)
    return 0


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python docs/tutorial.py FOLDER")
    sys.exit(run(Path(sys.argv[1])))
