"""`camfabric broker`: many cameras at one address."""

from __future__ import annotations

import logging
import resource
from pathlib import Path
from typing import Annotated, Final

import typer

from camfabric.cli.options import Insecure, Key, Keys, ServerKeys
from camfabric.cli.output import write_line
from camfabric.cli.signals import reloaded_by_signals, stopped_by_signals
from camfabric.common.errors import ConfigError
from camfabric.common.settings import BROKER_PUBLISHERS, BROKER_SUBSCRIBERS

__all__ = ["broker"]

logger = logging.getLogger(__name__)

_DESCRIPTORS: Final = 16_384


def broker(
    publishers: Annotated[
        list[str] | None, typer.Option(help=f"Where publishers connect; several times. Default {BROKER_PUBLISHERS}.")
    ] = None,
    subscribers: Annotated[
        list[str] | None, typer.Option(help=f"Where subscribers connect; several times. Default {BROKER_SUBSCRIBERS}.")
    ] = None,
    upstream: Annotated[
        list[str] | None, typer.Option(help="A publisher that binds, or another broker, to connect to; several times.")
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option(help="Endpoints and permissions from a file, broker.toml; read again at SIGHUP.", metavar="FILE"),
    ] = None,
    check_config: Annotated[
        bool, typer.Option("--check-config", help="Say whether --config is right, and end.")
    ] = False,
    key: Key = None,
    server_key: ServerKeys = None,
    keys: Keys = None,
    insecure: Insecure = False,
) -> None:
    """Take cameras from publishers and other brokers, and serve them at one address."""
    if config is not None:
        given = (("--publishers", publishers), ("--subscribers", subscribers), ("--upstream", upstream))
        both = [option for option, value in (*given, ("--key", key), ("--server-key", server_key)) if value]
        if both:
            raise ConfigError(
                f"{' and '.join(both)}, or the environment's variable for it, with --config: that is said in {config}",
                setting=both[0],
            )
    if check_config:
        _check(config, keys, insecure)
        return
    from camfabric.broker import Broker

    _raise_descriptors()
    relay = Broker(
        publishers=publishers or [BROKER_PUBLISHERS],
        subscribers=subscribers or [BROKER_SUBSCRIBERS],
        upstreams=upstream or [],
        config=config,
        key=key,
        server_key=server_key,
        keys=keys,
        insecure=insecure,
    )
    publish_to = ", ".join(relay.publishers) or "nothing here"
    logger.info("publishers connect to %s, subscribers to %s", publish_to, ", ".join(relay.subscribers))
    with stopped_by_signals(relay.stop), reloaded_by_signals(relay.reload):
        relay.run()


def _raise_descriptors() -> None:
    """Have as many descriptors as this process may have: each connection takes one."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _DESCRIPTORS if hard == resource.RLIM_INFINITY else min(_DESCRIPTORS, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _check(config: Path | None, keys: str | None, insecure: bool) -> None:
    """Check a broker.toml, and that the keys that it names are there.

    Raises:
        ConfigError: something is wrong.
    """
    if config is None:
        raise ConfigError("--check-config goes with --config FILE", setting="--check-config")
    from camfabric.broker.config import read_config, unknown_keys
    from camfabric.common.keys import client_keys, server_keys

    read = read_config(config, keys=None if keys is None else Path(keys), insecure=insecure)
    own = server_keys(key=read.key or None, keys=read.keys)
    if own is not None:
        contents = own.folder.contents()
        for problem in (*contents.problems, *unknown_keys(read, contents.keys)):
            logger.warning("%s", problem)
        for upstream in read.upstreams:
            if upstream.server_key:
                client_keys(key=read.key or own.pair.name, server_key=upstream.server_key, keys=read.keys)
    outlets = ", ".join(f"{outlet.name} at {outlet.endpoint}" for outlet in read.outlets)
    write_line(f"{config} is right: publishers at {', '.join(map(str, read.publishers)) or 'none'}; outlets {outlets}")
