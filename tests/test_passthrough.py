"""Passthrough: what a file's or stream's own packets are when they arrive: their bytes, times and flags."""

from __future__ import annotations

import hashlib
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from camfabric.common.frame import Codec, Frame
from camfabric.publisher import Publisher
from camfabric.publisher.capture import Capture
from camfabric.publisher.sources import parse_source
from camfabric.publisher.sources.source import Wanted
from camfabric.subscriber import Subscriber

av: Any = import_module("av")  # with its own types, each stream would be one of three kinds

ANY = "tcp://127.0.0.1:*"
FPS = 250
B_FRAMES = "bframes=3:b-pyramid=normal:b-adapt=0"


def _picture(number: int, size: tuple[int, int]) -> Any:
    rows, columns = np.mgrid[0 : size[1], 0 : size[0]]
    return np.dstack([(columns * 3 + number * 9) % 256, (rows * 2 + number * 5) % 256, (rows + columns) % 256]).astype(
        np.uint8
    )


def _film(
    path: Path,
    *,
    encoder: str = "libx264",
    params: str = B_FRAMES,
    count: int = 60,
    keyint: int = 20,
    size: tuple[int, int] = (128, 96),
    extras: bool = False,
    options: dict[str, str] | None = None,
    skip: int = 0,
) -> Path:
    """Write a film; with `extras`, with sound and subtitles. `skip` leaves packets out."""
    with av.open(str(path), "w", options=options or {}) as container:
        if encoder in ("libx264", "libx265"):
            name = encoder.removeprefix("lib")
            log = ":log-level=error" if name == "x265" else ""
            fixed = f"keyint={keyint}:min-keyint={keyint}:scenecut=0{log}"
            chosen = {"preset": "veryfast", f"{name}-params": f"{fixed}:{params}".rstrip(":")}
        else:
            chosen = {}
        stream = container.add_stream(encoder, rate=FPS, options=chosen)
        stream.width, stream.height, stream.pix_fmt = *size, "yuvj420p" if encoder == "mjpeg" else "yuv420p"
        sound = container.add_stream("aac", rate=8000) if extras else None
        packets = []
        for number in range(count):
            packets += stream.encode(av.VideoFrame.from_ndarray(_picture(number, size), format="bgr24"))
            if sound is not None:
                noise = av.AudioFrame.from_ndarray(np.zeros((1, 80), np.float32), format="fltp", layout="mono")
                noise.sample_rate = 8000
                packets += sound.encode(noise)
        packets += stream.encode(None)
        for packet in packets[skip:]:
            container.mux(packet)
        if sound is not None:
            container.mux(sound.encode(None))
    return path


def _units(data: bytes, prefixed: bool) -> list[bytes]:
    """The NAL units of a packet, parsed apart from the fabric's own code."""
    if not prefixed:
        return [unit.rstrip(b"\0") for unit in re.split(b"\0\0\1", data)[1:]]
    units = []
    while data:
        size = int.from_bytes(data[:4])
        units.append(data[4 : 4 + size])
        data = data[4 + size :]
    return units


def _kind(codec: Codec, unit: bytes) -> int:
    return unit[0] & 31 if codec is Codec.H264 else unit[0] >> 1 & 63


def _slices(codec: Codec, units: list[bytes]) -> list[bytes]:
    return [unit for unit in units if _kind(codec, unit) in (range(1, 6) if codec is Codec.H264 else range(32))]


def _digest(units: list[bytes]) -> str:
    return hashlib.sha256(b"".join(len(unit).to_bytes(4) + unit for unit in units)).hexdigest()


class Original:
    """What is in a film, by PyAV alone."""

    def __init__(self, path: Path) -> None:
        with av.open(str(path)) as container:
            stream = next(s for s in container.streams.video if s.codec_context.name in ("h264", "hevc"))
            self.codec = Codec.H264 if stream.codec_context.name == "h264" else Codec.H265
            prefixed = bytes(stream.codec_context.extradata or b"")[:1] == b"\1"
            self.packets = [packet for packet in container.demux(stream) if packet.size]
            self.slices = [_slices(self.codec, _units(bytes(packet), prefixed)) for packet in self.packets]
            self.time_base = (stream.time_base.numerator, stream.time_base.denominator)

    @staticmethod
    def pictures(path: Path) -> list[Any]:
        """The pictures in the order in which they are shown."""
        with av.open(str(path)) as container:
            return [picture.to_ndarray(format="bgr24") for picture in container.decode(video=0)]


class Run:
    """A source that is published, and a subscriber that has heard it from its beginning."""

    def __init__(self, publisher: Publisher, subscriber: Subscriber, source: str, wanted: Wanted) -> None:
        self.subscriber = subscriber
        self.error: Exception | None = None
        self.offered: list[Any] = []
        self.capture = Capture(parse_source(source), publisher, wanted, on_shot=self.offered.append)
        self.thread = threading.Thread(target=self._run)
        self.thread.start()

    def _run(self) -> None:
        try:
            self.capture.run()
        except Exception as error:
            self.error = error

    def read(self, count: int) -> list[Frame]:
        """The next frames."""
        return [self.subscriber.read(timeout=10) for _ in range(count)]

    def read_all(self) -> list[Frame]:
        """All frames of a source that ends."""
        self.thread.join(20)
        assert not self.thread.is_alive()
        assert self.error is None
        return self.read(len(self.offered))


@pytest.fixture
def play(eventually: Any) -> Callable[..., Any]:
    """Publish a source as `camfabric publish --codec copy` does."""

    @contextmanager
    def run(source: Path | str, *, decode: bool = False, loop: bool = False) -> Iterator[Run]:
        with (
            Publisher("a", bind=ANY, codec="copy") as publisher,
            Subscriber(publisher.endpoint, mode="every", decode=decode) as subscriber,
        ):
            eventually(lambda: publisher.watched)
            playing = Run(publisher, subscriber, str(source), Wanted(label="a", loop=loop, packets=True))
            try:
                yield playing
            finally:
                playing.capture.stop()
                playing.thread.join(10)
            assert not playing.thread.is_alive()

    return run


def _assert_sets_once(codec: Codec, frame: Frame) -> None:
    """The parameter sets stand in front of the slices of a keyframe, each once, and in no other packet."""
    kinds = [_kind(codec, unit) for unit in _units(bytes(frame.payload), False)]
    wanted = {7, 8} if codec is Codec.H264 else {32, 33, 34}
    sets = [kind for kind in kinds if kind in wanted]
    first_slice = next(at for at, kind in enumerate(kinds) if kind in (range(1, 6), range(32))[codec is Codec.H265])
    assert sorted(sets) == (sorted(wanted) if frame.keyframe else [])
    assert all(kind not in wanted for kind in kinds[first_slice:])


_FILMS: list[tuple[str, dict[str, Any]]] = [
    ("a.mp4", {}),
    ("fragments.mp4", {"options": {"movflags": "frag_keyframe+empty_moov"}}),
    ("a.ts", {}),
    ("a.h264", {"count": 24, "keyint": 10}),
    ("a.flv", {}),
    ("extras.mkv", {"extras": True}),
    ("extras.mp4", {"extras": True}),
    ("slices.mp4", {"params": "slices=4:bframes=0"}),
    ("open.ts", {"params": B_FRAMES + ":open-gop=1"}),
    ("open.mp4", {"params": B_FRAMES + ":open-gop=1"}),
    ("h265.mp4", {"encoder": "libx265", "params": "bframes=3"}),
    ("h265-open.mkv", {"encoder": "libx265", "params": "bframes=3:open-gop=1"}),
    ("a.h265", {"encoder": "libx265", "params": "bframes=3", "count": 24, "keyint": 10}),
    ("h265.ts", {"encoder": "libx265", "params": "bframes=3"}),
]


@pytest.mark.parametrize(("name", "how"), _FILMS, ids=[name for name, _ in _FILMS])
def test_a_film_arrives_as_it_is(tmp_path: Path, play: Any, name: str, how: dict[str, Any]) -> None:
    path = _film(tmp_path / name, **how)
    original = Original(path)
    codec = original.codec
    with play(path) as playing:
        frames = playing.read_all()
    assert len(frames) == len(original.packets) == how.get("count", 60)
    assert sum(frame.missed for frame in frames) == 0
    arrived = [_slices(codec, _units(bytes(frame.payload), False)) for frame in frames]
    assert [_digest(units) for units in arrived] == [_digest(units) for units in original.slices]
    assert {(frame.codec, frame.width, frame.height) for frame in frames} == {(codec, 128, 96)}

    assert [frame.keyframe for frame in frames] == [packet.is_keyframe for packet in original.packets]
    for frame in frames:
        _assert_sets_once(codec, frame)
    if codec is Codec.H264:
        unneeded = [all(not unit[0] & 0x60 for unit in units) for units in original.slices]
    else:
        unneeded = [all(_kind(codec, unit) < 16 and not _kind(codec, unit) & 1 for unit in units) for units in arrived]
    assert [frame.disposable for frame in frames] == unneeded
    assert any(unneeded) or "bframes=0" in how.get("params", "")

    if path.suffix in (".h264", ".h265"):
        return  # without times
    assert [(frame.pts, frame.dts) for frame in frames] == [(packet.pts, packet.dts) for packet in original.packets]
    assert {frame.time_base for frame in frames} == {original.time_base}
    shown = sorted(frames, key=lambda frame: frame.pts)
    captured = [frame.captured_monotonic_ns for frame in shown]
    assert captured == sorted(captured)


@pytest.mark.parametrize("name", ["extras.mkv", "a.h264"])
def test_the_pictures_are_those_of_the_film(tmp_path: Path, play: Any, name: str) -> None:
    path = _film(tmp_path / name, **dict(_FILMS)[name])
    pictures = Original.pictures(path)
    with play(path, decode=True) as playing:
        frames = playing.read(len(pictures) - 6)  # the last ones are still in the decoder
    for frame, picture in zip(frames, pictures, strict=False):
        assert np.array_equal(frame.image, picture)


@pytest.mark.parametrize("name", ["a.mp4", "a.ts", "h265.mp4"])
def test_a_looped_film_goes_on_in_its_times_and_pictures(tmp_path: Path, play: Any, name: str) -> None:
    path = _film(tmp_path / name, **(dict(_FILMS)[name] | {"count": 20, "keyint": 10}))
    with play(path, loop=True) as playing:
        packets = playing.read(60)
    decoding_times = [frame.dts for frame in packets]
    assert decoding_times == sorted(set(decoding_times))
    times = sorted(frame.pts for frame in packets)
    assert len(set(np.diff(times))) == 1, "the times jump where the film begins anew"
    captured = [frame.captured_monotonic_ns for frame in sorted(packets, key=lambda frame: frame.pts)]
    assert captured == sorted(captured)
    pictures = Original.pictures(path)
    with play(path, loop=True, decode=True) as playing:
        for number, frame in enumerate(playing.read(50)):
            assert np.array_equal(frame.image, pictures[number % 20])
            assert frame.missed == 0


def test_a_film_that_changes_its_size_in_the_middle(tmp_path: Path, play: Any) -> None:
    large, small = _film(tmp_path / "l.h264", count=15), _film(tmp_path / "s.h264", count=15, size=(64, 48))
    path = tmp_path / "both.h264"
    path.write_bytes(large.read_bytes() + small.read_bytes())
    with play(path) as playing:
        packets = playing.read_all()
    assert [(frame.width, frame.height) for frame in packets] == [(128, 96)] * 15 + [(64, 48)] * 15
    assert packets[15].keyframe
    with play(path, decode=True) as playing:
        frames = playing.read(24)
    pictures = Original.pictures(large) + Original.pictures(small)
    for frame, picture in zip(frames, pictures, strict=False):
        assert np.array_equal(frame.image, picture)


@pytest.mark.parametrize("name", ["late.ts", "late.mkv", "late.flv"])
def test_nothing_comes_in_front_of_the_first_keyframe(tmp_path: Path, play: Any, name: str) -> None:
    path = _film(tmp_path / name, skip=5)
    original = Original(path)
    first = next(at for at, packet in enumerate(original.packets) if packet.is_keyframe)
    assert first > 0 or len(original.packets) < 55  # FFmpeg itself leaves them out of some
    with play(path) as playing:
        frames = playing.read_all()
    assert frames[0].keyframe
    assert frames[0].seq == 0
    arrived = [_slices(Codec.H264, _units(bytes(frame.payload), False)) for frame in frames]
    assert [_digest(units) for units in arrived] == [_digest(units) for units in original.slices[first:]]
    _assert_sets_once(Codec.H264, frames[0])


@pytest.mark.parametrize("encoder", ["libx264", "libx265"])
def test_a_film_cut_out_of_another_begins_with_its_parameter_sets(tmp_path: Path, play: Any, encoder: str) -> None:
    """Its first keyframe is no IDR picture, but one in front of which pictures are shown."""
    whole = _film(tmp_path / "whole.ts", encoder=encoder, params="bframes=3:open-gop=1")
    cut = tmp_path / "cut.mp4"
    with av.open(str(whole)) as source, av.open(str(cut), "w") as container:
        stream = container.add_stream_from_template(source.streams.video[0])
        begun = 0
        for packet in source.demux(video=0):
            begun += packet.is_keyframe
            if begun >= 2 and packet.size:
                packet.stream = stream
                container.mux(packet)
    with play(cut) as playing:
        frames = playing.read_all()
    codec = frames[0].codec
    assert 5 not in [_kind(codec, unit) for unit in _units(bytes(frames[0].payload), False)]
    for frame in frames:
        _assert_sets_once(codec, frame)
    # Nor do those come: what they need was cut off, and a decoder that goes on would show something else.
    with av.open(str(cut)) as container:
        times = [packet.pts for packet in container.demux(video=0) if packet.size]
    assert times[0] > min(times)
    assert [frame.pts for frame in frames] == [time for time in times if time >= times[0]]
    pictures = Original.pictures(whole)[20:]
    with play(cut, loop=True, decode=True) as playing:
        for frame in playing.read(60):
            assert any(np.array_equal(frame.image, picture) for picture in pictures), "a broken picture"


@pytest.mark.parametrize("name", ["cut.ts", "cut.mkv", "cut.flv", "cut.mp4"])
def test_a_film_cut_off_in_the_middle_of_a_group_is_shown_to_its_end(tmp_path: Path, play: Any, name: str) -> None:
    path = _film(tmp_path / name, params="bframes=0", options={"movflags": "faststart"} if "mp4" in name else None)
    pictures = Original.pictures(path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 3 // 4])
    whole = len(Original(path).packets) - 1
    assert 40 < whole < 60
    with play(path, loop=True, decode=True) as playing:
        frames = playing.read(whole)
        for frame, picture in zip(frames, pictures, strict=False):
            assert np.array_equal(frame.image, picture)
        while not np.array_equal((frame := playing.read(1)[0]).image, pictures[0]):
            assert any(np.array_equal(frame.image, picture) for picture in pictures), "a broken picture"
        for picture in pictures[1:20]:
            assert np.array_equal(playing.read(1)[0].image, picture)


def test_a_damaged_packet_is_left_out_and_the_film_goes_on(tmp_path: Path, play: Any) -> None:
    path = _film(tmp_path / "a.mp4", params="bframes=0")
    packets = [bytes(packet) for packet in Original(path).packets]
    data = path.read_bytes()
    assert data.count(packets[30]) == 1
    at = data.index(packets[30])
    path.write_bytes(data[:at] + b"\x7f\xff\xff\xff" + data[at + 4 :])  # a NAL unit longer than the packet
    with play(path) as playing:
        frames = playing.read_all()
    assert len(frames) == 59
    assert sum(frame.keyframe for frame in frames) == 3
