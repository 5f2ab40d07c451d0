"""The contract that every encoder shares: fingerprints, modes, dense maps."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kc.encoders.base import Encoder, check_images, dense, digest
from kc.types import Features


class Tiny(Encoder):
    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        self.name = "tiny"
        self.architecture = "conv"
        self.strides = (4, 8)
        self.channels = (3, 5)
        self.pooled_dim = 5
        self.preprocessing = (2.0, -1.0)
        torch.manual_seed(seed)
        self.fine = nn.Conv2d(3, 3, 4, 4, bias=False)
        self.norm = nn.BatchNorm2d(3)
        self.coarse = nn.Conv2d(3, 5, 2, 2)

    def forward(self, images: Tensor) -> Features:
        check_images(images)
        fine = self.norm(self.fine(images * 2 - 1))
        coarse = self.coarse(fine)
        return Features(coarse.mean((2, 3)), (fine, coarse), self.strides)


def test_encode_is_without_gradient_in_evaluation_mode_and_restores_the_mode() -> None:
    encoder = Tiny().train()
    encoder.norm.eval()  # a frozen norm inside a training network stays as it was
    before = encoder.norm.running_mean.clone()
    features = encoder.encode(torch.rand(3, 3, 16, 16))
    assert not features.pooled.requires_grad
    assert torch.equal(encoder.norm.running_mean, before)
    assert encoder.training
    assert encoder.fine.training
    assert not encoder.norm.training


def test_encode_does_not_depend_on_batch_mates() -> None:
    encoder = Tiny().eval()
    images = torch.rand(5, 3, 16, 16)
    together = encoder.encode(images)
    alone = encoder.encode(images[3:4])
    assert torch.equal(together.pooled[3:4], alone.pooled)
    assert torch.equal(together.levels[0][3:4], alone.levels[0])
    assert [tuple(level.shape) for level in together.levels] == [(5, 3, 4, 4), (5, 5, 2, 2)]
    assert encoder.encode(images[:0]).pooled.shape == (0, 5)


def test_fingerprint_follows_weights_architecture_and_preprocessing() -> None:
    encoder = Tiny()
    first = encoder.fingerprint
    assert first.startswith("tiny:")
    assert len(first) == len("tiny:") + 16
    assert Tiny().fingerprint == first
    assert Tiny(seed=1).fingerprint != first
    assert copy.deepcopy(encoder).fingerprint == first
    other = Tiny()
    other.preprocessing = (1.0, 0.0)
    assert other.fingerprint != first


def test_fingerprint_changes_after_a_training_step_but_not_that_of_the_original() -> None:
    encoder = Tiny()
    first = encoder.fingerprint
    tuned = copy.deepcopy(encoder).eval()
    assert tuned.fingerprint == first
    optimizer = torch.optim.SGD(tuned.parameters(), lr=0.1)
    tuned(torch.rand(2, 3, 8, 8)).pooled.sum().backward()
    optimizer.step()
    assert tuned.fingerprint != first
    assert encoder.fingerprint == first


def test_digest_sees_names_shapes_and_types() -> None:
    values = torch.arange(6.0)
    base = digest("h", {"a": values})
    different = [
        digest("g", {"a": values}),
        digest("h", {"b": values}),
        digest("h", {"a": values.view(2, 3)}),
        digest("h", {"a": values.int()}),
        digest("h", {"a": values + 1}),
    ]
    assert len({base, *different}) == 6
    assert digest("h", {"x": values, "y": values + 1}) == digest("h", {"y": values + 1, "x": values})


def test_dense_normalises_each_level_then_resizes_and_joins() -> None:
    fine = torch.randn(2, 3, 4, 6)
    coarse = torch.randn(2, 5, 2, 3)
    features = Features(torch.zeros(2, 1), (fine, coarse), (8, 16))
    at8 = dense(features, 8)
    assert at8.shape == (2, 8, 4, 6)
    torch.testing.assert_close(at8[:, :3].norm(dim=1), torch.ones(2, 4, 6))
    wanted = F.interpolate(F.normalize(coarse, dim=1), size=(4, 6), mode="bilinear", align_corners=False)
    assert torch.equal(at8[:, 3:], wanted)
    at16 = dense(features, 16)
    assert torch.equal(at16[:, 3:], F.normalize(coarse, dim=1))
    # Halving with aligned centres is the mean of four cells.
    torch.testing.assert_close(at16[:, :3], F.avg_pool2d(F.normalize(fine, dim=1), 2))
    assert dense(features, 4).shape == (2, 8, 8, 12)


def test_dense_without_levels_is_an_error() -> None:
    with pytest.raises(ValueError, match="no dense level"):
        dense(Features(torch.zeros(1, 4)), 8)


@pytest.mark.parametrize(
    "images",
    [torch.zeros(3, 8, 8), torch.zeros(1, 1, 8, 8), torch.zeros(1, 3, 8, 8, dtype=torch.uint8)],
    ids=["no batch", "grey", "bytes"],
)
def test_wrong_images_are_refused(images: Tensor) -> None:
    with pytest.raises(ValueError, match="expected float images"):
        Tiny()(images)
