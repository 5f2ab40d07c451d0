"""From a folder to a predictor: `--run RUN` or `--memory DIR`."""

from __future__ import annotations

import dataclasses
import shlex
from pathlib import Path

from kc.config import RunConfig, from_stored
from kc.data.manifest import Manifest, load_manifest
from kc.errors import KcError, ManifestError, MissingExtraError, RunError, UnknownNameError, unknown_name
from kc.memory.disk import Memory
from kc.openvocab.load import base_family, check_base
from kc.parsing import read_config
from kc.predict.predictor import MemoryPredictor, MethodPredictor, Predictor
from kc.registry import METHODS, method_spec
from kc.report.records import Results
from kc.resolve import base_to_load, components, tasks_of, with_options
from kc.session import Facts, Session, config_of_memory
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

    def over(self, config: RunConfig) -> RunConfig:
        """`config` with what is given in place of its own."""
        given = {name: value for name, value in vars(self).items() if value is not None}
        own_names = {f.name for f in dataclasses.fields(method_spec(REMEMBERS).options)}
        own = {name: given.pop(name) for name in ("k", "vote", "tau") if name in given and name in own_names}
        for name, value in own.items():
            config = config.replaced(f"{REMEMBERS}.{name}", value)
        config = dataclasses.replace(config, **given)
        running = components(config)  # without the options of what was replaced
        kept = {owner: values for owner, values in config.options.items() if owner in running}
        return with_options(dataclasses.replace(config, options=kept))


def open_memory(path: Path, overrides: Overrides | None = None, data_root: Path | None = None) -> MemoryPredictor:
    """The memory in `path`, read-only, asked as it says of itself; `data_root`: where the images of its rows lie.

    Raises what opening it raises, KcError where it does not say how its keys were made, FingerprintError where they
    were made otherwise than it says.
    """
    memory = Memory.open(path)
    info = memory.info
    config, facts = (overrides or Overrides()).over(config_of_memory(info)), Facts.of_memory(info)
    config = dataclasses.replace(config, data_root=data_root)
    check_base_of(config, facts)
    session = Session.open(config, facts)
    if memory.fingerprint != session.fingerprint and (overrides is None or overrides.proposals is None):
        Memory.open(path, fingerprint=session.fingerprint)  # says which two do not fit
    return MemoryPredictor(session, memory)


def open_run(
    run: Path, method: str | None = None, seed: int | None = None, overrides: Overrides | None = None
) -> Predictor:
    """The `method` of a run with `seed` (default: the only one, or knn; the first seed), after its last whole task.

    Raises RunError where the run has no such method or its state is not stored.
    """
    name, seed = _chosen(run, method, seed)
    folder = run / "methods" / f"{name}-s{seed}"
    if name == REMEMBERS:
        return open_memory(folder / "memory", overrides, read_config(RunConfig, run).data_root)
    config = (overrides or Overrides()).over(config_of_run(run, name))
    manifest = manifest_of(run, config)
    state = MethodState.load(folder)
    again = f"kc run --resume {shlex.quote(str(run))}"
    if state is None or not state.tasks_done:
        raise RunError(f"{folder}: no task was finished, so there is nothing to query: {again}")
    last = state.tasks_done - 1
    if not checkpoint_path(folder, last).is_file():
        raise RunError(
            f"{checkpoint_path(folder, last)} is not there: the state of {name} was not stored or was deleted; "
            f"delete {folder} and finish the run with {again}"
        )
    tasks = tasks_of(config, manifest, seed)
    check_base_of(config, Facts.of(manifest))
    session = Session.open(config, Facts.of(manifest))
    try:
        loaded = session.method(name, seed, folder)
    except ImportError as error:
        spec = method_spec(name)
        raise MissingExtraError(
            f"{name} needs {spec.package or error.name}: pip install 'kc-continual[{spec.extra or 'dev'}]'"
        ) from error
    loaded.load_state(*load_checkpoint(folder, last))
    return MethodPredictor(session, loaded, tasks[last].seen_ids)


def config_of_run(run: Path, method: str) -> RunConfig:
    """The resolved config by which `method` ran: of the record where the run is finished (a sweep chooses values for
    each method), else of the run. Raises RunError where there is none."""
    path = run / "results.json"
    if not path.is_file():
        return read_config(RunConfig, run).running(method)
    own = next((r.config for r in Results.load(path).methods if r.name == method and r.config), None)
    return (read_config(RunConfig, run) if own is None else from_stored(RunConfig, own)).running(method)


def manifest_of(run: Path, config: RunConfig) -> Manifest:
    """The benchmark of a run. Raises RunError where it is gone."""
    try:
        return load_manifest(config.benchmark)
    except (ManifestError, UnknownNameError) as error:
        raise RunError(f"{run} needs the benchmark it was made on: {error}") from error


def check_base_of(config: RunConfig, facts: Facts) -> None:
    """Refuse what a new image cannot be asked with, before anything is loaded."""
    if config.proposals == "oracle" and facts.kind != "classification":
        raise KcError(
            "the regions of this run are true segments, which a new image has not: "
            "give --proposals superpixels or felzenszwalb"
        )
    if (base := base_to_load(config)) != "none":
        check_base(base, config.encoder, facts.kind, facts.name, **config.of(base_family(base)))


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
