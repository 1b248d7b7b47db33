"""Shared memory: rings and their readers, what is left by the dead, what is refused, and pictures that nobody tears."""

from __future__ import annotations

import errno
import gc
import os
import signal
import stat
import struct
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import pytest

from camfabric.common import shared, wire
from camfabric.common.errors import WireError
from camfabric.common.frame import Codec, Frame, PixelFormat
from camfabric.common.settings import LIMITS
from camfabric.common.shared import Ring, RingReader, SharedPictures, host, make_host, sweep

_FOLDER: Final = Path("/dev/shm")  # noqa: S108
_SHAPE: Final = (120, 160, 3)
_BYTES: Final = 120 * 160 * 3
_EPOCH: Final = 77

pytestmark = pytest.mark.skipif(not make_host(), reason="no shared memory here")


def _picture(number: int, shape: tuple[int, ...] = _SHAPE) -> Any:
    return np.full(shape, number % 256, np.uint8)


@pytest.fixture
def ring() -> Iterator[Ring]:
    """A ring of small pictures."""
    made = Ring(_BYTES, epoch=_EPOCH)
    yield made
    made.close()


def _reader(ring: Ring, **limits: int) -> RingReader:
    return RingReader(ring.file, epoch=_EPOCH, limits=replace(LIMITS, **limits))


def _files() -> set[str]:
    return {path.name for path in _FOLDER.glob("camfabric-*")}


def _path(ring: Ring) -> Path:
    return _FOLDER / f"camfabric-{ring.file:016x}"


# Rings


def test_a_picture_is_read_as_it_was_written_and_is_read_only(ring: Ring) -> None:
    image = np.random.default_rng(1).integers(0, 256, _SHAPE, np.uint8)
    descriptor = ring.write(image)
    assert descriptor is not None
    pixels = _reader(ring).read(descriptor, _BYTES)
    assert pixels is not None
    assert np.array_equal(pixels.reshape(_SHAPE), image)
    assert not pixels.flags.writeable
    with pytest.raises(ValueError, match="cannot set WRITEABLE"):
        pixels.flags.writeable = True


def test_rows_apart_and_other_types_are_written_as_the_wire_has_them(ring: Ring) -> None:
    wide = np.random.default_rng(1).integers(0, 1 << 16, (100, 200), np.uint16)
    for image in (wide[:, ::2], wide[::-1, :100], wide[:, :100].astype(">u2")):
        descriptor = ring.write(image)
        assert descriptor is not None
        pixels = _reader(ring).read(descriptor, image.nbytes)
        assert pixels is not None
        assert np.array_equal(pixels.view("<u2").reshape(image.shape), image)


def test_a_held_picture_stays_as_it_is_while_a_thousand_come(ring: Ring) -> None:
    reader = _reader(ring)
    descriptor = ring.write(_picture(7))
    assert descriptor is not None
    held = reader.read(descriptor, _BYTES)
    assert held is not None
    view = held.reshape(_SHAPE)[10:20, ::2]
    del held  # the view holds it
    for number in range(1000):
        newest = ring.write(_picture(number))
        assert newest is not None
        pixels = reader.read(newest, _BYTES)
        assert pixels is not None
        assert (pixels == number % 256).all()
    assert (view == 7).all()
    assert ring.slots == 4


def test_what_has_been_overwritten_is_not_read(ring: Ring) -> None:
    reader = _reader(ring)
    first = ring.write(_picture(0))
    assert first is not None
    for number in range(3):
        assert ring.write(_picture(number))
        assert reader.read(first, _BYTES) is not None
    assert ring.write(_picture(9))
    assert reader.read(first, _BYTES) is None


def test_the_ring_grows_while_its_slots_are_held_and_no_further_than_its_bound(ring: Ring) -> None:
    readers = [_reader(ring) for _ in range(20)]
    held: list[Any] = []
    for number, reader in enumerate(readers):
        descriptor = ring.write(_picture(number))
        if descriptor is None:
            break
        held.append(reader.read(descriptor, _BYTES))
    assert ring.slots == len(held) == LIMITS.shared_slots
    assert all((pixels == number).all() for number, pixels in enumerate(held))
    assert _path(ring).stat().st_size <= LIMITS.shared_slots * (_BYTES + 4096) + 4096
    assert ring.write(_picture(99)) is None
    del held[3]
    gc.collect()
    again = ring.write(_picture(99))
    assert again is not None
    assert again.slot == 3


def test_a_greedy_reader_gets_copies_and_holds_no_more_slots(ring: Ring) -> None:
    reader = _reader(ring)
    held = []
    for number in range(100):
        descriptor = ring.write(_picture(number))
        assert descriptor is not None
        held.append(reader.read(descriptor, _BYTES))
    assert [int(pixels[0]) for pixels in held if pixels is not None] == list(range(100))
    assert all(not pixels.flags.writeable for pixels in held if pixels is not None)
    assert ring.slots <= LIMITS.shared_held + 3


def test_two_readers_in_one_process_hold_for_themselves(ring: Ring) -> None:
    one, other = _reader(ring), _reader(ring)
    descriptor = ring.write(_picture(5))
    assert descriptor is not None
    held, let_go = one.read(descriptor, _BYTES), other.read(descriptor, _BYTES)
    assert held is not None
    assert let_go is not None
    del let_go
    for number in range(20):
        assert ring.write(_picture(number + 100))
    assert (held == 5).all()


def test_pictures_outlive_the_ring_its_reader_and_its_file(ring: Ring) -> None:
    reader = _reader(ring)
    descriptor = ring.write(_picture(5))
    assert descriptor is not None
    held = reader.read(descriptor, _BYTES)
    ring.close()
    assert not _path(ring).exists()
    del reader
    gc.collect()
    assert held is not None
    assert (held == 5).all()


def test_a_reader_gives_its_descriptors_back(ring: Ring) -> None:
    descriptor = ring.write(_picture(5))
    assert descriptor is not None
    before = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(20):
        assert _reader(ring).read(descriptor, _BYTES) is not None
    gc.collect()
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_a_forked_process_lets_go_of_nothing_that_its_parent_holds(ring: Ring) -> None:
    reader = _reader(ring, shared_held=1)
    descriptor = ring.write(_picture(5))
    assert descriptor is not None
    held = reader.read(descriptor, _BYTES)
    child = os.fork()
    if not child:
        held = None
        gc.collect()
        os._exit(0)
    os.waitpid(child, 0)
    for number in range(20):
        assert ring.write(_picture(number + 100))
    assert held is not None
    assert (held == 5).all()


def test_room_is_taken_before_it_is_written_to(ring: Ring) -> None:
    assert _path(ring).stat().st_blocks * 512 >= 4 * _BYTES
    assert stat.S_IMODE(_path(ring).stat().st_mode) == 0o600


def test_a_picture_that_is_too_large_for_the_bound_is_refused() -> None:
    with pytest.raises(OSError, match="too large") as caught:
        Ring(LIMITS.shared_bytes // 2, epoch=1)
    assert caught.value.errno == errno.EFBIG


# What the dead leave

_WRITER: Final = """
    import sys, time
    import numpy as np
    from camfabric.common.shared import Ring
    ring = Ring(57600, epoch=77)
    print(ring.file, *ring.write(np.full((120, 160, 3), 3, np.uint8)), flush=True)
    sys.stdin.readline()
"""
_READER: Final = """
    import sys
    from camfabric.common.shared import RingReader
    from camfabric.common.wire import Descriptor
    file, generation, slot = map(int, sys.argv[1:])
    held = RingReader(file, epoch=77).read(Descriptor(file, generation, slot), 57600)
    print("held" if held is not None else "gone", flush=True)
    sys.stdin.readline()
    print(int(held.min()), int(held.max()), flush=True)
"""


def _run(program: str, *arguments: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", textwrap.dedent(program), *map(str, arguments)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def _line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def _kill(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.communicate()


def test_a_killed_writers_file_is_removed_at_the_next_start_and_a_living_ones_is_not(ring: Ring) -> None:
    writer = _run(_WRITER)
    file = int(_line(writer).split()[0])
    left = _FOLDER / f"camfabric-{file:016x}"
    sweep()
    assert left.exists()
    _kill(writer)
    assert left.exists()
    Ring(_BYTES, epoch=1).close()
    assert not left.exists()
    assert _path(ring).exists()


def test_what_a_killed_writer_had_announced_can_still_be_read_while_it_is_mapped() -> None:
    writer = _run(_WRITER)
    file, *descriptor = map(int, _line(writer).split())
    reader = RingReader(file, epoch=_EPOCH)
    _kill(writer)
    sweep()
    pixels = reader.read(wire.Descriptor(*descriptor), _BYTES)
    assert pixels is not None
    assert (pixels == 3).all()


def test_a_killed_reader_holds_nothing(ring: Ring) -> None:
    descriptor = ring.write(_picture(1))
    assert descriptor is not None
    reader = _run(_READER, *descriptor)
    assert _line(reader) == "held"
    slots = {written.slot for number in range(8) if (written := ring.write(_picture(number)))}
    assert descriptor.slot not in slots
    _kill(reader)
    slots = {written.slot for number in range(8) if (written := ring.write(_picture(number)))}
    assert descriptor.slot in slots


def test_a_stopped_reader_holds_its_picture_alone(ring: Ring) -> None:
    descriptor = ring.write(_picture(42))
    assert descriptor is not None
    reader = _run(_READER, *descriptor)
    assert _line(reader) == "held"
    reader.send_signal(signal.SIGSTOP)
    mine = _reader(ring)
    for number in range(200):
        newest = ring.write(_picture(number))
        assert newest is not None
        assert mine.read(newest, _BYTES) is not None
    reader.send_signal(signal.SIGCONT)
    assert reader.communicate("go on\n", timeout=10)[0].split() == ["42", "42"]


def test_nothing_of_others_is_removed() -> None:
    foreign = _FOLDER / "camfabric-0123456789abcdeg"
    link = _FOLDER / "camfabric-00000000000000aa"
    foreign.write_bytes(b"")
    link.symlink_to(foreign)
    try:
        sweep()
        assert foreign.exists()
        assert link.is_symlink()
    finally:
        foreign.unlink()
        link.unlink()


# The host


def test_the_host_has_one_name() -> None:
    assert host() == make_host() == make_host()
    assert len(host()) == 16


@pytest.mark.parametrize("content", [b"", b"0123", b"0123456789ABCDEF", b"../../etc/passwd", bytes(40)])
def test_a_token_that_is_none_is_no_host(content: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "camfabric-host"
    monkeypatch.setattr(shared, "_HOST", path)
    path.write_bytes(content)
    assert host() == make_host() == ""
    path.unlink()
    monkeypatch.setattr(shared, "_FOLDER", tmp_path)
    token = make_host()
    assert token == host() != ""
    assert [child.name for child in tmp_path.iterdir()] == ["camfabric-host"]


# What is refused


def _refused(file: int, *, epoch: int = _EPOCH) -> str:
    with pytest.raises(WireError) as caught:
        RingReader(file, epoch=epoch)
    assert caught.value.reason == "memory"
    return str(caught.value)


def _forged(name: int, content: bytes) -> Path:
    path = _FOLDER / f"camfabric-{name:016x}"
    path.write_bytes(content)
    return path


@pytest.mark.parametrize(
    ("head", "size"),
    [
        (struct.pack("<8sQQI", b"CFABSHM1", _EPOCH, 4096, 4), 4096 * 4),  # a slot short
        (struct.pack("<8sQQI", b"CFABSHM1", _EPOCH, 4096, 1 << 31), 4096 * 5),
        (struct.pack("<8sQQI", b"CFABSHM1", _EPOCH, 0, 4), 4096),
        (struct.pack("<8sQQI", b"CFABSHM1", _EPOCH, 100, 4), 4096 + 400),
        (struct.pack("<8sQQI", b"CFABSHM1", _EPOCH, 1 << 40, 4), 4096 * 5),
        (struct.pack("<8sQQI", b"CFABSHM1", _EPOCH, 4096, 0), 4096),
        (struct.pack("<8sQQI", b"CFABSHM2", _EPOCH, 4096, 4), 4096 * 5),
        (struct.pack("<8sQQI", b"CFABSHM1", _EPOCH + 1, 4096, 4), 4096 * 5),
        (b"", 0),
        (b"", 10),
    ],
)
def test_a_file_that_is_no_ring_of_the_publisher_is_refused(head: bytes, size: int) -> None:
    path = _forged(0xF00D, head.ljust(size, b"\0")[:size])
    try:
        _refused(0xF00D)
    finally:
        path.unlink()


def test_neither_links_nor_pipes_nor_devices_are_opened(ring: Ring) -> None:
    path = _FOLDER / "camfabric-000000000000f00d"
    makers: tuple[Callable[[], None], ...] = (lambda: path.symlink_to(_path(ring)), lambda: os.mkfifo(path), path.mkdir)
    for make in makers:
        make()
        try:
            _refused(0xF00D)
        finally:
            path.rmdir() if path.is_dir() and not path.is_symlink() else path.unlink()
    assert "No such file" in _refused(0xF00D)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
def test_another_users_memory_is_not_opened_even_by_root(ring: Ring) -> None:
    os.chown(_path(ring), 65534, 65534)
    assert "no file of this user" in _refused(ring.file)
    left = _path(ring)
    ring.close()
    assert not left.exists()


def test_an_announcement_that_names_what_is_not_there_gives_no_picture(ring: Ring) -> None:
    reader = _reader(ring)
    written = ring.write(_picture(1))
    assert written is not None
    for descriptor, size in (
        (written._replace(slot=16), _BYTES),
        (written._replace(slot=(1 << 32) - 1), _BYTES),
        (written._replace(generation=0), _BYTES),
        (written._replace(generation=2), _BYTES),
        (written, LIMITS.payload_bytes),
        (written._replace(slot=9, generation=0), _BYTES),
    ):
        pixels = reader.read(descriptor, size)
        assert pixels is None or (descriptor.generation == 0 and not pixels.any())
    assert reader.read(written, _BYTES) is not None


def test_an_announcement_of_another_publishers_memory_is_refused(ring: Ring) -> None:
    written = ring.write(_picture(1))
    assert written is not None
    frame = Frame(
        camera="a",
        channel=f"shm/{host()}",
        codec=Codec.RAW,
        pixel_format=PixelFormat.BGR24,
        width=160,
        height=120,
        epoch=_EPOCH + 1,
        payload=wire.pack_descriptor(written),
    )
    pictures = SharedPictures()
    with pytest.raises(WireError, match="not this publisher's"):
        pictures.open(frame)
    assert pictures.picture(frame) is None
    honest = replace(frame, epoch=_EPOCH)
    pictures.open(honest)
    picture = pictures.picture(honest)
    assert picture is not None
    assert picture.channel == "shm"
    assert (picture.image == 1).all()
    assert len(picture.payload) == _BYTES


# Tearing

_TEAR_S: Final = float(os.environ.get("CAMFABRIC_TEAR_S", "3"))
"""A minute by hand."""
_FAST_WRITER: Final = """
    import sys, time, zlib
    import numpy as np
    from camfabric.common.shared import Ring
    ring = Ring(1280 * 720 * 3, epoch=77)
    noise = np.random.default_rng(1).integers(0, 256, (8, 720, 1280, 3), np.uint8)
    end = time.monotonic() + float(sys.argv[1])
    count = lost = 0
    images = [image for image in noise]
    while time.monotonic() < end:
        image = images[count % 8]
        image[0, 0, :] = count & 255, count >> 8 & 255, count >> 16 & 255
        image[-1, -1] = image[0, 0]
        descriptor = ring.write(image)
        count += 1
        lost += descriptor is None
        if descriptor is not None:
            newest = np.memmap(sys.argv[2], "<u8", "r+", shape=4) if count == 1 else newest
            newest[3] = 0
            newest[:3] = descriptor
            newest[3] = descriptor.file ^ descriptor.generation ^ descriptor.slot
    print(count, lost, ring.slots, flush=True)
    ring.close()
"""
_FAST_READER: Final = """
    import sys, time, zlib
    import numpy as np
    from camfabric.common.shared import RingReader
    from camfabric.common.wire import Descriptor
    noise = np.random.default_rng(1).integers(0, 256, (8, 720, 1280, 3), np.uint8)
    noise[:, 0, 0] = noise[:, -1, -1] = 0
    sums = [zlib.crc32(image) for image in noise]
    end, pause, copies = float("inf"), float(sys.argv[3]), int(sys.argv[4])
    newest = np.memmap(sys.argv[2], "<u8", "r", shape=4)
    reader = None
    good = torn = stale = 0
    held = []
    print("there", flush=True)
    while time.monotonic() < end:
        file, generation, slot, check = map(int, newest)
        if not check or file ^ generation ^ slot != check:
            continue
        if reader is None:
            reader = RingReader(file, epoch=77)
            end = time.monotonic() + float(sys.argv[1])
        pixels = reader.read(Descriptor(file, generation, slot), 1280 * 720 * 3)
        if pixels is None:
            stale += 1
            continue
        time.sleep(pause)
        held = [*held, pixels][-copies:]
        for pixels in held:
            image = pixels.reshape(720, 1280, 3).copy()
            number = int(image[0, 0, 0]) | int(image[0, 0, 1]) << 8 | int(image[0, 0, 2]) << 16
            same = bool((image[0, 0] == image[-1, -1]).all())
            image[0, 0] = image[-1, -1] = 0
            right = zlib.crc32(image) == sums[number % 8]
            good += same and right
            torn += not (same and right)
    print(good, torn, stale, flush=True)
"""


def test_no_picture_is_torn_by_a_writer_at_full_rate_and_readers_that_are_slow_stopped_and_killed(
    tmp_path: Path,
) -> None:
    place = tmp_path / "newest"
    place.write_bytes(bytes(32))
    readers = [_run(_FAST_READER, _TEAR_S, place, pause, held) for pause, held in ((0, 1), (0.05, 2), (0.001, 6))]
    victim = _run(_FAST_READER, 3600, place, 0.01, 3)
    assert [_line(reader) for reader in (*readers, victim)] == ["there"] * 4
    writer = _run(_FAST_WRITER, _TEAR_S + 1, place)
    while any(reader.poll() is None for reader in readers):
        readers[1].send_signal(signal.SIGSTOP)
        time.sleep(0.1)
        readers[1].send_signal(signal.SIGCONT)
        _kill(victim)
        victim = _run(_FAST_READER, 3600, place, 0.01, 3)
        time.sleep(0.4)
    results = [tuple(map(int, reader.communicate(timeout=30)[0].split()[-3:])) for reader in readers]
    _kill(victim)
    written, _, slots = map(int, writer.communicate(timeout=30)[0].split())
    assert [torn for _, torn, _ in results] == [0, 0, 0]
    assert all(good > 0 for good, _, _ in results)
    assert written > 20 * _TEAR_S
    assert slots <= LIMITS.shared_slots


def test_the_test_for_tearing_sees_it(tmp_path: Path) -> None:
    unguarded = _FAST_READER.replace("pixels = reader.read(", "pixels = read(").replace(
        "reader = None\n",
        "reader = None\n    def read(descriptor, size):\n"
        "        begin = 4096 + descriptor.slot * reader._stride\n"
        "        return np.frombuffer(reader._memory, np.uint8, size, begin)\n",
        1,
    )
    place = tmp_path / "newest"
    place.write_bytes(bytes(32))
    reader = _run(unguarded, 2, place, 0.01, 1)
    assert _line(reader) == "there"
    writer = _run(_FAST_WRITER, 3, place)
    _, torn, _ = map(int, reader.communicate(timeout=30)[0].split()[-3:])
    writer.communicate(timeout=30)
    assert torn > 0
