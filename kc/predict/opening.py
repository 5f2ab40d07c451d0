"""From a folder to a predictor: `--run RUN` or `--memory DIR`."""

from __future__ import annotations

import dataclasses
import shlex
from pathlib import Path

from kc.checks import base_of, n_tasks
from kc.data.manifest import load_manifest
from kc.data.split import build_tasks
from kc.errors import KcError, MissingExtraError, RunError, unknown_name
from kc.memory.disk import Memory
from kc.methods.base import ContinualMethod
from kc.predict.predictor import MemoryPredictor, MethodPredictor, Predictor
from kc.predict.settings import Settings, of_memory, of_run
from kc.predict.tools import Tools
from kc.registry import METHODS, NEEDS_PACKAGE
from kc.stream.resume import MethodState, checkpoint_path, load_checkpoint

REMEMBERS = "knn"
"""The method whose state is a memory alone: it is asked through the memory, which says who voted."""


@dataclasses.dataclass(frozen=True)
class Overrides:
    """What may differ from the run or the memory; None leaves it."""

    base: str | None = None
    proposals: str | None = None
    k: int | None = None
    vote: str | None = None
    tau: float | None = None

    def over(self, settings: Settings) -> Settings:
        """`settings` with what is given in place of theirs."""
        given = {name: value for name, value in vars(self).items() if value is not None}
        return dataclasses.replace(settings, config=dataclasses.replace(settings.config, **given))


def open_memory(path: Path, run: Path | None = None, overrides: Overrides | None = None) -> MemoryPredictor:
    """The memory in `path`, read-only. Raises what opening it raises, FingerprintError where its keys were made
    otherwise than its settings say."""
    memory = Memory.open(path)
    settings = (overrides or Overrides()).over(of_memory(memory, run))
    tools = Tools.load(settings)
    if memory.fingerprint != tools.fingerprint and (overrides is None or overrides.proposals is None):
        Memory.open(path, fingerprint=tools.fingerprint)  # says which two do not fit
    return MemoryPredictor(tools, memory)


def open_run(
    run: Path, method: str | None = None, seed: int | None = None, overrides: Overrides | None = None
) -> Predictor:
    """The `method` of a run with `seed` (default: the only one, or knn; the first seed), after its last whole task.

    Raises RunError where the run has no such method or its state is not stored.
    """
    name, seed = _chosen(run, method, seed)
    folder = run / "methods" / f"{name}-s{seed}"
    if name == REMEMBERS:
        return open_memory(folder / "memory", run, overrides)
    settings = (overrides or Overrides()).over(of_run(run, name))
    state = MethodState.load(folder)
    again = f"kc run --resume {shlex.quote(str(run))}"
    if state is None or not state.tasks_done:
        raise RunError(f"{folder}: no task was finished, so there is nothing to ask: {again}")
    last = state.tasks_done - 1
    if not checkpoint_path(folder, last).is_file():
        raise RunError(
            f"{checkpoint_path(folder, last)} is not there: the state of {name} was not stored or was deleted; "
            f"delete {folder} and finish the run with {again}"
        )
    tasks = build_tasks(
        load_manifest(settings.config.benchmark),
        n_tasks(settings.config),
        settings.config.split,
        settings.config.class_order,
    )
    needed = dataclasses.replace(settings.config, methods=name)
    settings = dataclasses.replace(settings, config=dataclasses.replace(settings.config, base=base_of(needed)))
    tools = Tools.load(settings, seed, folder)
    loaded = _method(name, tools)
    loaded.load_state(*load_checkpoint(folder, last))
    return MethodPredictor(tools, loaded, tasks[last].seen_ids)


def _method(name: str, tools: Tools) -> ContinualMethod:
    from kc.experiment import method_class  # lightning: a memory is opened without it

    try:
        method: ContinualMethod = method_class(name)(tools.context)
    except ImportError as error:
        package, extra = NEEDS_PACKAGE.get(name, (str(error.name), "dev"))
        raise MissingExtraError(f"{name} needs {package}: pip install 'kc-continual[{extra}]'") from error
    return method


def _chosen(run: Path, method: str | None, seed: int | None) -> tuple[str, int]:
    found: dict[str, list[int]] = {}
    for folder in sorted((run / "methods").glob("*-s*")):
        name, _, number = folder.name.rpartition("-s")
        if name in METHODS and number.isdigit():
            found.setdefault(name, []).append(int(number))
    if not found:
        raise RunError(f"{run} holds no method: it is not the folder of a run, or its methods/ was deleted")
    if method is None:
        method = REMEMBERS if REMEMBERS in found else next(iter(found))
        if method != REMEMBERS and len(found) > 1:
            raise KcError(f"{run} holds {', '.join(found)}: say which one with --method")
    if method not in found:
        raise unknown_name(f"method (of {run})", method, found)
    seeds = sorted(found[method])
    if seed is not None and seed not in seeds:
        raise RunError(f"{run} holds {method} with seed {', '.join(map(str, seeds))}, not {seed}")
    return method, seeds[0] if seed is None else seed
