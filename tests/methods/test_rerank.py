"""Re-ranking by hand, and with tiny random models of the real classes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, PreTrainedTokenizerFast

from kc.errors import KcError, MissingExtraError, UnknownNameError
from kc.memory.vote.votes import decide
from kc.methods.retrieval.rerank import (
    TransformersReranker,
    check_reranker_name,
    load_reranker,
    prompts,
    rerank,
)
from kc.types import Neighbours

NAMES = ["cat", "dog", "bird"]


def table(classes: list[list[int]]) -> Neighbours:
    c = np.array(classes)
    ids = np.arange(c.size).reshape(c.shape)
    score = np.linspace(0.9, 0.1, c.shape[1], dtype=np.float32) * np.ones(c.shape, np.float32)
    return Neighbours(ids, score, c, np.ones(c.shape, np.float32), np.zeros_like(c))


def test_by_hand() -> None:
    found = table([[4, 0, 4, 9, 0], [0, 0, 4, 4, 4]])
    similarity = torch.tensor([[0.9, 0.1], [0.2, 0.8]])  # of classes 0 and 4; class 9 has none
    got = rerank(found, similarity, [0, 4], top=4)
    assert got.class_id.tolist() == [[0, 4, 4, 9, 0], [4, 4, 0, 0, 4]]  # the fifth keeps its place
    assert got.id.tolist() == [[1, 0, 2, 3, 4], [7, 8, 5, 6, 9]]
    assert got.score[0].tolist() == found.score[0][[1, 0, 2, 3, 4]].tolist()
    assert decide(found, [0, 4], "rank").tolist() == [4, 0]
    assert decide(got, [0, 4], "rank").tolist() == [0, 4]
    assert rerank(found, similarity, [0, 4], top=99).class_id[0].tolist() == [0, 0, 4, 4, 9]
    with pytest.raises(ValueError, match="top must be"):
        rerank(found, similarity, [0, 4], 0)


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    """A CLIP of transformers with random weights, its image processor and a tokenizer of whole words."""
    words = ["<pad>", "<end>", "a", "photo", "of", "cat", "dog", "bird", "."]
    tokenizer = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="<end>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<end>").save_pretrained(tmp_path)
    CLIPImageProcessor(size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16}).save_pretrained(tmp_path)
    small = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    text = {**small, "vocab_size": 9, "max_position_embeddings": 12, "eos_token_id": 1, "pad_token_id": 0}
    torch.manual_seed(0)
    config = CLIPConfig(text_config=text, vision_config={**small, "image_size": 16, "patch_size": 8}, projection_dim=8)
    CLIPModel(config).save_pretrained(tmp_path)
    return tmp_path


def images(n: int) -> list[np.ndarray]:
    return list(np.random.default_rng(0).integers(0, 256, (n, 20, 24, 3)).astype(np.uint8))


def test_a_model_of_transformers(clip: Path) -> None:
    reranker = load_reranker(f"transformers:{clip}", (16, 16))
    assert isinstance(reranker, TransformersReranker)
    got = reranker.similarity(images(3), NAMES)
    assert got.shape == (3, 3)
    assert got.std() > 0
    assert torch.equal(got[1], reranker.similarity(images(3)[1:2], NAMES)[0])
    swapped = reranker.similarity(images(3), NAMES[::-1])
    torch.testing.assert_close(swapped, got.flip(1))
    with pytest.raises(MissingExtraError, match="no folder with a config"):
        load_reranker(f"transformers:{clip / 'none'}", (16, 16))


def test_a_model_of_open_clip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = {
        "embed_dim": 8,
        "vision_cfg": {"image_size": 16, "layers": 1, "width": 16, "head_width": 8, "patch_size": 8},
        "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
    }
    (tmp_path / "tiny-rerank.json").write_text(json.dumps(config))
    open_clip.add_model_config(tmp_path / "tiny-rerank.json")
    torch.manual_seed(0)
    save_file(open_clip.create_model("tiny-rerank").state_dict(), tmp_path / "w.safetensors")
    reranker = load_reranker(f"open_clip:tiny-rerank@{tmp_path / 'w.safetensors'}", (16, 16))
    got = reranker.similarity(images(2), NAMES)
    assert got.shape == (2, 3)
    assert got.abs().max() <= 1 + 1e-6  # cosines
    torch.testing.assert_close(got[:, 1:], reranker.similarity(images(2), NAMES[1:]))


def test_the_projects_own_base() -> None:
    reranker = load_reranker("conse", (64, 64))
    got = reranker.similarity(images(3), NAMES)
    assert got.shape == (3, 3)
    torch.testing.assert_close(got.sum(1), torch.ones(3))  # probabilities over the names
    torch.testing.assert_close(reranker.similarity(images(3), NAMES[::-1]), got.flip(1))


def test_names_and_questions() -> None:
    check_reranker_name("conse")
    for name in ("clip", "open_clip:", "transformers"):
        with pytest.raises(UnknownNameError, match="open_clip:MODEL"):
            check_reranker_name(name)
    found = table([[2, 0, 2], [0, 0, 1]])
    sources = {i: f"s{i}" for i in range(6)}
    lines = [json.loads(line) for line in prompts(["a", "b"], found, sources, dict(enumerate(NAMES)), 2).splitlines()]
    assert lines[0]["neighbours"] == [{"sample": "s0", "class": "bird"}, {"sample": "s1", "class": "cat"}]
    assert lines[0]["classes"] == ["bird", "cat"]
    assert "labelled: bird; cat" in lines[0]["prompt"]
    assert "Answer with one of: cat." in lines[1]["prompt"]
    with pytest.raises(KcError, match=r"without a name cannot be asked for: \[2\]"):
        prompts(["a"], found, sources, {0: "cat"}, 2)
