"""Presets say what the papers' configurations say, and bad ones are refused."""

import dataclasses

import pytest

from kc.errors import KcError, UnknownNameError
from kc.openvocab.dense_clip.protocol import BENCHMARKS, DEFAULT_PRESET, PRESETS, PUBLISHED, SCENERY, preset, verdict
from kc.openvocab.dense_clip.rows import ROWS


@pytest.mark.parametrize(
    ("name", "benchmark", "wanted"),
    [
        # name, benchmark, short side, crop, stride, scale, threshold
        ("sclip", None, (336, 224, 112, 40.0, 0.0)),
        ("sclip", "voc21", (336, 224, 112, 65.0, 0.1)),
        ("sclip", "cityscapes", (560, 224, 112, 40.0, 0.0)),
        ("sclip", "coco-stuff", (448, 224, 112, 40.0, 0.0)),
        ("naclip", "voc21", (336, None, None, 40.0, 0.1)),
        ("naclip", "ade20k", (336, 224, 112, 40.0, 0.0)),
        ("clearclip", None, (448, 448, 224, 50.0, 0.0)),
        ("clearclip", "coco-object", (448, 448, 224, 50.0, 0.4)),
        ("clearclip", "cityscapes", (448, 224, 224, 50.0, 0.0)),
        ("proxyclip", None, (336, 336, 112, 40.0, 0.0)),
        ("proxyclip", "cityscapes", (448, 224, 112, 40.0, 0.0)),
        ("whole-image", "camvid", (336, None, None, 40.0, 0.0)),
    ],
)
def test_presets(name: str, benchmark: str | None, wanted: tuple[object, ...]) -> None:
    p = preset(name, benchmark)
    assert (p.short_side, p.crop, p.stride, p.logit_scale, p.threshold) == wanted
    assert p.pamr_steps == 0
    assert p.templates == "imagenet80"


def test_background_words() -> None:
    assert len(SCENERY) == 26
    assert preset("sclip", "voc21").background == SCENERY
    assert preset("clearclip", "voc21").background == ()
    assert preset("proxyclip", "coco-object").background[-4:] == ("cloud", "floor", "hill", "rail")
    assert preset("sclip", "voc21").area_threshold == 0.1


def test_key_tells_protocols_apart() -> None:
    keys = {preset(name, benchmark).key for name in PRESETS for benchmark in (None, "voc21", "cityscapes")}
    assert len(keys) == 3 * len(PRESETS) - 2  # whole-image is adjusted for none
    changed = dataclasses.replace(preset("naclip"), pamr_steps=10)
    assert "pamr_steps=10" in changed.key


def test_every_row_has_a_preset() -> None:
    assert set(DEFAULT_PRESET) == set(ROWS)
    assert set(DEFAULT_PRESET.values()) <= set(PRESETS)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"stride": None}, "go together"),
        ({"stride": 300}, "leaves gaps"),
        ({"logit_scale": 0.0}, "above 0"),
        ({"short_side": 0}, "above 0"),
        ({"pamr_steps": -1}, "above 0"),
    ],
)
def test_bad_protocols(changes: dict[str, object], message: str) -> None:
    with pytest.raises(KcError, match=message):
        dataclasses.replace(PRESETS["sclip"], **changes)
    with pytest.raises(UnknownNameError, match="Did you mean 'naclip'"):
        preset("naklip")


def test_published_figures() -> None:
    assert set(PUBLISHED) == set(ROWS)
    assert PUBLISHED["naclip"]["cityscapes"] == 35.5
    assert PUBLISHED["clip"] == dict(zip(BENCHMARKS, (18.6, 7.8, 6.5, 49.1, 6.7, 11.2, 3.2, 5.7), strict=True))
    assert verdict("gclip", "cityscapes", 33.3) == "pass"
    assert verdict("gclip", "cityscapes", 33.1) == "miss"
    assert verdict("gclip", "voc21", 60.0) == "no figure"
