"""Ctrl-C and SIGTERM: a clean end. SIGHUP: the settings are read again, by whoever can do that.

The signals are blocked in all threads, and one thread waits for them. A handler would not do: the kernel may run it on
another thread than the main one, which then goes on waiting for a lock for ever. And a process that is a container's
first one loses what comes before its handler is set; a blocked signal waits.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from typing import Final

__all__ = ["reloaded_by_signals", "stopped_by_signals", "watch_signals"]

_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_PATIENCE_S: Final = 1.0
"""A process and its group are often signalled at the same time: that is one question."""
_stops: list[Callable[[], None]] = []
_reloads: list[Callable[[], None]] = []


def watch_signals() -> None:
    """Take over these signals. To be called once, by the main thread, before any other is started."""
    signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    threading.Thread(target=_watch, name="signals", daemon=True).start()


def _watch() -> None:
    asked = None
    while True:
        caught = signal.sigwait(_SIGNALS)
        if caught == signal.SIGHUP and _reloads:
            _reloads[-1]()
            continue
        if caught == signal.SIGHUP and signal.getsignal(signal.SIGHUP) == signal.SIG_IGN:
            continue  # as `nohup` wants it
        if not _stops:
            # Nothing is running yet, or any more, that would have to be ended in order.
            os._exit(0)
        if asked is None:
            asked = time.monotonic()
            _stops[-1]()
        elif time.monotonic() - asked > _PATIENCE_S:
            os._exit(1)  # asked again: somebody does not want to wait


@contextlib.contextmanager
def stopped_by_signals(stop: Callable[[], None]) -> Iterator[None]:
    """Call `stop`, in another thread, at the first SIGINT or SIGTERM; one more, a second later, ends the process."""
    _stops.append(stop)
    try:
        yield
    finally:
        _stops.remove(stop)


@contextlib.contextmanager
def reloaded_by_signals(reload: Callable[[], None]) -> Iterator[None]:
    """Call `reload`, in another thread, at each SIGHUP, which ends other programs."""
    _reloads.append(reload)
    try:
        yield
    finally:
        _reloads.remove(reload)
