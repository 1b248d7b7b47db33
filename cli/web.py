"""`camfabric web`: the cameras in a browser."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from camfabric.cli.extras import require_web
from camfabric.cli.options import From, Insecure, Key, Keys, ServerKeys, from_default
from camfabric.cli.signals import reloaded_by_signals, stopped_by_signals

__all__ = ["web"]


def web(
    from_: From = None,
    listen: Annotated[
        str, typer.Option(help="Address and port of the page; * is every address.", metavar="HOST:PORT")
    ] = "127.0.0.1:8080",
    host: Annotated[
        list[str] | None,
        typer.Option(help="A name under which browsers reach it, as behind a proxy; several times.", metavar="NAME"),
    ] = None,
    embed: Annotated[
        list[str] | None,
        typer.Option(
            help="Pages of this origin may show snapshots and MJPEG, such as https://home.example; several times.",
            metavar="ORIGIN",
        ),
    ] = None,
    cert: Annotated[
        Path | None, typer.Option(help="For HTTPS: the certificate, with its chain, in PEM.", metavar="FILE")
    ] = None,
    cert_key: Annotated[
        Path | None, typer.Option(help="For HTTPS: the certificate's own key, in PEM.", metavar="FILE")
    ] = None,
    password_file: Annotated[
        Path | None,
        typer.Option(
            help="Who may sign in: lines as `camfabric password` makes them; read again when it changes.",
            metavar="FILE",
        ),
    ] = None,
    token_file: Annotated[
        Path | None, typer.Option(help="A file with one token that sees all, for programs.", metavar="FILE")
    ] = None,
    key: Key = None,
    server_key: ServerKeys = None,
    keys: Keys = None,
    insecure: Insecure = False,
) -> None:
    """Show the cameras in browsers, and serve snapshots and MJPEG."""
    require_web("web")
    import asyncio

    from camfabric.gateway import Gateway, GatewaySettings

    gateway = Gateway(
        GatewaySettings(
            endpoints=from_default(from_),
            key=key,
            server_key=server_key,
            keys=keys,
            insecure=insecure,
            listen=listen,
            hosts=host or (),
            embed=embed or (),
            cert=cert,
            cert_key=cert_key,
            password_file=password_file,
            token_file=token_file,
        )
    )
    with stopped_by_signals(gateway.stop), reloaded_by_signals(gateway.reload):
        asyncio.run(gateway.run())
