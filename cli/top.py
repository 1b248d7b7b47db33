"""`camfabric top`: the cameras that there are, live."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from camfabric.cli.options import Duration, Filters, From, Insecure, Key, Keys, ServerKeys, from_default, positive
from camfabric.cli.output import rate_text
from camfabric.cli.signals import stopped_by_signals

if TYPE_CHECKING:
    from rich.table import Table

    from camfabric.common.status import Status

__all__ = ["state_cell", "top"]

_COLORS: Final = {"live": "green", "idle": "cyan", "stalled": "yellow", "offline": "red"}
_REFRESH_S: Final = 0.5
_WIDE: Final = 110
"""Columns of a terminal from which on all columns of the table are shown."""
_MIN_WIDTHS: Final = {"camera": 10, "state": 12}


def top(
    filters: Filters = None,
    from_: From = None,
    duration: Duration = None,
    key: Key = None,
    server_key: ServerKeys = None,
    keys: Keys = None,
    insecure: Insecure = False,
) -> None:
    """Show the cameras and what flows, live. Ctrl-C ends it."""
    positive(duration, "--duration")
    from rich.console import Console
    from rich.live import Live

    from camfabric.subscriber import Subscriber

    stop = threading.Event()
    end = None if duration is None else time.monotonic() + duration
    rates = _Rates()
    endpoints = from_default(from_)
    console = Console()
    with (
        Subscriber(
            endpoints,
            cameras=filters or (),
            channel=None,
            key=key,
            server_key=server_key,
            keys=keys,
            insecure=insecure,
        ) as subscriber,
        stopped_by_signals(stop.set),
        Live(console=console, auto_refresh=False, screen=console.is_terminal) as live,
    ):
        while not stop.wait(_REFRESH_S) and (end is None or time.monotonic() < end):
            table = _table(subscriber.cameras(), rates, ", ".join(endpoints), wide=console.width >= _WIDE)
            live.update(table, refresh=True)
    if not console.is_terminal:
        console.print()  # rich leaves out the end of the last line there


def state_cell(status: Status | None) -> str:
    """A camera's state in its colour, and the reason, as rich markup."""
    from rich.markup import escape

    if status is None:
        return "[yellow]no status[/]"
    reason = f": {status.reason}" if status.reason else ""
    conflict = " (another publisher claims this name)" if status.rivals else ""
    return f"[{_COLORS.get(status.state, 'magenta')}]{escape(status.state + reason)}[/][red]{conflict}[/]"


def _kept_cell(status: Status) -> str:
    """How many frames a late joiner is given at once."""
    return "[yellow]too much[/]" if status.kept_over else str(status.kept)


class _Rates:
    """Mbit/s of each camera, from the bytes that its statuses count."""

    def __init__(self) -> None:
        self._last: dict[str, tuple[int, int, float]] = {}

    def mbit_s(self, status: Status) -> float:
        time_ns, sent_bytes, rate = self._last.get(status.camera, (status.time_ns, status.sent_bytes, 0.0))
        if status.time_ns > time_ns:
            rate = max(status.sent_bytes - sent_bytes, 0) * 8e3 / (status.time_ns - time_ns)
        self._last[status.camera] = (status.time_ns, status.sent_bytes, rate)
        return rate


def _table(cameras: dict[str, Status], rates: _Rates, endpoints: str, *, wide: bool) -> Table:
    from rich import box
    from rich.table import Table

    table = Table(
        title=f"{len(cameras)} cameras at {endpoints}",
        title_justify="left",
        box=box.SIMPLE_HEAD,
        show_edge=False,
        pad_edge=False,
        padding=(0, 1, 0, 0),
    )
    cells: dict[str, Callable[[Status], str]] = {
        "camera": lambda status: status.camera,
        "state": state_cell,
        "fps in": lambda status: rate_text(status.fps_in),
        "fps out": lambda status: f"{status.fps_out:.1f}",
        "Mbit/s": lambda status: f"{rates.mbit_s(status):.1f}",
        "size": lambda status: f"{status.width}x{status.height}" if status.width else "-",
        "watched": lambda status: "yes" if status.watched else "no",
        "kept": _kept_cell,
    }
    if wide:
        cells |= {
            "codec": lambda status: status.codec,
            "source": lambda status: status.source,
            "dropped": lambda status: str(status.dropped),
            "encoded": lambda status: str(status.encoded),
            "hops": lambda status: str(status.hops),
            "up": lambda status: f"{status.uptime_ms // 1000} s",
        }
    for name in cells:
        numbers = name in ("fps in", "fps out", "Mbit/s", "size", "dropped", "encoded", "kept", "hops", "up")
        table.add_column(name, justify="right" if numbers else "left", min_width=_MIN_WIDTHS.get(name))
    for status in cameras.values():
        table.add_row(*(cell(status) for cell in cells.values()))
    return table
