"""Examples on disk and the overlay."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from kc.errors import DataError
from kc.report.examples import class_color, load_examples, render, save_example, save_prediction
from kc.types import VOID, ClassInfo

INFOS = (
    ClassInfo(0, "background", background=True),
    ClassInfo(1, "zéro, the first", ("0", "null"), True, (200, 10, 20)),
    ClassInfo(300, "far", (), False, (0, 0, 250)),
)


def image(rng: np.random.Generator) -> np.ndarray:
    return rng.integers(0, 256, (6, 8, 3), dtype=np.uint8)


def test_semantic_round_trip_and_a_moved_folder(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    picture, truth = image(rng), rng.choice([0, 1, 300, VOID], (6, 8)).astype(np.int64)
    save_example(tmp_path / "a", "train/../0001 ü", picture, truth, INFOS)
    save_prediction(tmp_path / "a", "train/../0001 ü", "k-NN, k=5/..", truth[::-1])
    (tmp_path / "a").rename(tmp_path / "moved")
    (example,) = load_examples(tmp_path / "moved")
    assert example.name == "train/../0001 ü"
    assert example.infos == INFOS
    assert (example.image == picture).all()
    assert isinstance(example.truth, np.ndarray)
    assert (example.truth == truth).all()
    assert example.truth.dtype == np.int64
    assert list(example.predictions) == ["k-NN, k=5/.."]
    assert (example.predictions["k-NN, k=5/.."] == truth[::-1]).all()
    inside = {p.relative_to(tmp_path).parts[0] for p in tmp_path.rglob("*")}
    assert inside == {"moved"}


def test_panoptic_and_classification_round_trip(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    truth = np.stack([rng.choice([0, 1], (6, 8)), rng.integers(0, 400, (6, 8))], axis=-1).astype(np.int32)
    save_example(tmp_path, "b", image(rng), truth, INFOS)
    save_example(tmp_path, "a", image(rng), 1, INFOS)
    save_prediction(tmp_path, "a", "knn", np.int64(300))
    first, second = load_examples(tmp_path)
    assert (first.name, first.truth, first.predictions) == ("a", 1, {"knn": 300})
    assert isinstance(second.truth, np.ndarray)
    assert (second.truth == truth).all()
    assert second.truth.dtype == np.int32


def test_unfinished_examples_are_not_read(tmp_path: Path) -> None:
    rng = np.random.default_rng(2)
    save_example(tmp_path, "a", image(rng), 1, INFOS)
    save_example(tmp_path, "b", image(rng), 1, INFOS)
    (tmp_path / "b" / "truth.json").unlink()
    assert [e.name for e in load_examples(tmp_path)] == ["a"]
    assert load_examples(tmp_path / "none") == []


def test_bad_input_is_named(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    with pytest.raises(DataError, match=r"map of shape \(5, 8\) for an image of \(6, 8\)"):
        save_example(tmp_path, "a", image(rng), np.zeros((5, 8), np.int64), INFOS)
    with pytest.raises(DataError, match="do not fit 16 bits"):
        save_example(tmp_path, "a", image(rng), np.full((6, 8), -2), INFOS)
    with pytest.raises(DataError, match="65535"):
        save_example(tmp_path, "a", image(rng), np.full((6, 8), 65535), INFOS)
    with pytest.raises(DataError, match="expected an"):
        save_example(tmp_path, "a", image(rng)[..., 0], 1, INFOS)
    with pytest.raises(DataError, match="save it before"):
        save_prediction(tmp_path, "c", "knn", 1)
    save_example(tmp_path, "d", image(rng), np.zeros((6, 8), np.int64), INFOS)
    (tmp_path / "d" / "truth.png").write_bytes(b"not a picture")
    with pytest.raises(DataError, match=r"truth\.png: cannot be read as an image"):
        load_examples(tmp_path)
    (tmp_path / "classes.json").write_text('[{"id": 1}]')
    with pytest.raises(DataError, match=r"classes\.json: cannot be read"):
        load_examples(tmp_path)


def test_render_colours_borders_and_void() -> None:
    grey = np.full((20, 20, 3), 100, np.uint8)
    answer = np.zeros((20, 20, 2), np.int32)
    answer[:10, :, 0] = 1
    answer[:10, :10, 1], answer[:10, 10:, 1] = 1, 2
    answer[15:, :, 0] = VOID
    out = render(grey, answer, INFOS)
    assert out[2, 2].tolist() == [round(0.62 * c + 38) for c in (200, 10, 20)]
    assert out[12, 2].tolist() == [70, 70, 70]
    assert out[2, 9].min() > 200  # between two instances of one class
    assert out[2, 10].tolist() == out[2, 2].tolist()
    void = out[16:, :]
    assert {tuple(p) for p in void.reshape(-1, 3).tolist()} == {(150, 150, 150)}
    semantic = render(grey, answer[..., 0], INFOS)
    assert semantic[2, 9].tolist() == semantic[2, 2].tolist()


def test_hatch_is_visible_on_other_greys() -> None:
    dark = render(np.zeros((16, 16, 3), np.uint8), np.full((16, 16), VOID), INFOS)
    assert sorted(np.unique(dark).tolist()) == [100, 150]


def test_render_refuses_what_it_cannot_show() -> None:
    with pytest.raises(DataError, match=r"ids of no class: \[7\]"):
        render(np.zeros((2, 2, 3), np.uint8), np.full((2, 2), 7), INFOS)
    with pytest.raises(DataError, match="over an image"):
        render(np.zeros((2, 2, 3), np.uint8), np.zeros((3, 2), np.int64), INFOS)


def test_classes_without_a_colour_get_a_stable_distinct_one() -> None:
    colors = [class_color(ClassInfo(i, str(i))) for i in range(1, 60)]
    assert len(set(colors)) == 59
    assert colors[4] == class_color(ClassInfo(5, "other name"))
    assert class_color(ClassInfo(0, "background", background=True)) == (0, 0, 0)


@pytest.mark.parametrize(
    "color", ['["</style><script>", 0, 0]', "[0, 0, 256]", "[0, -1, 0]", "[0.5, 0, 0]", "[true, 0, 0]"]
)
def test_a_color_that_is_none_never_reaches_a_page(tmp_path: Path, color: str) -> None:
    save_example(tmp_path, "a", np.zeros((2, 2, 3), np.uint8), np.zeros((2, 2), np.int64), INFOS)
    entry = f'{{"id": 0, "name": "x", "synonyms": [], "isthing": false, "color": {color}, "background": true}}'
    (tmp_path / "classes.json").write_text(f"[{entry}]")
    with pytest.raises(DataError, match=r"classes\.json.*color"):
        load_examples(tmp_path)
