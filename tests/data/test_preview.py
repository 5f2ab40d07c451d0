"""The contact sheet shows the labels' colours where the labels are."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np

from kc.data.preview import class_colors, contact_sheet, overlay
from kc.data.readers.open import open_reader
from kc.types import VOID, Sample


def test_overlay_mixes_colours_and_outlines_instances() -> None:
    image = np.full((4, 6, 3), 100, dtype=np.uint8)
    panoptic = np.zeros((4, 6, 2), dtype=np.int32)
    panoptic[..., 0] = 3
    panoptic[:, :3, 1], panoptic[:, 3:, 1] = 1, 2
    panoptic[3, :, 0], panoptic[3, :, 1] = VOID, 0
    shown = overlay(
        image, Sample("a", image, semantic=panoptic[..., 0].astype(np.int64), panoptic=panoptic), {3: (200, 0, 40)}
    )
    assert shown[0, 0].tolist() == [155, 45, 67]  # 0.55 * colour + 0.45 * 100
    assert shown[0, 3].tolist() == [255, 255, 255]  # two instances of one class meet here
    assert shown[3, 0].tolist() == [255, 255, 255]
    semantic_only = overlay(image, Sample("a", image, semantic=panoptic[..., 0].astype(np.int64)), {3: (200, 0, 40)})
    assert semantic_only[0, 3].tolist() == [155, 45, 67]


def test_sheet_has_every_sample_and_its_colours(tiny_index_png: SimpleNamespace) -> None:
    manifest = tiny_index_png.manifest
    colors = class_colors(manifest)
    assert len(set(colors.values())) == 4  # the manifest says none
    reader = open_reader(manifest, "train", tiny_index_png.root, limit=5)
    pixels = np.asarray(contact_sheet(manifest, reader, columns=2))
    for class_id in (0, 1, 2, 3):  # the squares of the legend
        assert (pixels == np.array(colors[class_id])).all(-1).sum() >= 8 * 8
    narrow = contact_sheet(manifest, reader, columns=1)
    assert narrow.width < pixels.shape[1]
    assert narrow.height > pixels.shape[0]


def test_classification_sheet(tiny_folder: SimpleNamespace) -> None:
    reader = open_reader(tiny_folder.manifest, "test", tiny_folder.root)
    pixels = np.asarray(contact_sheet(tiny_folder.manifest, reader, columns=3)).reshape(-1, 3).astype(int)
    for color in ((220, 30, 30), (30, 200, 40), (20, 40, 230)):
        assert (np.abs(pixels - color).max(axis=1) < 30).sum() > 1000
