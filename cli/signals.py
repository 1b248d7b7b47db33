"""Ctrl-C and SIGTERM: a clean end.

The signals are blocked in all threads, and one thread waits for them. A handler would not do: the kernel may run it on
another thread than the main one, which then goes on waiting for a lock for ever. And a process that is a container's
first one loses what comes before its handler is set; a blocked signal waits.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterator
from typing import Final

__all__ = ["stopped_by_signals", "watch_signals"]

_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM)
_stops: list[Callable[[], None]] = []


def watch_signals() -> None:
    """Take over SIGINT and SIGTERM. To be called once, by the main thread, before any other is started."""
    signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    threading.Thread(target=_watch, name="signals", daemon=True).start()


def _watch() -> None:
    asked = False
    while True:
        signal.sigwait(_SIGNALS)
        if not _stops:
            # Nothing is running yet, or any more, that would have to be ended in order.
            os._exit(0)
        if asked:
            os._exit(1)  # asked twice: somebody does not want to wait
        asked = True
        _stops[-1]()


@contextlib.contextmanager
def stopped_by_signals(stop: Callable[[], None]) -> Iterator[None]:
    """Call `stop`, in another thread, at the first SIGINT or SIGTERM; a second one ends the process at once."""
    _stops.append(stop)
    try:
        yield
    finally:
        _stops.remove(stop)
