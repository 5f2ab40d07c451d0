"""The picture of a decision shows what it is given, and says where an image is not there."""

from __future__ import annotations

from pathlib import Path

import matplotlib
import numpy as np

from kc.report.attribution import Voter, attribution, region_crop


def test_everything_is_written_on_it(tmp_path: Path) -> None:
    image = np.full((20, 30, 3), 200, np.uint8)
    voters = [
        Voter(image, "test/a-very-long-name-of-an-image.png", "cat", 1, 0.91, 0.6),
        Voter(None, "gone", "dog", 3, 0.5, 0.4),
    ]
    votes = [("cat", 0.6), ("dog", 0.2), *((f"c{i}", 0.04) for i in range(5))]
    path = tmp_path / "why.svg"
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "1"}):
        attribution(image, "mine.png: cat", voters, votes, "rank vote of 9 rows", 7, path)
        first = path.read_bytes()
        attribution(image, "mine.png: cat", voters, votes, "rank vote of 9 rows", 7, path)
    text = first.decode()
    for word in ("mine.png: cat", "rank vote of 9 rows", "cat, task 1", "0.910, 60.0 %", "dog, task 3", "no image",
                 "(and 7 more)", "1 more", "…"):  # fmt: skip
        assert word in text
    assert ">c3<" in text
    assert ">c4<" not in text  # the seventh class is among the others
    assert path.read_bytes() == first


def test_region_crop_by_hand() -> None:
    image = np.full((20, 30, 3), 100, np.uint8)
    mask = np.zeros((20, 30), bool)
    mask[5:9, 10:20] = True
    got = region_crop(image, mask, margin=0.1, fade=0.5)
    assert got.shape == (4 + 2 * 2, 10 + 2 * 2, 3)  # 0.1 of 9 rounds to 1, and 1 beside
    assert (got[2:-2, 2:-2] == 100).all()
    assert (got[0] == 177).all()
    assert region_crop(image, np.zeros_like(mask)).shape == image.shape
