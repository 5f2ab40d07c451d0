"""Several finished runs of one protocol as one record: methods side by side, seeds of equal settings together."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from pydantic import JsonValue

from kc.errors import RunError
from kc.report.examples import Example, load_examples
from kc.report.records import MethodResult, Results

_STREAMS = ("domain", "blurry", "long-tailed")
"""Kinds of stream with options of their own."""
_PROTOCOL = (
    "benchmark",
    "tasks",
    "split",
    "setting",
    "class_order",
    "limit_images",
    "image_lists",
    "stream",
    *_STREAMS,
)
"""Settings that are compared by what they lead to: the content of the benchmark, the classes of each task."""
_OF_DATA = ("benchmark", "data", "tasks", "image lists")
"""Fingerprints of what runs are compared on."""
_STAMPS = "stamps-"
"""How the key of a folder begins that is too large to be read (`kc.data.stamps`): two copies have two."""
_ELSEWHERE = ("seed", "methods", "data_root")
"""Settings that the methods of a run do not have in common, or that change no number."""
_LONGEST = 22  # characters of a name with settings; beyond, methods are settings apart by the number of their run


@dataclass(frozen=True)
class Run:
    """A finished run: the `name` it goes by in a comparison, its folder and its record."""

    name: str
    folder: Path
    results: Results


@dataclass(frozen=True)
class Comparison:
    """Runs as one record, their examples as one list, and what a reader must know before comparing numbers."""

    results: Results
    examples: list[Example]
    notes: tuple[str, ...] = ()


def open_runs(paths: Sequence[Path]) -> list[Run]:
    """The runs of these folders. Raises RunError for one that is not finished, or that is given twice."""
    folders = [path.parent if path.name == "results.json" else path for path in paths]
    places = [folder.resolve() for folder in folders]
    for i, place in enumerate(places):
        if place in places[:i]:
            raise RunError(f"{folders[i]} is given twice")
        if place.is_dir() and not (place / "results.json").exists() and (place / "config.yaml").exists():
            raise RunError(f"{folders[i]} is not finished: kc run --resume {shlex.quote(str(folders[i]))}")
    records = [Results.load(folder / "results.json") for folder in folders]
    # A run folder is called <time>-<benchmark>, and compared runs have one benchmark: the time is enough.
    names = [place.name.removesuffix(f"-{r.benchmark}") for place, r in zip(places, records, strict=True)]
    return [
        Run(name if names.count(name) == 1 else str(folder), folder, record)
        for name, folder, record in zip(names, folders, records, strict=True)
    ]


def combine(runs: Sequence[Run]) -> Comparison:
    """All methods of `runs` in one record; one run stays as it is.

    A method of several runs is one method with several seeds where its settings agree, else several methods, named
    after the settings in which they differ (`knn (k 8)`, `knn (k 16)`) or, where these are long, after the run
    (`knn #1`, `knn #2`, counted as given).
    Raises RunError where the protocols differ, saying in what, and where two runs have the same method, settings and
    seed. Intransigence is that of each run: joint training of another run is no reference for it.
    """
    if len(runs) == 1:
        return Comparison(runs[0].results, load_examples(runs[0].folder / "examples"))
    for run in runs[1:]:
        _same_protocol(runs[0], run)
    titles = _titles(runs)
    methods: list[MethodResult] = []
    found: dict[tuple[str, int], str] = {}
    for i, run in enumerate(runs):
        for m in run.results.methods:
            title = titles[i, m.name]
            if (before := found.setdefault((title, m.seed), run.name)) != run.name:
                raise RunError(
                    f"{m.name} with seed {m.seed} is in {before} and in {run.name}, with the same settings: "
                    "leave one of the runs out"
                )
            methods.append(m.model_copy(update={"name": title}))
    order = list(dict.fromkeys(m.name for m in methods))
    first = runs[0].results
    seeds = sorted({m.seed for m in methods})
    versions = _concatenated({run.name: run.results.versions for run in runs})
    results = Results(
        benchmark=first.benchmark,
        task_kind=first.task_kind,
        split=first.split,
        setting=first.setting,
        seed=seeds[0] if len(seeds) == 1 else seeds,
        tasks=first.tasks,
        methods=sorted(methods, key=lambda m: (order.index(m.name), m.seed)),
        versions=versions,
        fingerprints=_concatenated({run.name: run.results.fingerprints for run in runs}),
        accepted_changes=[f"{change} ({run.name})" for run in runs for change in run.results.accepted_changes],
        config=_configs(runs),
    )
    unlike = [k for k in ("platform", "cpus", "torch") if len({run.results.versions.get(k) for run in runs}) > 1]
    notes = [f"Runs: {', '.join(f'#{i + 1} {run.name}' for i, run in enumerate(runs))}."]
    if unlike:
        notes.append(f"The runs were made with different {', '.join(unlike)}: compare times with care.")
    if len({run.results.fingerprints.get("data") for run in runs}) > 1:
        notes.append("The runs read data folders that are too large to be compared by content, at different places.")
    return Comparison(results, _examples(runs, titles), tuple(notes))


def _same_protocol(one: Run, other: Run) -> None:
    mine, theirs = _protocol(one.results), _protocol(other.results)
    wrong = [k for k in mine | theirs if mine.get(k) != theirs.get(k)]
    if wrong:
        said = [f"{k} ({mine.get(k, 'none')}; {theirs.get(k, 'none')})" for k in wrong[:3]]
        more = f" and {len(wrong) - 3} more" if len(wrong) > 3 else ""
        raise RunError(
            f"{one.name} and {other.name} do not follow the same protocol, so their scores cannot be compared. "
            f"They differ in {', '.join(said)}{more}"
        )


def _protocol(results: Results) -> dict[str, str]:
    """What must be equal for scores to be comparable, as text."""
    stream = str(results.config.get("stream", "class"))
    data = results.fingerprints.get("data", "none")
    return {
        "benchmark": results.benchmark,
        "content of the benchmark": results.fingerprints.get("benchmark", "not recorded")[:12],
        "contents of the data": "by stamps" if data.startswith(_STAMPS) else data[:12],
        "kind": results.task_kind,
        "setting": results.setting,
        "image lists": results.fingerprints.get("image lists", "those of the setting")[:12],
        "stream": stream,
        **({f"options of {stream}": str(results.config.get(stream))} if stream in _STREAMS else {}),
        "limit_images": str(results.config.get("limit_images")),
        "metric": ", ".join(sorted({m.metric for m in results.methods})),
        "number of tasks": str(len(results.tasks)),
        **{f"classes of task {i + 1}": ", ".join(names) for i, names in enumerate(results.tasks)},
    }


def _settings(run: Run, method: MethodResult) -> dict[str, str]:
    """What a method of one protocol was settings, as text, and what it was built on."""
    settings: dict[str, str] = {}
    for key, value in method.config.items():
        if key in (*_PROTOCOL, *_ELSEWHERE):
            continue
        if isinstance(value, dict):  # options of a component; the method's own go without its name
            settings |= {k if key == method.name else f"{key}.{k}": str(v) for k, v in value.items()}
        else:
            settings[key] = str(value)
    return settings | {k: v for k, v in run.results.fingerprints.items() if k not in _OF_DATA}


def _titles(runs: Sequence[Run]) -> dict[tuple[int, str], str]:
    """(index of a run, method) -> the name of the method in the comparison."""
    groups: dict[str, dict[int, dict[str, str]]] = {}
    for i, run in enumerate(runs):
        for m in run.results.methods:
            groups.setdefault(m.name, {}).setdefault(i, _settings(run, m))
    out: dict[tuple[int, str], str] = {}
    for name, group in groups.items():
        keys = sorted({key for settings in group.values() for key in settings})
        unlike = [k for k in keys if len({settings.get(k) for settings in group.values()}) > 1]
        long = {
            i: f"{name} ({', '.join(f'{k} {settings.get(k)}' for k in unlike)})" if unlike else name
            for i, settings in group.items()
        }
        numbers: dict[str, int] = {}
        fits = not unlike or all(len(title) <= _LONGEST for title in long.values())
        for i, title in long.items():
            number = numbers.setdefault(title, i + 1)
            out[i, name] = title if fits else f"{name} #{number}"
    return out


def _concatenated(tables: Mapping[str, Mapping[str, str]]) -> dict[str, str]:
    """One value where all runs agree, else the value of each run."""
    out: dict[str, str] = {}
    for key in sorted({key for table in tables.values() for key in table}):
        values = {run: table.get(key, "not recorded") for run, table in tables.items()}
        same = len(set(values.values())) == 1
        out[key] = next(iter(values.values())) if same else "; ".join(f"{v} ({run})" for run, v in values.items())
    return out


def _configs(runs: Sequence[Run]) -> dict[str, JsonValue]:
    """The settings that all runs share, and under each run's name those of its own."""
    configs = [run.results.config for run in runs]
    shared = {k: v for k, v in configs[0].items() if all(k in c and c[k] == v for c in configs)}
    own: dict[str, JsonValue] = {
        run.name: {k: v for k, v in run.results.config.items() if k not in shared} for run in runs
    }
    return {**shared, **own}


def _examples(runs: Sequence[Run], titles: Mapping[tuple[int, str], str]) -> list[Example]:
    """The same image with the same truth once, with what the methods of all runs said of it."""
    out: dict[str, Example] = {}
    for i, run in enumerate(runs):
        for example in load_examples(run.folder / "examples"):
            said = {titles.get((i, name), name): answer for name, answer in example.predictions.items()}
            known = out.get(example.name)
            if known is None:
                out[example.name] = replace(example, predictions=said)
            elif np.array_equal(known.image, example.image) and np.array_equal(known.truth, example.truth):
                # Pictures are of the first seed of a run: where seeds are one method, the first run's is shown.
                out[example.name] = replace(known, predictions={**said, **known.predictions})
            else:
                other = f"{example.name} of {run.name}"
                out[other] = replace(example, name=other, predictions=said)
    return [out[name] for name in sorted(out)]
