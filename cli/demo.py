"""`camfabric demo`: a broker, four cameras, a subscriber and the page on this machine, and what the subscriber gets."""

from __future__ import annotations

import contextlib
import statistics
import threading
import time
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from camfabric.cli.fabric import CAMERAS, Fabric, has_browser
from camfabric.cli.options import Duration, make_folder, positive
from camfabric.cli.output import write_file
from camfabric.cli.signals import stopped_by_signals
from camfabric.common.errors import FabricError
from camfabric.common.stats import Rate

if TYPE_CHECKING:
    from rich.table import Table

    from camfabric.cli.window import Window
    from camfabric.common.frame import Frame
    from camfabric.common.status import Status
    from camfabric.subscriber import Subscriber
    from camfabric.subscriber.mosaic import Mosaic

__all__ = ["demo"]

_REFRESH_S: Final = 0.5


def demo(
    duration: Duration = None,
    save: Annotated[
        Path | None, typer.Option(help="Leave a contact sheet, camfabric-demo.png, in this folder.")
    ] = None,
    window: Annotated[
        bool, typer.Option(help="Show the cameras in a browser, or in a window, where there is a screen.")
    ] = True,
) -> None:
    """Run a broker, four cameras, a subscriber and the web page on this machine. Ctrl-C ends it."""
    positive(duration, "--duration")
    if save is not None:
        make_folder(save)
    from camfabric.subscriber import Subscriber

    stop = threading.Event()
    with stopped_by_signals(stop.set), Fabric() as fabric:
        fabric.open_when_there = window and fabric.page != "" and has_browser()
        screen = _Screen.open() if window and not fabric.open_when_there else None
        with Subscriber(fabric.subscribers, decode=screen is not None) as subscriber:
            show = _Show(subscriber, fabric, screen)
            show.run(stop, duration)
            statuses = subscriber.cameras()
        if screen is not None:
            screen.window.close()
        if save is not None:
            _save_sheet(save, show, statuses)
    silent = [camera for camera in CAMERAS if camera not in show.seen]
    if silent and not (stop.is_set() and duration is None):
        raise FabricError(f"nothing came of {', '.join(silent)}")


@dataclass(slots=True)
class _Seen:
    """What the subscriber got of one camera."""

    frame: Frame
    rate: Rate = field(default_factory=Rate)
    ages_ms: deque[float] = field(default_factory=lambda: deque(maxlen=90))
    sizes: deque[int] = field(default_factory=lambda: deque(maxlen=90))
    frames: int = 0
    missed: int = 0
    dropped: int = 0

    def take(self, frame: Frame) -> None:
        self.frame = frame
        self.rate.tick()
        self.ages_ms.append(frame.age_ms)
        self.sizes.append(len(frame.payload))
        self.frames += 1
        self.missed += frame.missed
        self.dropped += frame.dropped

    def facts(self) -> list[str]:
        """The cells of the table: fps, age, picture, kB, frames, missed, dropped."""
        return [
            f"{self.rate.per_second():.1f}",
            f"{statistics.median(self.ages_ms):.1f}",
            f"{self.frame.width}x{self.frame.height}",
            f"{statistics.mean(self.sizes) / 1000:.0f}",
            str(self.frames),
            str(self.missed),
            str(self.dropped),
        ]


@dataclass(slots=True)
class _Screen:
    """The window, where there is a screen."""

    window: Window
    mosaic: Mosaic

    @staticmethod
    def open() -> _Screen | None:
        from camfabric.cli.window import Window, can_show
        from camfabric.subscriber.mosaic import Mosaic

        if can_show() is not None:
            return None
        return _Screen(Window("camfabric demo", width=1280, height=720), Mosaic())


class _Show:
    """Takes frames, and shows what comes as a live table and in the window."""

    def __init__(self, subscriber: Subscriber, fabric: Fabric, screen: _Screen | None) -> None:
        self._subscriber = subscriber
        self._fabric = fabric
        self._screen = screen
        self.seen: dict[str, _Seen] = {}

    def run(self, stop: threading.Event, duration: float | None) -> None:
        from rich.console import Console
        from rich.live import Live

        end = None if duration is None else time.monotonic() + duration
        console = Console()
        with Live(console=console, auto_refresh=False, transient=False) as live:
            next_draw = time.monotonic()
            while not stop.is_set() and (end is None or time.monotonic() < end):
                self._take()
                if time.monotonic() >= next_draw:
                    next_draw = time.monotonic() + _REFRESH_S
                    self._fabric.check()
                    live.update(self._table(), refresh=True)
                if self._screen is not None and not self._show_window(self._screen):
                    break
            live.update(self._table(), refresh=True)
        if not console.is_terminal:
            console.print()  # rich leaves out the end of the last line there

    def _take(self) -> None:
        wait_s = 0.1
        with contextlib.suppress(TimeoutError):
            for _ in CAMERAS:
                frame = self._subscriber.read(wait_s)
                wait_s = 0.0
                seen = self.seen.setdefault(frame.camera, _Seen(frame))
                seen.take(frame)
                if self._screen is not None:
                    self._screen.mosaic.update(frame)

    def _show_window(self, screen: _Screen) -> bool:
        for status in self._subscriber.cameras().values():
            screen.mosaic.hear(status)
        screen.window.show(screen.mosaic.draw())
        return screen.window.key(1) != "q" and screen.window.is_open

    def _caption(self) -> str:
        page = self._fabric.page
        seen_at = f"in a browser: http://{page}/" if page else r"for the web page: pip install 'camfabric\[web]'"
        return f"{seen_at}\nin another terminal: camfabric subscribe cctv --from {self._fabric.subscribers}"

    def _table(self) -> Table:
        from rich import box
        from rich.table import Table

        from camfabric.cli.top import state_cell

        table = Table(
            title=f"broker at {self._fabric.subscribers} (pid {self._fabric.processes['broker'].pid})",
            caption=self._caption(),
            title_justify="left",
            caption_justify="left",
            box=box.SIMPLE_HEAD,
            show_edge=False,
            pad_edge=False,
            padding=(0, 1, 0, 0),
        )
        columns: tuple[tuple[str, Any], ...] = (
            ("camera", "left"), ("state", "left"), ("fps", "right"), ("age ms", "right"), ("picture", "left"),
            ("kB", "right"), ("frames", "right"), ("missed", "right"), ("dropped", "right"), ("pid", "right"),
        )  # fmt: skip
        for name, justify in columns:
            table.add_column(name, justify=justify, no_wrap=name != "state")
        statuses = self._subscriber.cameras()
        for camera in CAMERAS:
            seen = self.seen.get(camera)
            facts = ["-"] * 7 if seen is None else seen.facts()
            state = state_cell(statuses.get(camera))
            table.add_row(camera, state, *facts, str(self._fabric.processes[camera].pid))
        return table


def _save_sheet(folder: Path, show: _Show, statuses: dict[str, Status]) -> None:
    """The newest picture of each camera, with what was measured of it, as one PNG."""
    import cv2

    from camfabric.common.codecs import decode
    from camfabric.subscriber.mosaic import Mosaic

    sheet = Mosaic(width=1280, height=760)
    for status in statuses.values():
        sheet.hear(status)
    for seen in show.seen.values():
        sheet.update(seen.frame.replace(decoded=decode(seen.frame)), fps=seen.rate.per_second())
    path = folder / "camfabric-demo.png"
    try:
        write_file(path, cv2.imencode(".png", sheet.draw())[1].tobytes())
    except OSError as error:
        raise FabricError(f"cannot save {path}: {error.strerror}") from error
    typer.echo(f"saved {path}")
