"""What attacks are made of: bare sockets, ZMTP and CURVE by hand, a recording proxy, and an honest pair beside it."""

from __future__ import annotations

import contextlib
import ctypes
import ctypes.util
import functools
import secrets
import select
import socket
import struct
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import numpy as np
import zmq
from zmq.utils import z85

from camfabric.common.keys import KeyFolder, KeyPair
from camfabric.publisher import Publisher
from camfabric.subscriber import Subscriber

ANY: Final = "tcp://127.0.0.1:*"
FPS: Final = 30
_LAST_FRAMES: Final = 3
"""How many more an honest pair has to see when an attack is over."""


class Honest:
    """A camera at 30 fps, and somebody who takes all of its frames; that none was lost is checked at the end."""

    def __init__(
        self,
        to: str,
        endpoint: str,
        camera: str = "cctv/lobby",
        *,
        folder: KeyFolder | None = None,
        bind: bool = False,
        size: tuple[int, int] = (32, 24),
    ) -> None:
        self.camera = camera
        publishing: dict[str, Any] = {"bind": ANY} if bind else {"to": to}
        subscribing: dict[str, Any] = {}
        if folder is not None:
            publishing |= {"keys": folder.path, "key": "broker" if bind else "lobby"}
            subscribing |= {"keys": folder.path, "key": "guard"}
        self.publisher = Publisher(camera, codec="raw", **publishing)
        self.subscriber = Subscriber(
            self.publisher.endpoint if bind else endpoint, cameras=camera, mode="every", decode=False, **subscribing
        )
        self.count = 0
        self.missed = 0
        self.dropped = 0
        self.skipped = 0
        """Pictures that were replaced by newer ones before they were encoded: this process has much else to do."""
        self.strangers: set[object] = set()
        self.last_number = -1
        self._stop = threading.Event()
        self._image = np.zeros((size[1], size[0], 3), np.uint8)
        self._threads = [threading.Thread(target=run, daemon=True) for run in (self._send, self._read)]

    @property
    def endpoint(self) -> str:
        """The publisher's, where it binds."""
        return self.publisher.endpoint

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        try:
            self.more(2)
        except BaseException:
            self._close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                self.check()
        finally:
            self._close()

    def _close(self) -> None:
        self._stop.set()
        for thread in self._threads:
            if thread.is_alive():
                thread.join(5)
        self.subscriber.close()
        self.publisher.close()

    def _send(self) -> None:
        number = 0
        while not self._stop.wait(1 / FPS):
            self.publisher.send(self._image, extra={"number": number}, copy=False)
            number += 1

    def _read(self) -> None:
        while not self._stop.is_set():
            try:
                frame = self.subscriber.read(timeout=0.1)
            except TimeoutError:
                continue
            if self.count:
                if (gap := frame.extra.get("number", -1) - self.last_number - 1) < 0:
                    self.strangers.add((self.last_number, frame.extra.get("number")))
                self.skipped += gap
            if (frame.camera, frame.epoch) != (self.camera, self.publisher.epoch):
                self.strangers.add((self.count, frame.camera, frame.epoch, frame.seq))
            self.last_number = int(frame.extra.get("number", -1))
            self.missed += frame.missed
            self.dropped += frame.dropped
            self.count += 1

    def more(self, count: int, within_s: float = 10.0) -> None:
        """Wait for so many frames more."""
        wanted = self.count + count
        end = time.monotonic() + within_s
        while self.count < wanted:
            assert time.monotonic() < end, f"the honest subscriber's frames stop after {self.count}"
            self._stop.wait(0.01)

    def check(self) -> None:
        """See that it carries on, has lost nothing, and got nothing that it did not ask for."""
        self.more(_LAST_FRAMES)
        assert (self.missed, self.dropped) == (0, 0), (self.missed, self.dropped)
        assert not self.strangers, self.strangers
        assert self.skipped <= self.publisher.status().dropped
        assert self.subscriber.dropped() in ({}, {self.camera: 0})
        assert set(self.subscriber.cameras()) <= {self.camera}


# Sockets of libzmq that keep to no rule


@contextlib.contextmanager
def bare() -> Iterator[zmq.Context[Any]]:
    """A context whose sockets are all closed at the end."""
    context: zmq.Context[Any] = zmq.Context()
    try:
        yield context
    finally:
        context.destroy(0)


def peer(
    context: zmq.Context[Any], kind: int, endpoint: str, pair: KeyPair | None = None, server: bytes = b""
) -> zmq.Socket[bytes]:
    """A connected socket with no limit of its own."""
    made: zmq.Socket[bytes] = context.socket(kind)
    made.linger = 0
    made.sndhwm = made.rcvhwm = 0
    made.rcvtimeo = 5000
    if pair is not None:
        made.curve_serverkey = server
        made.curve_publickey = pair.public
        made.curve_secretkey = pair.secret
    made.connect(endpoint)
    return made


def heard(made: zmq.Socket[bytes]) -> list[list[bytes]]:
    """The messages that have come."""
    messages = []
    while made.poll(0):
        messages.append(made.recv_multipart())
    return messages


def gather(made: zmq.Socket[bytes], into: list[list[bytes]]) -> list[list[bytes]]:
    """All messages so far, with those that have come now."""
    into += heard(made)
    return into


# ZMTP by hand

GREETING: Final = b"\xff" + bytes(8) + b"\x7f\x03\x00" + b"NULL".ljust(20, b"\0") + bytes(32)
_CURVE_GREETING: Final = GREETING.replace(b"NULL".ljust(20, b"\0"), b"CURVE".ljust(20, b"\0"))


def prop(name: bytes, value: bytes) -> bytes:
    """A property of a READY command."""
    return bytes([len(name)]) + name + struct.pack(">I", len(value)) + value


def command(body: bytes) -> bytes:
    """A short command."""
    return bytes([4, len(body)]) + body


def said(data: bytes, *, more: bool = False) -> bytes:
    """A part of a message."""
    if len(data) < 256:
        return bytes([more, len(data)]) + data
    return bytes([more | 2]) + struct.pack(">Q", len(data)) + data


def ready(kind: bytes, *properties: bytes) -> bytes:
    """A READY command of a peer of a kind, with more properties in front."""
    return command(b"\x05READY" + b"".join(properties) + prop(b"Socket-Type", kind))


class Raw:
    """A TCP connection to an endpoint."""

    def __init__(self, endpoint: str) -> None:
        host, port = endpoint.removeprefix("tcp://").rsplit(":", 1)
        self.socket = socket.create_connection((host, int(port)), timeout=5)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._readable = select.poll()  # `select` has an end at 1024 descriptors
        self._readable.register(self.socket, select.POLLIN)
        self.got = bytearray()
        self.closed = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def send(self, data: bytes) -> bool:
        """Send, and say whether the connection is still there."""
        try:
            self.socket.sendall(data)
        except OSError:
            self.closed = True
        return not self.closed

    def is_closed(self) -> bool:
        """Whether the other side has closed it; what came is in `got`."""
        while not self.closed and self._readable.poll(0):
            try:
                data = self.socket.recv(65536)
            except OSError:
                data = b""
            self.got += data
            self.closed = not data
        return self.closed

    def take(self, count: int) -> bytes:
        """So many bytes."""
        data = b""
        while len(data) < count:
            if not (more := self.socket.recv(count - len(data))):
                raise ConnectionResetError
            data += more
        return data

    def flood(self, data: bytes, within_s: float = 10.0, most: int = 1 << 31) -> int:
        """Send it again and again until the connection is closed by the other side. Returns how much went out."""
        end = time.monotonic() + within_s
        sent = 0
        view = memoryview(data)
        place = 0
        self.socket.setblocking(False)
        while not self.is_closed():
            assert time.monotonic() < end, f"still there after {sent} bytes"
            assert sent < most, f"still there after {sent} bytes"
            if not select.select([], [self.socket], [], 0.05)[1]:
                continue
            try:
                done = self.socket.send(view[place:])
            except BlockingIOError:
                continue
            except OSError:
                self.closed = True
                break
            sent += done
            place = (place + done) % len(data)
        return sent


def plain(endpoint: str, kind: bytes, *properties: bytes) -> Raw:
    """A peer of ZMTP 3.0 without keys, whose handshake is done."""
    raw = Raw(endpoint)
    raw.send(GREETING)
    raw.send(ready(kind, *properties))
    raw.take(64)
    _, size = raw.take(2)  # nothing may be said before the other side is ready
    raw.take(size)
    return raw


class Curve:
    """A peer of CURVE by hand (RFC 26): libzmq's own never sends a message that is not complete."""

    def __init__(self, endpoint: str, pair: KeyPair, server: bytes, kind: bytes, *properties: bytes) -> None:
        self.raw = Raw(endpoint)
        self._number = 1
        mine, server_key = z85.decode(pair.public), z85.decode(server)
        short, short_secret = (z85.decode(key) for key in zmq.curve_keypair())
        raw = self.raw
        raw.send(_CURVE_GREETING)
        raw.take(64)
        hello = _box(bytes(64), b"CurveZMQHELLO---" + self._nonce(), server_key, short_secret)
        raw.send(command(b"\x05HELLO\x01\x00" + bytes(72) + short + self._last + hello))
        flags, size = raw.take(2)
        assert (flags, size) == (4, 168)
        welcome = raw.take(size)
        opened = _open(welcome[24:], b"WELCOME-" + welcome[8:24], server_key, short_secret)
        self._theirs, cookie = opened[:32], opened[32:]
        self._secret = short_secret
        nonce = secrets.token_bytes(16)
        vouch = nonce + _box(short + server_key, b"VOUCH---" + nonce, self._theirs, z85.decode(pair.secret))
        meta = b"".join(properties) + prop(b"Socket-Type", kind)
        box = _box(mine + vouch + meta, b"CurveZMQINITIATE" + self._nonce(), self._theirs, short_secret)
        body = b"\x08INITIATE" + cookie + self._last + box
        raw.send(bytes([6]) + struct.pack(">Q", len(body)) + body if len(body) > 255 else command(body))

    def wait(self) -> Self:
        """Wait until it is let in.

        Raises:
            ConnectionResetError: it is not.
        """
        flags, size = self.raw.take(2)
        body = self.raw.take(size)
        if flags != 4 or not body.startswith(b"\x05READY"):
            raise ConnectionResetError(body)
        return self

    def _nonce(self) -> bytes:
        self._last = struct.pack(">Q", self._number)
        self._number += 1
        return self._last

    def said(self, data: bytes, *, more: bool = False) -> bytes:
        """A part of a message."""
        box = _box(bytes([more]) + data, b"CurveZMQMESSAGEC" + self._nonce(), self._theirs, self._secret)
        return said(b"\x07MESSAGE" + self._last + box)

    def send(self, *parts: bytes) -> bool:
        """Send a message, whoever is subscribed to it or not."""
        last = len(parts) - 1
        return self.raw.send(b"".join(self.said(part, more=place < last) for place, part in enumerate(parts)))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.raw.socket.close()


@functools.cache
def _sodium() -> Any:
    # The one that libzmq itself uses.
    beside = sorted((Path(zmq.__file__).parent.parent / "pyzmq.libs").glob("libsodium*"))
    name = str(beside[0]) if beside else ctypes.util.find_library("sodium")
    assert name, "libsodium is missing: apt-get install libsodium23"
    return ctypes.CDLL(name)


def _box(text: bytes, nonce: bytes, public: bytes, secret: bytes) -> bytes:
    out = ctypes.create_string_buffer(len(text) + 16)
    assert _sodium().crypto_box_easy(out, text, ctypes.c_ulonglong(len(text)), nonce, public, secret) == 0
    return out.raw


def _open(box: bytes, nonce: bytes, public: bytes, secret: bytes) -> bytes:
    out = ctypes.create_string_buffer(len(box) - 16)
    assert _sodium().crypto_box_open_easy(out, box, ctypes.c_ulonglong(len(box)), nonce, public, secret) == 0
    return out.raw


# What is seen from outside


class Proxy:
    """Passes TCP on to an endpoint, and records both directions."""

    def __init__(self, endpoint: str) -> None:
        self._target = endpoint
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.endpoint = f"tcp://127.0.0.1:{self._listener.getsockname()[1]}"
        self.record = bytearray()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(5)
        self._listener.close()

    def _run(self) -> None:
        ways: dict[socket.socket, socket.socket] = {}
        with contextlib.ExitStack() as stack:
            while not self._stop.is_set():
                for each in select.select([self._listener, *ways], [], [], 0.05)[0]:
                    if each is self._listener:
                        one = stack.enter_context(self._listener.accept()[0])
                        two = stack.enter_context(Raw(self._target)).socket
                        ways |= {one: two, two: one}
                        continue
                    other = ways.get(each)
                    if other is None:
                        continue
                    try:
                        data = each.recv(1 << 16)
                        other.sendall(data)
                    except OSError:
                        data = b""
                    self.record += data
                    if not data:
                        for end in (each, other):
                            del ways[end]
                            end.close()


def memory_bytes(pid: int | str = "self", *, peak: bool = False) -> int:
    """What a process has of memory, or has had at most since `forget_peak`."""
    name = "VmHWM:" if peak else "VmRSS:"
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(name):
            return int(line.split()[1]) * 1024
    raise AssertionError(name)


def forget_peak(pid: int | str = "self") -> int:
    """Begin anew with the peak of a process's memory. Returns what it has now."""
    Path(f"/proc/{pid}/clear_refs").write_text("5")
    return memory_bytes(pid)


def descriptors(pid: int | str = "self") -> int:
    """How many descriptors a process has open."""
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))
