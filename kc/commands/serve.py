"""`kc serve`: the page, until Ctrl-C."""

from __future__ import annotations

import ipaddress
import socket

from rich.console import Console

from kc.commands.serve_config import ServeConfig
from kc.errors import KcError, MissingExtraError
from kc.predict.opening import Overrides, open_memory, open_run
from kc.predict.pictures import Pictures
from kc.predict.predictor import MemoryPredictor
from kc.serve.desk import Desk


def run_serve(config: ServeConfig, console: Console | None = None) -> int:
    """Serve until stopped. Raises MissingExtraError without the extra, KcError for an address that cannot be had."""
    console = console or Console(markup=False)
    try:
        import uvicorn

        from kc.serve.app import app
    except ImportError as error:
        raise MissingExtraError(f"kc serve needs {error.name}: pip install 'kc-continual[demo]'") from error
    predictor = _memory(config)
    desk = Desk(predictor, Pictures.of(predictor.memory, predictor.session.config, config.data_root))
    with _socket(config) as listening:
        port = listening.getsockname()[1]
        console.print(f"open http://{config.host}:{port} (Ctrl-C stops)", highlight=False, markup=False, soft_wrap=True)
        if not _is_local(config.host):
            console.print(f"anyone who reaches {config.host} can ask, teach and erase", highlight=False)
        # Under another name a page elsewhere could reach this one through a browser that trusts it.
        hosts = ["127.0.0.1", "localhost", *([] if _is_local(config.host) else ["*"])]
        settings = uvicorn.Config(app(desk, hosts), log_level="warning", access_log=False)
        uvicorn.Server(settings).run(sockets=[listening])
    return 0


def _memory(config: ServeConfig) -> MemoryPredictor:
    overrides = Overrides(base=config.base)
    if config.memory is not None:
        return open_memory(config.memory, overrides=overrides)
    assert config.run is not None
    found = open_run(config.run, "knn", overrides=overrides)
    assert isinstance(found, MemoryPredictor)
    return found


def _socket(config: ServeConfig) -> socket.socket:
    opened = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        opened.bind((config.host, config.port))
    except OSError as error:
        opened.close()
        raise KcError(f"{config.host}:{config.port} cannot be had ({error.strerror}): try another --port") from error
    return opened


def _is_local(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
