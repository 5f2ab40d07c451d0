"""Files of data sets with anything in them: the only error is KcError. `make fuzz` tries longer: FUZZ=N inputs each."""

from __future__ import annotations

import contextlib
import io
import json
import os
import tarfile
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st

from kc.data.lists import read_array
from kc.data.manifest import load_manifest
from kc.data.readers.drawn import instance_mask
from kc.data.readers.files import decode_image, decode_mask
from kc.data.readers.open import open_reader
from kc.data.shards.fields import from_fields, members
from kc.data.shards.index import ShardIndex
from kc.data.unpack import unpack
from kc.errors import KcError
from tests.data.test_formats import save
from tests.data.test_outside_names import index_of

TRIES = int(os.environ.get("FUZZ", "60"))
fuzz = settings(
    max_examples=TRIES, deadline=10_000, derandomize="FUZZ" not in os.environ, database=None,
    suppress_health_check=list(HealthCheck),
)  # fmt: skip

numbers = st.one_of(st.integers(-3, 40), st.integers(), st.floats(), st.sampled_from([2**24, 2**31, 2**63, 1e9, -1e9]))
words = st.one_of(st.text(max_size=6), st.sampled_from(["../x", "/x", "a.png", "a.jpg", "ball", "polygon", "circle"]))
anything = st.recursive(
    st.one_of(st.none(), st.booleans(), numbers, words),
    lambda inner: st.one_of(st.lists(inner, max_size=8), st.dictionaries(words, inner, max_size=4)),
    max_leaves=12,
)
shapes = st.one_of(
    st.lists(st.lists(numbers, max_size=12), max_size=3),
    st.fixed_dictionaries(
        {"size": st.just([8, 8]) | anything, "counts": st.lists(numbers, max_size=6) | st.text() | anything}
    ),
    anything,
)  # fmt: skip


def some(**fields: Any) -> st.SearchStrategy[dict[str, Any]]:
    """Records in which each field is as it should be, anything, or absent."""
    return st.fixed_dictionaries({}, optional={k: st.one_of(v, v, v, anything) for k, v in fields.items()})


def benchmark(top: Path, kind: str, source: dict[str, Any], part: dict[str, Any]) -> Any:
    thing = {} if kind == "classification" else {"thing": True}
    content = {
        "name": "f", "task_kind": kind, "source": {**source, "folder": "."}, "splits": {"train": part},
        "classes": [{"id": 1, "name": "ball", **thing}], "input_size": [8, 8],
    }  # fmt: skip
    (top / "f.yaml").write_text(yaml.safe_dump(content))
    save(top / "a.png", np.zeros((8, 8, 3), np.uint8))
    return load_manifest(top / "f.yaml")


def opened(kind: str, source: dict[str, Any], part: dict[str, Any], files: dict[str, bytes]) -> None:
    """Open and read a split of one image and these files; KcError is fine."""
    with tempfile.TemporaryDirectory() as name:
        top = Path(name)
        manifest = benchmark(top, kind, source, part)
        for file, content in files.items():
            (top / file).write_bytes(content)
        with contextlib.suppress(KcError):
            reader = open_reader(manifest, "train", top)
            for index in range(min(len(reader), 4)):
                with contextlib.suppress(KcError):
                    reader.read(index)


coco = some(
    images=st.lists(some(id=st.just(1), file_name=st.just("a.png"), height=st.just(8), width=st.just(8)), max_size=2),
    categories=st.just([{"id": 1, "name": "ball", "isthing": 1}]),
    annotations=st.lists(
        some(id=numbers, image_id=st.just(1), category_id=st.just(1), segmentation=shapes, file_name=st.just("a.png"),
             segments_info=st.lists(some(id=numbers, category_id=st.just(1), iscrowd=numbers), max_size=3)),
        max_size=3,
    ),
)  # fmt: skip


@fuzz
@seed(1)
@given(coco, st.sampled_from(["coco_instances", "coco_panoptic"]))
def test_coco(content: Any, reader: str) -> None:
    masks = {"masks": "."} if reader == "coco_panoptic" else {}
    part = {"images": ".", "annotations": "a.json", **masks}
    opened("panoptic", {"reader": reader}, part, {"a.json": json.dumps(content).encode()})


@fuzz
@seed(1)
@given(
    some(imagePath=st.just("a.png"), imageHeight=st.just(8), imageWidth=st.just(8),
         shapes=st.lists(some(label=st.just("ball"), points=st.lists(st.lists(numbers, min_size=2, max_size=2)),
                              shape_type=words, group_id=anything), max_size=3))
)  # fmt: skip
def test_labelme(content: Any) -> None:
    opened("panoptic", {"reader": "labelme"}, {"path": "."}, {"a.json": json.dumps(content).encode()})


@fuzz
@seed(1)
@given(shapes)
def test_shapes(segmentation: Any) -> None:
    with contextlib.suppress(KcError):
        assert instance_mask(segmentation, (8, 8), "x").shape == (8, 8)


@fuzz
@seed(1)
@given(st.one_of(st.binary(max_size=200), st.text(alphabet='image,label\n"\0a.pngbl \r', max_size=80).map(str.encode)))
def test_csv(content: bytes) -> None:
    source = {"reader": "csv", "image": "image", "label": "label"}
    opened("classification", source, {"file": "t.csv"}, {"t.csv": content})
    opened("classification", source, {"file": "t.csv"}, {"t.csv": b"image,label\n" + content})


@fuzz
@seed(1)
@given(st.one_of(anything.map(lambda x: yaml.safe_dump(x).encode()), st.binary(max_size=100)))
def test_manifest(content: bytes) -> None:
    with tempfile.TemporaryDirectory() as name, contextlib.suppress(KcError):
        (Path(name) / "f.yaml").write_bytes(content)
        load_manifest(Path(name) / "f.yaml")


def changed(whole: bytes) -> st.SearchStrategy[bytes]:
    """Some bytes of a good file exchanged, and perhaps its end cut."""
    flips = st.lists(st.tuples(st.integers(0, len(whole) - 1), st.integers(0, 255)), max_size=6)

    def apply(made: tuple[list[tuple[int, int]], int]) -> bytes:
        content = bytearray(whole)
        for place, value in made[0]:
            content[place] = value
        return bytes(content[: made[1]])

    return st.tuples(flips, st.integers(0, len(whole)) | st.just(len(whole))).map(apply)


def good_files() -> dict[str, bytes]:
    from PIL import Image

    found: dict[str, bytes] = {"index": index_of("a.tar").to_bytes()}
    for kind in ("PNG", "JPEG", "TIFF", "GIF", "BMP", "WEBP", "PPM"):
        file = io.BytesIO()
        Image.fromarray(np.arange(192, dtype=np.uint8).reshape(8, 8, 3)).save(file, kind)
        found[kind] = file.getvalue()
    for mode in ("", "gz", "xz", "bz2"):
        file = io.BytesIO()
        with tarfile.open(fileobj=file, mode=f"w:{mode}", format=tarfile.PAX_FORMAT) as tar:
            info = tarfile.TarInfo("a.json" if not mode else "é" * 120)
            info.size = 40
            tar.addfile(info, io.BytesIO(b'{"id": "a", "label": 1}'.ljust(40)))
        found[f"tar.{mode}" if mode else "tar"] = file.getvalue()
    file = io.BytesIO()
    np.save(file, np.arange(5))
    return found | {"npy": file.getvalue()}


@pytest.mark.parametrize("kind", good_files())
def test_damaged_files(kind: str) -> None:
    whole = good_files()[kind]

    @fuzz
    @seed(1)
    @given(changed(whole))
    def one(content: bytes) -> None:
        with contextlib.suppress(KcError), tempfile.TemporaryDirectory() as name:
            if kind == "index":
                ShardIndex.from_bytes(content, "x")
            elif kind == "npy":
                (Path(name) / "a.npy").write_bytes(content)
                read_array(Path(name) / "a.npy")
            elif kind.startswith("tar"):
                (Path(name) / f"a.{kind}").write_bytes(content)
                if kind == "tar":
                    with contextlib.suppress(KcError):
                        from_fields(members(content[:1024], "x"), "x")
                unpack(Path(name) / f"a.{kind}", Path(name) / "out")
            else:
                with contextlib.suppress(KcError):
                    decode_image(io.BytesIO(content), "x")
                decode_mask(io.BytesIO(content), "x", channels=3)

    one()
