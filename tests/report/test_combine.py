"""Several runs as one record: what is merged, what is told apart, what is refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kc.errors import RunError
from kc.report.combine import Run, combine, open_runs
from kc.report.examples import save_example, save_prediction
from kc.report.merge import merge_seeds
from kc.report.records import Results
from kc.types import ClassInfo

Make = Callable[..., Results]


def run(where: Path, name: str, results: Results, **settings: Any) -> Run:
    """A finished run on disk, its methods told `settings`."""
    for method in results.methods:
        method.config |= settings
    results.config |= settings
    results.save(where / name / "results.json")
    return open_runs([where / name])[0]


def test_methods_stand_side_by_side_and_seeds_are_merged(make_results: Make, tmp_path: Path) -> None:
    one, two = make_results(3, methods=("finetune", "knn")), make_results(3, methods=("knn", "joint"), seeds=(1, 2))
    one.methods[1].metrics.average, two.methods[0].metrics.average, two.methods[1].metrics.average = 0.5, 0.6, 0.7
    runs = [run(tmp_path, "a", one), run(tmp_path, "b", two)]
    results = combine(runs).results
    assert [(m.name, m.seed) for m in results.methods] == [
        ("finetune", 0), ("knn", 0), ("knn", 1), ("knn", 2), ("joint", 1), ("joint", 2)
    ]  # fmt: skip
    assert results.seeds == (0, 1, 2)
    knn = merge_seeds(results)[1]
    average = knn.metrics["average"]
    assert (average.mean, average.deviation, len(knn.seeds)) == (pytest.approx(0.6), pytest.approx(0.1), 3)
    assert combine(runs[:1]).results == runs[0].results
    results.save(tmp_path / "both" / "results.json")  # a record like any other
    assert Results.load(tmp_path / "both" / "results.json") == results


def test_a_method_of_other_settings_is_another_method(make_results: Make, tmp_path: Path) -> None:
    runs = [run(tmp_path, f"k{k}", make_results(2, methods=("finetune", "knn")), k=k) for k in (8, 16)]
    names = [m.name for m in combine(runs).results.methods]
    assert names == ["finetune (k 8)", "knn (k 8)", "finetune (k 16)", "knn (k 16)"]
    many = [
        run(tmp_path, f"m{i}", make_results(2, methods=("knn",)), k=i, tau=i, fuse_threshold=i, methods="knn", seed=i)
        for i in (1, 2)
    ]
    assert [m.name for m in combine(many).results.methods] == ["knn #1", "knn #2"]
    assert combine(many).results.config["m2"] == {"k": 2, "tau": 2, "fuse_threshold": 2, "seed": 2}


def test_another_encoder_is_another_setting(make_results: Make, tmp_path: Path) -> None:
    one, two = make_results(2, methods=("knn",)), make_results(2, methods=("knn",))
    two.fingerprints["encoder"] = "other:1"
    both = combine([run(tmp_path, "a", one), run(tmp_path, "b", two)]).results
    assert [m.name for m in both.methods] == ["knn #1", "knn #2"]  # a fingerprint is too long for a name
    assert both.fingerprints["encoder"] == "lite0:0123456789abcdef (a); other:1 (b)"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"setting": "disjoint"}, r"differ in setting \(overlapped; disjoint\)$"),
        ({"fingerprints": {"benchmark": "cd" * 32}}, r"content of the benchmark \(abababababab; cdcdcdcdcdcd\)"),
        ({"config": {"limit_images": 9}}, r"limit_images \(None; 9\)"),
        ({"tasks": [["background", "zero"], ["two"]]}, r"classes of task 2 \(one; two\)"),
    ],
)
def test_other_protocols_are_refused(change: dict[str, Any], said: str, make_results: Make, tmp_path: Path) -> None:
    data = make_results(2, methods=("knn",)).model_dump(by_alias=True)
    if "tasks" in change:
        data["methods"][0]["per_class"] = {}
    runs = [run(tmp_path, "a", make_results(2)), run(tmp_path, "b", Results.model_validate(data | change))]
    with pytest.raises(RunError, match="a and b do not follow the same protocol.*" + said):
        combine(runs)


def test_another_number_of_tasks_is_said_first(make_results: Make, tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"number of tasks \(2; 8\), classes of task 3 \(none; two\), .* and 4 more$"):
        combine([run(tmp_path, "a", make_results(2)), run(tmp_path, "b", make_results(8))])


def test_the_same_twice_is_refused(make_results: Make, tmp_path: Path) -> None:
    runs = [run(tmp_path, name, make_results(2, methods=("knn",))) for name in "ab"]
    with pytest.raises(RunError, match="knn with seed 0 is in a and in b, with the same settings"):
        combine(runs)
    with pytest.raises(RunError, match="given twice"):
        open_runs([tmp_path / "a", tmp_path / "a" / "results.json"])


def test_unfinished_and_missing_runs(tmp_path: Path) -> None:
    (tmp_path / "my run").mkdir()
    (tmp_path / "my run" / "config.yaml").write_text("k: 1")
    with pytest.raises(RunError, match=r"is not finished: kc run --resume '.*/my run'$"):
        open_runs([tmp_path / "my run"])
    with pytest.raises(RunError, match="cannot be read"):
        open_runs([tmp_path / "nothing"])


def test_runs_go_by_the_time_in_their_names(make_results: Make, tmp_path: Path) -> None:
    assert run(tmp_path, "20261121-digit-scenes", make_results(2)).name == "20261121"


def test_runs_of_one_name_are_told_apart(make_results: Make, tmp_path: Path) -> None:
    for place in "xy":
        make_results(2).save(tmp_path / place / "run" / "results.json")
    names = [r.name for r in open_runs([tmp_path / p / "run" for p in "xy"])]
    assert names == [str(tmp_path / p / "run") for p in "xy"]


def test_another_machine_is_said(make_results: Make, tmp_path: Path) -> None:
    other = make_results(2, methods=("knn",), seeds=(1,))
    other.versions["cpus"] = "64"
    both = combine([run(tmp_path, "a", make_results(2, methods=("knn",))), run(tmp_path, "b", other)])
    assert both.notes == ("Runs: #1 a, #2 b.", "The runs were made with different cpus: compare times with care.")
    assert both.results.versions["cpus"] == "not recorded (a); 64 (b)"


def test_pictures_of_one_image_come_together(make_results: Make, tmp_path: Path) -> None:
    image, infos = np.zeros((4, 4, 3), np.uint8), [ClassInfo(0, "a"), ClassInfo(1, "b")]
    truth = np.eye(4, dtype=np.int64)
    runs = []
    for name, method in (("a", "finetune"), ("b", "joint")):
        runs.append(run(tmp_path, name, make_results(2, methods=(method, "knn")), k=8 if name == "a" else 9))
        save_example(tmp_path / name / "examples", "one", image, truth, infos)
        save_prediction(tmp_path / name / "examples", "one", "knn", truth * 0)
        save_prediction(tmp_path / name / "examples", "one", method, truth)
    save_example(tmp_path / "b" / "examples", "two", image, truth, infos)
    for name, light in (("a", 0), ("b", 9)):
        save_example(tmp_path / name / "examples", "unlike", image + np.uint8(light), truth, infos)
    one, two, *unlike = combine(runs).examples
    assert [e.name for e in unlike] == ["unlike", "unlike of b"]
    assert set(one.predictions) == {"finetune", "joint", "knn (k 8)", "knn (k 9)"}
    assert (two.name, two.predictions) == ("two", {})


def test_runs_on_other_images_are_refused_and_folders_known_by_stamps_are_told(
    make_results: Make, tmp_path: Path
) -> None:
    def of(name: str, data: str, seed: int) -> Run:
        results = make_results(2, methods=("knn",), seeds=(seed,))
        results.fingerprints["data"] = data
        return run(tmp_path, name, results)

    with pytest.raises(RunError, match="contents of the data"):
        combine([of("a", "1" * 32, 0), of("b", "2" * 32, 1)])
    both = combine([of("c", "stamps-1", 0), of("d", "stamps-2", 1)])
    assert [m.name for m in both.results.methods] == ["knn", "knn"]
    assert "too large to be compared" in both.notes[-1]
