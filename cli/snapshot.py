"""`camfabric snapshot`: one camera's picture of this moment, in a file."""

from __future__ import annotations

import difflib
import logging
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final, Literal

import typer

from camfabric.cli.listing import list_cameras
from camfabric.cli.options import Access, From, Insecure, Key, Keys, ServerKeys, from_default, positive
from camfabric.cli.output import write_bytes, write_file, write_line
from camfabric.cli.signals import stopped_by_signals
from camfabric.common.errors import ConfigError, FabricError
from camfabric.common.status import LIVE, Status
from camfabric.common.topics import check_camera

if TYPE_CHECKING:
    from camfabric.common.frame import Frame
    from camfabric.subscriber import Subscriber

__all__ = ["snapshot"]

logger = logging.getLogger(__name__)

_FRESH_MS: Final = 1000.0
"""A live camera's picture that is no older is taken at once; for a better one of an older it waits."""
_MAX_AGE_S: Final = 5.0
_PATIENCE_S: Final = 0.2
"""Between two looks at whether it is worth waiting."""
_ENDINGS: Final = (".jpg", ".jpeg", ".png")
_QUALITY: Final = 95
_NAMES_S: Final = 1.2
"""How long other cameras' names are asked for, where there is none of this name: a broker says each second that it is
there."""


def snapshot(
    camera: Annotated[
        str, typer.Argument(metavar="CAMERA", help="The camera's name, as `camfabric ls` shows it.", show_default=False)
    ],
    output: Annotated[
        str,
        typer.Option("--output", "-o", metavar="FILE", help="A .jpg or .png, or - for a JPEG on standard output."),
    ],
    from_: From = None,
    channel: Annotated[Literal["cam", "low"], typer.Option(help="The main stream, or the small picture.")] = "cam",
    timeout: Annotated[float, typer.Option(help="Seconds to wait for a picture.")] = 5.0,
    max_age: Annotated[
        float | None,
        typer.Option(
            help="Take a picture up to so many seconds old, of a camera that is not live as well."
            f" Default: {_MAX_AGE_S:g}, and a live one alone.",
            show_default=False,
        ),
    ] = None,
    key: Key = None,
    server_key: ServerKeys = None,
    keys: Keys = None,
    insecure: Insecure = False,
) -> None:
    """Save a camera's newest picture. JPEG is written as it came."""
    positive(timeout, "--timeout")
    positive(max_age, "--max-age")
    camera = check_camera(camera)
    path = _target(output)
    from camfabric.subscriber import Subscriber

    endpoints = from_default(from_)
    access = Access(key=key, server_key=server_key, keys=keys, insecure=insecure)
    with Subscriber(endpoints, cameras=camera, channel=channel, local="off", **access) as subscriber:
        stopped = threading.Event()

        def stop() -> None:
            stopped.set()
            subscriber.ask_close()

        with stopped_by_signals(stop):
            try:
                frame = _newest(subscriber, camera, timeout, max_age)
            except ConfigError:
                if stopped.is_set():
                    raise FabricError("stopped before there was a picture") from None
                raise
        status = subscriber.cameras().get(camera)
        troubles = subscriber.troubles()
    if frame is None:
        raise FabricError(_why_nothing(camera, status, troubles, timeout, endpoints, access))
    _require_young(frame, status, max_age)
    _write(frame, path, status)


def _target(output: str) -> Path | None:
    """The file to write, or None for standard output.

    Raises:
        ConfigError: it cannot be written, or is of no kind that is known.
    """
    if output == "-":
        if sys.stdout is None or sys.stdout.isatty():
            raise ConfigError("-o -: standard output is a terminal; put `> FILE.jpg` behind it", setting="--output")
        return None
    path = Path(output)
    if path.suffix.lower() not in _ENDINGS:
        raise ConfigError(
            f"-o {output}: it ends in .jpg or .png, or is - for standard output", setting="--output", value=output
        )
    if not path.parent.is_dir():
        raise ConfigError(f"-o {output}: there is no folder {path.parent}", setting="--output", value=output)
    if path.is_dir():
        raise ConfigError(f"-o {output}: it is a folder", setting="--output", value=output)
    return path


def _newest(subscriber: Subscriber, camera: str, timeout: float, max_age: float | None) -> Frame | None:
    """The camera's picture of this moment; the newest that came, where the time is over; None where none did.

    What comes first may be old: the last picture that a broker has kept, or the beginning of a group of packets.
    """
    end = time.monotonic() + timeout
    newest: Frame | None = None
    while (remaining := end - time.monotonic()) > 0:
        try:
            frame = subscriber.read(min(remaining, _PATIENCE_S))
        except TimeoutError:
            frame = None
        if frame is not None and frame.camera == camera:
            newest = frame
        status = subscriber.cameras().get(camera)
        if newest is None or status is None:
            continue
        if status.state == LIVE and newest.age_ms <= _FRESH_MS:
            break
        # Of a camera that gives nothing, nothing better is to be waited for.
        if frame is None and status.state != LIVE and max_age is not None and newest.age_ms <= max_age * 1000:
            break
    return newest


def _why_nothing(
    camera: str, status: Status | None, troubles: list[str], timeout: float, endpoints: list[str], access: Access
) -> str:
    if status is not None:
        why = f": {status.reason}" if status.reason else ""
        return f"no picture of {camera} within {timeout:g} s; it is {status.state}{why}"
    if troubles:
        return "; ".join(troubles)
    listing = list_cameras(endpoints, wait_s=_NAMES_S, access=access)
    if not listing.cameras and not listing.has_broker:
        return f"no camera and no broker answers at {', '.join(endpoints)}"
    names = [status.camera for status in listing.cameras]
    near = sorted(name for name in names if name.startswith(f"{camera}/")) or difflib.get_close_matches(camera, names)
    hint = f": is it {' or '.join(near[:3])}?" if near else "; camfabric ls shows which there are"
    return f"there is no camera {camera} at {', '.join(endpoints)}{hint}"


def _require_young(frame: Frame, status: Status | None, max_age: float | None) -> None:
    """Raise FabricError where a picture is not what it would be taken for."""
    age_s = frame.age_ms / 1000
    limit_s = _MAX_AGE_S if max_age is None else max_age
    is_dead = max_age is None and status is not None and status.state != LIVE
    if age_s <= limit_s and not is_dead:
        return
    state = "it gives no status" if status is None else f"it is {status.state}"
    reason = f": {status.reason}" if status is not None and status.reason else ""
    raise FabricError(
        f"not saved: the newest picture of {frame.camera} is {age_s:.1f} s old ({state}{reason});"
        f" --max-age {int(age_s) + 5} takes it"
    )


def _write(frame: Frame, path: Path | None, status: Status | None) -> None:
    data = _coded(frame, ".jpg" if path is None else path.suffix.lower())
    state = "" if status is None or status.state == LIVE else f", {status.state}"
    size = f"{frame.width}x{frame.height} {len(data) / 1000:.1f} kB"
    line = f"{frame.camera} {size}, {frame.age_ms / 1000:.2f} s old{state}"
    if path is None:
        write_bytes(data)
        logger.info("%s", line)
        return
    try:
        write_file(path, data)
    except OSError as error:
        raise FabricError(f"cannot save {path}: {error.strerror}") from error
    write_line(f"{path}: {line}")


def _coded(frame: Frame, ending: str) -> bytes:
    """The picture as a file of that kind: JPEG as it came, and PNG with all that the picture has."""
    from camfabric.common.frame import Codec

    if frame.codec is Codec.JPEG and ending != ".png":
        return bytes(frame.payload)
    import cv2

    from camfabric.common.codecs.image import to_8_bit

    if ending == ".png":
        return cv2.imencode(ending, frame.image)[1].tobytes()
    options = [cv2.IMWRITE_JPEG_QUALITY, _QUALITY]
    return cv2.imencode(ending, to_8_bit(frame.image), options)[1].tobytes()
