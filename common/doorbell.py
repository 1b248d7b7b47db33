"""Doorbells: how a publisher tells a subscriber on its host, without a message, that a ring has a new picture.

A subscriber has one, a FIFO in /dev/shm, for all the cameras that it takes from memory; it asks publishers to use it by
its name, which it subscribes to. Each picture is 8 bytes: the file of its ring. None is waited for. The newest picture
stands in the ring itself, and a doorbell that was full makes its owner look at all rings that it knows; of one that it
does not know it is told again.
"""

from __future__ import annotations

import contextlib
import os
import select
import stat
import struct
import weakref
from pathlib import Path
from typing import Final

from camfabric.common.shared import make_guarded, path_of
from camfabric.common.topics import is_host

__all__ = ["NO_FILE", "Doorbell", "open_doorbell", "press"]

NO_FILE: Final = 0
"""No ring has this file."""
_FILE: Final = struct.Struct("<Q")
_READ_BYTES: Final = 65536
_SMALLEST_BYTES: Final = 4096
"""No FIFO holds less, so one that had less in it was not full."""
_SUFFIX: Final = ".wake"


def _path(name: str) -> Path:
    return path_of(name + _SUFFIX)


def _create(path: Path) -> int:
    os.mkfifo(path, 0o600)
    try:
        return _opened(path)
    except OSError:
        path.unlink(missing_ok=True)
        raise


class Doorbell:
    """A subscriber's own. Safe for any number of threads, each of which may hear what another one does not.

    Raises:
        OSError: it cannot be made.
    """

    def __init__(self) -> None:
        name, self._descriptor = make_guarded(_create, _SUFFIX)
        self.name: Final = name
        """What publishers are to be told: 16 hexadecimal digits."""
        # Not before the last one that hears it has gone.
        weakref.finalize(self, os.close, self._descriptor).atexit = False

    def fileno(self) -> int:
        """The descriptor to poll."""
        return self._descriptor

    def heard(self) -> tuple[set[int], bool]:
        """The files of the rings with a new picture since the last call, and whether any other may have one too."""
        try:
            data = os.read(self._descriptor, _READ_BYTES)
        except BlockingIOError:
            return set(), False
        odd = len(data) % _FILE.size
        files = {file for (file,) in _FILE.iter_unpack(data[:-odd] if odd else data)} - {NO_FILE}
        return files, odd > 0 or len(data) >= _SMALLEST_BYTES

    def wait(self, timeout: float | None) -> None:
        """Wait until somebody has pressed it, or knocked, or `timeout` seconds are over."""
        poll = select.poll()
        poll.register(self._descriptor, select.POLLIN)
        poll.poll(None if timeout is None else timeout * 1000)

    def is_pressed(self) -> bool:
        """Whether there is something to hear."""
        poll = select.poll()
        poll.register(self._descriptor, select.POLLIN)
        return bool(poll.poll(0))

    def knock(self) -> None:
        """Wake whoever waits, for another reason than a picture in a ring."""
        press(self._descriptor, NO_FILE)

    def close(self) -> None:
        """Remove it."""
        with contextlib.suppress(OSError):
            _path(self.name).unlink()


def _opened(path: Path) -> int:
    # Also for writing: a FIFO that nobody has open for that has an end, which would be news for ever.
    return os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)


def open_doorbell(name: str) -> int:
    """The descriptor of somebody's, for `press`; to be closed by the caller.

    It is open for reading too, so that a subscriber that dies is no SIGPIPE here.

    Raises:
        OSError: there is none of that name, or it is not this user's.
    """
    if not is_host(name):
        raise FileNotFoundError(f"no doorbell {name!r}")
    descriptor = _opened(_path(name))
    status = os.fstat(descriptor)
    if stat.S_ISFIFO(status.st_mode) and status.st_uid == os.geteuid():
        return descriptor
    os.close(descriptor)
    raise PermissionError(f"doorbell {name} is not this user's")


def press(descriptor: int, file: int) -> bool:
    """Tell its owner of a picture in the ring with that file. Never waits. Returns whether there was room for it."""
    try:
        os.write(descriptor, _FILE.pack(file))
    except BlockingIOError:  # there is enough in it to be looked at
        return False
    return True
