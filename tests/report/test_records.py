"""results.json: what it accepts, refuses, writes and averages."""

from __future__ import annotations

import copy
import csv
import json
import math
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from jsonschema import Draft202012Validator
from pydantic import ValidationError

from kc.errors import RunError
from kc.report.merge import merge_seeds
from kc.report.records import METRIC_NAMES, SCHEMA_PATH, Results, metrics_csv

SCHEMA = Draft202012Validator(json.loads(SCHEMA_PATH.read_text()))
Make = Callable[..., Results]


def accepts(data: Any) -> tuple[bool, bool]:
    """(model, schema)."""
    try:
        Results.model_validate(data)
        model = True
    except ValidationError:
        model = False
    return model, SCHEMA.is_valid(data)


def test_the_schema_is_a_schema() -> None:
    Draft202012Validator.check_schema(SCHEMA.schema)


def test_round_trip_is_exact_and_stable(make_results: Make, tmp_path: Path) -> None:
    results = make_results(4, seeds=(0, 7))
    path = tmp_path / "new" / "results.json"
    results.save(path)
    assert Results.load(path) == results
    first = path.read_bytes()
    Results.load(path).save(path)
    assert path.read_bytes() == first
    text = first.decode()
    assert "NaN" not in text
    assert SCHEMA.is_valid(json.loads(text))
    assert list(json.loads(text)) == [
        "schema", "benchmark", "task_kind", "split", "setting", "seed", "tasks", "methods", "versions", "fingerprints",
        "config",
    ]  # fmt: skip
    assert os.listdir(path.parent) == ["results.json"]


def test_rows_of_a_matrix_are_lines_and_strings_are_untouched(make_results: Make, tmp_path: Path) -> None:
    results = make_results(3)
    results.config["note"] = "a [  1,\n 2 ] b"
    results.save(tmp_path / "r.json")
    assert Results.load(tmp_path / "r.json").config["note"] == "a [  1,\n 2 ] b"
    lines = (tmp_path / "r.json").read_text().splitlines()
    assert sum(line.strip().startswith("[0.") for line in lines) == 3 * 4


def edits() -> dict[str, Callable[[dict[str, Any]], object]]:
    """Changes to a valid record; the model and the schema must judge each alike."""

    def method(d: dict[str, Any]) -> dict[str, Any]:
        found: dict[str, Any] = d["methods"][0]
        return found

    return {
        # accepted
        "unchanged": lambda d: None,
        "split named": lambda d: d.update(split="15-1"),
        "no split": lambda d: d.pop("split"),
        "no config": lambda d: (d.pop("config"), d.pop("versions"), d.pop("fingerprints")),
        "list of seeds": lambda d: d.update(seed=[0, 1, 2]),
        "null score": lambda d: method(d)["matrix"][0].__setitem__(1, None),
        "whole number as float": lambda d: d.update(seed=0.0),
        "integer score": lambda d: method(d)["matrix"][0].__setitem__(0, 1),
        "empty final": lambda d: method(d).update(final={}),
        "metrics left out": lambda d: method(d).update(metrics={}),
        "deep config": lambda d: d.update(config={"a": [1, {"b": None}], "c": True}),
        # refused
        "schema 2": lambda d: d.update(schema=2),
        "schema true": lambda d: d.update(schema=True),
        "schema as text": lambda d: d.update(schema="1"),
        "unknown key": lambda d: d.update(extra=1),
        "unknown key in method": lambda d: method(d).update(extra=1),
        "unknown key in cost": lambda d: method(d)["cost"][0].update(extra=1),
        "no benchmark": lambda d: d.pop("benchmark"),
        "empty benchmark": lambda d: d.update(benchmark=""),
        "no setting": lambda d: d.pop("setting"),
        "wrong setting": lambda d: d.update(setting="Overlapped"),
        "wrong kind": lambda d: d.update(task_kind="detection"),
        "seed text": lambda d: d.update(seed="0"),
        "seed true": lambda d: d.update(seed=True),
        "seed half": lambda d: d.update(seed=0.5),
        "seed negative": lambda d: d.update(seed=-1),
        "no seeds": lambda d: d.update(seed=[]),
        "seed null": lambda d: d.update(seed=None),
        "no tasks": lambda d: d.update(tasks=[]),
        "empty task": lambda d: d["tasks"].__setitem__(0, []),
        "class number": lambda d: d["tasks"][0].__setitem__(0, 3),
        "no methods": lambda d: d.update(methods=[]),
        "method without seed": lambda d: method(d).pop("seed"),
        "method without seen": lambda d: method(d).pop("seen"),
        "score above one": lambda d: method(d)["matrix"][0].__setitem__(0, 1.01),
        "score negative": lambda d: method(d)["seen"].__setitem__(0, -0.1),
        "score text": lambda d: method(d)["seen"].__setitem__(0, "0.5"),
        "score true": lambda d: method(d)["seen"].__setitem__(0, True),
        "matrix null": lambda d: method(d).update(matrix=None),
        "row null": lambda d: method(d)["matrix"].__setitem__(0, None),
        "unknown metric": lambda d: method(d)["metrics"].update(plasticity=0.1),
        "forgetting beyond one": lambda d: method(d)["metrics"].update(forgetting=-1.5),
        "average negative": lambda d: method(d)["metrics"].update(average=-0.5),
        "reason of no metric": lambda d: method(d)["undefined"].update(plasticity="x"),
        "reason null": lambda d: method(d)["undefined"].update(forgetting=None),
        "final text": lambda d: method(d)["final"].update(pq="0.5"),
        "cost without bytes": lambda d: method(d)["cost"][0].pop("stored_bytes"),
        "half a byte": lambda d: method(d)["cost"][0].update(stored_bytes=0.5),
        "negative seconds": lambda d: method(d)["cost"][0].update(seconds=-1),
        "null seconds": lambda d: method(d)["cost"][0].update(seconds=None),
        "version number": lambda d: d["versions"].update(torch=2.6),
        "config list": lambda d: d.update(config=[]),
        "not an object": lambda d: d.clear(),
    }


ACCEPTED = list(edits()).index("schema 2")


@pytest.mark.parametrize("name", edits())
def test_model_and_schema_agree(name: str, make_results: Make) -> None:
    data = make_results(2, methods=("finetune",)).model_dump(mode="json", by_alias=True)
    if name == "list of seeds":
        assert data["methods"][0]["seed"] == 0
    edits()[name](data)
    expected = list(edits()).index(name) < ACCEPTED
    assert accepts(data) == (expected, expected)


def test_model_and_schema_name_the_same_fields() -> None:
    generated = Results.model_json_schema(by_alias=True)
    written = SCHEMA.schema
    assert set(generated["properties"]) == set(written["properties"])
    assert set(generated["required"]) <= set(written["required"])
    for model, key in [("MethodResult", "method"), ("Metrics", "metrics"), ("Cost", "cost")]:
        assert set(generated["$defs"][model]["properties"]) == set(written["$defs"][key]["properties"])
        assert set(generated["$defs"][model].get("required", [])) == set(written["$defs"][key].get("required", []))
    assert written["$defs"]["metric_name"]["enum"] == list(METRIC_NAMES)


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (lambda d: d["methods"][0]["matrix"].pop(), "the matrix must be 3 x 3"),
        (lambda d: d["methods"][0]["matrix"][1].pop(), "the matrix must be 3 x 3"),
        (lambda d: d["methods"][0]["seen"].pop(), "'seen' has 2 entries for 3 tasks"),
        (lambda d: d["methods"][0]["cost"].pop(), "'cost' has 2 entries"),
        (lambda d: d["methods"][0]["per_class"]["one"].pop(), "'one' has 2 entries"),
        (lambda d: d["methods"][0]["per_class"].update(cat=[0, 0, 0]), "classes of no task: cat"),
        (lambda d: d["methods"].append(copy.deepcopy(d["methods"][0])), "is there twice"),
        (lambda d: d.update(seed=5), r"the run's seeds are \[5\]"),
    ],
)
def test_what_a_schema_cannot_compare(edit: Callable[[Any], None], words: str, make_results: Make) -> None:
    data = make_results(3).model_dump(mode="json", by_alias=True)
    edit(data)
    with pytest.raises(ValidationError, match=words):
        Results.model_validate(data)


def test_one_metric_for_all_seeds(make_results: Make) -> None:
    data = make_results(3, methods=("knn",), seeds=(0, 1)).model_dump(mode="json", by_alias=True)
    data["methods"][1]["metric"] = "pq"
    with pytest.raises(ValidationError, match="metric 'pq', elsewhere 'miou'"):
        Results.model_validate(data)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "not JSON"),
        (b'{"schema": 1, "bench', "may be cut short"),
        (b"[]", "expected an object, found list"),
        (b'{"schema": 2}', "schema 2, this version of kc reads schema 1"),
        (b"{}", "schema None"),
        (b'{"schema": NaN}', "NaN is no number of JSON"),
        (b'{"schema": 1, "benchmark": 3}', "benchmark: Input should be a valid string"),
        (b"\xff\xfe", "not UTF-8"),
    ],
)
def test_bad_files_are_named(content: bytes, words: str, tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    path.write_bytes(content)
    with pytest.raises(RunError, match=words) as caught:
        Results.load(path)
    assert str(path) in str(caught.value)


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="cannot be read"):
        Results.load(tmp_path / "none.json")


def test_a_failed_write_leaves_the_old_file(
    make_results: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "results.json"
    make_results(2).save(path)
    before = path.read_bytes()

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(RunError, match="No space left on device"):
        make_results(3).save(path)
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["results.json"]
    assert stat.S_IMODE(path.stat().st_mode) & 0o400


def test_a_file_where_a_folder_should_be(make_results: Make, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match="file"):
        make_results(2).save(tmp_path / "file" / "results.json")


@pytest.mark.parametrize("bad", [float("inf"), float("nan")])
def test_config_must_be_json(bad: float, make_results: Make) -> None:
    data = make_results(2).model_dump(mode="json", by_alias=True)
    data["config"]["rate"] = [bad]
    with pytest.raises(ValidationError, match="cannot be written as JSON"):
        Results.model_validate(data)


def test_numpy_values_become_plain(make_results: Make) -> None:
    data = make_results(2, methods=("knn",)).model_dump(mode="json", by_alias=True)
    data["methods"][0]["matrix"] = np.array([[0.5, np.nan], [0.25, 0.75]], dtype=np.float32)
    data["methods"][0]["seen"] = (np.float32(0.5), math.nan)
    data["methods"][0]["cost"][0]["stored_bytes"] = np.int64(12)
    method = Results.model_validate(data).methods[0]
    assert method.matrix == [[0.5, None], [0.25, 0.75]]
    assert method.seen == [0.5, None]
    assert type(method.cost[0].stored_bytes) is int
    assert np.isnan(method.array()[0, 1])


def test_metrics_csv(make_results: Make, tmp_path: Path) -> None:
    results = make_results(3, methods=("finetune", "knn"), seeds=(0, 1))
    results.methods[0].matrix[0][2] = None
    metrics_csv(results, tmp_path / "metrics.csv")
    with open(tmp_path / "metrics.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 2 * 2 * 3 * 3
    assert rows[2]["score"] == ""
    assert (rows[2]["task"], rows[2]["column"]) == ("1", "3")
    last = rows[-1]
    knn = results.methods[-1]
    assert (last["method"], last["seed"], last["task"], last["column"]) == ("knn", "1", "3", "3")
    assert float(last["score"]) == knn.matrix[2][2]
    assert float(last["seen_score"]) == knn.seen[2]
    assert int(last["stored_bytes"]) == knn.cost[2].stored_bytes


def test_merge_by_hand(make_results: Make) -> None:
    results = make_results(2, methods=("finetune", "knn"), seeds=(0, 1, 2))
    for method, average, forgetting, seconds in zip(
        results.methods[:3], (0.2, 0.4, 0.6), (0.5, None, 0.3), (1.0, 2.0, 6.0), strict=True
    ):
        method.metrics.average = average
        method.metrics.forgetting = forgetting
        method.cost[0].seconds, method.cost[1].seconds = seconds, 1.0
        method.cost[0].stored_bytes, method.cost[1].stored_bytes = 100, 40
    results.methods[1].undefined["forgetting"] = "task 1 has no test image"
    merged, other = merge_seeds(results)
    assert (merged.name, merged.seeds, other.name) == ("finetune", (0, 1, 2), "knn")
    average = merged.metrics["average"]
    assert average.mean == pytest.approx(0.4)
    assert average.deviation == pytest.approx(0.2)  # sqrt((0.04 + 0 + 0.04) / 2)
    assert math.isnan(merged.metrics["forgetting"].mean)
    assert merged.undefined["forgetting"] == "task 1 has no test image (seed 1)"
    assert merged.undefined["forward_transfer"] == "the score before any training was not measured"
    assert merged.cost["seconds"].mean == pytest.approx(4.0)
    assert merged.cost["stored_bytes"].mean == 40
    assert merged.matrix.mean == pytest.approx(np.mean([m.array() for m in results.methods[:3]], axis=0))


def test_one_seed_has_no_deviation(make_results: Make) -> None:
    merged = merge_seeds(make_results(2))[0]
    assert math.isnan(merged.metrics["average"].deviation)
    assert np.isnan(merged.seen.deviation).all()
