"""Names of things: commas, blanks, other alphabets, and ids that mean something else."""

from __future__ import annotations

import numpy as np
import pytest

from kc.errors import KcError, UnknownNameError
from kc.predict.answer import Answer, Voter
from kc.predict.names import clean_name, ids_of, new_id, split_names
from kc.predict.render import sentence


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("car", ["car"]),
        (" car , traffic  light ", ["car", "traffic light"]),
        (r"Salat\, gemischt, 猫", ["Salat, gemischt", "猫"]),
        (r"a\\, b\c", ["a\\", r"b\c"]),
        ("cafe\u0301", ["caf\u00e9"]),
        ("x\\", ["x\\"]),
    ],
)
def test_commas_part_names_unless_escaped(text: str, names: list[str]) -> None:
    assert split_names(text) == names


@pytest.mark.parametrize("text", ["", " ", "a,,b", "a,", "a, a", "caf\u00e9, cafe\u0301", "a\x00b", "x" * 201])
def test_lists_that_name_nothing_or_twice_are_refused(text: str) -> None:
    with pytest.raises(KcError):
        split_names(text)


def test_new_ids_follow_the_highest() -> None:
    assert new_id([]) == 0
    assert new_id([3, 1]) == 4
    assert new_id([253]) == 254
    assert new_id([254]) == 255
    assert new_id([300]) == 301


def test_names_nobody_knows_get_ids_of_their_own_or_an_error() -> None:
    known = {5: "cat", 2: "dog"}
    assert ids_of(["dog", "bird", "cat", "cow"], known, True, "x") == {2: "dog", 6: "bird", 5: "cat", 7: "cow"}
    with pytest.raises(UnknownNameError, match=r"'cut'. Did you mean 'cat'"):
        ids_of(["cut"], known, False, "x")
    assert clean_name(" big\t dog ") == "big dog"


def test_the_rows_of_one_image_are_named_together() -> None:
    def voter(sample: str, share: float, name: str = "sky") -> Voter:
        return Voter(0, name, share, 0.9, sample, 0, 1, "remembered")

    image = np.zeros((2, 2, 3), np.uint8)
    voters = (voter("remembered/sky/a b.png 2ced1d52202e50b1", 0.2), voter("train/7", 0.15, "sea"),
              voter("remembered/sky/a b.png 2ced1d52202e50b1", 0.07))  # fmt: skip
    answer = Answer(image, "classification", "memory", {0: "sky"}, {}, np.array([1.0], np.float32), voters)
    assert sentence(answer).splitlines()[1] == (
        "decided most for sky: sky (remembered/sky/a b.png, 2 rows, 27 %), sea (train/7, 1 row, 15 %)"
    )
