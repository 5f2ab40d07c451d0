"""Versions of what computes: of kc, Python, the platform and packages."""

from __future__ import annotations

import hashlib
import os
import platform
from functools import cache
from importlib.metadata import PackageNotFoundError, version

from kc import __version__

_PACKAGES = (
    *("torch", "torchvision", "lightning", "timm", "faiss-cpu", "scikit-image", "numpy", "mlxtend"),
    *("pillow", "scipy", "open_clip_torch", "transformers"),
)


@cache
def _numeric() -> tuple[tuple[str, str], ...]:
    found = [("kc", __version__)]
    for package in _PACKAGES:
        try:
            found.append((package, version(package)))
        except PackageNotFoundError:
            continue
    return tuple(found)


def numeric_versions() -> dict[str, str]:
    """Versions of kc and of the packages that change numbers."""
    return dict(_numeric())


def versions() -> dict[str, str]:
    """Versions of kc, Python, the platform and the packages that compute, and the number of processors."""
    machine = {"python": platform.python_version(), "platform": platform.platform(), "cpus": str(os.cpu_count())}
    return numeric_versions() | machine


def versions_key() -> str:
    """8 hex digits over `numeric_versions`: what was computed with others is not taken from a cache."""
    return hashlib.sha256(repr(sorted(numeric_versions().items())).encode()).hexdigest()[:8]
