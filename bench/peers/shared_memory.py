"""Shared memory with nothing around it: a bare ring, and a bare iceoryx2. What the fabric can reach on one host."""

from __future__ import annotations

import contextlib
import ctypes
import os
import tempfile
import time
import zlib
from collections.abc import Iterator
from multiprocessing import shared_memory
from pathlib import Path
from typing import Any, Final

import numpy as np

from peers.peer import Link, Peer, Send, Take

__all__ = ["ICEORYX", "RING"]

_SLOTS: Final = 8
_NUMBER_BYTES: Final = 8


def _name(link: Link) -> str:
    return f"camfabric-bench-{zlib.crc32(link.send_to.encode()):08x}"


def _fifo(link: Link) -> Path:
    path = Path(tempfile.gettempdir()) / _name(link)
    with contextlib.suppress(FileExistsError):
        os.mkfifo(path)
    return path


@contextlib.contextmanager
def _ring_sender(link: Link) -> Iterator[Send]:
    width, height = link.size
    size = width * height * 3
    memory = shared_memory.SharedMemory(_name(link), create=True, size=_SLOTS * size)
    pixels: Any = np.ndarray((_SLOTS, height, width, 3), np.uint8, memory.buf)
    pixels.fill(0)  # pages are had now
    fifo = _fifo(link)
    descriptor = os.open(fifo, os.O_RDWR)
    number = 0

    def send(picture: Any) -> None:
        nonlocal number
        np.copyto(pixels[number % _SLOTS], picture)
        os.write(descriptor, number.to_bytes(_NUMBER_BYTES, "little"))
        number += 1

    try:
        yield send
    finally:
        os.close(descriptor)
        fifo.unlink()
        memory.unlink()


@contextlib.contextmanager
def _ring_receiver(link: Link) -> Iterator[Take]:
    width, height = link.size
    memory = None
    while memory is None:
        try:
            memory = shared_memory.SharedMemory(_name(link))
        except (FileNotFoundError, ValueError):
            time.sleep(0.01)
    descriptor = os.open(_fifo(link), os.O_RDWR)
    pixels: Any = np.ndarray((_SLOTS, height, width, 3), np.uint8, memory.buf)
    pixels.flags.writeable = False

    def take() -> Any:
        number = int.from_bytes(os.read(descriptor, _NUMBER_BYTES), "little")
        return pixels[number % _SLOTS]

    try:
        yield take
    finally:
        os.close(descriptor)


def _ports(link: Link) -> tuple[Any, Any, Any]:
    """A node, its service for pictures and its service for wakes."""
    import iceoryx2 as iox

    iox.set_log_level(iox.LogLevel.Fatal)
    config = iox.config.default()
    node = iox.NodeBuilder.new().config(config).create(iox.ServiceType.Ipc)
    name = iox.ServiceName.new(_name(link))
    pictures = (
        node.service_builder(name)
        .publish_subscribe(iox.Slice[ctypes.c_uint8])
        .enable_safe_overflow(True)
        .subscriber_max_buffer_size(2)
        .open_or_create()
    )
    return node, pictures, node.service_builder(name).event().open_or_create()


@contextlib.contextmanager
def _iceoryx_sender(link: Link) -> Iterator[Send]:
    width, height = link.size
    size = width * height * 3
    _node, pictures, wakes = _ports(link)
    publisher = pictures.publisher_builder().initial_max_slice_len(size).create()
    notifier = wakes.notifier_builder().create()

    def send(picture: Any) -> None:
        sample = publisher.loan_slice_uninit(size)
        ctypes.memmove(sample.payload_ptr, picture.ctypes.data, size)
        sample.assume_init().send()
        notifier.notify()

    yield send


@contextlib.contextmanager
def _iceoryx_receiver(link: Link) -> Iterator[Take]:
    width, height = link.size
    _node, pictures, wakes = _ports(link)
    subscriber = pictures.subscriber_builder().create()
    listener = wakes.listener_builder().create()
    buffer = ctypes.c_uint8 * (width * height * 3)

    def take() -> Any:
        while (sample := subscriber.receive()) is None:
            listener.blocking_wait()
        take.sample = sample  # type: ignore[attr-defined]  # it is held until the next one is asked for
        return np.ctypeslib.as_array(buffer.from_address(sample.payload_ptr)).reshape(height, width, 3)

    yield take


RING: Final = Peer(
    "bare ring",
    f"multiprocessing.shared_memory, {_SLOTS} slots, woken by a pipe, nothing keeps a slot from being overwritten",
    _ring_sender,
    _ring_receiver,
)
ICEORYX: Final = Peer(
    "bare iceoryx2",
    "publish_subscribe of a slice, safe overflow, buffer of 2, an event for each picture",
    _iceoryx_sender,
    _iceoryx_receiver,
    "iceoryx2",
)
