"""`camfabric publish`: one camera."""

from __future__ import annotations

import logging
import os
import re
import sys
import threading
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final, Literal

import typer

from camfabric.cli.options import Insecure, Key, Keys, ServerKey, positive
from camfabric.cli.signals import stopped_by_signals
from camfabric.common.errors import ConfigError
from camfabric.common.redact import has_credentials, redact
from camfabric.common.settings import BROKER_PUBLISHERS, COPY, DEFAULT_GOP, DEFAULT_LOW, DEFAULT_QUALITY
from camfabric.common.topics import LOW

if TYPE_CHECKING:
    from camfabric.publisher import Low
    from camfabric.publisher.capture import Capture
    from camfabric.publisher.sources import SourceAddress

__all__ = ["publish"]

logger = logging.getLogger(__name__)

_SOURCE_VARIABLE = "CAMFABRIC_PUBLISH_SOURCE"
_LOW_VARIABLE = "CAMFABRIC_PUBLISH_LOW"
_END_S = 2.0
_ADDRESS_CHARACTERS: Final = 4096
_BIT_RATE: Final = re.compile(r"([0-9]+(?:\.[0-9]+)?)([kKmM]?)")
_LOW: Final = re.compile(r"([0-9]+x[0-9]+)(?:@([0-9]+(?:\.[0-9]+)?))?", re.IGNORECASE)
_UNITS: Final = {"": 1, "k": 1_000, "m": 1_000_000}


def publish(
    source: Annotated[
        str,
        typer.Argument(
            help="test://, test://?size=1920x1080&fps=30, a device (0, /dev/video0), a video file, a folder of"
            " pictures, any URL that FFmpeg opens (rtsp://, http://, udp:// ...), or @FILE, whose first line is it.",
            envvar=_SOURCE_VARIABLE,
        ),
    ],
    camera: Annotated[str, typer.Option(help="The camera's name, such as cctv/lobby.")],
    to: Annotated[
        str | None, typer.Option(help=f"The broker to connect to. Default {BROKER_PUBLISHERS}.", show_default=False)
    ] = None,
    bind: Annotated[str | None, typer.Option(help="Bind this endpoint instead; subscribers connect to it.")] = None,
    codec: Annotated[
        str | None,
        typer.Option(
            help="copy passes on the camera's own H.264, H.265 or JPEG; jpeg, h264, h265 and raw encode."
            " Default: copy for URLs and devices, jpeg for the others, and where pictures are to be changed.",
            show_default=False,
        ),
    ] = None,
    quality: Annotated[
        int | None, typer.Option(help=f"Of JPEG, 1 to 100. Default {DEFAULT_QUALITY}.", show_default=False)
    ] = None,
    bitrate: Annotated[
        str | None, typer.Option(help="Of H.264 and H.265, bits a second: 800k, 4M. Default: by the picture's size.")
    ] = None,
    gop: Annotated[int | None, typer.Option(help=f"Pictures between two keyframes. Default {DEFAULT_GOP}.")] = None,
    encoder: Annotated[
        str | None, typer.Option(help="An encoder of FFmpeg, such as h264_nvenc. Default: libx264, libx265.")
    ] = None,
    low: Annotated[
        str, typer.Option(help="The small picture: WIDTHxHEIGHT@FPS, the URL of the camera's substream, or off.")
    ] = DEFAULT_LOW,
    shared: Annotated[
        bool | None,
        typer.Option(
            "--shared/--no-shared",
            help="Pictures in this host's memory too, for subscribers of this user. Default: where there are no keys.",
            show_default=False,
        ),
    ] = None,
    on_demand: Annotated[
        bool,
        typer.Option("--on-demand", help="Close the source 10 s after the last viewer left, open it for the next."),
    ] = False,
    fps: Annotated[float | None, typer.Option(help="At most this many pictures a second.")] = None,
    size: Annotated[str | None, typer.Option(help="Scale to WIDTHxHEIGHT.")] = None,
    loop: Annotated[bool, typer.Option("--loop", help="Play a file or folder again and again.")] = False,
    rtsp_transport: Annotated[Literal["tcp", "udp"], typer.Option(help="How RTSP cameras send.")] = "tcp",
    preview: Annotated[bool, typer.Option("--preview", help="Show the outgoing picture in a window.")] = False,
    key: Key = None,
    server_key: ServerKey = None,
    keys: Keys = None,
    insecure: Insecure = False,
) -> None:
    """Publish a camera: to a broker, or at an endpoint of its own."""
    _hide({_SOURCE_VARIABLE: source, _LOW_VARIABLE: low})
    source, low = _from_file(source, "SOURCE"), _from_file(low, "--low")
    from camfabric.publisher import Publisher
    from camfabric.publisher.capture import Capture
    from camfabric.publisher.sources.source import Wanted, parse_size, parse_source

    if preview:
        from camfabric.cli.preview import Preview
    address = parse_source(source)
    positive(fps, "--fps")
    wanted_size = parse_size(size, setting="--size") if size else None
    changes = [
        option for option, value in (("--size", size), ("--fps", fps), ("--quality", quality)) if value is not None
    ]
    codec = _chosen_codec(codec, address, changes)
    _check_video_options(codec, bitrate=bitrate, gop=gop, encoder=encoder)
    low_picture, low_address = _parse_low(low)
    shown = Preview(camera, wanted_size) if preview else None
    with Publisher(
        camera,
        to=to,
        bind=bind,
        codec=codec,
        quality=DEFAULT_QUALITY if quality is None else quality,
        size=wanted_size,
        bit_rate=_parse_bit_rate(bitrate),
        gop=DEFAULT_GOP if gop is None else gop,
        encoder=encoder or "",
        low=low_picture,
        shared=shared,
        key=key,
        server_key=server_key,
        keys=keys,
        insecure=insecure,
        source=address.kind,
        announce_at_once=False,
    ) as publisher:
        if bind is not None:
            logger.info("subscribers connect to %s", publisher.endpoint)
        wanted = Wanted(
            label=publisher.camera,
            fps=fps,
            size=wanted_size,
            loop=loop,
            rtsp_transport=rtsp_transport,
            packets=codec == COPY,
        )
        capture = Capture(address, publisher, wanted, on_demand=on_demand, on_shot=shown.put if shown else None)
        runs = [_Run(capture)]
        if low_address is not None:
            own = replace(wanted, fps=None, size=None, packets=True)
            low_capture = Capture(low_address, publisher, own, on_demand=on_demand, channel=LOW)
            runs.append(_Run(low_capture, fails="no small picture"))
        main = runs[0]
        with stopped_by_signals(main.stop):
            for run in runs:
                run.start()
            if shown is not None:
                shown.show(main.ended)
                main.stop()
            main.ended.wait()
            for run in runs:
                run.stop()
                run.join(_END_S)
        if any(run.is_alive() for run in runs):
            # The source hangs in a call that nothing can interrupt; say goodbye, and do not wait for it.
            publisher.close()
            logging.shutdown()
            os._exit(0)
        if main.error is not None:
            publisher.close(str(main.error))
            raise main.error


def _chosen_codec(codec: str | None, address: SourceAddress, changes: list[str]) -> str:
    """The codec that was given, or the one that fits the source.

    Raises:
        ConfigError: packets are to be passed on as they are, and changed.
    """
    if codec is None:
        return COPY if not changes and address.kind not in ("test", "file", "folder") else "jpeg"
    if codec == COPY:
        if address.kind in ("test", "folder"):
            raise ConfigError(
                f"--codec copy: {address.kind} sources have no packets to pass on; use jpeg or h264", setting="--codec"
            )
        if changes:
            raise ConfigError(
                f"--codec copy passes packets on as they are: leave out {' and '.join(changes)}, or use jpeg or h264",
                setting="--codec",
            )
    return codec


def _check_video_options(codec: str, *, bitrate: str | None, gop: int | None, encoder: str | None) -> None:
    given = [
        name for name, value in (("--bitrate", bitrate), ("--gop", gop), ("--encoder", encoder)) if value is not None
    ]
    if given and codec not in ("h264", "h265"):
        raise ConfigError(f"{' and '.join(given)}: they go with --codec h264 or h265, not {codec}", setting=given[0])


def _parse_bit_rate(text: str | None) -> int | None:
    if text is None:
        return None
    match = _BIT_RATE.fullmatch(text)
    if match is None:
        raise ConfigError(
            f"--bitrate {text!r}: it is a number of bits a second, such as 800k or 4M", setting="--bitrate"
        )
    return int(float(match[1]) * _UNITS[match[2].lower()])


def _parse_low(text: str) -> tuple[Low | None, SourceAddress | None]:
    """What the small picture is like, and its own source where it has one.

    Raises:
        ConfigError: it is neither a size, nor an address, nor "off".
    """
    from camfabric.publisher import Low
    from camfabric.publisher.sources.source import parse_size, parse_source

    if text == "off":
        return None, None
    if "://" in text:
        return Low(own_source=True), parse_source(text)
    match = _LOW.fullmatch(text)
    if match is None:
        raise ConfigError(
            f"--low {redact(text)!r}: it is WIDTHxHEIGHT@FPS, such as {DEFAULT_LOW}, a URL, or off", setting="--low"
        )
    size = parse_size(match[1], setting="--low")
    return (Low(size=size) if match[2] is None else Low(size=size, fps=float(match[2]))), None


def _hide(addresses: dict[str, str]) -> None:
    """Start again with addresses that have credentials in the environment, which other users cannot read, and not among
    the arguments; `addresses` are by the name of their variable."""
    arguments = sys.orig_argv[1:]
    for variable, address in addresses.items():
        if has_credentials(address):
            os.environ[variable] = address
            arguments = _without(arguments, address)
    if arguments != sys.orig_argv[1:]:
        os.execv(sys.executable, [sys.executable, *arguments])  # noqa: S606


def _from_file(address: str, option: str) -> str:
    """The address, or, where it is @FILE, the first line of that file: nobody sees it among the arguments then.

    Raises:
        ConfigError: the file cannot be read, or has no address.
    """
    if not address.startswith("@"):
        return address
    path = Path(address[1:])
    try:
        with path.open(encoding="utf-8") as file:
            line = file.readline(_ADDRESS_CHARACTERS).strip()
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is no text"
        raise ConfigError(f"{option} {redact(address)}: the file cannot be read: {why}", setting=option) from error
    if not line:
        raise ConfigError(f"{option} {redact(address)}: the file's first line is empty", setting=option)
    return line


def _without(arguments: list[str], address: str) -> list[str]:
    """The arguments without an address, and without an option `--low` in front of it."""
    kept: list[str] = []
    for argument in arguments:
        if argument == address:
            if kept and kept[-1] == "--low":
                kept.pop()
        elif argument != f"--low={address}":
            kept.append(argument)
    return kept


class _Run(threading.Thread):
    """The capture in a thread: a source may hang in a call, and the main thread has to hear signals all the same."""

    def __init__(self, capture: Capture, *, fails: str = "") -> None:
        super().__init__(name="capture", daemon=True)
        self._capture = capture
        self._fails = fails
        """What is said of an error that ends nothing else."""
        self.ended = threading.Event()
        self.error: Exception | None = None

    def run(self) -> None:
        try:
            self._capture.run()
        except Exception as error:
            self.error = error
            if self._fails:
                logger.error("%s: %s", self._fails, error)
        finally:
            self.ended.set()

    def stop(self) -> None:
        self._capture.stop()
        self.ended.set()
