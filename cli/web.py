"""`camfabric web`: the cameras in a browser."""

from __future__ import annotations

import importlib.util
from typing import Annotated

import typer

from camfabric.cli.options import From, Insecure, Key, Keys, ServerKeys, from_default
from camfabric.cli.signals import stopped_by_signals
from camfabric.common.errors import ConfigError

__all__ = ["web"]


def web(
    from_: From = None,
    listen: Annotated[str, typer.Option(help="Address and port of the page.", metavar="HOST:PORT")] = "127.0.0.1:8080",
    key: Key = None,
    server_key: ServerKeys = None,
    keys: Keys = None,
    insecure: Insecure = False,
) -> None:
    """Show the cameras in browsers, and serve snapshots and MJPEG."""
    missing = [module for module in ("aiohttp", "prometheus_client") if importlib.util.find_spec(module) is None]
    if missing:
        raise ConfigError("camfabric web needs the extra 'web': pip install 'camfabric[web]'", setting="web")
    import asyncio

    from camfabric.gateway import Gateway, GatewaySettings

    gateway = Gateway(
        GatewaySettings(
            endpoints=from_default(from_), listen=listen, key=key, server_key=server_key, keys=keys, insecure=insecure
        )
    )
    with stopped_by_signals(gateway.stop):
        asyncio.run(gateway.run())
