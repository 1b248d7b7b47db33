"""`camfabric view`: a window with one camera, or a mosaic."""

from __future__ import annotations

import logging
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from camfabric.cli.options import Duration, Filters, From, Insecure, from_default, positive
from camfabric.cli.output import write_file
from camfabric.cli.signals import stopped_by_signals
from camfabric.common.errors import ConfigError

if TYPE_CHECKING:
    from camfabric.subscriber import Subscriber
    from camfabric.subscriber.mosaic import Mosaic

__all__ = ["take_frames", "view"]

logger = logging.getLogger(__name__)

_REDRAW_S: Final = 0.2


def view(
    filters: Filters = None,
    from_: From = None,
    duration: Duration = None,
    save: Annotated[Path, typer.Option(help="Where the key s saves what is shown.")] = Path(),
    insecure: Insecure = False,
) -> None:
    """Show cameras in a window. Keys: q quits, s saves what is shown."""
    positive(duration, "--duration")
    from camfabric.cli.window import Window
    from camfabric.subscriber import Subscriber
    from camfabric.subscriber.mosaic import Mosaic

    with Subscriber(from_default(from_), cameras=filters or (), insecure=insecure) as subscriber:
        mosaic = Mosaic()
        window = Window(
            "camfabric: " + (" ".join(filters or []) or "all cameras"), width=mosaic.width, height=mosaic.height
        )
        with stopped_by_signals(subscriber.ask_close):
            end = None if duration is None else time.monotonic() + duration
            while (end is None or time.monotonic() < end) and take_frames(subscriber, mosaic):
                window.show(mosaic.draw())
                key = window.key(1)
                if key == "s":
                    _save(mosaic, save)
                if key == "q" or not window.is_open:
                    break
        window.close()


def take_frames(subscriber: Subscriber, mosaic: Mosaic) -> bool:
    """Wait for a frame, a fifth of a second at most, and take what else is there. Returns False once it is closed."""
    wait_s = _REDRAW_S
    try:
        for _ in range(len(subscriber.cameras()) + 1):
            mosaic.update(subscriber.read(wait_s))
            wait_s = 0.0
    except TimeoutError:
        pass
    except ConfigError:
        return False
    for status in subscriber.cameras().values():
        mosaic.hear(status)
    return True


def _save(mosaic: Mosaic, folder: Path) -> None:
    import cv2

    path = folder / time.strftime("camfabric-%Y%m%d-%H%M%S.png")
    try:
        write_file(path, cv2.imencode(".png", mosaic.draw())[1].tobytes())
    except OSError as error:
        logger.error("cannot save %s: %s", path, error.strerror)
    else:
        logger.info("saved %s", path)
