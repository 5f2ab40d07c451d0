"""The kinds of stream: which images and classes each of their tasks has."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from kc.data.corruptions import corrupt
from kc.data.datamodule import IncrementalDataModule
from kc.data.domains import DomainReader
from kc.data.readers.open import open_reader
from kc.data.selection import leaked, long_tailed, visible_ids
from kc.data.split import build_tasks, with_leaks
from kc.data.streams import STREAMS, Domain, Stream
from kc.errors import SplitError, UnknownNameError
from kc.types import Task


def module(tiny: SimpleNamespace, stream: Stream | str, **more: object) -> IncrementalDataModule:
    data = IncrementalDataModule(tiny.path, data_root=tiny.root, stream=stream, **more)  # type: ignore[arg-type]
    data.setup()
    return data


def test_domains_are_read_from_text() -> None:
    assert Stream("domain", domains="clean, jpeg:5,contrast").domain_list() == (
        Domain("clean", 0), Domain("jpeg", 5), Domain("contrast", 3),
    )  # fmt: skip
    assert [d.name for d in Stream("domain").domain_list()] == [
        "clean", "gaussian-noise-3", "gaussian-blur-3", "jpeg-3", "contrast-3",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"kind": "domian"}, "unknown stream 'domian'. Did you mean 'domain'"),
        ({"kind": "domain", "domains": "jpg"}, "unknown domain 'jpg'. Did you mean 'jpeg'"),
        ({"kind": "domain", "domains": "jpeg:6"}, "strength of jpeg is 1 to 5"),
        ({"kind": "domain", "domains": "clean:2"}, "'clean' has no strength"),
        ({"kind": "domain", "domains": "jpeg,jpeg:3"}, "a domain is there twice"),
        ({"leak": 1.0}, "--blurry.leak"),
        ({"blurry_classes": 0.0}, "--blurry.classes"),
        ({"imbalance": 0.5}, "--long-tailed.imbalance"),
    ],
)
def test_wrong_numbers_are_named(options: dict[str, object], said: str) -> None:
    with pytest.raises((SplitError, UnknownNameError), match=said):
        Stream(**options)  # type: ignore[arg-type]


def test_a_domain_stream_shows_every_image_in_every_domain(tiny_index_png: SimpleNamespace) -> None:
    data = module(tiny_index_png, Stream("domain", domains="clean,contrast:5,gaussian-noise"), cache_samples=False)
    assert [t.class_ids for t in data.tasks] == [(0, 1, 2, 3)] * 3
    clean, contrast = data.dataset("train", 0), data.dataset("train", 1)
    assert clean.sample_ids == [f"train/frame_{i}" for i in range(6)]
    assert contrast.sample_ids == [f"train/frame_{i}~contrast-5" for i in range(6)]
    assert data.n_images("test", 2, "seen") == 9
    assert data.n_images("train", 1, "seen") == 12
    original = open_reader(tiny_index_png.manifest, "train", tiny_index_png.root).read(2)
    sample = contrast.samples.read(int(contrast.indices[2]))
    assert (sample.image == corrupt(original.image, "contrast", 5, np.random.default_rng(0))).all()
    assert sample.semantic is not None
    assert (sample.semantic == original.semantic).all()
    noisy = data.dataset("train", 2).samples.read(int(data.dataset("train", 2).indices[2])).image
    again = module(tiny_index_png, Stream("domain", domains="gaussian-noise"), seed=5).dataset("train", 0)
    assert (noisy == again.samples.read(2).image).all()  # the noise is that of the image, whatever the run
    assert (noisy != data.dataset("train", 2).samples.read(int(data.dataset("train", 2).indices[1])).image).any()


def test_a_part_of_the_domains_keeps_its_rows(tiny_folder: SimpleNamespace) -> None:
    base = open_reader(tiny_folder.manifest, "test", tiny_folder.root)
    reader = DomainReader(base, (Domain("clean", 0), Domain("jpeg", 2)))
    part = reader.select([7, 1])
    assert part.sample_ids == [reader.sample_ids[7], reader.sample_ids[1]]
    assert part.sample_ids[0] == "test/green_leaf/1.png~jpeg-2" or part.sample_ids[0].endswith("~jpeg-2")
    assert part.domain.tolist() == [1, 0]
    assert part.read(0).id == part.sample_ids[0]
    assert (part.class_table == reader.class_table[[7, 1]]).all()
    assert part.select([1]).sample_ids == [reader.sample_ids[1]]


def test_domains_and_tasks_do_not_go_together(tiny_folder: SimpleNamespace) -> None:
    with pytest.raises(SplitError, match="one task a domain"):
        build_tasks(tiny_folder.manifest, 3, stream=Stream("domain"))
    with pytest.raises(SplitError, match="leave --setting out"):
        module(tiny_folder, "domain", setting="disjoint")


def test_a_blurry_stream_leaks_forward_only() -> None:
    """8 classes of 100 images in 4 tasks; half of the 6 classes that can leak do, and 30 % of their images move."""
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(8), 100)
    rng.shuffle(labels)
    table = labels[:, None] == np.arange(8)
    ids = tuple(range(8))
    stream = Stream("blurry", blurry_classes=0.5, leak=0.3)
    plain = [Task(t, ids[2 * t : 2 * t + 2], ids[: 2 * t + 2], ("a", "b")) for t in range(4)]
    tasks = with_leaks(plain, None, stream, seed=1)
    leaky = set(tasks[3].returning_ids)
    assert len(leaky) == 3
    assert tasks[0].returning_ids == ()
    assert not leaky & {6, 7}
    rows = [np.flatnonzero(np.isin(labels, t.class_ids)) for t in tasks]
    found = leaked(rows, table, ids, tasks, stream, seed=1)
    assert sorted(np.concatenate(found).tolist()) == list(range(800))  # each image once
    for t, own in enumerate(found):
        classes = set(labels[own].tolist())
        assert classes <= set(tasks[t].class_ids) | set(tasks[t].returning_ids)
        for c in tasks[t].class_ids:
            n = int((labels[own] == c).sum())
            assert n == 100 if c not in leaky else 55 <= n <= 85
    again = leaked(rows, table, ids, tasks, stream, seed=1)
    assert all((a == b).all() for a, b in zip(found, again, strict=True))
    assert set(visible_ids(tasks[3], "overlapped")) == leaky | {6, 7}


def test_a_blurry_stream_as_published_leaks_both_ways() -> None:
    """i-Blurry-50-30: of 8 classes of 300 images in 4 tasks half leak; 30 % of their images lie evenly elsewhere."""
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(8), 300)
    rng.shuffle(labels)
    table, ids = labels[:, None] == np.arange(8), tuple(range(8))
    stream = Stream("blurry", blurry_classes=0.5, leak=0.3, leak_to="all")
    plain = [Task(t, ids[2 * t : 2 * t + 2], ids[: 2 * t + 2], ("a", "b")) for t in range(4)]
    tasks = with_leaks(plain, None, stream, seed=3)
    leaky = {c for t in tasks for c in t.returning_ids}
    assert len(leaky) == 4
    assert leaky & {0, 1, 2, 3, 4, 5}
    assert leaky & {4, 5, 6, 7}
    for task, before in zip(tasks, plain, strict=True):
        assert task.class_ids == before.class_ids
        assert set(task.returning_ids) == leaky - set(task.class_ids)
        assert set(task.seen_ids) == set(before.seen_ids) | leaky  # a class that leaks is named from the start
        assert len(set(task.seen_ids)) == len(task.seen_ids)
        assert set(visible_ids(task, "overlapped")) == set(task.class_ids) | leaky
    rows = [np.flatnonzero(np.isin(labels, t.class_ids)) for t in tasks]
    found = leaked(rows, table, ids, tasks, stream, seed=3)
    assert sorted(np.concatenate(found).tolist()) == list(range(2400))  # each image once
    counts = np.array([np.bincount(labels[own], minlength=8) for own in found])
    for c in range(8):
        home = c // 2
        if c not in leaky:
            assert counts[home, c] == 300
            continue
        assert 180 <= counts[home, c] <= 240  # 210 +- 3.8 standard deviations of 7.9
        assert all(12 <= counts[t, c] <= 50 for t in range(4) if t != home)  # 30 each, in earlier and later tasks
    with pytest.raises(UnknownNameError, match="leak_to"):
        Stream("blurry", leak_to="earlier")  # type: ignore[arg-type]


def test_a_blurry_stream_of_masks_labels_what_returns(tiny_index_png: SimpleNamespace) -> None:
    data = module(tiny_index_png, Stream("blurry", blurry_classes=1.0, leak=0.5), tasks=2, seed=1)
    returning = data.tasks[1].returning_ids
    assert set(returning) == set(data.tasks[0].class_ids)
    moved = set(data.dataset("train", 1).sample_ids) - {f"train/frame_{i}" for i in (1, 2, 4, 5)}
    for item in (data.dataset("train", 1)[i] for i in range(len(data.dataset("train", 1)))):
        if item["sample_id"] in moved:
            assert set(np.unique(item["semantic"]).tolist()) & set(returning)


def test_a_blurry_stream_needs_two_tasks(tiny_folder: SimpleNamespace) -> None:
    with pytest.raises(SplitError, match="at least 2 tasks"):
        module(tiny_folder, "blurry", tasks=1)


def test_a_long_tail_falls_exponentially() -> None:
    """5 classes of 100 images, imbalance 16: 100, 50, 25, 12.5 and 6.25 of them are left, in a shuffled order."""
    labels = np.repeat(np.arange(5), 100)
    kept = long_tailed(labels[:, None] == np.arange(5), 16.0, seed=0)
    assert sorted(np.bincount(labels[kept]).tolist()) == [6, 13, 25, 50, 100]
    assert len(set(kept.tolist())) == len(kept)
    assert (kept == np.sort(kept)).all()
    other = long_tailed(labels[:, None] == np.arange(5), 16.0, seed=1)
    assert np.bincount(labels[other]).tolist() != np.bincount(labels[kept]).tolist()
    assert len(long_tailed(labels[:, None] == np.arange(5), 1.0, seed=0)) == 500
    few = long_tailed(np.eye(5, dtype=bool), 100.0, seed=0)
    assert few.tolist() == [0, 1, 2, 3, 4]  # never a class without an image


def test_a_long_tail_thins_training_alone(tiny_folder: SimpleNamespace) -> None:
    data = module(tiny_folder, Stream("long-tailed", imbalance=4.0), tasks=3)
    assert sorted(data.presence("train").sum(0).tolist()) == [1, 2, 4]
    assert data.presence("test").sum(0).tolist() == [2, 2, 2]


def test_a_long_tail_is_of_images(tiny_index_png: SimpleNamespace) -> None:
    with pytest.raises(SplitError, match="frequencies are long-tailed as they are"):
        module(tiny_index_png, "long-tailed")


def test_a_stream_of_names_has_images_in_its_first_task_only(tiny_folder: SimpleNamespace) -> None:
    data = module(tiny_folder, "names", tasks=3)
    assert [len(data.dataset("train", t)) for t in range(3)] == [4, 0, 0]
    assert list(data.loader("train", 2)) == []
    assert data.n_images("train", 2, "seen") == 4
    assert data.n_images("test", 2, "seen") == 6


def test_other_streams_have_the_images_of_the_class_stream(tiny_index_png: SimpleNamespace) -> None:
    expected = [module(tiny_index_png, "class", tasks=2).dataset("train", t).sample_ids for t in range(2)]
    for kind in ("task", "online"):
        assert kind in STREAMS
        data = module(tiny_index_png, kind, tasks=2)
        assert [data.dataset("train", t).sample_ids for t in range(2)] == expected
        assert data.evaluated_on == ("task" if kind == "task" else "seen")
