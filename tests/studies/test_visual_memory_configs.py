"""The published settings are options that exist, of benchmarks and encoders that exist."""

from __future__ import annotations

from pathlib import Path

import pytest

from kc.data.manifest import load_manifest
from kc.encoders.load import check_encoder_name
from kc.parsing import parser, values_of
from kc.studies.visual_memory.config import VisualMemoryConfig

FILES = sorted((Path(__file__).resolve().parents[2] / "experiments/configs/visual_memory").glob("*.yaml"))


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.stem)
def test_a_config_is_read(path: Path) -> None:
    p = parser(None, VisualMemoryConfig, "", ("study",))
    config = VisualMemoryConfig(**values_of(p, ["votes", "--config", str(path)]))
    manifest = load_manifest(config.benchmark)
    assert path.stem.startswith(manifest.name)
    assert manifest.task_kind == "classification"
    check_encoder_name(config.encoder)
    assert config.k == "10,50,100"
    if manifest.name == "imagenet-1k":
        assert config.published is not None
        assert config.published["rank k=10"] == (83.5 if "dinov2" in config.encoder else 79.3)


def test_imagenets_classes_are_torchvisions() -> None:
    classes = load_manifest("imagenet-1k").classes
    assert len(classes) == 1000
    assert (classes[0].name, classes[0].folder) == ("tench", "n01440764")
    assert (classes[999].name, classes[999].folder) == ("toilet tissue", "n15075141")
    assert len({c.folder for c in classes}) == 1000
    assert [c.folder for c in load_manifest("eurosat").classes][::9] == ["AnnualCrop", "SeaLake"]
