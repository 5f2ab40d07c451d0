"""Fixtures for every room: a cache folder of the test session, tiny benchmarks in the real formats, the real data."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

# Read when torch loads: threads that spin while they wait slow a busy machine down (see kc.process.configure).
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
if "PYTEST_XDIST_WORKER" in os.environ:  # worker processes share the cores; what they start inherits it
    os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import pytest
import yaml
from PIL import Image

from kc.data.manifest import load_manifest

REPOSITORY = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session", autouse=True)
def kc_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """One cache folder for the whole session, never the user's; digit-scenes is composed in it at most once."""
    folder = tmp_path_factory.mktemp("kc-cache")
    before = os.environ.get("KC_CACHE")
    os.environ["KC_CACHE"] = str(folder)
    yield folder
    if before is None:
        del os.environ["KC_CACHE"]
    else:
        os.environ["KC_CACHE"] = before


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real data: KC_DATA, else `../shared/data` next to the repository; skips where there is none."""
    folder = Path(os.environ.get("KC_DATA") or REPOSITORY.parent / "shared" / "data")
    if not (folder / "camvid").is_dir():
        pytest.skip(f"no real data in {folder}; set KC_DATA to a folder with camvid, caltech50 and coco200-panoptic")
    return folder


@pytest.fixture
def tiny_folder(tmp_path: Path) -> SimpleNamespace:
    """Classification in class folders: 3 classes, 4 train and 2 test images each, 20 x 24 (H x W), plain colours."""
    colors = {"red": (220, 30, 30), "green_leaf": (30, 200, 40), "blue": (20, 40, 230)}
    rng = np.random.default_rng(0)
    for split, count in (("train", 4), ("test", 2)):
        for folder, color in colors.items():
            for i in range(count):
                noisy = np.clip(np.array(color) + rng.integers(-15, 16, (20, 24, 3)), 0, 255)
                save(tmp_path / "data" / "tiny-folder" / split / folder / f"{i}.png", noisy)
    classes = [{"id": 0, "name": "red"}, {"id": 1, "name": "green leaf", "folder": "green_leaf"},
               {"id": 2, "name": "blue"}]  # fmt: skip
    splits = {"train": {"path": "train"}, "test": {"path": "test"}}
    return tiny(tmp_path, "tiny-folder", "classification", "folder", splits, classes, input_size=[16, 16])


@pytest.fixture
def tiny_index_png(tmp_path: Path) -> SimpleNamespace:
    """Semantic in index PNGs: classes 0, 1, 2, 3, ignore 9; 6 train, 2 val, 3 test images of 24 x 32.

    Image i holds class 0 (top), class 1 + i % 3 (bottom left) and an ignored bottom right corner.
    """
    top = tmp_path / "data" / "tiny-index"
    for split, count in (("train", 6), ("val", 2), ("test", 3)):
        for i in range(count):
            mask = np.zeros((24, 32), dtype=np.uint8)
            mask[12:, :20] = 1 + i % 3
            mask[20:, 28:] = 9
            save(top / "images" / split / f"frame_{i}.png", np.stack([mask * 25, 255 - mask * 20, mask * 7 + 90], -1))
            save(top / "labels" / split / f"frame_{i}.png", mask)
    classes = [{"id": i, "name": name} for i, name in enumerate(["sky", "car", "tree", "road"])]
    splits = {s: {"images": f"images/{s}", "labels": f"labels/{s}"} for s in ("train", "val", "test")}
    return tiny(tmp_path, "tiny-index", "semantic", "index_png", splits, classes, input_size=[24, 32], ignore=9,
                task_splits={"2-1": [2, 1, 1]})  # fmt: skip


@pytest.fixture
def tiny_coco(tmp_path: Path) -> SimpleNamespace:
    """COCO panoptic: things 1 cat, 2 dog, 18 bird, stuff 90 grass, 200 sky; 5 train, 3 test images of 20 x 30.

    Every image: sky above (segment 7), grass below (segment 70000), two cats or dogs or birds (300, 301) by turns,
    the second of image 1 a crowd, and an unlabelled last column.
    """
    top = tmp_path / "data" / "tiny-coco"
    categories = [(1, "cat", 1), (2, "dog", 1), (18, "bird", 1), (90, "grass", 0), (200, "sky", 0)]
    for split, count in (("train", 5), ("test", 3)):
        images, annotations = [], []
        for i in range(count):
            ids = np.full((20, 30), 7, dtype=np.int64)
            ids[10:] = 70000
            ids[4:14, 2:8], ids[6:16, 6:14] = 300, 301
            ids[:, -1] = 0
            name = f"{i:06d}"
            save(top / "images" / split / f"{name}.png", np.stack([ids % 251, ids % 83, ids % 17 * 10], -1))
            save(top / "annotations" / split / f"{name}.png", np.stack([ids % 256, ids // 256 % 256, ids // 65536], -1))
            thing = (1, 2, 18)[i % 3]
            segments = [(300, thing, 0), (301, thing, int(i == 1)), (7, 200, 0), (70000, 90, 0)]
            images.append({"id": i + 10, "file_name": f"{name}.png", "height": 20, "width": 30})
            annotations.append(
                {
                    "image_id": i + 10,
                    "file_name": f"{name}.png",
                    "segments_info": [{"id": s, "category_id": c, "iscrowd": crowd} for s, c, crowd in segments],
                }
            )
        content = {
            "images": images,
            "annotations": annotations,
            "categories": [{"id": i, "name": n, "isthing": t} for i, n, t in categories],
        }
        (top / "annotations" / f"{split}.json").write_text(json.dumps(content))
    classes = [{"id": i, "name": n, "thing": bool(t)} for i, n, t in categories]
    splits = {
        s: {"images": f"images/{s}", "annotations": f"annotations/{s}.json", "masks": f"annotations/{s}"}
        for s in ("train", "test")
    }
    return tiny(tmp_path, "tiny-coco", "panoptic", "coco_panoptic", splits, classes, input_size=[20, 30])


@pytest.fixture
def tiny_scenes(tmp_path: Path) -> SimpleNamespace:
    """digit-scenes with 20 train and 10 test scenes (composed once a session: the cache key is the content)."""
    content = yaml.safe_load((REPOSITORY / "data_manifests" / "digit-scenes.yaml").read_text())
    content |= {"name": "tiny-scenes", "splits": {"train": {"count": 20}, "test": {"count": 10}}}
    return written(tmp_path, content)


@pytest.fixture(scope="session")
def photograph() -> np.ndarray:
    """48 x 70 pixels of blocks of one colour each."""
    colors = np.random.default_rng(0).integers(0, 256, (3, 5, 3))
    return np.kron(colors, np.ones((16, 14, 1))).astype(np.uint8)


@pytest.fixture(scope="session")
def sam_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny random Segment Anything, in a folder as transformers writes it."""
    import torch
    from transformers import SamConfig, SamImageProcessor, SamModel, SamProcessor

    folder = tmp_path_factory.mktemp("sam")
    config = SamConfig(
        vision_config={
            "hidden_size": 16,
            "output_channels": 16,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "image_size": 64,
            "patch_size": 8,
            "window_size": 4,
            "global_attn_indexes": [1],
            "num_pos_feats": 8,
            "mlp_dim": 16,
        },
        prompt_encoder_config={"hidden_size": 16, "image_size": 64, "patch_size": 8, "mask_input_channels": 4},
        mask_decoder_config={
            "hidden_size": 16,
            "mlp_dim": 16,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "iou_head_hidden_dim": 16,
        },
    )
    torch.manual_seed(1)
    model = SamModel(config)
    for parameter in model.mask_decoder.parameters():  # logits of some size, so that masks differ and are stable
        parameter.data.mul_(8)
    model.save_pretrained(folder)
    processor = SamImageProcessor(
        size={"longest_edge": 64}, pad_size={"height": 64, "width": 64}, mask_size={"longest_edge": 16}
    )
    SamProcessor(processor).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def dino_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny random Grounding DINO with some words, in a folder as transformers writes it."""
    import torch
    from transformers import (
        BertConfig,
        BertTokenizer,
        GroundingDinoConfig,
        GroundingDinoForObjectDetection,
        GroundingDinoImageProcessor,
        GroundingDinoProcessor,
        SwinConfig,
    )

    folder = tmp_path_factory.mktemp("dino")
    # The network knows [CLS], [SEP] and the full stop by the numbers that BERT's vocabulary gives them.
    words = [f"[unused{i}]" for i in range(1100)]
    words[0] = "[PAD]"
    words[100:104] = ["[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    words[1012] = "."
    words[1030:1036] = ["cat", "dog", "red", "panda", "sky", "traffic"]
    words[1036:1038] = ["light", "##s"]
    (folder / "vocab.txt").write_text("\n".join(words))
    tokenizer = BertTokenizer.from_pretrained(folder)
    config = GroundingDinoConfig(
        backbone_config=SwinConfig(
            embed_dim=16,
            depths=[1, 1, 1, 1],
            num_heads=[1, 2, 4, 4],
            window_size=4,
            out_features=["stage2", "stage3", "stage4"],
        ),
        text_config=BertConfig(
            vocab_size=1100, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16
        ),
        d_model=32,
        num_queries=9,
        encoder_layers=1,
        encoder_ffn_dim=16,
        encoder_attention_heads=2,
        decoder_layers=2,
        decoder_ffn_dim=16,
        decoder_attention_heads=2,
        max_text_len=16,
    )
    torch.manual_seed(2)
    GroundingDinoForObjectDetection(config).save_pretrained(folder)
    images = GroundingDinoImageProcessor(size={"shortest_edge": 64, "longest_edge": 128})
    GroundingDinoProcessor(images, tokenizer).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def detectron2_panoptic(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """A tiny random panoptic FPN of detectron2: things cat, dog, Bird; stuff things, grass, sky, sea.

    .places (CONFIG.yaml,WEIGHTS.pth), .config, .weights.
    """
    pytest.importorskip("detectron2", reason="detectron2 is not installed; docs/detectron2.md says how")
    import torch
    from detectron2.config import get_cfg
    from detectron2.data import MetadataCatalog
    from detectron2.modeling import build_model

    name = "kc_test_tiny_panoptic"
    MetadataCatalog.get(name).set(thing_classes=["cat", "dog", "Bird"], stuff_classes=["things", "grass", "sky", "sea"])
    changes = {
        "MODEL": {
            "META_ARCHITECTURE": "PanopticFPN",
            "MASK_ON": True,
            "PIXEL_STD": [30000.0] * 3,  # random layers without training make numbers large
            "BACKBONE": {"NAME": "build_resnet_fpn_backbone"},
            "RESNETS": {"STEM_OUT_CHANNELS": 8, "RES2_OUT_CHANNELS": 8, "WIDTH_PER_GROUP": 8,
                        "OUT_FEATURES": ["res2", "res3", "res4", "res5"]},
            "FPN": {"IN_FEATURES": ["res2", "res3", "res4", "res5"], "OUT_CHANNELS": 32},
            "ANCHOR_GENERATOR": {"SIZES": [[32], [64], [128], [256], [512]]},
            "RPN": {"IN_FEATURES": ["p2", "p3", "p4", "p5", "p6"]},
            "ROI_HEADS": {"NAME": "StandardROIHeads", "IN_FEATURES": ["p2", "p3", "p4", "p5"], "NUM_CLASSES": 3,
                          "SCORE_THRESH_TEST": 0.0},
            "ROI_BOX_HEAD": {"NAME": "FastRCNNConvFCHead", "NUM_FC": 1, "FC_DIM": 16, "POOLER_RESOLUTION": 3},
            "ROI_MASK_HEAD": {"NAME": "MaskRCNNConvUpsampleHead", "NUM_CONV": 1, "CONV_DIM": 8,
                              "POOLER_RESOLUTION": 7},
            "SEM_SEG_HEAD": {"NAME": "SemSegFPNHead", "NUM_CLASSES": 4, "CONVS_DIM": 32},
            "PANOPTIC_FPN": {"COMBINE": {"STUFF_AREA_LIMIT": 10, "INSTANCES_CONFIDENCE_THRESH": 0.0}},
        },
        "DATASETS": {"TEST": [name]},
        "INPUT": {"MIN_SIZE_TEST": 64, "MAX_SIZE_TEST": 96},
        "VERSION": 2,
    }  # fmt: skip
    folder = tmp_path_factory.mktemp("detectron2")
    path = folder / "panoptic.yaml"
    path.write_text(yaml.safe_dump(changes))
    config = get_cfg()
    config.merge_from_file(str(path), allow_unsafe=False)
    config.MODEL.DEVICE, config.MODEL.WEIGHTS = "cpu", ""
    torch.manual_seed(3)
    network = build_model(config).eval()
    weights = folder / "model.pth"
    torch.save({"model": network.state_dict(), "iteration": 7}, weights)
    return SimpleNamespace(
        places=f"{path},{weights}", config=path, weights=weights, network=network, cfg=config, changes=changes
    )


def tiny(
    tmp_path: Path,
    name: str,
    kind: str,
    reader: str,
    splits: dict[str, Any],
    classes: list[dict[str, Any]],
    **more: Any,
) -> SimpleNamespace:
    """A manifest over generated files: see `written`."""
    content = {
        "name": name,
        "task_kind": kind,
        "licence": "made by the tests",
        "homepage": "https://example.org/tiny",
        "source": {"reader": reader, "folder": name},
        "splits": splits,
        "classes": classes,
    }
    return written(tmp_path, content | more)


def written(tmp_path: Path, content: dict[str, Any]) -> SimpleNamespace:
    """`content` as a YAML file: .path (the file), .manifest, .content, .root (data root), .folder (the files)."""
    path = tmp_path / f"{content['name']}.yaml"
    path.write_text(yaml.safe_dump(content, sort_keys=False))
    root = tmp_path / "data"
    return SimpleNamespace(
        path=path, manifest=load_manifest(path), content=content, root=root, folder=root / content["name"]
    )


def save(path: Path, array: np.ndarray) -> None:
    """An image file of a (H, W) or (H, W, 3) array of 0..255."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array.astype(np.uint8)).save(path)
