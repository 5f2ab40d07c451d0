"""examples/ runs as it stands, and does what its first lines say."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from PIL import Image

from kc.data.datamodule import IncrementalDataModule

EXAMPLES = Path(__file__).parents[1] / "examples"


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"examples_{name}", EXAMPLES / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_there_are_three_and_each_says_how_to_run_it() -> None:
    files = sorted(EXAMPLES.glob("*.py"))
    assert [f.stem for f in files] == ["avalanche_loop", "own_folder", "own_module"]
    for file in files:
        assert f"python examples/{file.name}" in file.read_text(encoding="utf-8")


def test_a_module_of_its_own_learns_and_forgets_on_the_stream() -> None:
    matrix = load("own_module").run(limit_images=300)
    assert matrix.shape == (5, 5)
    assert np.isnan(matrix[np.triu_indices(5, 1)]).all()
    assert np.diagonal(matrix).min() > 0.7, "each task is learned"
    assert matrix[-1, :-1].max() < 0.2, "and nothing holds what came before"


def test_our_methods_on_a_folder_of_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    example = load("own_folder")
    rng = np.random.default_rng(0)
    colours = {"red_apple": (200, 30, 30), "pear": (180, 190, 40), "plum": (90, 30, 120), "sky": (90, 150, 230)}
    for name, colour in colours.items():
        (tmp_path / "my pictures" / name).mkdir(parents=True)
        for i in range(10):
            noisy = np.clip(np.array(colour) + rng.integers(-20, 21, (40, 50, 3)), 0, 255).astype(np.uint8)
            Image.fromarray(noisy).save(tmp_path / "my pictures" / name / f"{i}.jpg")
    (tmp_path / "my pictures" / ".thumbnails").mkdir()
    monkeypatch.chdir(tmp_path)
    folder = example.compare(Path("my pictures"), tmp_path / "runs", methods="ncm,knn")
    results = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    assert results["tasks"] == [["pear", "plum"], ["red apple", "sky"]]
    assert {m["name"]: m["matrix"][-1] for m in results["methods"]} == {"ncm": [1.0, 1.0], "knn": [1.0, 1.0]}
    data = IncrementalDataModule(str(tmp_path / "runs" / "own-folder.yaml"), tasks=2, data_root=tmp_path)
    images = {split: sum(data.n_images(split, task.index) for task in data.tasks) for split in ("train", "test")}
    assert images == {"train": 32, "test": 8}


def test_avalanche_trains_on_our_tasks_and_counts_as_we_do() -> None:
    pytest.importorskip("avalanche", reason="the extra `avalanche` is not installed")
    import torch

    example = load("avalanche_loop")
    data = IncrementalDataModule("digits", split="2x5", batch_size=16, limit_images=300)
    benchmark = example.scenario(data)
    for task, experience in zip(data.tasks, benchmark.train_stream, strict=True):
        assert experience.classes_in_this_experience == set(task.class_ids)
        assert len(experience.dataset) == data.n_images("train", task.index)
    final = {}
    for replay in (0, 100):
        network, measured = example.learn(data, replay)
        of_tasks = []
        for task in data.tasks:
            hits = []
            for batch in data.loader("test", task.index, at=4):
                with torch.no_grad():
                    hits += (network(batch["image"]).argmax(1) == batch["label"]).tolist()
            of_tasks.append(np.mean(hits))
        theirs = [measured[f"Top1_Acc_Exp/eval_phase/test_stream/Exp{i:03d}"] for i in range(5)]
        assert theirs == pytest.approx(of_tasks)
        final[replay] = measured["Top1_Acc_Stream/eval_phase/test_stream"]
    assert final[0] < 0.3
    assert final[100] > 2 * final[0]
