"""`kc remember` into the memory of a run; `kc memory snapshot`, `reweight` and `migrate`."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import yaml
from PIL import Image

from kc.cli import main
from kc.memory.disk import Memory
from kc.memory.store import manifest as manifests
from kc.memory.vote.pruning import leave_one_out, soft


def kc(capsys: pytest.CaptureFixture[str], *arguments: object, status: int = 0) -> str:
    assert main([str(a) for a in arguments]) == status
    said = capsys.readouterr()
    return " ".join((said.err if status == 2 else said.out).split())


@pytest.fixture
def made(tiny_folder: SimpleNamespace, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> SimpleNamespace:
    """A run of `knn` with lite0 over three colours, its memory, and the folder of its data."""
    # At 16 x 16 pixels the plain colours of this benchmark have features of length 0.
    tiny_folder.path.write_text(yaml.safe_dump(tiny_folder.content | {"input_size": [64, 64]}))
    wanted = ["--methods", "knn", "--tasks", 3, "--knn.k", 5, "--wandb", "disabled", "--out", tmp_path / "runs"]
    kc(capsys, "run", "--benchmark", tiny_folder.path, "--data-root", tiny_folder.root, *wanted)
    (run,) = (tmp_path / "runs").iterdir()
    return SimpleNamespace(memory=run / "methods" / "knn-s0" / "memory", data=tiny_folder.root, path=tiny_folder.path)


def _stop() -> None:
    raise KeyboardInterrupt


def picture(path: Path, seed: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (20, 20, 3)).astype(np.uint8)).save(path)


def test_folders_of_images_join_a_memory(
    made: SimpleNamespace, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for i, name in enumerate(("red/a.png", "red/b.png", "noise/c.png")):
        picture(tmp_path / "more" / name, i)
    told = ["remember", tmp_path / "more", "--memory", made.memory]
    said = kc(capsys, *told, "--dry-run")
    assert "noise: 1 new rows from 1 picture red: 2 new rows from 2 pictures" in said
    assert "rows: 12 before, 15 after; would be task 4" in said
    assert len(Memory.open(made.memory)) == 12
    assert "noise" not in Memory.open(made.memory).class_names.values()
    assert "rows: 12 before, 15 after; task 4" in kc(capsys, *told, "--source", "phone")
    memory = Memory.open(made.memory)
    assert memory.class_names == {0: "red", 1: "green leaf", 2: "blue", 3: "noise"}
    rows = memory.rows_of(memory.ids(source="phone"))
    names = ["remembered/noise/c.png", "remembered/red/a.png", "remembered/red/b.png"]
    assert [sample.rpartition(" ")[0] for sample in rows.sample_id] == names
    assert rows.class_id.tolist() == [3, 0, 0]
    assert [v.task for v in memory.versions()] == [0, 1, 2, 3]
    # The row of an image is the key that a search with this image finds.
    found = kc(capsys, "memory", "search", made.memory, tmp_path / "more" / "noise" / "c.png", "--k", 1)
    assert "noise" in found
    assert "1.0000" in found
    # Once more: nothing is stored twice. One folder of one class.
    for more in (["--dry-run"], []):
        assert "rows: 15 before, 15 after" in kc(capsys, *told, "--task", 4, *more)
    one = ["remember", tmp_path / "more" / "noise", "--memory", made.memory, "--name", "blue"]
    assert "rows: 15 before, 16 after; task 5" in kc(capsys, *one)
    for arguments, text in (
        ([tmp_path / "none"], "no such image or folder"),
        ([tmp_path / "more", "--task", 2], "expected a task from"),
        ([tmp_path / "more" / "red"], "--name"),
        ([tmp_path / "more", "--encoder", "mlp:8x1"], "--encoder mlp:8x1"),
    ):
        assert text in kc(capsys, "remember", *arguments, "--memory", made.memory, status=2)


def test_an_image_that_cannot_be_read_adds_nothing(
    made: SimpleNamespace, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for i, name in enumerate(("red/a.png", "red/b.png", "red/c.png")):
        picture(tmp_path / "more" / name, i)
    torn = tmp_path / "more" / "red" / "b.png"
    torn.write_bytes(torn.read_bytes()[:60])
    told = ["remember", tmp_path / "more", "--memory", made.memory]
    assert str(torn) in kc(capsys, *told, status=2)
    assert len(Memory.open(made.memory)) == 12
    assert [v.task for v in Memory.open(made.memory).versions()] == [0, 1, 2]
    picture(torn, 1)
    assert "rows: 12 before, 15 after; task 4" in kc(capsys, *told)


def test_snapshot_and_weights(made: SimpleNamespace, capsys: pytest.CaptureFixture[str]) -> None:
    path = made.memory
    said = kc(capsys, "memory", "reweight", path, "--class", "red", "--weight", 0.5, "--dry-run")
    assert "would give 4 rows a weight of 0.5" in said
    assert Memory.open(path).labels().weight.tolist() == [1.0] * 12
    assert "gave 4 rows a weight of 0.5" in kc(capsys, "memory", "reweight", path, "--class", "red", "--weight", 0.5)
    assert Memory.open(path).labels().weight.tolist() == [0.5] * 4 + [1.0] * 8
    assert "nothing to do" in kc(
        capsys, "memory", "reweight", path, "--class", "red", "--weight", 0.5, "--strict", status=1
    )
    assert "would be the version of task 4" in kc(capsys, "memory", "snapshot", path, "--dry-run")
    assert "is the version of task 4" in kc(capsys, "memory", "snapshot", path)
    assert "2 of them 0" in kc(capsys, "memory", "reweight", path, "--ids", "0,1", "--weight", 0)
    memory = Memory.open(path)
    assert memory.labels(3).weight.tolist() == [0.5] * 4 + [1.0] * 8
    assert memory.labels(2).weight.tolist() == [1.0] * 12
    with Memory.open(path, write=True) as writer:
        writer.reweight(range(12), 1.0)
        writer.relabel([0, 5], [1, 2])  # wrong labels, which pruning weighs down
    table = leave_one_out(Memory.open(path), 10)
    want = soft(table, k=10)
    kc(capsys, "memory", "reweight", path, "--prune", "soft")
    assert np.allclose(Memory.open(path).labels().weight, want)
    assert want.min() < 1
    number = manifests.load(path).number
    for again in (["reweight", path, "--prune", "soft"], ["snapshot", path], ["snapshot", path], ["compact", path],
                  ["reweight", path, "--prune", "soft"], ["snapshot", path]):  # fmt: skip
        kc(capsys, "memory", *again)
        assert np.allclose(Memory.open(path).labels().weight, want)
    # One snapshot, one compaction; what is repeated is no commit.
    assert [v.task for v in Memory.open(path).versions()] == [0, 1, 2, 3, 4]
    assert manifests.load(path).number <= number + 2
    # Rows that came, or were given another weight, since: every row is weighed once.
    with Memory.open(path, write=True) as writer:
        writer.relabel([1], [2])
        writer.reweight([11], [0.3])
    base = np.where(np.arange(12) == 11, 0.3, 1).astype(np.float32)
    want = base * soft(leave_one_out(Memory.open(path), 10), k=10)
    kc(capsys, "memory", "reweight", path, "--prune", "soft")
    assert np.allclose(Memory.open(path).labels().weight, want)
    kc(capsys, "memory", "compact", path, "--drop-history")
    assert "nothing to do" in kc(capsys, "memory", "reweight", path, "--prune", "soft")
    with Memory.open(path, write=True) as writer:
        writer.relabel([1], [1])
    assert "history was dropped" in kc(capsys, "memory", "reweight", path, "--prune", "soft", status=2)
    for arguments, text in (
        ([], "say one of --weight W"),
        (["--weight", 1, "--prune", "soft"], "say one of --weight W"),
        (["--weight", -1, "--ids", "0"], "at least 0"),
        (["--weight", 1], "say which rows"),
        (["--weight", 1, "--ids", "99"], "stores no row with id 99"),
        (["--prune", "sof"], "Did you mean 'soft'"),
    ):
        assert text in kc(capsys, "memory", "reweight", path, *arguments, status=2)


def test_to_another_encoder(
    made: SimpleNamespace, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "160")
    there = made.data / "tiny-folder" / "train"
    gone = [there / "red" / "0.png", there / "blue" / "2.png"]
    for path in gone:
        path.unlink()
    told = ["--to", "mlp:32x1", "--data-root", made.data]
    new = tmp_path / "new"
    said = kc(capsys, "memory", "migrate", made.memory, new, *told, "--dry-run")
    assert "would encode 10 rows again, mapped 2" in said
    assert not new.exists()
    said = kc(capsys, "memory", "migrate", made.memory, new, *told)
    assert "encoded 10 rows again, mapped 2" in said
    assert "ridge, fitted on the 10" in said
    figures = re.findall(r"│ (old|migrated|encoded again only), \S+ │ (\d+) │ ([\d.]+) │", said)
    assert {name: int(rows) for name, rows, _ in figures} == {"old": 12, "migrated": 12, "encoded again only": 10}
    old, memory = Memory.open(made.memory), Memory.open(new)
    assert memory.info.options["migration"]["from"] == old.fingerprint
    assert memory.info.options["migration"]["mapped"] == 2
    was, now = (m.rows_of(m.labels().id) for m in (old, memory))
    assert sorted(was.sample_id) == sorted(now.sample_id)
    marked = {s for s, source in zip(now.sample_id, now.source, strict=True) if source.startswith("migrated:")}
    assert marked == {"train/red/0.png", "train/blue/2.png"}
    classes = dict(zip(was.sample_id, was.class_id.tolist(), strict=True))
    assert dict(zip(now.sample_id, now.class_id.tolist(), strict=True)) == classes
    assert [v.task for v in memory.versions()] == [v.task for v in old.versions()]
    with monkeypatch.context() as stop:
        killed = [new.name]
        stop.setattr(Memory, "commit", lambda self, task: killed.append(self.path.name) or _stop())
        kc(capsys, "memory", "migrate", made.memory, tmp_path / "begun", *told, status=130)
    assert killed[1].startswith(".begun.")
    assert not (tmp_path / "begun").exists()
    kc(capsys, "memory", "migrate", made.memory, tmp_path / "turned", *told, "--fit", "orthogonal")
    assert Memory.open(tmp_path / "turned").info.options["migration"]["map"] == "orthogonal"
    shutil.rmtree(made.data / "tiny-folder" / "test")
    for arguments, text in (
        ([new, "--to", "lite0"], "is not empty"),
        ([tmp_path / "x", "--to", "lite0"], "holds keys of 'lite0' already"),
        ([tmp_path / "x"], "--to"),
        ([tmp_path / "x", "--to", "lite0", "--fit", "rigde"], "Did you mean 'ridge'"),
        ([tmp_path / "x", "--to", "mlp:32x1", "--data-root", tmp_path / "none"], "a map needs at least two"),
    ):
        assert text in kc(capsys, "memory", "migrate", made.memory, *arguments, status=2)
