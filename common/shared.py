"""Shared memory: a ring of pictures that a publisher writes, and that subscribers on its host read without a copy.

It is a file in /dev/shm for each camera that somebody watches so; docs/wire.md has its layout. A slot is guarded by an
open file description lock on a byte of the file: its writer has it alone, its readers together, and nobody waits. So a
picture is never overwritten while somebody holds it; the kernel orders the memory, on ARM too; and it takes back the
locks of a process that dies. Whether a slot still has the picture that was announced is told by its generation.
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
import weakref
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from camfabric.common import wire
from camfabric.common.codecs import raw
from camfabric.common.errors import WireError
from camfabric.common.frame import Frame
from camfabric.common.settings import LIMITS, Limits
from camfabric.common.topics import SHM, is_host
from camfabric.common.wire import Descriptor

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from camfabric.common.frame import Image

__all__ = ["Ring", "RingReader", "SharedPictures", "host", "make_host", "sweep"]

logger = logging.getLogger(__name__)

_FOLDER: Final = Path("/dev/shm")  # noqa: S108  (what is there is checked)
_HOST: Final = _FOLDER / "camfabric-host"
_NAME: Final = re.compile(r"camfabric-[0-9a-f]{16}")
_PAGE: Final = 4096
_MAGIC: Final = b"CFABSHM1"
_HEAD: Final = struct.Struct("<8sQQI")
"""At the file's beginning: magic epoch stride slots."""
_GENERATIONS_AT: Final = 64
_GENERATION: Final = struct.Struct("<Q")
_MOST_SLOTS: Final = (_PAGE - _GENERATIONS_AT) // _GENERATION.size
_FIRST_SLOTS: Final = 4
"""One that is written, one that was announced last, and two that are read."""
_FEWEST_SLOTS: Final = 3
_TOKEN_BYTES: Final = 16
_SET_LOCK: Final = getattr(fcntl, "F_OFD_SETLK", None)
"""Linux: locks that belong to an opened file, and not to a process, so that two subscribers in one have their own."""


def _lock(descriptor: int, kind: int, place: int) -> None:
    """Take or give back the lock on a byte, without waiting: the first is the writer's life, then the slots' follow.

    Raises:
        OSError: somebody has it, or there are no such locks here.
    """
    if _SET_LOCK is None:
        raise OSError(errno.ENOSYS, "no open file description locks on this system")
    fcntl.fcntl(descriptor, _SET_LOCK, struct.pack("hhqqi", kind, os.SEEK_SET, place, 1, 0))


_LIFE: Final = 0


def _place(slot: int) -> int:
    return 1 + slot


def _path(file: int) -> Path:
    return _FOLDER / f"camfabric-{file:016x}"


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
    """Remove what dead publishers of this user have left in /dev/shm."""
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
        if _is_own_file(os.fstat(descriptor)):
            _lock(descriptor, fcntl.F_WRLCK, _LIFE)
            path.unlink()
    except OSError:  # its writer lives
        return
    finally:
        os.close(descriptor)


def _is_own_file(status: os.stat_result) -> bool:
    return stat.S_ISREG(status.st_mode) and status.st_uid == os.geteuid()


class Ring:
    """A camera's pictures in shared memory, as their publisher writes them. Used by one thread at a time.

    Args:
        picture_bytes: the largest picture that it takes.
        epoch: the publisher's.

    Raises:
        OSError: there is no room for it, or no such memory.
    """

    def __init__(self, picture_bytes: int, *, epoch: int, limits: Limits = LIMITS) -> None:
        import numpy as np

        self.picture_bytes: Final = picture_bytes
        self._stride = -(-picture_bytes // _PAGE) * _PAGE
        self._most = min(limits.shared_slots, limits.shared_bytes // self._stride, _MOST_SLOTS)
        if self._most < _FEWEST_SLOTS:
            raise OSError(errno.EFBIG, f"a picture of {picture_bytes} bytes is too large for it")
        sweep()
        self.file: Final = secrets.randbits(64)
        self._order: deque[int] = deque()
        """The slots, that which was written longest ago first."""
        self._generation = 0
        self._descriptor = os.open(_path(self.file), os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            self._live()
            self._size = _PAGE + self._most * self._stride
            os.ftruncate(self._descriptor, self._size)
            first = min(_FIRST_SLOTS, self._most)
            self._allocate(0, _PAGE + first * self._stride)
            self._order.extend(range(first))
            memory = mmap.mmap(self._descriptor, self._size)
            _HEAD.pack_into(memory, 0, _MAGIC, epoch, self._stride, self._most)
            self._generations: NDArray[Any] = np.frombuffer(memory, "<u8", self._most, _GENERATIONS_AT)
            self._bytes: NDArray[Any] = np.frombuffer(memory, np.uint8)
        except BaseException:
            self.close()
            raise

    def _live(self) -> None:
        _lock(self._descriptor, fcntl.F_WRLCK, _LIFE)
        if not os.fstat(self._descriptor).st_nlink:
            raise OSError(errno.EAGAIN, "it was taken for a dead publisher's")

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

    def write(self, image: Image) -> Descriptor | None:
        """Copy a picture into a slot that nobody holds; None where there is none.

        Args:
            image: (H, W, 3) uint8, or (H, W) uint8 or uint16, of at most `picture_bytes`.
        """
        import numpy as np

        slot = self._taken()
        if slot is None:
            return None
        try:
            # A reader that comes while this is not done finds no such generation, also where this is never done.
            self._generations[slot] = 0
            begin = _PAGE + slot * self._stride
            dtype = image.dtype.newbyteorder("<")
            np.copyto(self._bytes[begin : begin + image.nbytes].view(dtype).reshape(image.shape), image)
            self._generation += 1
            self._generations[slot] = self._generation
        finally:
            _lock(self._descriptor, fcntl.F_UNLCK, _place(slot))
        return Descriptor(self.file, self._generation, slot)

    def _taken(self) -> int | None:
        """A slot with its lock: the one written longest ago, but the last one only where there can be no more."""
        last = len(self._order) - 1
        for place, slot in enumerate(tuple(self._order)):
            if place == last and (new := self._grown()) is not None:
                slot = new
            try:
                _lock(self._descriptor, fcntl.F_WRLCK, _place(slot))
            except OSError:
                continue
            self._order.remove(slot)
            self._order.append(slot)
            return slot
        return None

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


class RingReader:
    """A ring as a subscriber reads it. Safe for any number of threads.

    Raises:
        WireError: there is no such ring of this publisher, or it is not this user's.
    """

    def __init__(self, file: int, *, epoch: int, limits: Limits = LIMITS) -> None:
        self.file: Final = file
        self._limits = limits
        self._held: set[int] = set()
        try:
            self._descriptor = os.open(_path(file), os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
        except OSError as error:
            raise WireError(f"no shared memory of that name: {error.strerror}", reason="memory") from error
        # Not before all of its pictures are let go: they hold this.
        weakref.finalize(self, os.close, self._descriptor).atexit = False
        try:
            self._memory, self._stride, self._slots = self._mapped(epoch)
        except (OSError, ValueError) as error:
            raise WireError(f"shared memory cannot be read: {error}", reason="memory") from error

    def _mapped(self, epoch: int) -> tuple[mmap.mmap, int, int]:
        status = os.fstat(self._descriptor)
        if not _is_own_file(status) or status.st_size < _PAGE:
            raise ValueError("it is no file of this user")
        magic, its_epoch, stride, slots = _HEAD.unpack(os.pread(self._descriptor, _HEAD.size, 0))
        if magic != _MAGIC or its_epoch != epoch:
            raise ValueError("it is not this publisher's")
        if not (
            stride % _PAGE == 0 < stride <= self._limits.payload_bytes
            and 0 < slots <= _MOST_SLOTS
            and status.st_size == _PAGE + slots * stride
        ):
            raise ValueError(f"{slots} slots of {stride} bytes are not its {status.st_size} bytes")
        _lock(self._descriptor, fcntl.F_UNLCK, _place(0))  # whether there are such locks here
        return mmap.mmap(self._descriptor, status.st_size, access=mmap.ACCESS_READ), stride, slots

    def read(self, descriptor: Descriptor, size: int) -> NDArray[Any] | None:
        """The bytes of a picture: (size,) uint8, read-only; None where another one has taken its place.

        It stays as it is for as long as the array, or a view of it, is held. Where as many as `shared_held` are, it is
        a copy.
        """
        import numpy as np

        slot = descriptor.slot
        if slot >= self._slots or size > self._stride or slot in self._held:
            return None
        try:
            _lock(self._descriptor, fcntl.F_RDLCK, _place(slot))
        except OSError:  # it is written just now
            return None
        (generation,) = _GENERATION.unpack_from(self._memory, _GENERATIONS_AT + slot * _GENERATION.size)
        if generation != descriptor.generation:
            _lock(self._descriptor, fcntl.F_UNLCK, _place(slot))
            return None
        picture = np.frombuffer(self._memory, np.uint8, size, _PAGE + slot * self._stride)
        if len(self._held) >= self._limits.shared_held:
            picture = picture.copy()
            picture.flags.writeable = False
            _lock(self._descriptor, fcntl.F_UNLCK, _place(slot))
            return picture
        self._held.add(slot)
        weakref.finalize(picture, self._release, slot, os.getpid()).atexit = False
        return picture

    def _release(self, slot: int, process: int) -> None:
        """A picture is let go. May be called by any thread, wherever that is."""
        self._held.discard(slot)
        if os.getpid() == process:  # and not by a forked one, which shares the locks
            _lock(self._descriptor, fcntl.F_UNLCK, _place(slot))


class SharedPictures:
    """What a subscriber has of the rings on its host: the newest of each camera.

    `open` and `forget` are called by the thread that receives, `picture` by those that consume.
    """

    def __init__(self, limits: Limits = LIMITS) -> None:
        self.offset_ns: Callable[[Frame], int] = lambda frame: 0
        """How far this machine's clock is from that of a frame's publisher."""
        self._limits = limits
        self._readers: dict[str, RingReader] = {}

    def open(self, frame: Frame) -> None:
        """Have the ring of an announced frame.

        Raises:
            WireError: it is not there, or not what was announced.
        """
        descriptor = wire.unpack_descriptor(frame.payload)
        reader = self._readers.get(frame.camera)
        if reader is None or reader.file != descriptor.file:
            self._readers[frame.camera] = RingReader(descriptor.file, epoch=frame.epoch, limits=self._limits)

    def picture(self, frame: Frame) -> Frame | None:
        """An announced frame with its picture, which it holds; None where another one has taken its place."""
        descriptor = wire.unpack_descriptor(frame.payload)
        reader = self._readers.get(frame.camera)
        if reader is None or reader.file != descriptor.file:
            return None
        pixels = reader.read(descriptor, wire.picture_bytes(frame))
        if pixels is None:
            return None
        return replace(
            frame,
            channel=SHM,
            payload=pixels.data,
            decoded=raw.shaped(frame, pixels),
            clock_offset_ns=self.offset_ns(frame),
        )

    def forget(self, camera: str) -> None:
        """Give a camera's ring back, but for what is held of it."""
        self._readers.pop(camera, None)
