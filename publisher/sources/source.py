"""What a source is, how an address names one, and the table of kinds."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol
from urllib.parse import parse_qsl

from camfabric.common.errors import ConfigError
from camfabric.common.frame import Codec
from camfabric.common.redact import redact
from camfabric.common.settings import LIMITS

if TYPE_CHECKING:
    from camfabric.common.frame import Image

__all__ = ["Packet", "Shot", "Source", "SourceAddress", "Wanted", "open_source", "parse_size", "parse_source"]

_URL_SCHEMES: Final = (
    "rtsp", "rtsps", "rtmp", "rtmps", "rtp", "srtp", "http", "https", "udp", "tcp", "srt", "mms", "mmsh", "hls",
)  # fmt: skip
_LISTENING: Final = ("udp", "rtp", "srtp", "tcp", "srt")
"""Schemes under which one may wait for a sender, and name no host."""
_HOST: Final = re.compile(r"(\[[0-9a-fA-F:.%\w]+\]|[^:\[\]@]*)(:[0-9]{1,5})?")
_DEVICE_DIGITS: Final = 3
_SIZE: Final = re.compile(r"([0-9]{2,5})x([0-9]{2,5})")
_DEFAULT_SCENE: Final = {"size": "1280x720", "fps": "30"}


@dataclass(frozen=True, slots=True)
class Shot:
    """A picture from a source and when it was captured."""

    draw: Callable[[], Image]
    """Gives the picture, a new array that belongs to the caller; called at most twice, in any thread."""
    size: tuple[int, int]
    """(width, height) in px."""
    captured_monotonic_ns: int

    @classmethod
    def of(cls, image: Image, captured_monotonic_ns: int) -> Shot:
        """A picture that is there already, and will not be written again."""
        return cls(lambda: image, (image.shape[1], image.shape[0]), captured_monotonic_ns)


@dataclass(frozen=True, slots=True, kw_only=True)
class Packet:
    """A coded picture from a source, as the camera made it: what `Publisher.send_packet` is given."""

    payload: bytes
    codec: Codec
    size: tuple[int, int]
    keyframe: bool
    disposable: bool
    pts: int | None
    dts: int | None
    time_base: tuple[int, int] | None
    captured_monotonic_ns: int


class Source(Protocol):
    """An open source."""

    def shots(self) -> Iterator[Shot | Packet]:
        """Its pictures, or its packets, as they come or when they are due. Ends where the source ends.

        Raises:
            SourceError: it failed; it is to be opened anew.
        """

    def close(self) -> None:
        """Give it back."""


@dataclass(frozen=True, slots=True)
class SourceAddress:
    """A checked address. `repr` and `str` show no credentials."""

    kind: str
    """What the status shows: "test", "device", "file", "folder", or a URL's scheme."""
    text: str = field(repr=False)
    options: tuple[tuple[str, str], ...] = ()

    def __str__(self) -> str:
        return redact(self.text)


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What a source is asked for; those that cannot choose leave it to the publisher."""

    label: str
    """Written into drawn pictures."""
    fps: float | None = None
    size: tuple[int, int] | None = None
    loop: bool = False
    rtsp_transport: str = "tcp"
    packets: bool = False
    """The camera's own packets, where their codec can be carried, and not pictures."""


def parse_size(text: str, *, setting: str = "size") -> tuple[int, int]:
    """(width, height) of "1280x720".

    Raises:
        ConfigError: it is no size.
    """
    match = _SIZE.fullmatch(text.lower())
    if match is None or not all(LIMITS.min_side_px <= int(side) <= LIMITS.max_side_px for side in match.groups()):
        raise ConfigError(
            f"{setting} {text!r}: it is WIDTHxHEIGHT in pixels, {LIMITS.min_side_px} to {LIMITS.max_side_px} each,"
            " such as 1280x720",
            setting=setting,
            value=text,
        )
    return int(match[1]), int(match[2])


def parse_source(text: str) -> SourceAddress:
    """Check a source's address; nothing is opened.

    Raises:
        ConfigError: it is none; says what there is.
    """
    if not text:
        raise ConfigError("the source is empty: give test://, a device, a file, a folder or a URL", setting="source")
    if "\0" in text:
        raise ConfigError(f"source {redact(text)!r} has a NUL character", setting="source")
    if text.isascii() and text.isdecimal() and len(text) <= _DEVICE_DIGITS:
        return SourceAddress("device", f"/dev/video{int(text)}")
    scheme, separator, rest = text.partition("://")
    if not separator:
        return SourceAddress(_kind_of_path(text), text)
    scheme = scheme.lower()
    if scheme == "test":
        return SourceAddress("test", text, _scene_options(text, rest))
    if scheme == "file":
        if not rest.startswith("/"):
            raise ConfigError(f"source {redact(text)!r}: a file's URL is file:///PATH", setting="source")
        return SourceAddress(_kind_of_path(rest), rest)
    if scheme not in _URL_SCHEMES:
        known = ", ".join(f"{known}://" for known in ("test", "file", *_URL_SCHEMES))
        raise ConfigError(f"source {redact(scheme)}://: unknown scheme; there are {known}", setting="source")
    _check_host(scheme, rest)
    return SourceAddress(scheme, text)


def _check_host(scheme: str, rest: str) -> None:
    authority = re.split(r"[/?#]", rest, maxsplit=1)[0]
    host = authority.rpartition("@")[2]
    if any(character.isspace() or not character.isprintable() for character in rest) or not _HOST.fullmatch(host):
        # The address is not shown: where its password ends is just what cannot be told.
        raise ConfigError(
            f"source {scheme}://...: it names no host, as {scheme}://[USER:PASSWORD@]HOST[:PORT]/PATH does;"
            " in a user name or password write / as %2F, # as %23, ? as %3F, @ as %40, a space as %20",
            setting="source",
        )
    if not host.partition(":")[0] and scheme not in _LISTENING:
        raise ConfigError(f"source {scheme}://{host}: it names no host", setting="source")


def _kind_of_path(text: str) -> str:
    path = Path(text)
    try:
        if text.startswith("/dev/") or path.is_char_device():
            return "device"
        return "folder" if path.is_dir() else "file"
    except (OSError, ValueError):
        return "file"  # opening it will say why not


def _scene_options(text: str, rest: str) -> tuple[tuple[str, str], ...]:
    path, _, query = rest.partition("?")
    if path.strip("/"):
        raise ConfigError(
            f"source {redact(text)!r}: after test:// come options only, as in test://?size=1920x1080&fps=30",
            setting="source",
        )
    options = dict(_DEFAULT_SCENE)
    for key, value in parse_qsl(query, keep_blank_values=True):
        if key not in options:
            raise ConfigError(
                f"source {redact(text)!r}: unknown option {key!r}; there are {', '.join(options)}", setting="source"
            )
        options[key] = value
    parse_size(options["size"], setting="size in test://")
    try:
        fine = 0 < float(options["fps"]) <= 1000
    except ValueError:
        fine = False
    if not fine:
        raise ConfigError(f"source {redact(text)!r}: fps is a number up to 1000", setting="source")
    return tuple(options.items())


def open_source(address: SourceAddress, wanted: Wanted, *, stop: threading.Event) -> Source:
    """Open a source. `stop` ends its waiting when set.

    Raises:
        SourceError: it is not there, or refuses.
        ConfigError: it needs an extra that is not installed; names it.
    """
    match address.kind:
        case "test":
            from camfabric.publisher.sources.scene import SceneSource

            options = dict(address.options)
            return SceneSource(
                size=parse_size(options["size"]), fps=float(options["fps"]), label=wanted.label, stop=stop
            )
        case "device":
            from camfabric.publisher.sources.device import DeviceSource
            from camfabric.publisher.sources.media import MjpegDeviceSource

            if wanted.packets and (source := MjpegDeviceSource.open(address.text)) is not None:
                return source
            return DeviceSource(address.text, size=wanted.size, fps=wanted.fps)
        case "folder":
            from camfabric.publisher.sources.folder import FolderSource

            return FolderSource(Path(address.text), fps=wanted.fps, loop=wanted.loop, stop=stop)
        case "file":
            from camfabric.publisher.sources.media import FileSource

            return FileSource(Path(address.text), loop=wanted.loop, packets=wanted.packets, stop=stop)
        case _:
            from camfabric.publisher.sources.media import UrlSource

            return UrlSource(address.text, rtsp_transport=wanted.rtsp_transport, packets=wanted.packets)
