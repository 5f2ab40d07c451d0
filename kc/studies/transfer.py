"""Study 6: weights tuned on one benchmark and used on the other."""

from __future__ import annotations

from functools import partial

from rich.console import Console
from torch import Tensor

from kc.memory.disk import Memory
from kc.memory.vote.evaluation import first_k
from kc.memory.vote.fusion import retrieval_logits
from kc.methods.retrieval.calibration import Setting
from kc.progress import track
from kc.report.style import looks
from kc.studies.config import StudyConfig
from kc.studies.record import Row, Study, dress, panels
from kc.studies.scenes import Bench, best_of, both, held, joined, remembered
from kc.studies.tuning import calibrated, given, sweep_grid


class Known:
    """A benchmark with its memory searched once: any setting is scored from that."""

    def __init__(self, bench: Bench, memory: Memory) -> None:
        self.bench = bench
        self.said: Tensor = bench.says(bench.test)
        self.neighbours = memory.search(bench.test.keys, 32)
        self.known = held(memory, bench.ids)

    def scored(self, setting: Setting) -> Row:
        """Scores on the test images."""
        p_ret, has = retrieval_logits(first_k(self.neighbours, setting.k), self.bench.ids)
        return dict(self.bench.score(best_of(joined(self.said, self.known, setting, p_ret, has), self.bench.ids)))


def study(config: StudyConfig, console: Console) -> Study:
    """A row a target and origin of the weights: as given, calibrated on each memory, best of a sweep on each test
    set (which the calibrated ones never saw)."""
    pair = both(config, console)
    settings = {f"{i}": bench.settings(config) for i, bench in enumerate(pair)}
    record = Study(config.out, "transfer", settings)
    origins: dict[str, Setting] = {"as given": given(config.k)}
    targets: list[Known] = []
    for bench in pair:
        with remembered(bench.train.named) as memory:
            target = Known(bench, memory)
            targets.append(target)
            tuned = record.row(
                f"setting {bench.name}",
                lambda: as_row(bench, "calibrated", calibrated(bench, memory, bench.train.named, config.seed)),  # noqa: B023
            )
            origins[f"calibrated on {bench.name}"] = setting_of(tuned)
        found = []
        for s in track(list(sweep_grid()), f"sweep on {bench.name}", console, "settings"):
            key = f"sweep {bench.name} {s.k} {s.threshold} {s.lam}"
            found.append(record.row(key, partial(swept, target, s)))
        origins[f"best on {bench.name}"] = setting_of(max(found, key=lambda row: row[bench.metric]))
    for target in targets:
        for origin, setting in origins.items():
            record.row(f"{target.bench.name} <- {origin}", partial(result, target, origin, setting))
    draw(record, [t.bench for t in targets])
    return record


def as_row(bench: Bench, origin: str, setting: Setting) -> Row:
    """A setting as a row."""
    values = {"k": setting.k, "threshold": setting.threshold, "lam": setting.lam}
    return {"what": "setting", "target": bench.name, "origin": origin, **values}


def setting_of(row: Row) -> Setting:
    """The setting of a row."""
    return Setting(row["k"], row["lam"], row["threshold"], 0, 0, 0)


def swept(target: Known, setting: Setting) -> Row:
    """One setting of the sweep."""
    return as_row(target.bench, "sweep", setting) | {"what": "sweep"} | target.scored(setting)


def result(target: Known, origin: str, setting: Setting) -> Row:
    """What the weights of one origin score on one benchmark."""
    return as_row(target.bench, origin, setting) | {"what": "result"} | target.scored(setting)


def draw(record: Study, benches: list[Bench]) -> None:
    """Bars: each benchmark's own metric under the weights of each origin."""
    figure, axes = panels(len(benches), width=5)
    rows = [row for row in record.rows if row["what"] == "result"]
    names = list(dict.fromkeys(row["origin"] for row in rows))
    look = looks(names)
    for ax, bench in zip(axes, benches, strict=True):
        values = [100 * row[bench.metric] for row in rows if row["target"] == bench.name]
        ax.barh(names, values, color=[look[n].color for n in names], height=0.65)
        for at, value in enumerate(values):
            ax.text(value, at, f" {value:.2f}", va="center", fontsize=8, color="#333333")
        ax.invert_yaxis()
        dress(ax, bench.name, {"pq": "PQ × 100", "miou": "mIoU × 100"}[bench.metric], "")
        ax.margins(x=0.18)
    record.figure(figure)
