"""Every kind of bad or unusual file: read, or named, or counted and listed; never dropped in silence."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from kc.cli import main
from kc.data.check import check
from kc.data.datamodule import IncrementalDataModule
from kc.data.readers.files import read_image, read_mask
from kc.data.readers.open import open_good, open_reader
from kc.errors import DataError

RGB = np.stack([*np.meshgrid(np.arange(8), np.arange(6)), np.full((6, 8), 3)], -1).astype(np.uint8) * 20


def test_palette_png_is_read_by_colour_and_by_index(tmp_path: Path) -> None:
    image = Image.fromarray((RGB[..., 0] // 20).astype(np.uint8)).convert("P")
    image.putpalette([c for i in range(256) for c in (i * 7 % 256, i * 5 % 256, i)])
    image.save(tmp_path / "p.png")
    index = read_mask(tmp_path, "p.png", channels=1)
    colours = read_image(tmp_path, "p.png")
    assert (colours[..., 0] == index.astype(int) * 7 % 256).all()


def test_16_bit_png_is_named_as_image_and_read_as_mask(tmp_path: Path) -> None:
    values = (RGB[..., 0].astype(np.uint16) + 1) * 300
    Image.fromarray(values).save(tmp_path / "deep.png")
    assert (read_mask(tmp_path, "deep.png", channels=1) == values).all()
    with pytest.raises(DataError, match=r"deep\.png: image mode 'I;16' is deeper than 8 bits"):
        read_image(tmp_path, "deep.png")


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_turns_the_image_upright(orientation: int, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(RGB).save(tmp_path / "turned.png", exif=exif)
    turned = {1: RGB, 2: RGB[:, ::-1], 3: RGB[::-1, ::-1], 4: RGB[::-1], 5: RGB.transpose(1, 0, 2),
              6: np.rot90(RGB, -1), 7: RGB[::-1, ::-1].transpose(1, 0, 2), 8: np.rot90(RGB)}  # fmt: skip
    np.testing.assert_array_equal(read_image(tmp_path, "turned.png"), turned[orientation])
    Image.fromarray(RGB).save(tmp_path / "turned.jpg", exif=exif, quality=100, subsampling=0)
    assert np.abs(read_image(tmp_path, "turned.jpg").astype(int) - turned[orientation]).max() < 12


def test_grey_and_cmyk_become_rgb(tmp_path: Path) -> None:
    Image.fromarray(RGB[..., 0]).save(tmp_path / "grey.png")
    found = read_image(tmp_path, "grey.png")
    assert found.shape == (6, 8, 3)
    assert (found == RGB[..., :1]).all()
    flat = np.full((16, 16, 3), (200, 100, 50), dtype=np.uint8)
    Image.fromarray(flat).convert("CMYK").save(tmp_path / "print.jpg", quality=100)
    assert np.abs(read_image(tmp_path, "print.jpg").astype(int) - flat).max() < 8


@pytest.mark.parametrize("ending", ["png", "jpg"])
def test_truncated_images_are_named(ending: str, tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (60, 60, 3), dtype=np.uint8)
    path = tmp_path / f"x.{ending}"
    Image.fromarray(noise).save(path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(DataError, match=f"x.{ending}: cannot read the image, the file is corrupt"):
        read_image(tmp_path, path.name)


def test_leaks_and_duplicates_are_noted(tiny_folder: SimpleNamespace) -> None:
    """The same file twice in a split, the same bytes in train and test, and the same picture in another format."""
    top: Path = tiny_folder.folder
    shutil.copy(top / "train/red/0.png", top / "train/red/copy.png")
    shutil.copy(top / "train/blue/1.png", top / "test/blue/leaked.png")
    with Image.open(top / "train/blue/2.png") as image:
        image.save(top / "test/blue/other.bmp")
    notes = check(tiny_folder.manifest, data_root=tiny_folder.root).notes
    assert "equal images: train/red/0.png and train/red/copy.png" in notes
    assert "the same image in two splits: train/blue/1.png and test/blue/leaked.png" in notes
    assert "the same image in two splits: train/blue/2.png and test/blue/other.bmp" in notes


def spoil(tiny: SimpleNamespace) -> None:
    """Two of the twelve training images, and one of the six test images, can no longer be read."""
    for file in ("train/red/1.png", "train/blue/3.png", "test/red/0.png"):
        (tiny.folder / file).write_bytes(b"no image")


def test_bad_files_are_counted_and_listed(tiny_folder: SimpleNamespace) -> None:
    whole = list(open_reader(tiny_folder.manifest, "train", tiny_folder.root).sample_ids)
    spoil(tiny_folder)
    reader, bad = open_good(tiny_folder.manifest, "train", tiny_folder.root)
    assert [b.partition(":")[0] for b in bad] == ["train/red/1.png", "train/blue/3.png"]
    assert all("cannot read the image" in b for b in bad)
    assert list(reader.sample_ids) == [i for i in whole if i not in ("train/red/1.png", "train/blue/3.png")]
    _, none = open_good(tiny_folder.manifest, "train", tiny_folder.root, skip=False)
    assert none == ()


def test_without_the_flag_a_bad_file_is_an_error(tiny_folder: SimpleNamespace) -> None:
    spoil(tiny_folder)
    strict = IncrementalDataModule(tiny_folder.path, data_root=tiny_folder.root)
    with pytest.raises(DataError, match=r"1\.png: cannot read the image"):
        list(strict.loader("train", 0))
    skipping = IncrementalDataModule(tiny_folder.path, data_root=tiny_folder.root, skip_bad=True)
    assert sum(len(b["label"]) for b in skipping.loader("train", 0)) == 10
    assert len(skipping.skipped["train"]) == 2


def test_the_commands_say_what_they_skip(
    tiny_folder: SimpleNamespace, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    spoil(tiny_folder)
    where = [str(tiny_folder.path), "--data-root", str(tiny_folder.root)]
    assert main(["data", "shards", *where, "--out", str(tmp_path / "s")]) == 2
    capsys.readouterr()
    assert main(["data", "shards", *where, "--out", str(tmp_path / "s"), "--skip-bad"]) == 0
    out = capsys.readouterr().out
    assert out.count("skipped: ") == 3
    assert "tiny-folder train: 10 images in 1 shard" in out
    assert "skipped 2 bad files" in out
    assert main(["data", "stats", *where, "--tasks", "3", "--skip-bad"]) == 0
    assert "skipped: train/red/1.png: " in capsys.readouterr().out
    sharded = [str(tmp_path / "s" / "tiny-folder.yaml"), "--data-root", str(tmp_path / "s")]
    assert main(["data", "stats", *sharded, "--tasks", "3"]) == 0
    assert "task 1 reads " in capsys.readouterr().out


def test_nothing_left_is_an_error(tiny_folder: SimpleNamespace) -> None:
    for file in (tiny_folder.folder / "test").rglob("*.png"):
        file.write_bytes(b"no image")
    with pytest.raises(DataError, match=r"none of the 6 images can be read; the first: test/red/0\.png"):
        open_good(tiny_folder.manifest, "test", tiny_folder.root)
