"""`kc remember` and `kc forget`: teach a memory a name, and make it forget one."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

from rich.console import Console

from kc.commands.remember_config import DEFAULTS, ForgetConfig, RememberConfig
from kc.config import RunConfig
from kc.errors import KcError, stopped, unknown_name
from kc.memory.erasure import NOT_ERASED
from kc.memory.store.manifest import NAME
from kc.methods.regions import KEYS
from kc.predict.examples import Shown, read_examples
from kc.predict.names import clean_name
from kc.predict.teach import Taught, create, forget, open_session, remember
from kc.registry import PROPOSERS
from kc.resolve import with_options
from kc.session import Facts, Session
from kc.stream.progress import RunProgress


def run_remember(config: RememberConfig, console: Console | None = None) -> int:
    """Do what `config` asks for. Raises KcError for what a user can act on; then nothing was stored."""
    console = console or Console(markup=False)
    assert config.name is not None
    assert config.memory is not None
    clean_name(config.name)
    examples = read_examples(config.folder)
    new = not (config.memory / NAME).exists()
    session = create(config.memory, *_new_settings(config)) if new else open_session(config.memory, config.run)
    if not new:
        _check_same(config, session)
    again = "the same command begins anew; what was stored is not stored twice"
    with stopped(again), RunProgress(console) as progress, progress.bar("encoding", len(examples), "images") as bar:

        def each() -> Iterator[Shown]:
            for shown in examples:
                yield shown
                bar.advance()

        taught = remember(config.memory, session, each(), config.name, config.outside)
    for what in taught:
        console.print(_sentence(what), highlight=False, markup=False, soft_wrap=True)
    console.print(f"memory: {config.memory}", highlight=False, markup=False, soft_wrap=True)
    return 0


def _sentence(taught: Taught) -> str:
    text = f"{taught.name}: {taught.rows:,} new rows from {taught.images} picture{'s' * (taught.images != 1)}"
    if taught.known:
        text += f"; {taught.known:,} were there already"
    if taught.whole:
        text += f"; {taught.whole} masks were smaller than any region and count as one region each"
    return text


def _check_same(config: RememberConfig, session: Session) -> None:
    """KcError for a flag that would make other keys than those of the memory; the flags that made it may stand."""
    run, whole = session.config, session.facts.kind == "classification"
    is_: dict[str, object] = {"encoder": run.encoder, "proposals": "none" if whole else run.proposals, "keys": run.keys}
    is_ |= {"size": session.facts.input_size[0]}
    for name in DEFAULTS:
        if getattr(config, name) not in (None, is_[name]):
            raise KcError(f"--{name} {getattr(config, name)}: the keys of {config.memory} are made with {is_[name]}")


def _new_settings(config: RememberConfig) -> tuple[RunConfig, Facts]:
    value: dict[str, Any] = {name: getattr(config, name) or default for name, default in DEFAULTS.items()}
    if value["keys"] not in KEYS:
        raise unknown_name("keys", str(value["keys"]), KEYS)
    if value["proposals"] not in (*PROPOSERS, "none"):
        raise unknown_name("proposals", str(value["proposals"]), [*PROPOSERS, "none"])
    whole, side = value["proposals"] == "none", int(value["size"])
    run = RunConfig(methods="knn", encoder=str(value["encoder"]), keys=value["keys"], decoder="fpn")
    run = dataclasses.replace(run, proposals=str(value["proposals"]))
    return with_options(run), Facts("", "classification" if whole else "semantic", (side, side), {})


def run_forget(config: ForgetConfig, console: Console | None = None) -> int:
    """Do what `config` asks for; 1 where something was still found. Raises KcError."""
    console = console or Console(markup=False)
    assert config.memory is not None
    done = forget(config.memory, config.name)

    def say(text: str) -> None:
        console.print(text, highlight=False, markup=False, soft_wrap=True)

    say(f"erased {done.rows:,} rows of {done.name} and the name; {done.left:,} rows are left")
    where = f"{done.proof.files} files, {done.proof.bytes / 2**20:.1f} MiB"
    if not done.proof:
        say(f"still there, in {where}:")
        for sentence in done.proof.found:
            say(f"  {sentence}")
        return 1
    say(f"absent: ids, keys and names of these rows are in none of {where}")
    say("what this does not reach:")
    for sentence in NOT_ERASED:
        say(f"  {sentence}")
    return 0
