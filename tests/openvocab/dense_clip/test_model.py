"""Every row against the authors' numbers, against a naive twin, and against what must not happen."""

import copy
import dataclasses
import math
from collections.abc import Callable
from typing import Any

import open_clip
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from kc.errors import KcError
from kc.openvocab.dense_clip.model import DenseClip
from kc.openvocab.dense_clip.rows import ROWS, Row
from kc.openvocab.dense_clip.tower import suppressed

Make = Callable[..., Any]
GCLIP = dataclasses.replace(ROWS["gclip"], fuse_layers=(0, 1), cs_layers=(1,))
CONCRETE = {**ROWS, "gclip": GCLIP}


def patches(maps: Tensor) -> Tensor:
    """(N, D, h, w) as (N, h w, D)."""
    return maps.flatten(2).transpose(1, 2)


# -- the authors' numbers ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "row"),
    [
        ("vanilla", ROWS["clip"]),
        ("clip", ROWS["clip"]),
        ("MaskCLIP", ROWS["maskclip"]),
        ("sclip", ROWS["sclip"]),
        ("ClearCLIP", ROWS["clearclip"]),
        ("naclip", ROWS["naclip"]),
        ("naclip_sigma1", dataclasses.replace(ROWS["naclip"], sigma=1.0)),
    ],
)
@torch.no_grad()
def test_golden_numbers(name: str, row: Row, golden: Make, make_visual: Make, make_images: Make) -> None:
    found = DenseClip(make_visual(), row)(make_images(1, 24, 24))
    torch.testing.assert_close(patches(found), golden(name), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("size", [3, 6])
@torch.no_grad()
def test_golden_numbers_of_proxyclip(
    size: int, golden: Make, make_visual: Make, make_images: Make, make_features: Make
) -> None:
    """At the tower's own grid of 3 x 3, and at a proxy's finer one."""
    features = make_features(1, 5, size, size)
    proxy = features.abs() * 0.5 + features
    found = DenseClip(make_visual(), ROWS["proxyclip"])(make_images(1, 24, 24), proxy)
    assert found.shape == (1, 4, size, size)
    torch.testing.assert_close(patches(found), golden(f"proxy{size}"), atol=1e-5, rtol=1e-5)


# -- naive twins ------------------------------------------------------------------------------------------------------


def twin(visual: Any, row: Row, image: Tensor, proxy: Tensor | None) -> Tensor:
    """One image (3, H, W) by plain loops over heads, from the table of formulas; (P, D) float64 patch embeddings."""
    visual = copy.deepcopy(visual).double()
    blocks = list(visual.transformer.resblocks)
    for layer in row.cs_layers or ():
        weight = blocks[layer].mlp.c_proj.weight
        norms = [float(w.square().sum()) ** 0.5 for w in weight]
        top = max(range(len(norms)), key=norms.__getitem__)
        weight.data[top] *= (sum(norms) - norms[top]) / (len(norms) - 1) / norms[top]
    size = visual.patch_size[0]
    h, w = image.shape[1] // size, image.shape[2] // size
    cells = [image[:, i * size : (i + 1) * size, j * size : (j + 1) * size] for i in range(h) for j in range(w)]
    kernel = visual.conv1.weight.flatten(1)
    x = torch.stack([visual.class_embedding, *(kernel @ cell.double().flatten() for cell in cells)])
    own = visual.positional_embedding
    grid = visual.grid_size
    if (h, w) != grid:
        maps = own[1:].float().view(*grid, -1).permute(2, 0, 1)[None]
        own = torch.cat([own[:1], F.interpolate(maps, size=(h, w), mode="bicubic")[0].flatten(1).T.double()])
    x = visual.ln_pre(x + own)

    def maps_of(block: Any, tokens: Tensor, kinds: list[str], bias: Tensor | float = 0.0) -> list[list[Tensor]]:
        y = block.ln_1(tokens)
        wq, wk, _ = block.attn.in_proj_weight.chunk(3)
        bq, bk, _ = block.attn.in_proj_bias.chunk(3)
        q, k = y @ wq.T + bq, y @ wk.T + bk
        d = y.shape[1] // block.attn.num_heads
        result = []
        for kind in kinds:
            a, b = {"q": q, "k": k}[kind[0]], {"q": q, "k": k}[kind[1]]
            heads = range(block.attn.num_heads)
            cut = [slice(i * d, (i + 1) * d) for i in heads]
            result.append([torch.softmax(a[:, c] @ b[:, c].T / math.sqrt(d) + bias, dim=1) for c in cut])
        return result

    fused = []
    for i, block in enumerate(blocks[:-1]):
        if i in (row.fuse_layers or ()):
            fused += maps_of(block, x, ["qk"])
        (attention,) = maps_of(block, x, ["qk"])
        x = x + gather(block, x, attention)
        x = x + block.mlp(block.ln_2(x))
    block = blocks[-1]
    n = len(x)
    heads = block.attn.num_heads
    if row.attention == "identity":
        attention = [torch.eye(n, dtype=x.dtype)] * heads
    elif row.attention == "proxy":
        assert proxy is not None
        f = F.normalize(proxy.double().flatten(1).T, dim=1)
        s = f @ f.T
        m = row.gamma * (s - row.beta * s.mean())
        m[m < 0] = -torch.inf
        # The class token is kept apart: its row and column do not exist.
        attention = [F.pad(torch.softmax(m, 1), (1, 0, 1, 0))] * heads
    elif row.attention == "kk+gauss":
        g = torch.zeros(n, n, dtype=x.dtype)
        for i in range(h * w):
            for j in range(h * w):
                distance = (i // w - j // w) ** 2 + (i % w - j % w) ** 2
                g[i + 1, j + 1] = math.exp(-distance / (2 * row.sigma**2))
        (attention,) = maps_of(block, x, ["kk"], g)
    else:
        kinds = {"qk": ["qk"], "qq": ["qq"], "qq+kk": ["qq", "kk"], "amf": ["qq"]}[row.attention]
        maps = [*fused, *maps_of(block, x, kinds)]
        weights = [1.0] * len(maps)
        if row.attention == "amf":
            weights = list(row.fuse_weights or [1 / len(maps)] * len(maps))
        if row.head_mode == "averaged":
            maps = [[sum(m, torch.zeros(())) / heads] * heads for m in maps]
        attention = [sum((c * m[i] for c, m in zip(weights, maps, strict=True)), torch.zeros(())) for i in range(heads)]
    y = gather(block, x, attention)
    if row.residual:
        y = y + x
    if row.ffn:
        y = y + block.mlp(block.ln_2(y))
    return (visual.ln_post(y) @ visual.proj)[1:]


def gather(block: Any, tokens: Tensor, attention: list[Tensor]) -> Tensor:
    y = block.ln_1(tokens)
    v = y @ block.attn.in_proj_weight.chunk(3)[2].T + block.attn.in_proj_bias.chunk(3)[2]
    d = v.shape[1] // block.attn.num_heads
    heads = [a @ v[:, i * d : (i + 1) * d] for i, a in enumerate(attention)]
    return torch.cat(heads, 1) @ block.attn.out_proj.weight.T + block.attn.out_proj.bias


VARIANTS = {
    **CONCRETE,
    "gclip averaged": dataclasses.replace(GCLIP, head_mode="averaged"),
    "gclip weighted": dataclasses.replace(GCLIP, fuse_weights=(0.2, 0.1, 0.5)),
    "amf alone": dataclasses.replace(GCLIP, cs_layers=()),
    "cs alone": dataclasses.replace(ROWS["clearclip"], cs_layers=(0, 1)),
    "clip, suppressed": dataclasses.replace(ROWS["clip"], cs_layers=(0, 2)),
    "sclip without FFN": dataclasses.replace(ROWS["sclip"], ffn=False),
    "naclip, all kept": dataclasses.replace(ROWS["naclip"], residual=True, ffn=True, cs_layers=(2,)),
}


@pytest.mark.parametrize("size", [(24, 24), (16, 40)], ids=["square", "not square"])
@pytest.mark.parametrize("name", VARIANTS)
@torch.no_grad()
def test_naive_twin_batched_and_single(
    name: str, size: tuple[int, int], make_visual: Make, make_images: Make, make_features: Make
) -> None:
    row, visual = VARIANTS[name], make_visual()
    images = make_images(3, *size)
    grid = (size[0] // 8, size[1] // 8)
    proxy = make_features(3, 5, *grid) if row.attention == "proxy" else None
    model = DenseClip(visual, row)
    together = model(images, proxy)
    assert together.shape == (3, 4, *grid)
    for i in range(3):
        wanted = twin(visual, row, images[i], None if proxy is None else proxy[i]).float()
        torch.testing.assert_close(patches(together)[i], wanted, atol=1e-5, rtol=1e-5)
        alone = model(images[i : i + 1], None if proxy is None else proxy[i : i + 1])
        torch.testing.assert_close(together[i : i + 1], alone, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", VARIANTS)
@torch.no_grad()
def test_rows_differ(name: str, make_visual: Make, make_images: Make, make_features: Make) -> None:
    """A twin that agrees proves little if a missing term went unseen: every variant gives numbers of its own."""
    images, proxy = make_images(1, 24, 24), make_features(1, 5, 3, 3)
    found = {n: DenseClip(make_visual(), row)(images, proxy) for n, row in VARIANTS.items()}
    for other, numbers in found.items():
        if other != name:
            assert (numbers - found[name]).abs().max() > 1e-2, other


# -- what holds for all -----------------------------------------------------------------------------------------------


@torch.no_grad()
def test_clip_is_open_clips_own_forward(make_visual: Make, make_images: Make) -> None:
    visual, images = make_visual(), make_images(2, 24, 24)
    _, tokens = visual(images)
    assert torch.equal(patches(DenseClip(visual, ROWS["clip"])(images)), tokens @ visual.proj)


@pytest.mark.parametrize("scale", [None, 0.5], ids=["plain", "layer scale"])
@torch.no_grad()
def test_the_last_block_in_pieces_is_the_block(scale: float | None, make_visual: Make, make_images: Make) -> None:
    """Row `clip` runs the block whole; taken apart, as every other row takes it, it is the same block."""
    model = DenseClip(make_visual(ls_init_value=scale), ROWS["clip"])
    x, grid, _ = model.before_last(make_images(2, 24, 24))
    block = model.visual.transformer.resblocks[-1]
    if scale is not None:
        block.ls_1.gamma.mul_(3.0)
    attended, out_grid = model._attended(block, x, grid, [], None)
    found = model._finished(block, x, grid, attended, out_grid)
    torch.testing.assert_close(found, block(x)[:, 1:])


@pytest.mark.parametrize("name", ["ViT-B-16-quickgelu", "ViT-B-32", "ViT-L-14", "ViT-L-14-336", "ViT-H-14"])
def test_towers_that_can_be_read(name: str) -> None:
    """Built without memory for weights; suppression reads them, so the row does not suppress."""
    with torch.device("meta"):
        visual = open_clip.create_model(name, device="meta").visual
    assert DenseClip(visual, ROWS["naclip"]).patch_size == (visual.patch_size[0],) * 2


@pytest.mark.parametrize("name", ["ViT-B-16-SigLIP", "RN50", "convnext_base", "coca_ViT-B-32"])
def test_towers_that_cannot_be_read(name: str) -> None:
    with torch.device("meta"):
        visual = open_clip.create_model(name, device="meta").visual
    with pytest.raises(KcError, match="dense CLIP reads open_clip vision transformers such as ViT-B-16-quickgelu"):
        DenseClip(visual, ROWS["clip"])


@pytest.mark.parametrize("size", [(24, 24), (16, 40)], ids=["own grid", "resized grid"])
@torch.no_grad()
def test_clip_is_that_of_transformers(size: tuple[int, int], make_visual: Make, make_images: Make) -> None:
    """An outside implementation of the plain forward, which resizes position embeddings by `size` too."""
    transformers = pytest.importorskip("transformers", reason="needs the extra 'text'")
    config = transformers.CLIPVisionConfig(
        hidden_size=16, intermediate_size=64, projection_dim=4, num_hidden_layers=3, num_attention_heads=2,
        image_size=24, patch_size=8, hidden_act="quick_gelu",
    )  # fmt: skip
    reference = transformers.CLIPVisionModelWithProjection(config).eval()
    visual, images = make_visual(), make_images(2, *size)
    state = {}
    for key, value in visual.state_dict().items():
        key = key.replace("transformer.resblocks.", "encoder.layers.").replace(".attn.", ".self_attn.")
        for ours, theirs in {
            "ln_1": "layer_norm1", "ln_2": "layer_norm2", "c_fc": "fc1", "c_proj": "fc2", "ln_pre": "pre_layrnorm",
            "ln_post": "post_layernorm", "conv1": "embeddings.patch_embedding",
        }.items():  # fmt: skip
            key = key.replace(ours, theirs)
        if "in_proj" in key:
            for part, rows in zip("qkv", value.chunk(3), strict=True):
                state[key.replace("in_proj_", f"{part}_proj.")] = rows
        else:
            state[key] = value
    state["embeddings.class_embedding"] = state.pop("class_embedding")
    state["embeddings.position_embedding.weight"] = state.pop("positional_embedding")
    reference.visual_projection.weight.copy_(state.pop("proj").T)
    inner = getattr(reference, "vision_model", reference)
    missing, extra = inner.load_state_dict(state, strict=False)
    assert not extra
    assert all("position_ids" in key for key in missing)
    out = reference(images, interpolate_pos_encoding=True).last_hidden_state
    wanted = reference.visual_projection(inner.post_layernorm(out))[:, 1:]
    torch.testing.assert_close(patches(DenseClip(visual, ROWS["clip"])(images)), wanted, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", CONCRETE)
@torch.no_grad()
def test_images_of_a_batch_do_not_see_each_other_but_patches_do(
    name: str, make_visual: Make, make_images: Make, make_features: Make
) -> None:
    """The batch-first trap: fed (L, N, D), a block attends over the batch and leaves the patches apart."""
    model, images = DenseClip(make_visual(), CONCRETE[name]), make_images(2, 24, 24)
    proxy = make_features(2, 5, 3, 3)
    before = model(images, proxy)
    changed = images.clone()
    changed[0, :, :8, :8] *= -1
    after = model(changed, proxy)
    assert torch.equal(before[1], after[1])
    assert (before[0] - after[0]).abs().amax(0).min() > 1e-4


@torch.no_grad()
def test_blocks_that_are_not_batch_first(make_visual: Make, make_images: Make) -> None:
    """Towers of older checkpoints take (L, N, D); the answer is the same."""
    images, usual, turned = make_images(2, 24, 24), make_visual(), make_visual()
    for block in turned.transformer.resblocks:
        block.attn.batch_first = False
    for row in CONCRETE.values():
        if row.attention != "proxy":
            torch.testing.assert_close(DenseClip(turned, row)(images), DenseClip(usual, row)(images))


@pytest.mark.parametrize("name", CONCRETE)
@torch.no_grad()
def test_attention_rows_add_up(name: str, make_visual: Make, make_images: Make, make_features: Make) -> None:
    model = DenseClip(make_visual(), CONCRETE[name])
    weights = model.weights(make_images(2, 24, 24), make_features(2, 5, 3, 3))
    assert weights.shape == {"proxyclip": (2, 1, 9, 9), "maskclip": (2, 1, 10, 10)}.get(name, (2, 2, 10, 10))
    wanted = 2.0 if name == "sclip" else 1.0
    torch.testing.assert_close(weights.sum(-1), torch.full(weights.shape[:-1], wanted))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", CONCRETE)
@torch.no_grad()
def test_half_types(name: str, dtype: torch.dtype, make_visual: Make, make_images: Make, make_features: Make) -> None:
    images, proxy = make_images(1, 24, 24), make_features(1, 5, 3, 3)
    exact = DenseClip(make_visual(), CONCRETE[name])(images, proxy)
    found = DenseClip(make_visual().to(dtype), CONCRETE[name])(images, proxy)
    assert found.dtype == dtype
    torch.testing.assert_close(found.float(), exact, atol=0.25 if dtype == torch.bfloat16 else 0.05, rtol=0.05)


@torch.no_grad()
def test_a_suppressed_block_whose_ffn_is_not_used_changes_nothing(make_visual: Make, make_images: Make) -> None:
    visual, images = make_visual(), make_images(1, 24, 24)
    plain = DenseClip(visual, ROWS["clearclip"])(images)
    assert torch.equal(DenseClip(visual, dataclasses.replace(ROWS["clearclip"], cs_layers=(2,)))(images), plain)
    assert not torch.equal(DenseClip(visual, dataclasses.replace(ROWS["clearclip"], cs_layers=(1,)))(images), plain)


def test_the_tower_is_not_changed(make_visual: Make, make_images: Make) -> None:
    visual = make_visual()
    before = {key: value.clone() for key, value in visual.state_dict().items()}
    model = DenseClip(visual, dataclasses.replace(GCLIP, cs_layers=(0, 1, 2)))
    model(make_images(1, 24, 24))
    assert all(torch.equal(value, before[key]) for key, value in visual.state_dict().items())
    second = model.second_weight(1)
    assert second is not None
    assert torch.equal(second, suppressed(before["transformer.resblocks.1.mlp.c_proj.weight"]))


@torch.no_grad()
def test_pixels_beyond_the_last_patch_do_not_count(make_visual: Make, make_images: Make) -> None:
    model, images = DenseClip(make_visual(), ROWS["sclip"]), make_images(1, 29, 31)
    assert torch.equal(model(images), model(images[:, :, :24, :24]))
    with pytest.raises(ValueError, match="no whole patch"):
        model(images[:, :, :7])


def test_towers_without_the_parts_are_one_clear_error(make_visual: Make) -> None:
    with pytest.raises(KcError, match="Linear has no conv1, class_embedding"):
        DenseClip(torch.nn.Linear(2, 2), ROWS["clip"])
    with pytest.raises(KcError, match="a projection of each token"):
        DenseClip(make_visual(attentional_pool=True, attn_pooler_heads=2), ROWS["clip"])
    with pytest.raises(KcError, match=r"no attn.in_proj_weight of an nn.MultiheadAttention"):
        DenseClip(make_visual(qk_norm=True), ROWS["clip"])


def test_layers_and_weights_must_fit(make_visual: Make) -> None:
    with pytest.raises(KcError, match=r"blocks 0 to 2; fuse_layers may name 0 to 1 .* got \(2,\)"):
        DenseClip(make_visual(), dataclasses.replace(GCLIP, fuse_layers=(2,)))
    with pytest.raises(KcError, match="not chosen yet"):
        DenseClip(make_visual(), ROWS["gclip"])
    with pytest.raises(KcError, match="expected 3, one for each"):
        dataclasses.replace(GCLIP, fuse_weights=(0.5, 0.5))
    with pytest.raises(KcError, match="Did you mean 'averaged'"):
        dataclasses.replace(GCLIP, head_mode="average")
    with pytest.raises(KcError, match="need attention 'amf'"):
        dataclasses.replace(ROWS["clearclip"], fuse_layers=(1,))
    with pytest.raises(KcError, match="dense features of another model"):
        DenseClip(make_visual(), ROWS["proxyclip"])(torch.zeros(1, 3, 24, 24))
