"""`camfabric view`: a window with one camera, or a mosaic."""

from __future__ import annotations

import logging
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final, Literal

import typer

from camfabric.cli.options import (
    Access,
    Duration,
    Filters,
    From,
    Insecure,
    Key,
    Keys,
    LocalWay,
    ServerKeys,
    from_default,
    positive,
)
from camfabric.cli.output import write_file
from camfabric.cli.signals import stopped_by_signals
from camfabric.common.errors import ConfigError

if TYPE_CHECKING:
    from camfabric.cli.watching import Watching
    from camfabric.subscriber.mosaic import Mosaic

__all__ = ["view"]

logger = logging.getLogger(__name__)

_REDRAW_S: Final = 0.2
_PAUSE_S: Final = 1 / 60
"""At least so long between two drawings ..."""
_SMALL_PAUSE_S: Final = 0.1
"""... and so long where all are small pictures, which come five times a second."""
_SIZE: Final = (1280, 720)
_NUMBERS: Final = frozenset("123456789")


def view(
    filters: Filters = None,
    from_: From = None,
    duration: Duration = None,
    channel: Annotated[
        Literal["auto", "cam", "low"],
        typer.Option(help="The main streams, the small pictures, or what fits the tiles' size."),
    ] = "auto",
    save: Annotated[Path, typer.Option(help="Where the key s saves what is shown.")] = Path(),
    local: Annotated[
        LocalWay, typer.Option(help="Whether the pictures of cameras on this host are taken from its memory.")
    ] = "auto",
    key: Key = None,
    server_key: ServerKeys = None,
    keys: Keys = None,
    insecure: Insecure = False,
) -> None:
    """Show cameras in a window. A click, or 1 to 9, enlarges one and brings all back; s saves, q quits."""
    positive(duration, "--duration")
    from camfabric.cli.window import Window

    endpoints = from_default(from_)
    title = "camfabric: " + (" ".join(filters or []) or "all cameras")
    mosaic_width, mosaic_height = _SIZE
    window = Window(title, width=mosaic_width, height=mosaic_height)
    # After the window, whose OpenCV has to be loaded before PyAV.
    from camfabric.cli.watching import Watching
    from camfabric.subscriber.mosaic import Mosaic

    access = Access(key=key, server_key=server_key, keys=keys, insecure=insecure)
    mosaic = Mosaic(width=mosaic_width, height=mosaic_height)
    end = None if duration is None else time.monotonic() + duration
    with (
        Watching(endpoints, filters or (), channel=channel, local=local, access=access) as watching,
        stopped_by_signals(watching.ask_close),
    ):
        window.on_click(lambda x, y: _enlarge(watching, mosaic, mosaic.camera_at(x, y)))
        while (end is None or time.monotonic() < end) and _take(watching, mosaic):
            begun = time.monotonic()
            window.show(mosaic.draw())
            # It lives while it waits for a key: as long as another drawing would be of no use.
            pause_s = _SMALL_PAUSE_S if watching.is_small else _PAUSE_S
            key = window.key(int((begun + pause_s - time.monotonic()) * 1000))
            if key == "s":
                _save(mosaic, save)
            elif key in _NUMBERS:
                _enlarge(watching, mosaic, mosaic.camera_number(int(key)))
            if key == "q" or not window.is_open:
                break
        window.close()


def _take(watching: Watching, mosaic: Mosaic) -> bool:
    """Wait for a frame, a fifth of a second at most, and take what else is there. Returns False once it is closed."""
    try:
        for frame in watching.frames(_REDRAW_S):
            mosaic.update(frame)
    except ConfigError:
        return False
    for status in watching.cameras().values():
        mosaic.hear(status)
    return True


def _enlarge(watching: Watching, mosaic: Mosaic, camera: str | None) -> None:
    """Show one camera large, or all again where one is."""
    if mosaic.enlarged is not None:
        camera = None
    watching.enlarged = mosaic.enlarged = camera


def _save(mosaic: Mosaic, folder: Path) -> None:
    import cv2

    path = folder / time.strftime("camfabric-%Y%m%d-%H%M%S.png")
    try:
        write_file(path, cv2.imencode(".png", mosaic.draw())[1].tobytes())
    except OSError as error:
        logger.error("cannot save %s: %s", path, error.strerror)
    else:
        logger.info("saved %s", path)
