"""Checkpoints: what does not fit is listed, nothing is run, what is written reads back the same."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from kc.errors import KcError, MissingExtraError
from kc.openvocab.fc_clip.checkpoint import convert, load_fc_clip, read_checkpoint
from kc.openvocab.fc_clip.coco import COCO_NAMES
from kc.openvocab.fc_clip.network import FcClip
from kc.openvocab.fc_clip.options import FcClipConfig, weights_of

from .conftest import CONFIG, authors_shapes, value_of


def changed(authors_file: Path, folder: Path, change: dict[str, Tensor | None]) -> Path:
    state = read_checkpoint(authors_file)
    for key, value in change.items():
        if value is None:
            del state[key]
        else:
            state[key] = value
    torch.save({"model": state}, folder / "changed.pth")
    return folder / "changed.pth"


def test_architecture_and_weights_are_those_of_the_file(authors_file: Path, tiny_clip: str) -> None:
    network = load_fc_clip(authors_file, tiny_clip)
    assert network.config == CONFIG
    assert not network.training
    third = network.state_dict()["decoder.decoder.layers.1.self_attn.v_proj.weight"]
    joined = value_of("sem_seg_head.predictor.transformer_self_attention_layers.1.self_attn.in_proj_weight", (96, 32))
    assert torch.equal(third, joined[64:])
    assert {p.requires_grad for p in network.clip.parameters()} == {False}
    assert network.void.weight.requires_grad


def test_every_key_that_does_not_fit_is_listed(authors_file: Path, tiny_clip: str, tmp_path: Path) -> None:
    gone, odd = "sem_seg_head.predictor.decoder_norm.bias", "sem_seg_head.predictor.class_embed.layers.1.weight"
    path = changed(authors_file, tmp_path, {gone: None, "extra.one": torch.ones(2), odd: torch.ones(3, 3)})
    with pytest.raises(KcError) as caught:
        load_fc_clip(path, tiny_clip)
    said = str(caught.value)
    assert f"missing: {gone}" in said
    assert "unknown: extra.one" in said
    assert "of another shape: class_head.layers.1.weight is (3, 3), not (32, 32)" in said


def test_another_architecture_is_one_error(authors_file: Path, tiny_clip: str, tmp_path: Path) -> None:
    with pytest.raises(KcError, match="reads the dense features of a ConvNeXt tower; open_clip's RN50 has"):
        load_fc_clip(authors_file, "RN50")
    torch.save({"model": {"sem_seg_head.predictor.query_feat.weight": torch.ones(100, 256)}}, tmp_path / "m.pth")
    with pytest.raises(KcError, match=r"not a checkpoint of FC-CLIP: it has no sem_seg_head\.pixel_decoder"):
        load_fc_clip(tmp_path / "m.pth", tiny_clip)
    with pytest.raises(KcError, match="unknown open_clip model 'convnext_huge'"):
        load_fc_clip(authors_file, "convnext_huge")


def test_a_pickle_is_read_only_where_it_is_trusted(authors_file: Path, tiny_clip: str, tmp_path: Path) -> None:
    arrays = {key: value.numpy() for key, value in read_checkpoint(authors_file).items()}
    path = tmp_path / "model.pkl"
    path.write_bytes(pickle.dumps({"model": arrays, "__author__": "someone"}))
    with pytest.raises(KcError, match="--allow-pickle"):
        load_fc_clip(path, tiny_clip)
    with pytest.warns(UserWarning, match="runs whatever code is in it"):
        network = load_fc_clip(path, tiny_clip, allow_pickle=True)
    wanted = load_fc_clip(authors_file, tiny_clip).state_dict()
    assert all(torch.equal(value, wanted[key]) for key, value in network.state_dict().items())


def test_code_in_a_pth_is_not_run(tmp_path: Path, tiny_clip: str) -> None:
    torch.save({"model": {"a": Path("/")}}, tmp_path / "m.pth")
    with pytest.raises(KcError, match="cannot be read as a checkpoint of tensors"):
        load_fc_clip(tmp_path / "m.pth", tiny_clip)
    torch.save([1, 2], tmp_path / "m.pth")
    with pytest.raises(KcError, match="expected a detectron2 checkpoint"):
        load_fc_clip(tmp_path / "m.pth", tiny_clip)
    with pytest.raises(KcError, match="cannot be read"):
        load_fc_clip(tmp_path / "none.pth", tiny_clip)


def test_convert_writes_what_was_read(authors_file: Path, tiny_clip: str, tmp_path: Path) -> None:
    target = tmp_path / "new" / "fc-clip.safetensors"
    convert(authors_file, target, tiny_clip, [("sky", "blue sky"), ("tree",)])
    network, wanted = load_fc_clip(target), load_fc_clip(authors_file, tiny_clip)
    assert network.config == wanted.config
    assert network.names == (("sky", "blue sky"), ("tree",))
    assert wanted.names == COCO_NAMES
    assert all(torch.equal(value, network.state_dict()[key]) for key, value in wanted.state_dict().items())
    with pytest.raises(KcError, match=f"holds an FC-CLIP on {tiny_clip}, not on convnext_base"):
        load_fc_clip(target, "convnext_base")
    assert [path.name for path in target.parent.iterdir()] == [target.name]


def test_a_damaged_safetensors_file(authors_file: Path, tiny_clip: str, tmp_path: Path) -> None:
    target = tmp_path / "fc-clip.safetensors"
    convert(authors_file, target, tiny_clip)
    with safe_open(target, framework="pt") as file:
        metadata = file.metadata()
        state = {key: file.get_tensor(key).clone() for key in file.keys()}  # noqa: SIM118
    del state["void.weight"]  # clones: what is written over below may be the file itself
    save_file(state, target, metadata=metadata)
    with pytest.raises(KcError, match=r"missing: void\.weight"):
        load_fc_clip(target)
    save_file(state, target)
    with pytest.raises(KcError, match="kc fc-clip convert"):
        load_fc_clip(target)
    save_file(state, target, metadata=metadata | {"config": json.dumps({"clap": 1})})
    with pytest.raises(KcError, match="cannot be read as a converted FC-CLIP"):
        load_fc_clip(target)
    target.write_bytes(b"no")
    with pytest.raises(KcError, match="cannot be read as a converted FC-CLIP"):
        load_fc_clip(target)


def test_names_of_the_base_without_weights(tmp_path: Path) -> None:
    for name in ("fc-clip", f"fc-clip@{tmp_path / 'none.safetensors'}"):
        with pytest.raises(MissingExtraError, match="download the COCO checkpoint that the page"):
            weights_of(name)
    (tmp_path / "w.safetensors").touch()
    assert weights_of(f"fc-clip:convnext_base@{tmp_path / 'w.safetensors'}") == (
        "convnext_base",
        tmp_path / "w.safetensors",
    )


def test_coco_has_its_133_names() -> None:
    assert len(COCO_NAMES) == 133
    assert all(name == name.strip() and name for synonyms in COCO_NAMES for name in synonyms)
    assert COCO_NAMES[0][:2] == ("person", "child")
    assert ("orange fruit",) in COCO_NAMES


@pytest.mark.slow
def test_the_published_architecture() -> None:
    """Counted from the published sizes; needs 2 GB."""
    network = FcClip(FcClipConfig())
    assert network.clip.visual.trunk.num_features == 1536
    assert network.dim == 768
    assert round(sum(p.numel() for p in network.clip.parameters()) / 1e6) == 352
    shapes = authors_shapes(network)
    assert shapes["sem_seg_head.predictor.query_feat.weight"] == (250, 256)
    assert shapes["sem_seg_head.pixel_decoder.transformer.encoder.layers.5.linear1.weight"] == (1024, 256)
    assert shapes["sem_seg_head.predictor.transformer_ffn_layers.8.linear1.weight"] == (2048, 256)
    assert np.prod(shapes["void_embedding.weight"]) == 768
