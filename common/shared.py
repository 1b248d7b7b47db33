"""Shared memory: a ring of pictures that a publisher writes, and that subscribers on its host read without a copy.

It is a file in /dev/shm for each camera that somebody watches so; docs/wire.md has its layout. A slot has a picture and
its header, as on the wire, and is guarded by an open file description lock on a byte of the file: its writer has it
alone, its readers together, and nobody waits. So a picture is never overwritten while somebody holds it; the kernel
orders the memory, on ARM too; and it takes back the locks of a process that dies. Which slot has the newest picture
stands on the first page; whether it still has it is told by its generation. camfabric.common.doorbell tells readers
when to look.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import logging
import mmap
import os
import re
import secrets
import stat
import struct
import threading
import weakref
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from camfabric.common.errors import WireError
from camfabric.common.frame import Frame
from camfabric.common.settings import LIMITS, Limits
from camfabric.common.topics import CAM, MAX_CAMERA_BYTES, SHM, is_host, parse_topic
from camfabric.common.wire import Descriptor

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from camfabric.common.frame import Image

__all__ = ["NoRing", "Ring", "RingReader", "host", "make_guarded", "make_host", "path_of", "sweep"]

logger = logging.getLogger(__name__)

_FOLDER: Final = Path("/dev/shm")  # noqa: S108  (what is there is checked)
_HOST: Final = _FOLDER / "camfabric-host"
_NAME: Final = re.compile(r"camfabric-[0-9a-f]{16}(\.wake)?")
"""Of rings, and of doorbells."""
_PAGE: Final = 4096
_MAGIC: Final = b"CFABSHM2"
_HEAD: Final = struct.Struct("<8sQQII")
"""At the file's beginning: magic epoch stride slots room."""
_NEWEST_AT: Final = 32
"""What was written last: generation << 16 | slot; 0 for nothing."""
_SLOT_BITS: Final = 16
_CAMERA_AT: Final = 64
_CAMERA: Final = struct.Struct(f"<H{MAX_CAMERA_BYTES}s")
"""The length of its name, and the name."""
_GENERATIONS_AT: Final = 256
_GENERATION: Final = struct.Struct("<Q")
_MOST_SLOTS: Final = (_PAGE - _GENERATIONS_AT) // _GENERATION.size
_SIZES: Final = struct.Struct("<II")
"""At a slot's beginning: bytes of the header, which follows, and of the picture, which begins after `room` bytes."""
_TRIES: Final = 4
"""Times that a reader looks for the newest picture while it is overwritten again and again."""
_MAKE_TRIES: Final = 8
_FIRST_SLOTS: Final = 4
"""One that is written, one that was announced last, and two that are read."""
_FEWEST_SLOTS: Final = 3
_TOKEN_BYTES: Final = 16
_SET_LOCK: Final = getattr(fcntl, "F_OFD_SETLK", None)
"""Linux: locks that belong to an opened file, and not to a process, so that two subscribers in one have their own."""


def _lock_of(kind: int, place: int) -> bytes:
    """What the kernel is told to take or give back the lock on a byte."""
    return struct.pack("hhqqi", kind, os.SEEK_SET, place, 1, 0)


def _lock(descriptor: int, lock: bytes) -> None:
    """Take or give back a lock, without waiting.

    Raises:
        OSError: somebody has it, or there are no such locks here.
    """
    if _SET_LOCK is None:
        raise OSError(errno.ENOSYS, "no open file description locks on this system")
    fcntl.fcntl(descriptor, _SET_LOCK, lock)


_LIFE: Final = _lock_of(fcntl.F_WRLCK, 0)
"""The first byte is that of whoever made the file, while it lives; then the slots' follow."""
_WRITE: Final = tuple(_lock_of(fcntl.F_WRLCK, 1 + slot) for slot in range(_MOST_SLOTS))
_READ: Final = tuple(_lock_of(fcntl.F_RDLCK, 1 + slot) for slot in range(_MOST_SLOTS))
_FREE: Final = tuple(_lock_of(fcntl.F_UNLCK, 1 + slot) for slot in range(_MOST_SLOTS))


class NoRing(WireError):
    """There is no ring of that name: it was closed, or never there."""


def path_of(name: str) -> Path:
    """The file of a ring, or of a doorbell."""
    return _FOLDER / f"camfabric-{name}"


def _path(file: int) -> Path:
    return path_of(f"{file:016x}")


def make_guarded(create: Callable[[Path], int], suffix: str = "") -> tuple[str, int]:
    """Make a file that is not taken for a dead process's while this one lives: its name, and its descriptor.

    Args:
        create: makes and opens the file of that path.
        suffix: of its name, behind 16 hexadecimal digits.

    Raises:
        OSError: it cannot be made.
    """
    left = _MAKE_TRIES
    while True:
        name = secrets.token_hex(8)
        path = path_of(name + suffix)
        try:
            descriptor = create(path)
            try:
                guard(descriptor)
            except OSError:
                os.close(descriptor)
                path.unlink(missing_ok=True)
                raise
        except OSError:  # somebody who starts just now may have taken it for what the dead have left
            left -= 1
            if not left:
                raise
        else:
            return name, descriptor


def guard(descriptor: int) -> None:
    """Keep a file that was made and opened a moment ago from being taken for a dead process's, while this one lives.

    Raises:
        OSError: it was taken for one already.
    """
    _lock(descriptor, _LIFE)
    if not os.fstat(descriptor).st_nlink:
        raise OSError(errno.EAGAIN, "it was taken for a dead process's")


def host() -> str:
    """What tells this host from others: a random token in its /dev/shm, which a container with its own does not share.

    Empty where there is none yet, or no shared memory.
    """
    try:
        descriptor = os.open(_HOST, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return ""
    try:
        token = os.read(descriptor, 2 * _TOKEN_BYTES).decode("ascii", "replace")
    except OSError:
        return ""
    finally:
        os.close(descriptor)
    return token if is_host(token) else ""


def make_host() -> str:
    """As `host`, and makes the token where there is none."""
    if (token := host()) or _SET_LOCK is None:
        return token
    # Under its name only once it is whole; the first one's stays.
    path = _path(secrets.randbits(64))
    with contextlib.suppress(OSError):
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
        try:
            os.fchmod(descriptor, 0o644)
            os.write(descriptor, secrets.token_hex(_TOKEN_BYTES // 2).encode())
            os.link(path, _HOST)
        finally:
            os.close(descriptor)
            path.unlink()
    return host()


def sweep() -> None:
    """Remove what dead publishers and subscribers of this user have left in /dev/shm."""
    with contextlib.suppress(OSError):
        for path in list(_FOLDER.iterdir()):
            if _NAME.fullmatch(path.name):
                _remove_dead(path)


def _remove_dead(path: Path) -> None:
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:  # another user's, or gone
        return
    try:
        status = os.fstat(descriptor)
        is_made_here = stat.S_ISFIFO(status.st_mode) if path.suffix else stat.S_ISREG(status.st_mode)
        if is_made_here and status.st_uid == os.geteuid():
            _lock(descriptor, _LIFE)
            path.unlink()
    except OSError:  # its maker lives
        return
    finally:
        os.close(descriptor)


class Ring:
    """A camera's pictures in shared memory, as their publisher writes them. Used by one thread at a time.

    Args:
        picture_bytes: the largest picture that it takes.
        header_bytes: the largest header, at least; there is room for a page of it anyway.
        camera: its name.
        epoch: the publisher's.

    Raises:
        OSError: there is no room for it, or no such memory.
    """

    def __init__(
        self, picture_bytes: int, *, camera: str, epoch: int, header_bytes: int = 0, limits: Limits = LIMITS
    ) -> None:
        import numpy as np

        self.picture_bytes: Final = picture_bytes
        self._room = _pages(_SIZES.size + header_bytes)
        self._stride = self._room + _pages(picture_bytes)
        self._most = min(limits.shared_slots, limits.shared_bytes // self._stride, _MOST_SLOTS)
        if self._most < _FEWEST_SLOTS:
            raise OSError(errno.EFBIG, f"a picture of {picture_bytes} bytes is too large for it")
        sweep()
        self._order: deque[int] = deque()
        """The slots, that which was written longest ago first."""
        self._generation = 0
        self._shape: tuple[tuple[int, ...], Any] = ((), None)
        self._pictures: dict[int, NDArray[Any]] = {}
        """The slots' pixels as arrays of that shape and type."""
        digits, self._descriptor = make_guarded(_create)
        self.file: Final = int(digits, 16)
        try:
            size = _PAGE + self._most * self._stride
            os.ftruncate(self._descriptor, size)
            first = min(_FIRST_SLOTS, self._most)
            self._allocate(0, _PAGE + first * self._stride)
            self._order.extend(range(first))
            self._memory = _memory_of(self._descriptor, size, os.O_RDWR, mmap.ACCESS_WRITE)
            name = camera.encode()
            _CAMERA.pack_into(self._memory, _CAMERA_AT, len(name), name)
            _HEAD.pack_into(self._memory, 0, _MAGIC, epoch, self._stride, self._most, self._room)
            self._generations: NDArray[Any] = np.frombuffer(self._memory, "<u8", self._most, _GENERATIONS_AT)
            self._newest: NDArray[Any] = np.frombuffer(self._memory, "<u8", 1, _NEWEST_AT)
        except BaseException:
            self.close()
            raise
        _with_locks.add(self)

    def _allocate(self, offset: int, length: int) -> None:
        """Take memory before it is written to: where a write finds none, the process is ended by SIGBUS.

        Half of what is free is left to others, whom the same would happen to.
        """
        there = os.fstatvfs(self._descriptor)
        if there.f_blocks and there.f_bavail * there.f_frsize < 2 * length:
            raise OSError(errno.ENOSPC, f"{_FOLDER} has no room for {length / 1e6:.0f} MB and as much for others")
        os.posix_fallocate(self._descriptor, offset, length)

    @property
    def slots(self) -> int:
        """How many there are now."""
        return len(self._order)

    def fits(self, picture_bytes: int, header_bytes: int) -> bool:
        """Whether it has room for pictures and headers of that size, and at most twice of that for pictures.

        To make a ring takes longer than to write a picture, and not each may have the size of the one before.
        """
        return self.picture_bytes // 2 <= picture_bytes <= self.picture_bytes and (
            _SIZES.size + header_bytes <= self._room
        )

    def write(self, image: Image, header: bytes = b"") -> Descriptor | None:
        """Copy a picture into a slot that nobody holds; None where there is none.

        Args:
            image: (H, W, 3) uint8, or (H, W) uint8 or uint16, of at most `picture_bytes`.
            header: that of its frame, with codec raw.
        """
        import numpy as np

        slot = self._taken()
        if slot is None:
            return None
        try:
            # A reader that comes while this is not done finds no such generation, also where this is never done.
            self._generations[slot] = 0
            begin = _PAGE + slot * self._stride
            _SIZES.pack_into(self._memory, begin, len(header), image.nbytes)
            self._memory[begin + _SIZES.size : begin + _SIZES.size + len(header)] = header
            np.copyto(self._pixels(slot, image), image)
            self._generation += 1
            self._generations[slot] = self._generation
        finally:
            _lock(self._descriptor, _FREE[slot])
        self._newest[0] = self._generation << _SLOT_BITS | slot
        return Descriptor(self.file, self._generation, slot)

    def _pixels(self, slot: int, like: Image) -> NDArray[Any]:
        """A slot's pixels as an array like that one."""
        import numpy as np

        if self._shape != (like.shape, like.dtype):
            self._shape = (like.shape, like.dtype)
            self._pictures.clear()
        pixels = self._pictures.get(slot)
        if pixels is None:
            begin = _PAGE + slot * self._stride + self._room
            pixels = np.frombuffer(self._memory, like.dtype.newbyteorder("<"), like.size, begin).reshape(like.shape)
            self._pictures[slot] = pixels
        return pixels

    def copied(self, descriptor: Descriptor) -> Image | None:
        """A copy of what was written last, or just before that; None where another picture has taken its place."""
        if self._generations[descriptor.slot] != descriptor.generation:
            return None
        pixels = self._pictures.get(descriptor.slot)
        return None if pixels is None else pixels.copy()

    def _taken(self) -> int | None:
        """A slot with its lock; None where all are held.

        Of those without the newest picture it is the one written last, for that is in the processor's cache; then a new
        one; that of the newest picture only where there can be no more.
        """
        *others, newest = self._order
        for slot in reversed(others):
            if self._locks(slot):
                break
        else:
            grown = self._grown()
            slot = newest if grown is None else grown
            if not self._locks(slot):
                return None
        self._order.remove(slot)
        self._order.append(slot)
        return slot

    def _locks(self, slot: int) -> bool:
        """Whether nobody holds it: then it is the writer's now."""
        try:
            _lock(self._descriptor, _WRITE[slot])
        except OSError:
            return False
        return True

    def _grown(self) -> int | None:
        slot = len(self._order)
        if slot >= self._most:
            return None
        try:
            self._allocate(_PAGE + slot * self._stride, self._stride)
        except OSError as error:
            logger.debug("shared memory does not grow: %s", error)
            self._most = slot
            return None
        self._order.append(slot)
        return slot

    def close(self) -> None:
        """Remove it. Pictures that are held stay as they are until they are let go."""
        if self._descriptor >= 0:
            with contextlib.suppress(OSError):
                _path(self.file).unlink()
            os.close(self._descriptor)
            self._descriptor = -1


def _create(path: Path) -> int:
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)


def _memory_of(descriptor: int, size: int, flags: int, access: int) -> mmap.mmap:
    """A file's memory. It keeps a descriptor, so it is given one of its own, which has no locks to pass on."""
    own = os.open(f"/proc/self/fd/{descriptor}", flags | os.O_CLOEXEC)
    try:
        return mmap.mmap(own, size, access=access)
    finally:
        os.close(own)


def _pages(size: int) -> int:
    """That many bytes in whole pages."""
    return -(-size // _PAGE) * _PAGE


class RingReader:
    """A ring as a subscriber reads it. Safe for any number of threads.

    Raises:
        NoRing: there is none of that name.
        WireError: it is no ring, or not this user's.
    """

    def __init__(self, file: int, *, limits: Limits = LIMITS) -> None:
        import numpy as np

        self.file: Final = file
        self._limits = limits
        self._lock = threading.Lock()
        self._held: set[int] = set()
        self._moved = 0
        self.is_rung = False
        """Whether a doorbell has told of it."""
        self.looked = 0
        """The generation that was newest at the last look at it."""
        self.taken = 0
        """That of the picture that was taken last ..."""
        self.last_seq: int | None = None
        """... and its frame's number, if one was taken."""
        try:
            self._descriptor = os.open(_path(file), os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
        except FileNotFoundError as error:
            raise NoRing("no shared memory of that name", reason="memory") from error
        except OSError as error:
            raise WireError(f"no shared memory of that name: {error.strerror}", reason="memory") from error
        # Not before all of its pictures are let go: they hold this.
        weakref.finalize(self, os.close, self._descriptor).atexit = False
        try:
            self._memory = self._mapped()
        except (OSError, ValueError, WireError) as error:
            raise WireError(f"shared memory cannot be read: {error}", reason="memory") from error
        self._newest: NDArray[Any] = np.frombuffer(self._memory, "<u8", 1, _NEWEST_AT)
        self.news: Final = Frame(camera=self.camera, channel=f"{SHM}/", epoch=self.epoch, payload=b"")
        """What stands for a new picture until it is taken."""
        _with_locks.add(self)

    def _mapped(self) -> mmap.mmap:
        status = os.fstat(self._descriptor)
        if not stat.S_ISREG(status.st_mode) or status.st_uid != os.geteuid() or status.st_size < _PAGE:
            raise ValueError("it is no file of this user")
        page = os.pread(self._descriptor, _PAGE, 0)
        magic, self.epoch, self._stride, self._slots, self._room = _HEAD.unpack_from(page)
        length, name = _CAMERA.unpack_from(page, _CAMERA_AT)
        if magic != _MAGIC:
            raise ValueError("it is no ring of pictures")
        if not (
            self._stride % _PAGE == 0
            and self._room % _PAGE == 0 < self._room < self._stride <= self._room + self._limits.payload_bytes
            and self._room <= _pages(_SIZES.size + self._limits.header_bytes)
            and 0 < self._slots <= _MOST_SLOTS
            and status.st_size == _PAGE + self._slots * self._stride
        ):
            raise ValueError(f"{self._slots} slots of {self._stride} bytes are not its {status.st_size} bytes")
        self.camera = parse_topic(b"%s/%s/" % (CAM.encode(), name[:length]))[1]
        _lock(self._descriptor, _FREE[0])  # whether there are such locks here
        return _memory_of(self._descriptor, status.st_size, os.O_RDONLY, mmap.ACCESS_READ)

    def has_moved(self) -> bool:
        """Whether anything was written since the last call."""
        before, self._moved = self._moved, int(self._newest[0])
        return before != self._moved

    @property
    def has_picture(self) -> bool:
        """Whether anything was written yet."""
        return int(self._newest[0]) != 0

    def has_news(self) -> bool:
        """Whether there is a picture that was not there at the last look, and that nobody has taken since."""
        generation = int(self._newest[0]) >> _SLOT_BITS
        is_news = generation > max(self.looked, self.taken)
        self.looked = max(self.looked, generation)
        return is_news

    def take(self) -> tuple[bytes, NDArray[Any]] | None:
        """The newest picture, with its header: (size,) uint8, read-only; None where it was taken before.

        Or where it is overwritten just now: then there will be a newer one. It stays as it is for as long as the array,
        or a view of it, is held. Where as many as `shared_held` are, it is a copy.

        Raises:
            WireError: what stands there does not add up.
        """
        with self._lock:
            for _ in range(_TRIES):
                # Whether it still is in that slot, and all of it, is known only once the slot is locked.
                newest = int(self._newest[0])
                generation, slot = newest >> _SLOT_BITS, newest & ((1 << _SLOT_BITS) - 1)
                if generation <= self.taken:
                    return None
                if slot >= self._slots:
                    raise WireError(f"slot {slot} of {self._slots} in shared memory", reason="memory")
                if slot not in self._held and self._has_locked(slot, generation):
                    self.taken = generation
                    return self._content(slot)
        return None

    def _has_locked(self, slot: int, generation: int) -> bool:
        try:
            _lock(self._descriptor, _READ[slot])
        except OSError:  # it is written just now
            return False
        (its,) = _GENERATION.unpack_from(self._memory, _GENERATIONS_AT + slot * _GENERATION.size)
        if its == generation:
            return True
        _lock(self._descriptor, _FREE[slot])
        return False

    def _content(self, slot: int) -> tuple[bytes, NDArray[Any]]:
        """What is in a slot that is locked. The lock is given back with the picture."""
        import numpy as np

        begin = _PAGE + slot * self._stride
        header_bytes, picture_bytes = _SIZES.unpack_from(self._memory, begin)
        if header_bytes > self._room - _SIZES.size or picture_bytes > self._stride - self._room:
            _lock(self._descriptor, _FREE[slot])
            raise WireError(f"{header_bytes} and {picture_bytes} bytes in a slot of shared memory", reason="memory")
        header = self._memory[begin + _SIZES.size : begin + _SIZES.size + header_bytes]
        picture = np.frombuffer(self._memory, np.uint8, picture_bytes, begin + self._room)
        if len(self._held) >= self._limits.shared_held:
            picture = picture.copy()
            picture.flags.writeable = False
            _lock(self._descriptor, _FREE[slot])
        else:
            self._held.add(slot)
            weakref.finalize(picture, self._release, slot, os.getpid()).atexit = False
        return header, picture

    def _release(self, slot: int, process: int) -> None:
        """A picture is let go. May be called by any thread, wherever that is."""
        self._held.discard(slot)  # before a newer one can be in that slot, and be passed over
        if os.getpid() == process:  # and not by a forked one, which shares the locks
            _lock(self._descriptor, _FREE[slot])


_with_locks: Final[weakref.WeakSet[Ring | RingReader]] = weakref.WeakSet()


def _leave_locks() -> None:
    """Of a forked process: its parent's locks are not to outlive that."""
    null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    for each in list(_with_locks):
        if each._descriptor >= 0:
            os.dup2(null, each._descriptor, inheritable=False)
    os.close(null)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_leave_locks)
