"""`camfabric subscribe`: a line for each frame, pictures saved, or one camera's stream to standard output."""

from __future__ import annotations

import json
import logging
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final, Literal

import typer

from camfabric.cli.forms import Form
from camfabric.cli.options import (
    Duration,
    Filters,
    From,
    Insecure,
    Json,
    Key,
    Keys,
    LocalWay,
    ServerKeys,
    from_default,
    make_folder,
    positive,
)
from camfabric.cli.output import write_file, write_line
from camfabric.cli.pipe import Pipe, require_pipe
from camfabric.cli.signals import stopped_by_signals
from camfabric.common.errors import ConfigError
from camfabric.common.topics import SHM

if TYPE_CHECKING:
    from camfabric.common.frame import Frame
    from camfabric.subscriber import Subscriber

__all__ = ["subscribe"]

logger = logging.getLogger(__name__)

_HINT_S: Final = 3.0
_SAVED: Final = re.compile(r"\d{8}T\d{6}\.\d{3}Z-\d+\.(jpg|png)")


def subscribe(
    filters: Filters = None,
    from_: From = None,
    channel: Annotated[Literal["cam", "low"], typer.Option(help="The main streams, or the small pictures.")] = "cam",
    frames: Annotated[int | None, typer.Option(help="End after this many frames.")] = None,
    duration: Duration = None,
    mode: Annotated[
        Literal["latest", "every"], typer.Option(help="The newest of each camera, or every frame in order.")
    ] = "latest",
    every: Annotated[float | None, typer.Option(help="At most one frame of each camera in this many seconds.")] = None,
    json_: Json = False,
    save: Annotated[
        Path | None, typer.Option(help="Save pictures as DIR/<camera>/<time>-<number>.jpg or .png.")
    ] = None,
    keep: Annotated[int | None, typer.Option(help="With --save: keep the newest N of each camera.")] = None,
    timeout: Annotated[float | None, typer.Option(help="Fail if nothing comes for this many seconds.")] = None,
    pipe: Annotated[
        Form | None,
        typer.Option(
            help="One camera to standard output, for other programs: as it comes with its times (nut: `| ffplay -`),"
            " as it comes without (encoded), or decoded pixels (raw)."
        ),
    ] = None,
    local: Annotated[
        LocalWay | None,
        typer.Option(
            help="auto takes the pictures of cameras on this host from its memory. Default: auto with --pipe raw,"
            " off where frames are taken as they are sent.",
            show_default=False,
        ),
    ] = None,
    key: Key = None,
    server_key: ServerKeys = None,
    keys: Keys = None,
    insecure: Insecure = False,
) -> None:
    """Receive frames: print a line for each, save them, or pipe them to another program."""
    for value, option in ((frames, "--frames"), (duration, "--duration"), (every, "--every"), (keep, "--keep")):
        positive(value, option)
    positive(timeout, "--timeout")
    if keep is not None and save is None:
        raise ConfigError("--keep goes with --save", setting="--keep", value=keep)
    camera = ""
    if pipe is not None:
        for given, option in ((json_, "--json"), (save, "--save"), (every, "--every")):
            if given:
                raise ConfigError(f"--pipe does not go with {option}", setting=option)
        camera = require_pipe(filters, pipe)
    from camfabric.subscriber import Subscriber

    album = _Album(save, keep) if save is not None else None
    decodes = album is not None or pipe == "raw" or local == "auto"
    with (
        Subscriber(
            from_default(from_),
            cameras=filters or (),
            channel=channel,
            mode=mode,
            decode=decodes,
            local=local or ("auto" if pipe == "raw" else "off"),
            key=key,
            server_key=server_key,
            keys=keys,
            insecure=insecure,
        ) as subscriber,
        stopped_by_signals(subscriber.ask_close),
    ):
        if pipe is not None:
            received_frames = _frames(subscriber, duration=duration, timeout=timeout)
            Pipe(subscriber, camera, pipe, mode=mode).run(received_frames, count=frames, duration=duration)
            return
        taken = 0
        thinning = _Thinning(every)
        for received in _frames(subscriber, duration=duration, timeout=timeout):
            frame: Frame | None = received
            # What is thinned out is not decoded, but where the pictures behind it need it.
            if not decodes or received.codec.is_intra:
                frame = thinning.admitted(received)
            if decodes and frame is not None:
                frame = subscriber.decoded(frame)
                if frame is not None and not frame.codec.is_intra:
                    frame = thinning.admitted(frame)
            if frame is None:
                continue
            write_line(_as_json(frame) if json_ else _as_text(frame))
            if album is not None:
                album.save(frame)
            taken += 1
            if taken == frames:
                return


def _frames(subscriber: Subscriber, *, duration: float | None, timeout: float | None) -> Iterator[Frame]:
    """Frames until the subscriber is closed or the time is up; says why where nothing comes."""
    end = None if duration is None else time.monotonic() + duration
    silent_since = time.monotonic()
    said = ""
    while True:
        now = time.monotonic()
        waits = [_HINT_S]
        if end is not None:
            waits.append(end - now)
        if timeout is not None:
            waits.append(silent_since + timeout - now)
        if end is not None and now >= end:
            return
        try:
            frame = subscriber.take(max(min(waits), 0.0))
        except ConfigError:
            return
        except TimeoutError as error:
            why = str(error).partition(": ")[2]
            if timeout is not None and time.monotonic() - silent_since >= timeout:
                raise TimeoutError(f"no frame within {timeout:g} s: {why}") from error
            if why != said and time.monotonic() - silent_since >= _HINT_S:
                said = why
                logger.info("no frames: %s", why)
            continue
        silent_since, said = time.monotonic(), ""
        yield frame


def _as_json(frame: Frame) -> str:
    return json.dumps(
        {
            "camera": frame.camera,
            "channel": frame.channel,
            "epoch": frame.epoch,
            "seq": frame.seq,
            "codec": frame.codec.label,
            "keyframe": frame.keyframe,
            "width": frame.width,
            "height": frame.height,
            "bytes": len(frame.payload),
            "captured_ns": frame.captured_ns,
            "received_ns": frame.received_ns,
            "age_ms": round(frame.age_ms, 3),
            "missed": frame.missed,
            "dropped": frame.dropped,
        },
        ensure_ascii=False,
    )


def _as_text(frame: Frame) -> str:
    return (
        f"{frame.camera:<20} #{frame.seq:<7} {frame.width}x{frame.height}"
        f" {frame.channel if frame.channel == SHM else frame.codec.label:<4}"
        f" {len(frame.payload) / 1000:8.1f} kB  age {frame.age_ms:7.1f} ms"
        f"  missed {frame.missed}  dropped {frame.dropped}"
    )


class _Thinning:
    """Lets at most one frame of each camera through in an interval; what it counts of the others is added to it."""

    def __init__(self, every_s: float | None) -> None:
        self._every_s = every_s
        self._next: dict[str, float] = {}
        self._owed: dict[str, tuple[int, int]] = {}

    def admitted(self, frame: Frame) -> Frame | None:
        if self._every_s is None:
            return frame
        now = time.monotonic()
        missed, dropped = self._owed.pop(frame.camera, (0, 0))
        frame = frame.replace(missed=frame.missed + missed, dropped=frame.dropped + dropped)
        if now < self._next.get(frame.camera, 0.0):
            self._owed[frame.camera] = (frame.missed, frame.dropped + 1)
            return None
        self._next[frame.camera] = now + self._every_s
        return frame


class _Album:
    """A folder of saved pictures: JPEG as it came, raw as PNG, video as JPEG."""

    def __init__(self, folder: Path, keep: int | None) -> None:
        self._folder = folder
        self._keep = keep
        make_folder(folder)

    def save(self, frame: Frame) -> None:
        from camfabric.common.frame import Codec

        folder = self._folder / frame.camera
        folder.mkdir(parents=True, exist_ok=True)
        stamp = time.strftime("%Y%m%dT%H%M%S", time.gmtime(frame.captured_ns // 1_000_000_000))
        name = f"{stamp}.{frame.captured_ns // 1_000_000 % 1000:03d}Z-{frame.seq:06d}"
        if frame.codec is Codec.JPEG:
            write_file(folder / f"{name}.jpg", bytes(frame.payload))
        else:
            import cv2

            ending = "png" if frame.codec is Codec.RAW else "jpg"
            write_file(folder / f"{name}.{ending}", cv2.imencode(f".{ending}", frame.image)[1].tobytes())
        if self._keep is not None:
            # Its own alone: there may be others, and a camera's folder may end in .jpg.
            pictures = sorted(path for path in folder.iterdir() if _SAVED.fullmatch(path.name) and path.is_file())
            for path in pictures[: -self._keep]:
                path.unlink()
