"""Versions of what numbers depend on."""

from __future__ import annotations

import os
import platform
from importlib.metadata import PackageNotFoundError, version

from kc import __version__


def versions() -> dict[str, str]:
    """Versions of kc, Python, the platform and the packages that compute, and the number of processors."""
    found = {"kc": __version__, "python": platform.python_version(), "platform": platform.platform()}
    for package in ("torch", "torchvision", "lightning", "timm", "faiss-cpu", "scikit-image", "numpy", "mlxtend"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found | {"cpus": str(os.cpu_count())}
