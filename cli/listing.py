"""Which cameras there are at some endpoints: what is answered within a while."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from camfabric.cli.options import Access
    from camfabric.common.status import Status

__all__ = ["Listing", "list_cameras"]

_QUIET_S: Final = 0.3
"""All who are there answer a subscription at once; this long after the last answer, none is to come."""
_ROUND_S: Final = 1.0
"""Each camera gives its status once in so long: where there are many, it is never quiet."""


@dataclass(frozen=True, slots=True)
class Listing:
    """Who answered."""

    cameras: list[Status]
    """The last status of each camera."""
    has_broker: bool
    troubles: list[str]
    """A line for each endpoint that there is no connection to and it is known why."""


def list_cameras(endpoints: Sequence[str], *, filters: Sequence[str] = (), wait_s: float, access: Access) -> Listing:
    """The cameras under the filters; none for every camera. The first answer is waited for at most `wait_s` seconds.

    Raises:
        ConfigError: a filter or a key is wrong.
        EndpointError: an endpoint cannot be connected to.
    """
    from camfabric.subscriber import Subscriber

    heard = threading.Event()
    with Subscriber(endpoints, cameras=filters, channel=None, on_status=lambda _: heard.set(), **access) as subscriber:
        begun = time.monotonic()
        end = begun + wait_s
        while time.monotonic() < end and heard.wait(_QUIET_S if subscriber.cameras() else end - time.monotonic()):
            heard.clear()
            if subscriber.cameras() and time.monotonic() > begun + _ROUND_S:
                break
        return Listing(list(subscriber.cameras().values()), subscriber.brokers() > 0, subscriber.troubles())
