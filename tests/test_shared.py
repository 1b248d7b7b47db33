"""Shared memory: rings and their readers, what is left by the dead, what is refused, and pictures that nobody tears."""

from __future__ import annotations

import errno
import gc
import os
import random
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
from camfabric.common.doorbell import Doorbell, open_doorbell, press
from camfabric.common.errors import WireError
from camfabric.common.frame import Codec, Frame, PixelFormat
from camfabric.common.settings import LIMITS
from camfabric.common.shared import NoRing, Ring, RingReader, host, make_host, sweep
from camfabric.common.shared_pictures import SharedPictures
from camfabric.publisher.shared import SharedStream

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
    made = _ring()
    yield made
    made.close()


def _ring(picture_bytes: int = _BYTES, **fields: Any) -> Ring:
    return Ring(picture_bytes, camera="a/b", epoch=_EPOCH, **fields)


@pytest.fixture
def watched() -> Iterator[SharedStream]:
    """A publisher's side of a camera, which somebody watches here."""
    stream = SharedStream("a", host=host(), epoch=_EPOCH, limits=replace(LIMITS, shared_bytes=1_000_000))
    stream.subscribe(stream.topic)
    yield stream
    stream.unwatch()


def _reader(ring: Ring, **limits: int) -> RingReader:
    return RingReader(ring.file, limits=replace(LIMITS, **limits))


def _taken(reader: RingReader) -> Any:
    """The pixels of the newest picture."""
    taken = reader.take()
    assert taken is not None
    return taken[1]


def _slots_written(ring: Ring, pictures: int) -> set[int]:
    written = [ring.write(_picture(number)) for number in range(pictures)]
    return {each.slot for each in written if each}


def _slots_free(ring: Ring) -> set[int]:
    """Those that are written to while each picture is held: all that nobody else holds, and perhaps a new one."""
    held, slots = [], set()
    for _ in range(ring.slots):
        written = ring.write(_picture(2))
        assert written
        slots.add(written.slot)
        held.append(_taken(_reader(ring)))
    return slots


def _files() -> set[str]:
    return {path.name for path in _FOLDER.glob("camfabric-*")}


def _path(ring: Ring) -> Path:
    return _FOLDER / f"camfabric-{ring.file:016x}"


# Rings


def test_a_picture_is_read_as_it_was_written_and_is_read_only(ring: Ring) -> None:
    image = np.random.default_rng(1).integers(0, 256, _SHAPE, np.uint8)
    assert ring.write(image, b"its header")
    reader = _reader(ring)
    assert (reader.camera, reader.epoch) == ("a/b", _EPOCH)
    taken = reader.take()
    assert taken is not None
    header, pixels = taken
    assert header == b"its header"
    assert np.array_equal(pixels.reshape(_SHAPE), image)
    assert not pixels.flags.writeable
    with pytest.raises(ValueError, match="cannot set WRITEABLE"):
        pixels.flags.writeable = True


def test_rows_apart_and_other_types_are_written_as_the_wire_has_them(ring: Ring) -> None:
    wide = np.random.default_rng(1).integers(0, 1 << 16, (100, 200), np.uint16)
    for image in (wide[:, ::2], wide[::-1, :100], wide[:, :100].astype(">u2"), wide[:50]):
        assert ring.write(image)
        assert np.array_equal(_taken(_reader(ring)).view("<u2").reshape(image.shape), image)


def test_each_picture_is_taken_once_and_the_newest_alone(ring: Ring) -> None:
    reader = _reader(ring)
    assert not reader.has_news()
    assert reader.take() is None
    for number in range(1, 4):
        assert ring.write(_picture(number))
    assert reader.has_news()
    assert not reader.has_news()
    assert _taken(reader)[0] == 3
    assert reader.take() is None
    assert ring.write(_picture(4))
    assert _taken(reader)[0] == 4
    assert not reader.has_news(), "it was taken already"


def test_the_header_has_a_page_and_a_larger_one_more() -> None:
    for size, room in ((0, 4096), (4088, 4096), (4089, 8192), (LIMITS.header_bytes, 69632)):
        ring = _ring(header_bytes=size)
        assert _path(ring).stat().st_size == 4096 + LIMITS.shared_slots * (room + 61440)
        assert ring.fits(_BYTES, room - 8)
        assert not ring.fits(_BYTES, room - 7)
        assert ring.fits(_BYTES // 2, 0)
        assert not ring.fits(_BYTES // 2 - 1, 0)
        assert not ring.fits(_BYTES + 1, 0)
        header = bytes(range(256)) * 300
        assert ring.write(_picture(9), header[:size])
        taken = _reader(ring).take()
        assert taken is not None
        assert taken[0] == header[:size]
        assert (taken[1] == 9).all()
        ring.close()


def test_pictures_of_changing_sizes_share_a_ring(watched: SharedStream) -> None:
    files: set[int] = set()
    held: list[tuple[int, int, Any]] = []
    pictures = SharedPictures()
    for number in range(50):
        rows = 120 - number * 7 % 50
        written = watched.write(Frame(camera="a"), _picture(number, (rows, 160, 3)), PixelFormat.BGR24)
        assert written is not None
        copied = written.draw()
        assert copied is not None
        assert (copied == number).all()
        assert watched._ring is not None
        files.add(watched._ring.file)
        if number % 10 == 0:
            pictures.have(pictures.ring(watched._ring.file))
            frame = pictures.picture("a", missed=0, dropped=0)
            assert frame is not None
            held.append((number, rows, frame.image))
        for its, its_rows, image in held:
            assert image.shape == (its_rows, 160, 3)
            assert (image == its).all()
    assert len(files) == 1
    assert watched.write(Frame(camera="a"), _picture(0, (50, 160, 3)), PixelFormat.BGR24)
    assert watched._ring is not None
    assert watched._ring.file not in files


def _fails(stream: SharedStream, picture: Any) -> float:
    """For how many seconds memory is withdrawn when that picture is written."""
    stream._withdrawn_until = 0.0
    begun = time.monotonic()
    assert stream.write(Frame(camera="a"), picture, PixelFormat.GRAY8) is None
    assert not stream.offered
    return stream._withdrawn_until - begun


def test_what_can_never_fit_is_offered_less_and_less_and_said_once(
    watched: SharedStream, caplog: pytest.LogCaptureFixture
) -> None:
    for wanted_s in (60, 120, 240, 480, 960, 1920, 3600, 3600):
        assert wanted_s <= _fails(watched, _picture(1, (1000 + wanted_s, 400))) < wanted_s + 30
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    # Once one fits, it is as if nothing had been.
    watched._withdrawn_until = 0.0
    assert watched.write(Frame(camera="a"), _picture(1, (100, 100)), PixelFormat.GRAY8)
    assert _fails(watched, _picture(1, (1000, 1000))) < 90
    assert len(caplog.records) == 1


def test_what_may_pass_is_offered_again_each_minute_and_said_once(
    watched: SharedStream, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(ring: Ring, offset: int, length: int) -> None:
        raise OSError(errno.ENOSPC, "no room")

    monkeypatch.setattr(Ring, "_allocate", full)
    for _ in range(3):
        assert 60 <= _fails(watched, _picture(1, (100, 100))) < 90
    assert [record.getMessage() for record in caplog.records] == [
        "no shared memory for a: no room; subscribers here take the main stream"
    ]
    _fails(watched, _picture(1, (1000, 1000)))
    assert len(caplog.records) == 2


def test_a_held_picture_stays_as_it_is_while_a_thousand_come(ring: Ring) -> None:
    reader = _reader(ring)
    assert ring.write(_picture(7))
    held = _taken(reader)
    view = held.reshape(_SHAPE)[10:20, ::2]
    del held  # the view holds it
    for number in range(1000):
        assert ring.write(_picture(number))
        assert (_taken(reader) == number % 256).all()
    assert (view == 7).all()
    assert ring.slots == 4


def test_what_the_writer_has_overwritten_it_does_not_copy(ring: Ring) -> None:
    first = ring.write(_picture(1))
    assert first is not None
    assert ring.write(_picture(2))
    copied = ring.copied(first)
    assert copied is not None
    assert (copied == 1).all()
    assert copied.shape == _SHAPE
    assert ring.write(_picture(3))
    assert ring.copied(first) is None


def test_as_few_slots_as_can_be_are_written_to(ring: Ring) -> None:
    """What was written a moment ago is in the processor's cache."""
    assert len(_slots_written(ring, 20)) == 2
    reader = _reader(ring)
    held = _taken(reader)
    assert len(_slots_written(ring, 20)) == 2
    assert (held == 19).all()
    assert ring.slots == 4


def test_the_ring_grows_while_its_slots_are_held_and_no_further_than_its_bound(ring: Ring) -> None:
    readers = [_reader(ring) for _ in range(20)]
    held: list[Any] = []
    slots: list[int] = []
    for number, reader in enumerate(readers):
        if (written := ring.write(_picture(number))) is None:
            break
        slots.append(written.slot)
        held.append(_taken(reader))
    assert ring.slots == len(held) == LIMITS.shared_slots
    assert all((pixels == number).all() for number, pixels in enumerate(held))
    assert _path(ring).stat().st_size <= LIMITS.shared_slots * (_BYTES + 2 * 4096) + 4096
    assert ring.write(_picture(99)) is None
    del held[3]
    gc.collect()
    again = ring.write(_picture(99))
    assert again is not None
    assert again.slot == slots[3]


def test_a_greedy_reader_gets_copies_and_holds_no_more_slots(ring: Ring) -> None:
    reader = _reader(ring)
    held = []
    for number in range(100):
        assert ring.write(_picture(number))
        held.append(_taken(reader))
    assert [int(pixels[0]) for pixels in held] == list(range(100))
    assert not any(pixels.flags.writeable for pixels in held)
    assert ring.slots <= LIMITS.shared_held + 3


def test_a_picture_written_just_as_its_slot_is_let_go_is_taken(ring: Ring, monkeypatch: pytest.MonkeyPatch) -> None:
    reader = _reader(ring)
    descriptor = ring.write(_picture(1))
    assert descriptor is not None
    held = _taken(reader)
    real = shared._lock
    seen: list[int] = []

    def lock(of: int, what: bytes) -> None:
        real(of, what)
        if of == reader._descriptor and what == shared._FREE[descriptor.slot] and not seen:
            seen.append(held_number)
            # The writer has it at once, and another thread looks.
            while (written := ring.write(_picture(2))) is not None and written.slot != descriptor.slot:
                pass
            seen.append(_taken(reader)[0])

    held_number = int(held[0])
    monkeypatch.setattr(shared, "_lock", lock)
    del held
    assert seen == [1, 2]


def test_two_readers_in_one_process_hold_for_themselves(ring: Ring) -> None:
    one, other = _reader(ring), _reader(ring)
    assert ring.write(_picture(5))
    held, let_go = _taken(one), _taken(other)
    del let_go
    for number in range(20):
        assert ring.write(_picture(number + 100))
    assert (held == 5).all()


def test_pictures_outlive_the_ring_its_reader_and_its_file(ring: Ring) -> None:
    reader = _reader(ring)
    assert ring.write(_picture(5))
    held = _taken(reader)
    ring.close()
    assert not _path(ring).exists()
    del reader
    gc.collect()
    assert (held == 5).all()


def test_a_reader_gives_its_descriptors_back(ring: Ring) -> None:
    assert ring.write(_picture(5))
    before = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(20):
        assert _reader(ring).take() is not None
    gc.collect()
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_a_forked_process_lets_go_of_nothing_that_its_parent_holds(ring: Ring) -> None:
    reader = _reader(ring, shared_held=1)
    assert ring.write(_picture(5))
    held = _taken(reader)
    child = os.fork()
    if not child:
        held = None
        gc.collect()
        os._exit(0)
    os.waitpid(child, 0)
    for number in range(20):
        assert ring.write(_picture(number + 100))
    assert (held == 5).all()


def test_rings_are_made_while_others_sweep() -> None:
    sweeper = _sweeping()
    for _ in range(300):
        ring = _ring(4096)
        assert ring.write(_picture(1, (64, 64)))
        assert _taken(_reader(ring))[0] == 1
        ring.close()
    sweeper.communicate("end\n", timeout=10)


def test_a_ring_that_is_swept_while_it_is_made_is_made_again(monkeypatch: pytest.MonkeyPatch) -> None:
    real = shared.guard
    swept: list[int] = []

    def guard(descriptor: int) -> None:
        if len(swept) < 3:
            swept.append(descriptor)
            sweep()
        real(descriptor)

    gc.collect()
    before = len(list(Path("/proc/self/fd").iterdir()))
    monkeypatch.setattr(shared, "guard", guard)
    ring = _ring()
    assert len(swept) == 3
    assert _path(ring).exists()
    assert ring.write(_picture(1))
    assert _taken(_reader(ring))[0] == 1
    ring.close()
    del ring
    gc.collect()
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_room_is_taken_before_it_is_written_to(ring: Ring) -> None:
    assert _path(ring).stat().st_blocks * 512 >= 4 * _BYTES
    assert stat.S_IMODE(_path(ring).stat().st_mode) == 0o600


def test_a_picture_that_is_too_large_for_the_bound_is_refused() -> None:
    with pytest.raises(OSError, match="too large") as caught:
        _ring(LIMITS.shared_bytes // 2)
    assert caught.value.errno == errno.EFBIG


# What the dead leave

_WRITER: Final = """
    import sys, time
    import numpy as np
    from camfabric.common.shared import Ring
    ring = Ring(57600, camera="a/b", epoch=77)
    ring.write(np.full((120, 160, 3), 3, np.uint8))
    print(ring.file, flush=True)
    sys.stdin.readline()
"""
_READER: Final = """
    import sys
    from camfabric.common.shared import RingReader
    header, held = RingReader(int(sys.argv[1])).take()
    print("held", flush=True)
    sys.stdin.readline()
    print(int(held.min()), int(held.max()), flush=True)
"""


def _run(program: str, *arguments: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", textwrap.dedent(program), *map(str, arguments)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def _line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def _sweeping() -> subprocess.Popen[str]:
    """A process that sweeps until it is told to end."""
    sweeper = _run("""
        import sys, threading
        from camfabric.common.shared import sweep
        ended = threading.Event()
        threading.Thread(target=lambda: (sys.stdin.readline(), ended.set())).start()
        print("there", flush=True)
        while not ended.is_set():
            sweep()
    """)
    _line(sweeper)
    return sweeper


def _kill(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.communicate()


def test_a_killed_writers_file_is_removed_at_the_next_start_and_a_living_ones_is_not(ring: Ring) -> None:
    writer = _run(_WRITER)
    file = int(_line(writer))
    left = _FOLDER / f"camfabric-{file:016x}"
    sweep()
    assert left.exists()
    _kill(writer)
    _ring().close()
    assert not left.exists()
    assert _path(ring).exists()


def test_what_a_killed_writer_had_written_can_still_be_read_while_it_is_mapped() -> None:
    writer = _run(_WRITER)
    reader = RingReader(int(_line(writer)))
    _kill(writer)
    sweep()
    assert (_taken(reader) == 3).all()


def test_a_killed_reader_holds_nothing(ring: Ring) -> None:
    descriptor = ring.write(_picture(1))
    assert descriptor is not None
    reader = _run(_READER, ring.file)
    assert _line(reader) == "held"
    assert descriptor.slot not in _slots_free(ring)
    _kill(reader)
    assert descriptor.slot in _slots_free(ring)


_FORKS: Final = """
    import os, sys, time
    from camfabric.common.shared import Ring, RingReader
    ring = Ring(57600, camera="a/b", epoch=77)
    held = RingReader(int(sys.argv[1])).take()
    if not os.fork():
        print(ring.file, os.getpid(), flush=True)
        time.sleep(60)
        os._exit(0)
    time.sleep(60)
"""


def test_what_the_dead_have_forked_holds_nothing_of_theirs(ring: Ring) -> None:
    descriptor = ring.write(_picture(1))
    assert descriptor is not None
    parent = _run(_FORKS, ring.file)
    file, child = map(int, _line(parent).split())
    try:
        held = descriptor.slot
        assert held not in _slots_free(ring)  # by a parent that lives
        sweep()
        assert shared._path(file).exists()
        parent.kill()
        parent.wait()
        assert held in _slots_free(ring)
        sweep()
        assert not shared._path(file).exists()
    finally:
        os.kill(child, signal.SIGKILL)
        parent.kill()
        parent.communicate()


def test_a_stopped_reader_holds_its_picture_alone(ring: Ring) -> None:
    assert ring.write(_picture(42))
    reader = _run(_READER, ring.file)
    assert _line(reader) == "held"
    reader.send_signal(signal.SIGSTOP)
    mine = _reader(ring)
    for number in range(200):
        assert ring.write(_picture(number))
        assert mine.take() is not None
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


def _refused(file: int) -> str:
    with pytest.raises(WireError) as caught:
        RingReader(file)
    assert caught.value.reason == "memory"
    return str(caught.value)


def _forged(name: int, content: bytes) -> Path:
    path = _FOLDER / f"camfabric-{name:016x}"
    path.write_bytes(content)
    return path


def _head(
    magic: bytes = b"CFABSHM2",
    stride: int = 8192,
    slots: int = 4,
    room: int = 4096,
    camera: bytes = b"a",
    length: int = 1,
) -> bytes:
    head = struct.pack("<8sQQIIQ", magic, _EPOCH, stride, slots, room, 0)
    return head.ljust(64, b"\0") + struct.pack("<H128s", length, camera)


@pytest.mark.parametrize(
    ("head", "size"),
    [
        (_head(), 4096 + 3 * 8192),  # a slot short
        (_head(slots=1 << 31), 4096 + 4 * 8192),
        (_head(slots=0), 4096),
        (_head(stride=0, room=0), 4096),
        (_head(stride=8192 + 100), 4096 + 4 * (8192 + 100)),
        (_head(stride=1 << 40), 4096 + 4 * 8192),
        (_head(room=0), 4096 + 4 * 8192),
        (_head(room=8192), 4096 + 4 * 8192),
        (_head(room=100), 4096 + 4 * 8192),
        (_head(room=1 << 31, stride=(1 << 31) + 4096), 4096 + 4 * 8192),
        (_head(room=20 * 4096, stride=21 * 4096), 4096 + 4 * 21 * 4096),  # more than a header may have
        (_head(magic=b"CFABSHM1"), 4096 + 4 * 8192),
        (_head(camera=b""), 4096 + 4 * 8192),
        (_head(camera=b"\xff"), 4096 + 4 * 8192),
        (_head(camera=b"a//b", length=4), 4096 + 4 * 8192),
        (_head(camera=b"a", length=2), 4096 + 4 * 8192),
        (_head(camera=b"a" * 128, length=65535), 4096),
        (b"", 0),
        (b"", 10),
    ],
)
def test_a_file_that_is_no_ring_is_refused(head: bytes, size: int) -> None:
    path = _forged(0xF00D, head.ljust(size, b"\0")[:size])
    try:
        _refused(0xF00D)
    finally:
        path.unlink()


def test_the_file_that_the_refused_ones_differ_from_is_taken() -> None:
    path = _forged(0xF00D, _head().ljust(4096 + 4 * 8192, b"\0"))
    try:
        assert RingReader(0xF00D).take() is None
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
    with pytest.raises(NoRing):
        RingReader(0xF00D)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
def test_another_users_memory_is_not_opened_even_by_root(ring: Ring) -> None:
    os.chown(_path(ring), 65534, 65534)
    assert "no file of this user" in _refused(ring.file)
    left = _path(ring)
    ring.close()
    assert not left.exists()


def _frame(**fields: Any) -> Frame:
    usual = Frame(
        camera="a/b", codec=Codec.RAW, pixel_format=PixelFormat.BGR24, width=160, height=120, epoch=_EPOCH, seq=5
    )
    return replace(usual, **fields)


def test_an_announcement_of_another_publishers_or_cameras_memory_is_refused(ring: Ring) -> None:
    written = ring.write(_picture(1), wire.pack_header(_frame()))
    assert written is not None
    pictures = SharedPictures()
    announced = _frame(channel=f"shm/{host()}", payload=wire.pack_descriptor(written))
    for wrong in (replace(announced, epoch=_EPOCH + 1), replace(announced, camera="a")):
        with pytest.raises(WireError, match="announced as"):
            pictures.announced(wrong)
    assert pictures.picture("a/b", missed=0, dropped=0) is None
    pictures.have(pictures.announced(announced))
    picture = pictures.picture("a/b", missed=0, dropped=7)
    assert picture is not None
    assert (picture.channel, picture.seq, picture.dropped) == ("shm", 5, 7)
    assert (picture.image == 1).all()
    assert len(picture.payload) == _BYTES


def test_what_is_not_taken_of_a_ring_and_its_successor_is_dropped_by_number(ring: Ring) -> None:
    pictures = SharedPictures()
    successor = _ring(_BYTES)
    for where, seq, dropped in ((ring, 5, 3), (ring, 6, 0), (ring, 9, 2), (successor, 11, 1), (successor, 12, 0)):
        assert where.write(_picture(seq), wire.pack_header(_frame(seq=seq)))
        pictures.have(pictures.ring(where.file))
        picture = pictures.picture("a/b", missed=0, dropped=3)
        assert picture is not None
        assert (picture.seq, picture.dropped) == (seq, dropped)
    successor.close()


def test_what_stands_in_a_ring_is_checked_whatever_it_is(ring: Ring) -> None:
    """Bytes of its first page, and of the heads of its slots, are changed under a reader, and before it opens it."""
    rng = random.Random(7)  # noqa: S311
    header = wire.pack_header(_frame(extra={"number": 1, "name": "x" * 100}))
    outcomes: set[str] = set()
    stride = 4096 + 61440
    for round_ in range(3000):
        for _ in range(2):
            assert ring.write(_picture(round_), header)
        opened = RingReader(ring.file) if round_ % 2 else None
        before = bytes(ring._memory[:4096])
        newest = int(ring._newest[0]) & 0xFFFF
        places = (range(256), range(32, 40), range(4096 + newest * stride, 4096 + newest * stride + 8 + len(header)))
        for _ in range(rng.randint(1, 4)):
            at = rng.choice(places[rng.randrange(3)])
            ring._memory[at] = rng.choice((0, 1, 0x7F, 0x80, 0xFF, rng.randrange(256)))
        pictures = SharedPictures()
        try:
            reader = opened or RingReader(ring.file)
            reader.has_news()
            pictures.have(reader)
            picture = pictures.picture(reader.camera, missed=0, dropped=0)
        except WireError:
            outcomes.add("refused")
        else:
            outcomes.add("none" if picture is None else "picture")
            assert picture is None or picture.image.nbytes == len(picture.payload) <= _BYTES + 4096
            del picture
        ring._memory[:4096] = before
    assert outcomes == {"refused", "none", "picture"}


# Doorbells


def test_a_doorbell_tells_of_the_rings_and_is_full_without_harm() -> None:
    doorbell = Doorbell()
    try:
        assert stat.S_IMODE(_bell(doorbell).stat().st_mode) == 0o600
        other = open_doorbell(doorbell.name)
        assert doorbell.heard() == (set(), False)
        for file in (5, 7, 5):
            assert press(other, file)
        doorbell.knock()
        assert doorbell.heard() == ({5, 7}, False)
        assert doorbell.heard() == (set(), False)
        for file in range(600):
            assert press(other, file + 1)
        assert doorbell.heard() == (set(range(1, 601)), True)
        fitted = [press(other, file + 1) for file in range(20_000)]
        assert not fitted[-1]
        assert doorbell.heard() == ({file + 1 for file, did in enumerate(fitted) if did}, True)
        assert press(other, (1 << 64) - 1)
        assert doorbell.heard() == ({(1 << 64) - 1}, False)
        os.write(other, b"odd")
        assert doorbell.heard() == (set(), True)
        os.close(other)
        doorbell.wait(0.01)
    finally:
        doorbell.close()
    assert not _bell(doorbell).exists()


def _bell(doorbell: Doorbell) -> Path:
    return _FOLDER / f"camfabric-{doorbell.name}.wake"


def test_only_a_fifo_of_this_user_is_a_doorbell(tmp_path: Path) -> None:
    path = _FOLDER / "camfabric-000000000000f00d.wake"
    secret = tmp_path / "file"
    secret.write_bytes(b"")
    makers: tuple[Callable[[], object], ...] = (
        lambda: path.symlink_to(secret), lambda: path.write_bytes(b""), path.mkdir
    )  # fmt: skip
    for make in makers:
        make()
        try:
            with pytest.raises(OSError, match=r"."):
                open_doorbell("000000000000f00d")
        finally:
            path.rmdir() if path.is_dir() and not path.is_symlink() else path.unlink()
    for name in ("000000000000f00d", "", "../../etc/passwd", "000000000000F00D", "0"):
        with pytest.raises(FileNotFoundError):
            open_doorbell(name)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
def test_another_users_doorbell_is_not_pressed() -> None:
    doorbell = Doorbell()
    os.chown(_bell(doorbell), 65534, 65534)
    with pytest.raises(PermissionError):
        open_doorbell(doorbell.name)
    doorbell.close()


def test_a_killed_subscribers_doorbell_is_removed_at_the_next_start_and_a_living_ones_is_not() -> None:
    mine = Doorbell()
    other = _run("""
        import sys
        from camfabric.common.doorbell import Doorbell
        doorbell = Doorbell()
        print(doorbell.name, flush=True)
        sys.stdin.readline()
    """)
    left = _FOLDER / f"camfabric-{_line(other)}.wake"
    sweep()
    assert left.exists()
    pressed = open_doorbell(left.name.removeprefix("camfabric-").removesuffix(".wake"))
    _kill(other)
    for file in range(20_000):
        press(pressed, file + 1)  # neither SIGPIPE nor an error
    os.close(pressed)
    sweep()
    assert not left.exists()
    assert _bell(mine).exists()
    mine.close()


def test_a_doorbell_that_is_swept_while_it_is_made_is_made_again(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[str] = []
    real = os.mkfifo

    def mkfifo(path: Path, mode: int) -> None:
        real(path, mode)
        made.append(path.name)
        if len(made) < 3:
            sweep()  # by somebody who starts just now

    monkeypatch.setattr(os, "mkfifo", mkfifo)
    doorbell = Doorbell()
    assert len(made) == 3
    assert made[-1] == _bell(doorbell).name
    sweep()
    assert _bell(doorbell).exists()
    doorbell.close()


def test_doorbells_are_made_while_others_sweep() -> None:
    sweeper = _sweeping()
    for _ in range(300):
        doorbell = Doorbell()
        os.close(open_doorbell(doorbell.name))
        doorbell.close()
    sweeper.communicate("end\n", timeout=10)


def test_doorbells_give_their_descriptors_back() -> None:
    gc.collect()
    before = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(20):
        Doorbell().close()
    gc.collect()
    assert len(list(Path("/proc/self/fd").iterdir())) == before


# Tearing

_TEAR_S: Final = float(os.environ.get("CAMFABRIC_TEAR_S", "3"))
"""A minute by hand."""
_FAST_WRITER: Final = """
    import sys, time
    from pathlib import Path
    import numpy as np
    from camfabric.common.shared import Ring
    ring = Ring(1280 * 720 * 3, camera="a", epoch=77)
    noise = np.random.default_rng(1).integers(0, 256, (8, 720, 1280, 3), np.uint8)
    end = time.monotonic() + float(sys.argv[1])
    count = lost = 0
    images = [image for image in noise]
    while time.monotonic() < end:
        image = images[count % 8]
        image[0, 0, :] = count & 255, count >> 8 & 255, count >> 16 & 255
        image[-1, -1] = image[0, 0]
        lost += ring.write(image, count.to_bytes(8, "little") * 500) is None
        if not count:
            Path(sys.argv[2]).write_text(f"{ring.file:016x}")
        count += 1
    print(count, lost, ring.slots, flush=True)
    ring.close()
"""
_FAST_READER: Final = """
    import sys, time, zlib
    from pathlib import Path
    import numpy as np
    from camfabric.common.shared import RingReader
    noise = np.random.default_rng(1).integers(0, 256, (8, 720, 1280, 3), np.uint8)
    noise[:, 0, 0] = noise[:, -1, -1] = 0
    sums = [zlib.crc32(image) for image in noise]
    pause, copies = float(sys.argv[3]), int(sys.argv[4])
    print("there", flush=True)
    while len(name := Path(sys.argv[2]).read_text()) < 16:
        time.sleep(0.001)
    reader = RingReader(int(name, 16))
    end = time.monotonic() + float(sys.argv[1])
    good = torn = stale = last = 0
    held = []
    while time.monotonic() < end:
        taken = reader.take()
        if taken is None:
            stale += 1
            continue
        time.sleep(pause)
        held = [*held, taken][-copies:]
        for header, pixels in held:
            image = pixels.reshape(720, 1280, 3).copy()
            number = int(image[0, 0, 0]) | int(image[0, 0, 1]) << 8 | int(image[0, 0, 2]) << 16
            same = bool((image[0, 0] == image[-1, -1]).all()) and header == number.to_bytes(8, "little") * 500
            image[0, 0] = image[-1, -1] = 0
            right = zlib.crc32(image) == sums[number % 8]
            good += same and right
            torn += not (same and right)
        torn += number < last
        last = number
    print(good, torn, stale, flush=True)
"""


def test_no_picture_is_torn_by_a_writer_at_full_rate_and_readers_that_are_slow_stopped_and_killed(
    tmp_path: Path,
) -> None:
    place = tmp_path / "newest"
    place.write_text("")
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
    unguarded = _FAST_READER.replace(
        "    reader = RingReader(",
        "    RingReader._has_locked = lambda *of: True\n"
        "    RingReader._release = lambda *of: None\n"
        "    reader = RingReader(",
    )
    assert unguarded != _FAST_READER
    place = tmp_path / "newest"
    place.write_text("")
    reader = _run(unguarded, 2, place, 0.01, 1)
    assert _line(reader) == "there"
    writer = _run(_FAST_WRITER, 3, place)
    _, torn, _ = map(int, reader.communicate(timeout=30)[0].split()[-3:])
    writer.communicate(timeout=30)
    assert torn > 0
