"""Corruptions of images at five strengths, with the parameters of ImageNet-C. Pure numpy, scipy and Pillow.

Hendrycks and Dietterich 2019, "Benchmarking Neural Network Robustness to Common Corruptions and Perturbations", with
the numbers of their program (github.com/hendrycks/robustness, create_c/make_imagenet_c.py). Radii and sigmas are in
pixels of the image that is given; theirs were 224 x 224. They stored the result as JPEG of quality 85; here it is what
comes out of the corruption itself.
"""

from __future__ import annotations

import io
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
from PIL import Image
from scipy.ndimage import gaussian_filter, gaussian_filter1d
from scipy.signal import fftconvolve

from kc.errors import DataError, unknown_name
from kc.types import UInt8Array

_Floats = npt.NDArray[np.float64]
_Rng = np.random.Generator
N_STRENGTHS = 5


def corrupt(image: UInt8Array, name: str, strength: int, rng: np.random.Generator) -> UInt8Array:
    """The corrupted image, (H, W, 3) uint8 RGB, as is the one that is given (which stays as it was).

    `name`: a key of CORRUPTIONS; `strength`: 1 (mild) to 5; `rng`: drawn from by the three kinds of noise alone.
    Raises `UnknownNameError` for another name, `DataError` for another strength or another kind of array.
    """
    if name not in CORRUPTIONS:
        raise unknown_name("corruption", name, CORRUPTIONS)
    if strength not in range(1, N_STRENGTHS + 1):
        raise DataError(f"corruption {name!r}: its strength is 1 to {N_STRENGTHS}, not {strength!r}.")
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        raise DataError(f"corruption {name!r}: expected (H, W, 3) uint8, not {image.shape} {image.dtype}.")
    return CORRUPTIONS[name](image, strength - 1, rng)


def gaussian_noise(image: UInt8Array, level: int, rng: _Rng) -> UInt8Array:
    """Normal noise of one deviation, in units of the whole range."""
    x = image / 255.0
    return _to_bytes(x + rng.normal(scale=(0.08, 0.12, 0.18, 0.26, 0.38)[level], size=x.shape))


def shot_noise(image: UInt8Array, level: int, rng: _Rng) -> UInt8Array:
    """Poisson noise, of so many photons in a white pixel."""
    photons = (60, 25, 12, 5, 3)[level]
    return _to_bytes(rng.poisson(image / 255.0 * photons) / photons)


def impulse_noise(image: UInt8Array, level: int, rng: _Rng) -> UInt8Array:
    """A share of all values becomes 0 or 255, each as often."""
    share = (0.03, 0.06, 0.09, 0.17, 0.27)[level]
    draw = rng.random(image.shape)
    result = image.copy()
    result[draw < share / 2] = 0
    result[draw >= 1 - share / 2] = 255
    return result


def gaussian_blur(image: UInt8Array, level: int, rng: _Rng) -> UInt8Array:
    """A Gaussian of sigma 1 to 6, cut at four sigmas, edges repeated."""
    sigma = (1, 2, 3, 4, 6)[level]
    return _to_bytes(gaussian_filter(image / 255.0, sigma=(sigma, sigma, 0), mode="nearest"))


def defocus_blur(image: UInt8Array, level: int, rng: _Rng) -> UInt8Array:
    """A disk, its edge smoothed; the image is mirrored at its edges (without repeating the last row)."""
    kernel = _disk(*((3, 0.1), (4, 0.5), (6, 0.5), (8, 0.5), (10, 0.5))[level])
    reach = len(kernel) // 2
    padded = np.pad(image / 255.0, ((reach, reach), (reach, reach), (0, 0)), mode="reflect")
    return _to_bytes(fftconvolve(padded, kernel[:, :, None], mode="valid", axes=(0, 1)))


def _disk(radius: int, edge: float) -> _Floats:
    """A disk of sum 1, convolved with a Gaussian of 3 (5 for radii above 8) taps."""
    half, taps = (8, 1) if radius <= 8 else (radius, 2)
    line = np.arange(-half, half + 1)
    disk = (line[:, None] ** 2 + line[None, :] ** 2 <= radius**2).astype(np.float64)
    disk /= disk.sum()
    for axis in (0, 1):
        disk = gaussian_filter1d(disk, edge, axis=axis, mode="mirror", radius=taps)
    return disk


def contrast(image: UInt8Array, level: int, rng: _Rng) -> UInt8Array:
    """Every value moves towards the mean of its channel."""
    x = image / 255.0
    mean = x.mean(axis=(0, 1), keepdims=True)
    return _to_bytes((x - mean) * (0.4, 0.3, 0.2, 0.1, 0.05)[level] + mean)


def brightness(image: UInt8Array, level: int, rng: _Rng) -> UInt8Array:
    """The value of HSV rises by 0.1 to 0.5; hue and saturation stay."""
    x = image / 255.0
    value = x.max(axis=2, keepdims=True)
    raised = np.minimum(value + (0.1, 0.2, 0.3, 0.4, 0.5)[level], 1.0)
    # Black has no hue: it becomes grey. Everything else keeps the ratios of its channels.
    return _to_bytes(np.where(value > 0, x / np.where(value > 0, value, 1.0), 1.0) * raised)


def jpeg(image: UInt8Array, level: int, rng: _Rng) -> UInt8Array:
    """Through a JPEG file of low quality and back."""
    file = io.BytesIO()
    Image.fromarray(image).save(file, "JPEG", quality=(25, 18, 15, 10, 7)[level])
    with Image.open(file) as decoded:
        return np.array(decoded)


def pixelate(image: UInt8Array, level: int, rng: _Rng) -> UInt8Array:
    """Shrunk to 0.6 to 0.25 of its size and grown again, with boxes both times."""
    height, width = image.shape[:2]
    share = (0.6, 0.5, 0.4, 0.3, 0.25)[level]
    small = Image.fromarray(image).resize(
        (max(1, int(width * share)), max(1, int(height * share))), Image.Resampling.BOX
    )
    return np.array(small.resize((width, height), Image.Resampling.BOX))


CORRUPTIONS: dict[str, Callable[[UInt8Array, int, np.random.Generator], UInt8Array]] = {
    "gaussian-noise": gaussian_noise,
    "shot-noise": shot_noise,
    "impulse-noise": impulse_noise,
    "gaussian-blur": gaussian_blur,
    "defocus-blur": defocus_blur,
    "contrast": contrast,
    "brightness": brightness,
    "jpeg": jpeg,
    "pixelate": pixelate,
}
"""Name -> corruption of (image, strength - 1, rng); call them through `corrupt`, which checks what it is given."""


def _to_bytes(x: _Floats) -> UInt8Array:
    """Values in [0, 1] as uint8, cut off towards 0 as in the program of the paper."""
    # Not below the whole number that a value stood for: 0.1 * 255 may come out a hair under it.
    return (np.clip(x, 0.0, 1.0) * 255.0 + 1e-9).astype(np.uint8)
