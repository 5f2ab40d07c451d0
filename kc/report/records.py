"""`results.json`: the one record of a run, as a typed model; everything else in this room is drawn from it.

Scores are fractions in [0, 1] (shown times 100 in tables). A value that does not exist is NaN or None in Python and
null in the file, never 0. Rows and columns of matrices are tasks in order; `R[t][i]` is the score on task i after
learning task t.
"""

from __future__ import annotations

import json
import math
import numbers
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Final, Literal, get_args

import numpy as np
import numpy.typing as npt
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    JsonValue,
    Strict,
    ValidationError,
    model_validator,
)

from kc.errors import RunError
from kc.files import csv_text, write_atomic
from kc.outside import read_json
from kc.types import Setting, TaskKind

SCHEMA_VERSION: Final = 1
SCHEMA_PATH: Final = Path(__file__).with_name("results.schema.json")

MetricName = Literal[
    "average", "average_incremental", "forgetting", "backward_transfer", "forward_transfer", "intransigence"
]
METRIC_NAMES: Final[tuple[MetricName, ...]] = get_args(MetricName)
COST_NAMES: Final = ("seconds", "peak_rss_bytes", "trained_parameters", "stored_bytes")

FloatArray = npt.NDArray[np.float64]
_MOST_BYTES = 1 << 28
_MOST_COUNT = (1 << 63) - 1
_MOST_SECONDS = 1e12


def _number(value: object) -> object:
    """Plain float of any real number (numpy scalars too); NaN, the mark of an undefined value, becomes None."""
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        return value
    try:
        plain = float(value)
    except OverflowError:
        return value
    return None if math.isnan(plain) else plain


def _integer(value: object) -> object:
    """Plain int of any whole number. JSON does not tell 1.0 from 1, so neither do we."""
    if isinstance(value, bool):
        return value
    whole = isinstance(value, numbers.Integral) or (isinstance(value, float) and value.is_integer())
    return int(value) if whole else value  # type: ignore[call-overload]


def _plain(value: object) -> object:
    """Nested lists of a numpy array or tensor; anything else unchanged."""
    return value.tolist() if hasattr(value, "tolist") else value


def _finite(value: JsonValue) -> JsonValue:
    """Refuses NaN and infinity anywhere in free-form JSON, because the file could not be read back elsewhere."""
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{value} cannot be written as JSON")
    for item in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        _finite(item)
    return value


Str = Annotated[str, Strict()]
Name = Annotated[str, Strict(), Field(min_length=1)]
Count = Annotated[int, BeforeValidator(_integer), Strict(), Field(ge=0, le=_MOST_COUNT)]
Seconds = Annotated[float, BeforeValidator(_number), Strict(), Field(ge=0, le=_MOST_SECONDS, allow_inf_nan=False)]
_Unit = Annotated[float, Strict(), Field(ge=0, le=1)]
_Signed = Annotated[float, Strict(), Field(ge=-1, le=1)]
Score = Annotated[_Unit | None, BeforeValidator(_number)]
Difference = Annotated[_Signed | None, BeforeValidator(_number)]
Scores = Annotated[list[Score], BeforeValidator(_plain)]
Matrix = Annotated[list[Scores], BeforeValidator(_plain)]
FreeForm = dict[Str, Annotated[JsonValue, AfterValidator(_finite)]]


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", populate_by_name=True)


class Metrics(_Record):
    """The continual metrics of one method and seed (METHODS 5); None where one is undefined."""

    average: Score = None
    average_incremental: Score = None
    forgetting: Difference = None
    backward_transfer: Difference = None
    forward_transfer: Difference = None
    intransigence: Difference = None


class Cost(_Record):
    """What one task cost: wall seconds of learning, peak resident bytes of the process, parameters with a gradient,
    bytes the method keeps after the task (weights it changed, buffer, memory)."""

    seconds: Seconds
    peak_rss_bytes: Count
    trained_parameters: Count
    stored_bytes: Count


class MethodResult(_Record):
    """One method with one seed over the whole stream of T tasks.

    `matrix` (T, T); `seen` (T,) score on all classes seen after each task; `per_class` class name -> (T,);
    `final` named scores after the last task on all classes; `confusion` then, of the pixels (or images) of old and new
    classes, the shares that are right, or taken for another old or new class or for none; `undefined` metric -> why it
    is None.
    """

    name: Name
    seed: Count
    config: FreeForm = {}
    metric: Name
    matrix: Matrix
    metrics: Metrics
    undefined: dict[MetricName, Str] = {}
    seen: Scores
    final: dict[Name, Score] = {}
    confusion: dict[Name, Score] = {}
    per_class: dict[Name, Scores] = {}
    cost: list[Cost]
    all_images: Annotated[bool, Strict()] = False
    """Whether it reads the images of all earlier tasks again, whose bytes are not in `cost`."""
    versions: dict[Name, Str] = {}
    """Where its tasks were computed with other versions than those of the run: all, in order, separated by commas."""

    def array(self) -> FloatArray:
        """The score matrix, (T, T) float64 in [0, 1], NaN where undefined."""
        return as_array(self.matrix)


class Results(_Record):
    """A whole run: the stream and every method on it. Field by field the content of `results.json`."""

    schema_version: Annotated[int, BeforeValidator(_integer), Strict(), Field(ge=1, le=1, alias="schema")] = 1
    benchmark: Name
    task_kind: TaskKind
    split: Str | None = None
    setting: Setting
    seed: Count | Annotated[list[Count], Field(min_length=1)]
    tasks: Annotated[list[Annotated[list[Name], Field(min_length=1)]], Field(min_length=1)]
    methods: Annotated[list[MethodResult], Field(min_length=1)]
    versions: dict[Name, Str] = {}
    fingerprints: dict[Name, Str] = {}
    accepted_changes: list[Str] = []
    """What was not as when the run was started, when it was resumed with --accept-changes."""
    config: FreeForm = {}
    read_bytes: Annotated[list[Count], Field(min_length=1)] | None = None
    """From shards: bytes that one pass over the training images of each task reads (T,); None from other sources."""

    @model_validator(mode="after")
    def _fits_the_stream(self) -> Results:
        """Sizes and names that a JSON schema cannot compare with one another."""
        n, known = len(self.tasks), {name for task in self.tasks for name in task}
        if self.read_bytes is not None and len(self.read_bytes) != n:
            raise ValueError(f"read_bytes has {len(self.read_bytes)} entries for {n} tasks")
        done: set[tuple[str, int]] = set()
        metric_of: dict[str, str] = {}
        for method in self.methods:
            who = f"method {method.name!r}, seed {method.seed}"
            if len(method.matrix) != n or any(len(row) != n for row in method.matrix):
                raise ValueError(f"{who}: the matrix must be {n} x {n}, one row and one column a task")
            lengths = {"seen": len(method.seen), "cost": len(method.cost)}
            for label, length in (lengths | {c: len(s) for c, s in method.per_class.items()}).items():
                if length != n:
                    raise ValueError(f"{who}: {label!r} has {length} entries for {n} tasks")
            if strange := sorted(set(method.per_class) - known):
                raise ValueError(f"{who}: per_class names classes of no task: {', '.join(strange)}")
            if method.seed not in self.seeds:
                raise ValueError(f"{who}: the run's seeds are {list(self.seeds)}")
            if (method.name, method.seed) in done:
                raise ValueError(f"{who} is there twice")
            if metric_of.setdefault(method.name, method.metric) != method.metric:
                raise ValueError(f"{who}: metric {method.metric!r}, elsewhere {metric_of[method.name]!r}")
            done.add((method.name, method.seed))
        return self

    @property
    def seeds(self) -> tuple[int, ...]:
        """Every seed of the run."""
        return tuple(self.seed) if isinstance(self.seed, list) else (self.seed,)

    def save(self, path: Path) -> None:
        """Write `results.json` at once or not at all. Raises RunError when the place cannot be written."""
        data = self.model_dump(mode="json", by_alias=True)
        order = {name: i for i, name in enumerate(name for task in self.tasks for name in task)}
        for key in ("read_bytes", "accepted_changes"):
            if not data[key]:
                del data[key]
        for method in data["methods"]:
            for key in ("all_images", "versions"):
                if not method[key]:
                    del method[key]
        for key in ("versions", "fingerprints", "config"):
            data[key] = _sorted(data[key])
        for method in data["methods"]:
            for key in ("config", "undefined", "final", "confusion"):
                method[key] = _sorted(method[key])
            method["per_class"] = dict(sorted(method["per_class"].items(), key=lambda item: order[item[0]]))
        text = json.dumps(data, indent=1, ensure_ascii=False, allow_nan=False)
        # Rows of a matrix on one line each. A JSON string holds no bare line break, so this cannot touch one.
        text = re.sub(r"\[\n\s*([^\[\]{}\"]*?)\n\s*\]", lambda m: "[" + re.sub(r"\s*\n\s*", " ", m[1]) + "]", text)
        write_atomic(path, (text + "\n").encode())

    @classmethod
    def load(cls, path: Path) -> Results:
        """Read a `results.json`. Raises RunError naming the file and what is wrong with it."""
        try:
            data = read_json(path, most=_MOST_BYTES, error=RunError)
        except RunError as error:
            raise RunError(f"{error}; expected the results.json of a run, and it may be cut short") from error
        if not isinstance(data, dict):
            raise RunError(f"{path}: not a results file (expected an object, found {type(data).__name__})")
        if data.get("schema") != SCHEMA_VERSION:
            raise RunError(
                f"{path}: schema {data.get('schema')!r}, this version of kc reads schema {SCHEMA_VERSION}; "
                "open it with the version that wrote it, or run again"
            )
        try:
            return cls.model_validate(data)
        except ValidationError as error:
            raise RunError(f"{path}: not a valid results file\n{explain(error)}") from error


def explain(error: ValidationError, limit: int = 5) -> str:
    """The first `limit` problems of a pydantic error, one line each: where, and what."""
    problems = error.errors(include_url=False)
    lines = [f"  {'.'.join(map(str, p['loc'])) or 'file'}: {p['msg']}" for p in problems[:limit]]
    if len(problems) > limit:
        lines.append(f"  and {len(problems) - limit} more")
    return "\n".join(lines)


def _sorted(value: Any) -> Any:
    """Objects with their keys in order, at every depth: two equal runs give the same bytes."""
    if isinstance(value, dict):
        return {key: _sorted(value[key]) for key in sorted(value)}
    return [_sorted(item) for item in value] if isinstance(value, list) else value


def nan_to_null(value: Any) -> Any:
    """A value as JSON can hold it: NaN is null, tuples and arrays are lists, numpy's numbers are Python's."""
    if isinstance(value, np.generic | np.ndarray):
        value = value.tolist()
    if isinstance(value, Mapping):
        return {k: nan_to_null(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [nan_to_null(v) for v in value]
    return None if isinstance(value, float) and math.isnan(value) else value


def as_array(rows: Sequence[Score] | Sequence[Sequence[Score]]) -> FloatArray:
    """Scores as float64 of the same shape, NaN for None."""
    return np.array(rows, dtype=object).astype(np.float64)


def metrics_csv(results: Results, path: Path) -> None:
    """Write one row per (method, seed, task t, column i), tasks counted from 1; an undefined score is empty.

    `score` is R[t, i]; `seen_score` and the costs belong to task t and repeat over its columns. Raises RunError.
    """
    rows: list[list[object]] = [["method", "seed", "metric", "task", "column", "score", "seen_score", *COST_NAMES]]
    for m in results.methods:
        for t, (row, cost) in enumerate(zip(m.matrix, m.cost, strict=True)):
            costs = [getattr(cost, name) for name in COST_NAMES]
            rows += [[m.name, m.seed, m.metric, t + 1, i + 1, score, m.seen[t], *costs] for i, score in enumerate(row)]
    write_atomic(path, csv_text(rows).encode())
