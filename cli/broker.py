"""`camfabric broker`: many cameras at one address."""

from __future__ import annotations

import logging
from typing import Annotated

import typer

from camfabric.cli.options import Insecure
from camfabric.cli.signals import stopped_by_signals
from camfabric.common.settings import BROKER_PUBLISHERS, BROKER_SUBSCRIBERS

__all__ = ["broker"]

logger = logging.getLogger(__name__)


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
    insecure: Insecure = False,
) -> None:
    """Take cameras from publishers and other brokers, and serve them at one address."""
    from camfabric.broker import Broker

    relay = Broker(
        publishers=publishers or [BROKER_PUBLISHERS],
        subscribers=subscribers or [BROKER_SUBSCRIBERS],
        upstreams=upstream or [],
        insecure=insecure,
    )
    if insecure:
        logger.warning("--insecure: anybody who reaches these addresses can see and send pictures")
    logger.info(
        "publishers connect to %s, subscribers to %s", ", ".join(relay.publishers), ", ".join(relay.subscribers)
    )
    with stopped_by_signals(relay.stop):
        relay.run()
