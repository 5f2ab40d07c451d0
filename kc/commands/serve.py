"""`kc serve`: the page, until Ctrl-C."""

from __future__ import annotations

import ipaddress
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from annotated_types import Ge, Le

from kc.commands.console import Terminal
from kc.errors import KcError, MissingExtraError
from kc.spec import DataOptions

if TYPE_CHECKING:
    from kc.predict.predictor import MemoryPredictor


@dataclass(frozen=True, kw_only=True)
class ServeConfig(DataOptions):
    """Serve a page in the browser over one memory: drop an image, see what it shows and which rows decided, add
    rows, erase rows.

    Args:
        memory: Folder of the memory (kc remember makes one).
        run: Run folder whose memory is meant.
        data_root: Folder that holds the data sets, for thumbnails of neighbours; default: that of the run, or KC_DATA.
        base: Open-vocabulary base beside the memory: none, conse, clip ...; default: that of the run.
        host: Address to listen on; anyone who reaches it may change the memory, so it is this computer alone.
        port: Port to listen on; 0 takes a free one.
    """

    memory: Path | None = None
    run: Path | None = None
    base: str | None = None
    host: str = "127.0.0.1"
    port: Annotated[int, Ge(0), Le(65535)] = 7860


def run(config: ServeConfig) -> int:
    """`kc serve`. Returns the exit status when it is stopped. Raises MissingExtraError without the extra, KcError for
    an address that cannot be had."""
    if (config.run is None) == (config.memory is None):
        raise KcError("say which memory: --memory DIR or --run RUN, one of them")
    try:
        import uvicorn

        from kc.serve.app import Hurried, app
    except ImportError as error:
        raise MissingExtraError(f"kc serve needs {error.name}: pip install 'kc-continual[demo]'") from error
    from kc.predict.sources import Sources
    from kc.serve.demo import DemoSession

    console = Terminal()
    console.say(f"loading {config.memory or config.run} and its encoder ...")
    predictor = _memory(config)
    demo = DemoSession(predictor, Sources.of(predictor.memory, predictor.session.config, config.data_root))
    with listening(config) as opened:
        port, hosts = opened.getsockname()[1], [config.host]
        console.say(f"open http://{f'[{config.host}]' if ':' in config.host else config.host}:{port} (Ctrl-C stops)")
        if not _is_local(config.host):
            console.say(f"anyone who reaches {config.host} can predict, add rows and erase rows")
            hosts += [socket.gethostname(), socket.getfqdn()]
        settings = uvicorn.Config(app(demo, hosts), http=Hurried, log_level="warning", access_log=False)
        uvicorn.Server(settings).run(sockets=[opened])
    return 0


def _memory(config: ServeConfig) -> MemoryPredictor:
    from kc.predict.opening import Overrides, open_memory, open_run
    from kc.predict.predictor import MemoryPredictor

    overrides = Overrides(base=config.base)
    if config.memory is not None:
        return open_memory(config.memory, overrides=overrides)
    assert config.run is not None
    found = open_run(config.run, "knn", overrides=overrides)
    assert isinstance(found, MemoryPredictor)
    return found


def listening(config: ServeConfig) -> socket.socket:
    """A socket at the address. Raises KcError for one that cannot be had."""
    where = f"--host {config.host} --port {config.port}"
    try:
        family, *_, address = socket.getaddrinfo(config.host, config.port, type=socket.SOCK_STREAM)[0]
        return socket.create_server(address[:2], family=family)
    except (OSError, UnicodeError) as error:
        raise KcError(f"{where}: cannot be had ({getattr(error, 'strerror', None) or error}): try another") from error


def _is_local(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
