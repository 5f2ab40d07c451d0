"""Corruptions against the authors' program, known statistics and hand-solved cases."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from kc.data.corruptions import CORRUPTIONS, corrupt
from kc.errors import DataError, UnknownNameError

# From create_c/make_imagenet_c.py of github.com/hendrycks/robustness, commit 8190fe329f5f072a06e3a2aea02bb5dda69aed9f,
# on `pattern()` with scikit-image 0.26 and OpenCV 5.0: the sum of all bytes, and the pixels at PLACES.
PLACES = ((0, 0), (4, 6), (12, 17), (23, 31))
GOLDEN = {
    ("gaussian-blur", 1): (285808, (3, 0, 251), (6, 9, 26), (147, 113, 135), (26, 120, 28)),
    ("gaussian-blur", 3): (280518, (9, 3, 238), (40, 53, 164), (147, 132, 134), (83, 121, 36)),
    ("gaussian-blur", 5): (270419, (19, 12, 224), (53, 54, 192), (144, 125, 134), (98, 119, 48)),
    ("defocus-blur", 1): (287829, (11, 3, 242), (25, 34, 103), (147, 144, 134), (109, 123, 37)),
    ("defocus-blur", 3): (288914, (18, 12, 205), (45, 64, 184), (147, 132, 134), (168, 122, 50)),
    ("defocus-blur", 5): (292874, (29, 36, 173), (52, 66, 183), (149, 134, 136), (193, 133, 68)),
    ("contrast", 1): (285849, (75, 66, 183), (75, 66, 81), (135, 106, 135), (81, 103, 91)),
    ("contrast", 3): (285668, (101, 89, 159), (101, 89, 108), (130, 109, 135), (104, 107, 113)),
    ("contrast", 5): (285775, (120, 105, 141), (120, 105, 129), (127, 110, 135), (120, 110, 130)),
    ("brightness", 1): (319089, (0, 0, 255), (25, 25, 25), (173, 117, 158), (19, 116, 32)),
    ("brightness", 3): (360961, (0, 0, 255), (76, 76, 76), (224, 151, 204), (27, 167, 46)),
    ("brightness", 5): (380303, (0, 0, 255), (127, 127, 127), (255, 172, 232), (36, 218, 60)),
}


def pattern() -> np.ndarray:
    """(24, 32, 3) uint8: ramps that overflow, and a black patch."""
    y, x = np.mgrid[0:24, 0:32]
    image = np.stack([(x * 8 + y) % 256, (x * y * 3) % 256, (255 - y * 10) % 256], -1).astype(np.uint8)
    image[3:6, 4:9] = 0
    return image


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


@pytest.mark.parametrize(("name", "strength"), GOLDEN)
def test_equals_the_authors_program(name: str, strength: int) -> None:
    total, *pixels = GOLDEN[name, strength]
    found = corrupt(pattern(), name, strength, rng()).astype(np.int64)
    # Both cut off fractions, so a sum in another order may differ by one in a pixel that is nearly whole.
    assert abs(found.sum() - total) / found.size < 0.5
    assert np.abs(found[tuple(zip(*PLACES, strict=True))] - np.array(pixels)).max() <= 1


@pytest.mark.parametrize(("strength", "scale"), enumerate((0.08, 0.12, 0.18, 0.26, 0.38), start=1))
def test_gaussian_noise_has_its_deviation(strength: int, scale: float) -> None:
    grey = np.full((200, 200, 3), 128, dtype=np.uint8)
    found = corrupt(grey, "gaussian-noise", strength, rng()).astype(np.float64)
    inside = (found > 0) & (found < 255)  # what was not cut off
    one = np.random.default_rng(1).normal(128, scale * 255, 200_000)
    expected = one[(one > 0) & (one < 255)].std()
    assert found[inside].std() == pytest.approx(expected, rel=0.02)
    assert 1 - inside.mean() == pytest.approx(np.mean((one < 1) | (one >= 255)), abs=0.01)


@pytest.mark.parametrize(("strength", "photons"), enumerate((60, 25, 12, 5, 3), start=1))
def test_shot_noise_grows_with_the_light(strength: int, photons: int) -> None:
    """The variance of a pixel of value v is v / photons, so dark pixels are less noisy than bright ones."""
    for value in (0, 26, 77):
        grey = np.full((200, 200, 3), value, dtype=np.uint8)
        found = corrupt(grey, "shot-noise", strength, rng()).astype(np.float64) / 255
        counts = np.minimum(np.random.default_rng(1).poisson(value / 255 * photons, 200_000) / photons, 1)
        assert found.std() == pytest.approx(counts.std(), rel=0.03, abs=1e-9)
        assert found.mean() == pytest.approx(counts.mean(), rel=0.03, abs=0.002)


@pytest.mark.parametrize(("strength", "share"), enumerate((0.03, 0.06, 0.09, 0.17, 0.27), start=1))
def test_impulse_noise_hits_its_share(strength: int, share: float) -> None:
    found = corrupt(np.full((200, 200, 3), 100, dtype=np.uint8), "impulse-noise", strength, rng())
    assert set(np.unique(found).tolist()) == {0, 100, 255}
    assert np.mean(found == 0) == pytest.approx(share / 2, abs=0.004)
    assert np.mean(found == 255) == pytest.approx(share / 2, abs=0.004)
    assert np.mean((found != 100).any(2)) > share  # channels are hit one by one


@pytest.mark.parametrize(("strength", "quality"), enumerate((25, 18, 15, 10, 7), start=1))
def test_jpeg_has_its_quality(strength: int, quality: int) -> None:
    file = io.BytesIO()
    Image.fromarray(pattern()).save(file, "JPEG", quality=quality)
    expected = np.array(Image.open(file))
    np.testing.assert_array_equal(corrupt(pattern(), "jpeg", strength, rng()), expected)


def test_pixelate_by_hand() -> None:
    """At strength 2 the size halves: every 2 x 2 block becomes its mean."""
    image = np.zeros((4, 4, 3), dtype=np.uint8)
    image[:2, :2, 0] = [[0, 40], [80, 120]]
    image[2:, 2:, 1] = 200
    found = corrupt(image, "pixelate", 2, rng())
    assert (found[:2, :2, 0] == 60).all()
    assert (found[2:, 2:, 1] == 200).all()
    assert found.sum() == 4 * 60 + 4 * 200


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_every_corruption_grows_keeps_the_size_and_leaves_its_input(name: str) -> None:
    rows, columns = np.mgrid[0:61, 0:80]
    image = np.stack([rows * 4, columns * 3, (rows * columns) % 256], -1).astype(np.uint8)
    before = image.copy()
    errors = []
    for strength in range(1, 6):
        found = corrupt(image, name, strength, rng(3))
        assert (found.shape, found.dtype) == (image.shape, np.uint8)
        np.testing.assert_array_equal(found, corrupt(image, name, strength, rng(3)))
        errors.append(np.square(found.astype(np.float64) - image).mean())
    assert errors == sorted(errors)
    assert errors[0] > 0
    np.testing.assert_array_equal(image, before)
    assert corrupt(image[:1, :1], name, 5, rng()).shape == (1, 1, 3)


def test_only_noise_draws() -> None:
    for name in CORRUPTIONS:
        a, b = (corrupt(pattern(), name, 3, rng(seed)) for seed in (0, 1))
        assert (a != b).any() == name.endswith("noise")


def test_wrong_arguments_are_named() -> None:
    with pytest.raises(UnknownNameError, match=r"corruption 'jpg'\. Did you mean 'jpeg'"):
        corrupt(pattern(), "jpg", 1, rng())
    for strength in (0, 6):
        with pytest.raises(DataError, match=f"its strength is 1 to 5, not {strength}"):
            corrupt(pattern(), "jpeg", strength, rng())
    with pytest.raises(DataError, match=r"expected \(H, W, 3\) uint8, not \(24, 32\) uint8"):
        corrupt(pattern()[..., 0], "jpeg", 1, rng())
