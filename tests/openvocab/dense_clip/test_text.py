"""Prompts, their mean, synonyms and the cache, with a text tower whose answers are known."""

import math
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from kc.errors import KcError, RunError, UnknownNameError
from kc.openvocab.dense_clip.text import TEMPLATES, TextBank, class_scores


class Lengths:
    """A text is the unit vector at an angle of its length in hundredths; counts what it is asked."""

    def __init__(self, fingerprint: str = "lengths:0") -> None:
        self.fingerprint = fingerprint
        self.asked: list[str] = []

    def encode_text(self, texts: Sequence[str]) -> Tensor:
        self.asked += texts
        angle = torch.tensor([len(text) / 100 for text in texts])
        return torch.stack([angle.cos(), angle.sin()], dim=1)


def test_the_eighty_templates() -> None:
    texts = [template("cat") for template in TEMPLATES["imagenet80"]]
    assert len(set(texts)) == 80
    assert texts[0] == "a bad photo of a cat."
    assert all(text.count("cat") == 1 for text in texts)
    assert [template("cat") for template in TEMPLATES["photo"] + TEMPLATES["name"]] == ["a photo of a cat.", "cat"]


def test_mean_of_unit_vectors_normalised_again() -> None:
    found = TextBank(Lengths(), "imagenet7").embed(["traffic_light", "a"])
    for row, name in zip(found, ["traffic light", "a"], strict=True):
        angles = [len(template(name)) / 100 for template in TEMPLATES["imagenet7"]]
        x, y = sum(map(math.cos, angles)), sum(map(math.sin, angles))
        torch.testing.assert_close(row, torch.tensor([x, y]) / math.hypot(x, y))


class Long(Lengths):
    """Embeddings of unequal length: their mean would lean to the long ones."""

    def encode_text(self, texts: Sequence[str]) -> Tensor:
        return super().encode_text(texts) * torch.tensor([[float(len(t))] for t in texts])


def test_each_prompt_counts_alike() -> None:
    torch.testing.assert_close(TextBank(Long()).embed(["dog"]), TextBank(Lengths()).embed(["dog"]))


def test_a_name_is_embedded_once_and_alone(tmp_path: Path) -> None:
    tower = Lengths()
    bank = TextBank(tower, "photo", tmp_path)
    first = bank.embed(["cat", "dog", "cat"])
    assert tower.asked == ["a photo of a cat.", "a photo of a dog."]
    assert torch.equal(first[0], first[2])
    bank.embed(["dog", "bird"])
    assert tower.asked[2:] == ["a photo of a bird."]
    again = Lengths()
    assert torch.equal(TextBank(again, "photo", tmp_path).embed(["cat", "dog", "cat"]), first)
    assert again.asked == []


def test_cache_is_that_of_the_weights_and_the_templates(tmp_path: Path) -> None:
    TextBank(Lengths(), "photo", tmp_path).embed(["cat"])
    for tower, templates in ((Lengths("lengths:1"), "photo"), (Lengths(), "name")):
        TextBank(tower, templates, tmp_path).embed(["cat"])
        assert tower.asked
    assert len(list(tmp_path.iterdir())) == 3


def test_two_writers_keep_each_others_names(tmp_path: Path) -> None:
    one, two = TextBank(Lengths(), "photo", tmp_path), TextBank(Lengths(), "photo", tmp_path)
    one.embed(["cat"])
    two.embed(["dog"])
    tower = Lengths()
    TextBank(tower, "photo", tmp_path).embed(["cat", "dog"])
    assert tower.asked == []


@pytest.mark.parametrize("damage", [b"", b"nonsense", b"cut"])
def test_a_damaged_cache_is_made_again(tmp_path: Path, damage: bytes) -> None:
    first = TextBank(Lengths(), "photo", tmp_path).embed(["cat"])
    (path,) = tmp_path.iterdir()
    path.write_bytes(path.read_bytes()[:-4] if damage == b"cut" else damage)
    tower = Lengths()
    assert torch.equal(TextBank(tower, "photo", tmp_path).embed(["cat"]), first)
    assert tower.asked
    assert torch.equal(TextBank(Lengths(), "photo", tmp_path).embed(["cat"]), first)


def test_847_names_in_one_call(tmp_path: Path) -> None:
    names = [f"thing {'x' * (i % 50)}{i}" for i in range(847)]
    bank = TextBank(Lengths(), "imagenet80", tmp_path)
    rows = bank.embed(names)
    assert rows.shape == (847, 2)
    torch.testing.assert_close(rows.norm(dim=1), torch.ones(847))
    scores = class_scores(F.normalize(torch.ones(3, 2), dim=1) @ rows.T, [1] * 847, 40.0)
    torch.testing.assert_close(scores.sum(1), torch.ones(3))


def test_bad_names_and_folders(tmp_path: Path) -> None:
    with pytest.raises(UnknownNameError, match="Did you mean 'imagenet7' or 'imagenet80'"):
        TextBank(Lengths(), "imagenet")
    with pytest.raises(KcError, match=r"by position: \[1\]"):
        TextBank(Lengths()).embed(["cat", " _ "])
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match=r"cannot write .*file"):
        TextBank(Lengths(), "name", tmp_path / "file").embed(["cat"])


def test_one_softmax_over_all_names_then_the_best_of_a_class() -> None:
    cosines = torch.tensor([[0.1, 0.2, 0.3]])
    p = (cosines * 10).softmax(1)[0]
    found = class_scores(cosines, [2, 1], 10.0)[0]
    torch.testing.assert_close(found, torch.stack([p[1], p[2]]))
    # A softmax of the best names would give other numbers.
    assert found.sum() < 0.95
    torch.testing.assert_close(class_scores(cosines, [1, 1, 1], 10.0)[0], p)
    # The first class has one name here: order matters.
    torch.testing.assert_close(class_scores(cosines, [1, 2], 10.0)[0], torch.stack([p[0], p[2]]))


@pytest.mark.parametrize("counts", [[3, 0], [2], [2, 2]])
def test_names_must_divide_into_classes(counts: list[int]) -> None:
    with pytest.raises(ValueError, match="do not divide"):
        class_scores(torch.zeros(1, 3), counts, 40.0)
