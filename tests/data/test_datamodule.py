"""The data module on tiny readers in memory: which images and labels each loader gives, and how it repeats."""

from __future__ import annotations

from types import SimpleNamespace

import lightning.pytorch as lightning
import numpy as np
import pytest
import torch
from torch.utils.data.distributed import DistributedSampler

from kc.data.datamodule import IncrementalDataModule
from kc.data.manifest import Manifest
from kc.errors import DataError, SplitError, UnknownNameError
from kc.types import HIDDEN, VOID, Sample

SIZE = (4, 6)


class FakeReader:
    """Samples in memory; counts how often each is read."""

    def __init__(self, samples: list[Sample], class_ids: tuple[int, ...]) -> None:
        self.samples = samples
        self.sample_ids = [s.id for s in samples]
        self.n_read = 0
        held = [{s.label} if s.semantic is None else set(np.unique(s.semantic).tolist()) for s in samples]
        self.class_table = np.array([[c in ids for c in class_ids] for ids in held])

    def __len__(self) -> int:
        return len(self.samples)

    def read(self, index: int) -> Sample:
        self.n_read += 1
        return self.samples[index]


def manifest_of(kind: str, n: int, background: bool) -> Manifest:
    source = {"classification": "folder", "semantic": "index_png", "panoptic": "coco_panoptic"}[kind]
    splits = {
        "folder": {"path": "x"},
        "index_png": {"images": "x", "labels": "y"},
        "coco_panoptic": {"images": "x", "annotations": "a.json", "masks": "m"},
    }[source]
    return Manifest.model_validate(
        {
            "name": "toy",
            "task_kind": kind,
            "licence": "CC0",
            "homepage": "https://example.org",
            "source": {"reader": source, "folder": "toy"},
            "splits": {"train": splits, "test": splits},
            "classes": [{"id": i, "name": f"c{i}", "background": background and i == 0} for i in range(n)],
            "input_size": SIZE,
            "task_splits": {"3-1": [n - 1, 1]},
        }
    )


def image(index: int, height: int = 8, width: int = 12) -> np.ndarray:
    return np.random.default_rng(index).integers(0, 256, size=(height, width, 3)).astype(np.uint8)


def stripes(*ids: int, height: int = 8, width: int = 12) -> np.ndarray:
    """Equal vertical stripes of class ids."""
    return np.repeat(np.array(ids), width // len(ids))[None].repeat(height, axis=0).astype(np.int64)


SEMANTIC = [(0, 1), (1, 2), (0, 2, 3), (2, VOID), (3, 0), (0, 0)]  # the classes of each image, left to right


def semantic(background: bool = False, **options) -> IncrementalDataModule:
    manifest = manifest_of("semantic", 4, background)
    samples = [Sample(f"s{i}", image(i), semantic=stripes(*ids)) for i, ids in enumerate(SEMANTIC)]
    readers = {"train": FakeReader(samples, (0, 1, 2, 3)), "test": FakeReader(samples, (0, 1, 2, 3))}
    return IncrementalDataModule(manifest, **({"tasks": 2, "readers": readers} | options))


def panoptic(**options) -> IncrementalDataModule:
    samples = []
    for i, ids in enumerate([(0, 1, 2), (2, 3, 3), (1, 3, VOID)]):
        category = stripes(*ids)
        instance = stripes(*((j + 1) * (c not in (0, VOID)) for j, c in enumerate(ids)))
        map_ = np.stack([category, instance], axis=-1).astype(np.int32)
        samples.append(Sample(f"p{i}", image(i), semantic=category, panoptic=map_, crowd=frozenset({2})))
    readers = {"train": FakeReader(samples, (0, 1, 2, 3)), "test": FakeReader(samples, (0, 1, 2, 3))}
    manifest = manifest_of("panoptic", 4, background=True)
    return IncrementalDataModule(manifest, **({"tasks": 3, "readers": readers} | options))


def classification(n: int = 12, **options) -> IncrementalDataModule:
    def reader(split: str) -> FakeReader:
        return FakeReader([Sample(f"{split}/{i}", image(i), label=i % 4) for i in range(n)], (0, 1, 2, 3))

    return IncrementalDataModule(
        manifest_of("classification", 4, False),
        **({"tasks": 2, "batch_size": 4, "readers": {"train": reader("train"), "test": reader("test")}} | options),
    )


def stripes_of(label_map) -> list[int]:
    """The ids of a striped map from left to right, repeats dropped."""
    row = np.asarray(label_map)[0].tolist()
    return [c for j, c in enumerate(row) if j == 0 or c != row[j - 1]]


def shown(data: IncrementalDataModule, *where, **options) -> dict[int, list[int]]:
    """Reader row -> the stripes that its semantic map shows."""
    items = data.dataset(*where, **options)
    return {items[i]["index"]: stripes_of(items[i]["semantic"]) for i in range(len(items))}


H = HIDDEN


@pytest.mark.parametrize(
    ("setting", "first", "second"),
    [
        ("overlapped", {0: [0, 1], 1: [1, H], 2: [0, H], 4: [H, 0], 5: [0]},
                       {1: [H, 2], 2: [H, 2, 3], 3: [2, VOID], 4: [3, H]}),
        ("disjoint", {0: [0, 1], 5: [0]}, {1: [H, 2], 2: [H, 2, 3], 3: [2, VOID], 4: [3, H]}),
        ("sequential", {0: [0, 1], 5: [0]}, {1: [1, 2], 2: [0, 2, 3], 3: [2, VOID], 4: [3, 0]}),
        # One choice: 0 and 5 to task 0, 3 to task 1; shares 2/5 and 1/4, so 1, 2 and 4 are dealt 1 : 2 to 3/5, 3/4.
        ("partition", None, None),
    ],
)  # fmt: skip
def test_training_images_and_labels_without_background(setting, first, second):
    data = semantic(setting=setting)
    found = [shown(data, "train", t) for t in range(2)]
    if setting != "partition":
        assert found == [first, second]
        return
    assert sorted([*found[0], *found[1]]) == [0, 1, 2, 3, 4, 5]
    assert (len(found[0]), len(found[1])) == (3, 3)
    assert {0, 5} < set(found[0])
    overlapped = [shown(semantic(), "train", t) for t in range(2)]
    for t in range(2):
        assert all(overlapped[t][i] == stripe for i, stripe in found[t].items())


def test_training_labels_with_background():
    data = semantic(background=True, tasks=3)
    assert data.hidden_id == 0
    assert [task.class_ids for task in data.tasks] == [(0, 1), (2,), (3,)]
    assert shown(data, "train", 0) == {0: [0, 1], 1: [1, 0]}
    assert shown(data, "train", 1) == {1: [0, 2], 2: [0, 2, 0], 3: [2, VOID]}
    assert shown(data, "train", 2) == {2: [0, 3], 4: [3, 0]}
    assert shown(data, "train", 1, "seen") == {0: [0, 1], 1: [1, 2], 2: [0, 2, 0], 3: [2, VOID]}
    assert shown(data, "train", 0, "all") == dict(enumerate([[0, 1], [1, 2], [0, 2, 3], [2, VOID], [3, 0], [0]]))


def test_evaluation_keeps_seen_labels_and_voids_the_future():
    data = semantic(background=True, tasks=3)
    assert shown(data, "test", 0) == {0: [0, 1], 1: [1, VOID]}
    assert shown(data, "test", 0, at=1) == {0: [0, 1], 1: [1, 2]}
    assert shown(data, "test", 1) == {1: [1, 2], 2: [0, 2, VOID], 3: [2, VOID]}
    assert shown(data, "test", 1, "seen") == {0: [0, 1], 1: [1, 2], 2: [0, 2, VOID], 3: [2, VOID]}
    assert shown(data, "test", 0, "all")[2] == [0, 2, 3]


def test_evaluation_batches_have_original_sizes():
    batch = next(iter(semantic(batch_size=3).loader("test", 1, "seen")))
    assert batch["image"].shape == (3, 3, *SIZE)
    assert batch["image"].dtype == torch.float32
    assert batch["index"].tolist() == [0, 1, 2]
    assert batch["sample_id"] == ["s0", "s1", "s2"]
    assert batch["original_size"] == [(8, 12)] * 3
    assert [m.shape for m in batch["semantic"]] == [(8, 12)] * 3
    assert batch["semantic"][2].dtype == np.int64
    assert (batch["semantic"][2] == stripes(0, 2, 3)).all()
    assert (batch["raw"][1] == image(1)).all()
    assert "raw" not in next(iter(semantic().loader("test", 0, raw=False)))


def test_training_batches_are_stacked_at_input_size():
    batch = next(iter(semantic(batch_size=2).loader("train", 0)))
    assert set(batch) == {"image", "index", "sample_id", "original_size", "semantic"}
    assert batch["semantic"].shape == (2, *SIZE)
    assert batch["semantic"].dtype == torch.int64
    assert batch["semantic"][0, 0].tolist() == [0, 0, 0, 1, 1, 1]
    with_raw = next(iter(semantic(batch_size=2).loader("train", 0, raw=True, with_images=False)))
    assert set(with_raw) == {"index", "sample_id", "original_size", "semantic", "raw", "labels_raw"}
    assert stripes_of(with_raw["labels_raw"][1]) == [1, H]
    assert with_raw["labels_raw"][1].shape == (8, 12)


def test_panoptic_hides_segments():
    data = panoptic(batch_size=3)
    assert data.hidden_id == VOID
    batch = next(iter(data.loader("train", 0, raw=True)))  # background and c1: images 0 and 2
    assert batch["index"].tolist() == [0, 2]
    assert batch["panoptic"].shape == (2, *SIZE, 2)
    assert batch["panoptic"].dtype == torch.int32
    assert batch["panoptic"][0, 0].tolist() == [[0, 0]] * 2 + [[1, 2]] * 2 + [[VOID, 0]] * 2
    assert batch["panoptic"][1, 0].tolist() == [[1, 1]] * 2 + [[VOID, 0]] * 4
    assert batch["crowd"] == [frozenset({2}), frozenset()]
    assert torch.equal(batch["semantic"], batch["panoptic"][..., 0].long())
    assert batch["panoptic_raw"][0].shape == (8, 12, 2)
    # Task 1 is c2: background stays labelled, c1 goes.
    assert shown(data, "train", 1) == {0: [0, VOID, 2], 1: [2, VOID]}
    assert shown(data, "train", 2, "seen") == {0: [0, 1, 2], 1: [2, 3], 2: [1, 3, VOID]}
    evaluated = data.dataset("test", 1, "seen")
    assert [evaluated[i]["index"] for i in range(len(evaluated))] == [0, 1, 2]
    assert evaluated[1]["panoptic"][0, ::4].tolist() == [[2, 1], [VOID, 0], [VOID, 0]]
    assert evaluated[1]["crowd"] == frozenset()
    assert evaluated[0]["crowd"] == frozenset({2})


def test_classification_batches():
    data = classification()
    assert data.dataset("train", 1).labels.tolist() == [2, 3, 2, 3, 2, 3]
    assert data.dataset("test", 1, "seen").indices.tolist() == list(range(12))
    batch = next(iter(data.loader("test", 1)))
    assert set(batch) == {"image", "index", "sample_id", "original_size", "label"}
    assert batch["label"].tolist() == [2, 3, 2, 3]
    assert batch["label"].dtype == torch.int64
    assert batch["sample_id"] == ["test/2", "test/3", "test/6", "test/7"]


def test_without_images_classification_reads_none():
    data = classification()
    batch = next(iter(data.loader("train", 1, with_images=False)))
    assert set(batch) == {"index", "sample_id", "label"}
    assert batch["label"].tolist() == [2, 3, 2, 3]
    assert data.images.samples("train").reader.n_read == 0


@pytest.mark.parametrize("make", [semantic, panoptic, classification])
def test_samples_are_kept_in_memory_unchanged(make):
    data, direct = make(), make(cache_samples=False)
    for split in ("train", "test"):
        for _ in range(2):
            for kept, read in zip(data.loader(split, 1, "all"), direct.loader(split, 1, "all"), strict=True):
                assert_same(kept, read)
        n = len(data.presence(split))
        assert data.images.samples(split).reader.n_read == n
        assert direct.images.samples(split).reader.n_read == 2 * n


def assert_same(one, other):
    assert one.keys() == other.keys()
    for key in one:
        if isinstance(one[key], torch.Tensor):
            assert torch.equal(one[key], other[key])
        elif isinstance(one[key][0], np.ndarray):
            assert all((a == b).all() and a.dtype == b.dtype for a, b in zip(one[key], other[key], strict=True))
        else:
            assert one[key] == other[key]


def test_batches_do_not_depend_on_workers():
    loaders = [
        semantic(num_workers=n, batch_size=2, augment=True, seed=3).loader("train", 1, "seen", shuffle=True)
        for n in (0, 2)
    ]
    orders = []
    for epoch in range(3):
        for loader in loaders:
            loader.sampler.set_epoch(epoch)
        batches = [list(loader) for loader in loaders]
        for one, other in zip(*batches, strict=True):
            assert_same(one, other)
        orders.append([batch["index"].tolist() for batch in batches[0]])
    assert orders[0] != orders[1]


def test_the_order_follows_seed_task_and_epoch_and_leaves_the_global_generator():
    def order(seed: int, task: int, epoch: int) -> list[int]:
        loader = classification(n=80, seed=seed).loader("train", task, shuffle=True, with_images=False)
        loader.sampler.set_epoch(epoch)
        return torch.cat([batch["index"] for batch in loader]).tolist()

    torch.manual_seed(0)
    before = torch.get_rng_state()
    first = order(0, 0, 0)
    assert torch.equal(torch.get_rng_state(), before)
    assert first == order(0, 0, 0)
    assert sorted(first) == [i for i in range(80) if i % 4 < 2]
    assert len({tuple(order(*k)) for k in [(0, 0, 0), (1, 0, 0), (0, 0, 1)]}) == 3


def test_mirrored_image_and_labels_move_together():
    plain, augmented = semantic(), semantic(augment=True)
    seen = set()
    for epoch in range(8):
        for i in range(len(SEMANTIC)):
            was, now = plain.dataset("train", 0, "all")[(epoch, i)], augmented.dataset("train", 0, "all")[(epoch, i)]
            mirrored = not torch.equal(was["image"], now["image"])
            seen.add(mirrored)
            assert torch.equal(now["image"], was["image"].flip(-1) if mirrored else was["image"])
            assert (now["semantic"] == (was["semantic"][:, ::-1] if mirrored else was["semantic"])).all()
    assert seen == {True, False}
    assert_same(next(iter(plain.loader("test", 0))), next(iter(augmented.loader("test", 0))))


class Toy(lightning.LightningModule):
    """Any LightningModule: a linear classifier on the mean colour."""

    def __init__(self, n_classes: int) -> None:
        super().__init__()
        self.head = torch.nn.Linear(3, n_classes)
        self.orders: list[list[int]] = []
        self.tested: dict[int, list[int]] = {}

    def on_train_epoch_start(self) -> None:
        self.orders.append([])

    def training_step(self, batch, batch_idx):
        self.orders[-1] += batch["index"].tolist()
        return torch.nn.functional.cross_entropy(self.head(batch["image"].mean(dim=(2, 3))), batch["label"])

    def test_step(self, batch, batch_idx, dataloader_idx=0):
        self.tested.setdefault(dataloader_idx, []).extend(batch["label"].tolist())

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def test_any_lightning_module_trains_on_a_task():
    data = classification()
    module = Toy(4)
    weights = module.head.weight.detach().clone()
    trainer = lightning.Trainer(
        max_epochs=2, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False,
    )  # fmt: skip
    trainer.fit(module, data.task(0))
    assert not torch.equal(module.head.weight, weights)
    assert [sorted(order) for order in module.orders] == [[0, 1, 4, 5, 8, 9]] * 2
    assert module.orders[0] != module.orders[1]  # Lightning set the epoch
    trainer.test(module, data.task(1), verbose=False)
    assert module.tested == {0: [0, 1] * 3, 1: [2, 3] * 3}


def test_task_loaders_and_hyperparameters():
    data = semantic(background=True, tasks=3)
    part = data.task(1)
    assert part.val_dataloader() == []
    assert [len(loader.dataset) for loader in part.test_dataloader()] == [2, 3]
    assert [len(loader.dataset) for loader in data.task(0, "all").test_dataloader()] == [2, 3, 2]
    assert {k: part.hparams[k] for k in ("benchmark", "tasks", "setting", "seed", "task", "scope")} == {
        "benchmark": "toy", "tasks": 3, "setting": "overlapped", "seed": 0, "task": 1, "scope": "task",
    }  # fmt: skip


def test_counts_and_presence():
    data = semantic(background=True, tasks=3)
    assert [data.n_images("train", t) for t in range(3)] == [2, 3, 2]
    assert [data.n_images("test", t, "seen") for t in range(3)] == [2, 4, 5]
    assert data.n_images("train", 0, "all") == 6
    assert data.presence("train")[1].tolist() == [False, True, True, False]
    assert data.classes[2].name == "c2"


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"tasks": 5}, SplitError, "only 4 classes"),
        ({"tasks": None, "split": "3-2"}, UnknownNameError, "Did you mean '3-1'"),
        ({"setting": "disjont"}, UnknownNameError, "Did you mean 'disjoint'"),
        ({"batch_size": 0}, DataError, "batch_size must be at least 1"),
        ({"num_workers": -1}, DataError, "num_workers"),
        ({"seed": -1}, DataError, "seed"),
        ({"limit_images": 0}, DataError, "limit_images"),
    ],
)
def test_wrong_arguments_raise_before_data_is_read(options, error, message):
    with pytest.raises(error, match=message):
        semantic(**({"readers": None} | options))


def test_wrong_questions():
    data = semantic()
    for call, error, message in [
        (lambda: data.dataset("tain", 0), UnknownNameError, "Did you mean 'train'"),
        (lambda: data.dataset("val", 0), UnknownNameError, "Valid: test, train"),
        (lambda: data.dataset("train", 2), SplitError, "tasks 0 to 1"),
        (lambda: data.dataset("train", 0, "sen"), UnknownNameError, "Did you mean 'seen'"),
        (lambda: data.task(0, "sen"), UnknownNameError, "Did you mean 'seen'"),
        (lambda: data.dataset("test", 1, at=0), SplitError, "before task 1"),
        (lambda: data.dataset("train", 0, at=1), SplitError, "for evaluation"),
    ]:
        with pytest.raises(error, match=message):
            call()


def test_an_empty_task_is_found_at_setup():
    samples = [Sample("a", image(0), semantic=stripes(0, 1)), Sample("b", image(1), semantic=stripes(1, 2))]
    data = semantic(readers={"train": FakeReader(samples, (0, 1, 2, 3))}, tasks=4)
    with pytest.raises(SplitError, match=r"task 3 \(c3\) has no training image under setting 'overlapped' among 2"):
        data.setup()


def test_parts_of_an_epoch_make_the_batches_of_one_process() -> None:
    from kc.data.dataset import SeededSampler

    def orders(n: int, parts: int) -> list[list[int]]:
        samplers = [SeededSampler(n, shuffle=True, seed=3, task=1, part=i, parts=parts) for i in range(parts)]
        for sampler in samplers:
            sampler.set_epoch(2)
        found = [[position for _, position in sampler] for sampler in samplers]
        assert all(len(order) == len(sampler) for order, sampler in zip(found, samplers, strict=True))
        return found

    (alone,) = orders(12, 1)
    first, second = orders(12, 2)
    for start in range(0, 12, 4):  # batches of 4, as two of 2
        half = slice(start // 2, start // 2 + 2)
        assert sorted(first[half] + second[half]) == sorted(alone[start : start + 4])
    (alone,) = orders(7, 1)
    first, second = orders(7, 2)
    assert len(first) == len(second) == 4
    # One image keeps the processes in step; below 0, so that it can be left out of its batch.
    assert sorted(first + second) == sorted([*range(7), alone[0] - 7])


def test_parts_of_an_evaluation_are_each_image_once_in_as_many_batches() -> None:
    samples = [Sample(f"{i}", image(i), semantic=stripes(0, 1)) for i in range(9)]
    data = semantic(readers={s: FakeReader(samples, (0, 1)) for s in ("train", "test")}, tasks=1, batch_size=4)
    for parts in (2, 3, 4, 12):
        loaders = [data.loader("test", 0, part=i, parts=parts) for i in range(parts)]
        batches = [[batch["sample_id"] for batch in loader] for loader in loaders]
        assert len({len(own) for own in batches}) == 1
        seen = [name for own in batches for batch in own for name in batch]
        assert sorted(seen) == sorted(s.id for s in samples) if parts <= 9 else seen == [s.id for s in samples] * parts


def test_a_share_is_not_shared_out_again() -> None:
    samples = [Sample(f"{i}", image(i), semantic=stripes(0, 1)) for i in range(5)]
    data = semantic(readers={s: FakeReader(samples, (0, 1)) for s in ("train", "test")}, tasks=1, batch_size=2)
    task = data.task(0)
    task.trainer = SimpleNamespace(global_rank=1, world_size=2)  # type: ignore[assignment]
    for loader in (task.train_dataloader(), *task.test_dataloader()):
        assert isinstance(loader.sampler, DistributedSampler)
    assert not isinstance(data.loader("train", 0, shuffle=True).sampler, DistributedSampler)
    whole, last = len(task.train_dataloader()), list(task.train_dataloader())[-1]
    assert whole == 3
    assert last["repeated"] == [True]  # the fifth image is with the other process
    assert [len(batch["sample_id"]) for batch in data.loader("train", 0, shuffle=True)] == [2, 2, 1]


def test_a_benchmark_of_questions_alone_makes_no_stream() -> None:
    with pytest.raises(DataError, match="imagenet-a has no training images"):
        IncrementalDataModule("imagenet-a", tasks=2)
