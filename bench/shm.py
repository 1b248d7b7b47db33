"""Raw 1080p on one host: frames a second and CPU a frame of camfabric, imagezmq, iceoryx2 and a bare ring. Prints rows.

    .venv/bin/pip install -c constraints.txt imagezmq iceoryx2
    .venv/bin/python bench/shm.py [--seconds 5] [--rounds 3] [--subscribers 1 2 4] [--only camfabric ...]

Sender and receivers are processes of their own; the contenders take turns, and each figure is the median of its rounds
with the lowest and highest. Everybody sends as fast as it can, from arrays that may be written to as soon as they are
sent, and reads one pixel of each row of what comes. Settings: imagezmq is REQ/REP without JPEG; iceoryx2 has safe
overflow, 2 samples of buffer, 2 borrowed; the bare ring is `multiprocessing.shared_memory` with four slots and a
counter, which a reader looks at each 0.1 ms and which keeps nobody from reading what is being written. What only one of
several receivers can do (imagezmq) is left out there.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import json
import os
import select
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from multiprocessing import resource_tracker, shared_memory
from typing import Any, Final

import numpy as np
from processes import free_endpoint, rss_mb

from camfabric.publisher import Publisher
from camfabric.subscriber import Subscriber

_SHAPE: Final = (1080, 1920, 3)
_BYTES: Final = int(np.prod(_SHAPE))
_SLOTS: Final = 4
_HEAD: Final = 4096
_PAUSE_S: Final = 0.0001
_WARM_S: Final = 1.5
_FIXED_FPS: Final = 100
_CAMERA: Final = "bench/shm"


def pictures() -> list[Any]:
    """A few pictures of noise."""
    noise = np.random.default_rng(1)
    return [noise.integers(0, 256, _SHAPE, np.uint8) for _ in range(4)]


@contextlib.contextmanager
def camfabric_sender(address: str) -> Iterator[Callable[[Any], None]]:
    """A publisher that binds."""
    with Publisher(_CAMERA, bind=address, low=None) as publisher:
        yield publisher.send


def camfabric_receiver(address: str) -> Iterator[Any]:
    """The newest frames of a subscriber."""
    with Subscriber(address, cameras=_CAMERA) as subscriber:
        for frame in subscriber:
            if frame.channel == "shm":
                yield frame.image


@contextlib.contextmanager
def imagezmq_sender(address: str) -> Iterator[Callable[[Any], None]]:
    """REQ: each picture waits for its answer."""
    import imagezmq

    sender = imagezmq.ImageSender(connect_to=address)
    yield lambda image: sender.send_image(_CAMERA, image)


def imagezmq_receiver(address: str) -> Iterator[Any]:
    """REP."""
    import imagezmq

    hub = imagezmq.ImageHub(open_port=address)
    while True:
        _, image = hub.recv_image()
        hub.send_reply(b"OK")
        yield image


def _iceoryx2_service(address: str) -> Any:
    import iceoryx2 as iox2

    iox2.set_log_level(iox2.LogLevel.Error)
    node = iox2.NodeBuilder.new().create(iox2.ServiceType.Ipc)
    builder = node.service_builder(iox2.ServiceName.new(address)).publish_subscribe(iox2.Slice[ctypes.c_uint8])
    builder = builder.enable_safe_overflow(True).subscriber_max_buffer_size(2).subscriber_max_borrowed_samples(2)
    return node, builder.history_size(0).max_subscribers(8).max_publishers(1).open_or_create()


@contextlib.contextmanager
def iceoryx2_sender(address: str) -> Iterator[Callable[[Any], None]]:
    """Samples are loaned, filled and sent."""
    node, service = _iceoryx2_service(address)
    publisher = service.publisher_builder().initial_max_slice_len(_BYTES).create()

    def send(image: Any) -> None:
        sample = publisher.loan_slice_uninit(_BYTES)
        ctypes.memmove(sample.payload_ptr, image.ctypes.data, _BYTES)
        sample.assume_init().send()

    yield send
    del node


def iceoryx2_receiver(address: str) -> Iterator[Any]:
    """Samples, looked for each 0.1 ms."""
    _node, service = _iceoryx2_service(address)
    subscriber = service.subscriber_builder().create()
    while True:
        sample = subscriber.receive()
        if sample is None:
            time.sleep(_PAUSE_S)
            continue
        yield np.frombuffer(sample.payload().as_memory_view(), np.uint8).reshape(_SHAPE)


@contextlib.contextmanager
def ring_sender(address: str) -> Iterator[Callable[[Any], None]]:
    """A slot is filled, then the counter says so."""
    memory = shared_memory.SharedMemory(address, create=True, size=_HEAD + _SLOTS * _BYTES)
    buffer: Any = memory.buf
    counter = np.frombuffer(buffer, np.uint64, 1)
    slots = np.frombuffer(buffer, np.uint8, _SLOTS * _BYTES, _HEAD).reshape(_SLOTS, *_SHAPE)

    def send(image: Any) -> None:
        np.copyto(slots[int(counter[0]) % _SLOTS], image)
        counter[0] += 1

    try:
        yield send
    finally:
        memory.unlink()


def ring_receiver(address: str) -> Iterator[Any]:
    """The slot that was written last."""
    while True:
        with contextlib.suppress(FileNotFoundError, ValueError):  # not there, or still empty
            memory = shared_memory.SharedMemory(address)
            break
        time.sleep(_PAUSE_S)
    resource_tracker.unregister(f"/{address}", "shared_memory")  # it is the sender's
    buffer: Any = memory.buf
    counter = np.frombuffer(buffer, np.uint64, 1)
    slots = np.frombuffer(buffer, np.uint8, _SLOTS * _BYTES, _HEAD).reshape(_SLOTS, *_SHAPE)
    last = 0
    while True:
        if (newest := int(counter[0])) == last:
            time.sleep(_PAUSE_S)
            continue
        last = newest
        yield slots[(last - 1) % _SLOTS]


_CONTENDERS: Final[dict[str, tuple[Any, Any]]] = {
    "camfabric": (camfabric_sender, camfabric_receiver),
    "imagezmq": (imagezmq_sender, imagezmq_receiver),
    "iceoryx2": (iceoryx2_sender, iceoryx2_receiver),
    "ring": (ring_sender, ring_receiver),
}


def run_sender(name: str, address: str, fps: float) -> None:
    """Send until a line comes, as fast as it goes where `fps` is 0. Prints what a picture cost."""
    images = pictures()
    with _CONTENDERS[name][0](address) as send:
        os.read(0, 1)  # when the receivers are there
        begun = time.monotonic()
        count, cpu_s, sent = 0, 0.0, 0
        counted = begun
        while not select.select([sys.stdin], [], [], 0)[0]:
            if not sent and time.monotonic() > begun + _WARM_S:
                cpu_s, sent, counted = time.process_time(), count, time.monotonic()
            send(images[count % len(images)])
            count += 1
            if fps:
                time.sleep(max(begun + count / fps - time.monotonic(), 0))
        cost_ms = (time.process_time() - cpu_s) / max(count - sent, 1) * 1e3
        fps_sent = (count - sent) / (time.monotonic() - counted)
    print(json.dumps({"cpu_ms": cost_ms, "fps": fps_sent, "rss_mb": rss_mb()}), flush=True)


def run_receiver(name: str, address: str, seconds: float) -> None:
    """Receive for a time that begins with the warm first pictures. Prints how many came and what one cost."""
    print("there", flush=True)
    first = time.monotonic()
    count, begun, cpu_s, total = 0, 0.0, 0.0, 0
    for image in _CONTENDERS[name][1](address):
        now = time.monotonic()
        total += int(image[:, 0, 0].sum())
        if not count:
            first = now
        count += 1
        if not begun and now > first + _WARM_S / 2:
            begun, cpu_s, count = now, time.process_time(), 1
        elif begun and now > begun + seconds:
            break
    result = {"fps": count / (now - begun), "cpu_ms": (time.process_time() - cpu_s) / count * 1e3, "rss_mb": rss_mb()}
    print(json.dumps(result), flush=True)


def _start(*arguments: object) -> subprocess.Popen[str]:
    command = [sys.executable, __file__, *map(str, arguments)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def _hear(process: subprocess.Popen[str]) -> None:
    if process.stdout is not None:
        process.stdout.readline()


def _tell(process: subprocess.Popen[str]) -> None:
    if process.stdin is not None:
        process.stdin.write("\n")
        process.stdin.flush()


def measured(name: str, *, seconds: float, subscribers: int, fps: float) -> dict[str, float]:
    """One round of one contender."""
    address = free_endpoint() if name in ("camfabric", "imagezmq") else f"camfabric-bench-{time.monotonic_ns()}"
    receivers = [_start("--receive", name, address, "--seconds", seconds) for _ in range(subscribers)]
    sender = _start("--send", name, address, "--fps", fps)
    try:
        for receiver in receivers:
            _hear(receiver)
        _tell(sender)
        got = [json.loads(receiver.communicate(timeout=seconds + 30)[0]) for receiver in receivers]
        _tell(sender)
        sent = json.loads(sender.communicate(timeout=30)[0]) if name != "imagezmq" else {}  # it waits for an answer
    finally:
        for process in (sender, *receivers):
            process.kill()
    return {
        "fps": statistics.median(result["fps"] for result in got),
        "receiver_ms": statistics.median(result["cpu_ms"] for result in got),
        "receiver_mb": statistics.median(result["rss_mb"] for result in got),
        "sender_ms": sent.get("cpu_ms", float("nan")),
        "sender_fps": sent.get("fps", float("nan")),
    }


def _spread(values: list[float], digits: int) -> str:
    middle = statistics.median(values)
    return f"{middle:8.{digits}f} ({min(values):.{digits}f} to {max(values):.{digits}f})"


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--subscribers", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--only", nargs="+", choices=_CONTENDERS, default=list(_CONTENDERS))
    parser.add_argument("--fps", type=float, default=_FIXED_FPS, help="where the sender's CPU is compared")
    parser.add_argument("--send", nargs=2, help=argparse.SUPPRESS)
    parser.add_argument("--receive", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.send:
        run_sender(arguments.send[0], arguments.send[1], arguments.fps)
        return
    if arguments.receive:
        run_receiver(arguments.receive[0], arguments.receive[1], arguments.seconds)
        return
    rounds: dict[str, list[dict[str, float]]] = {name: [] for name in arguments.only}
    print("one receiver, as fast as it goes")
    for _ in range(arguments.rounds):
        for name, results in rounds.items():
            results.append(measured(name, seconds=arguments.seconds, subscribers=1, fps=0))
    for name, results in rounds.items():
        print(
            f"{name:10} {_spread([result['fps'] for result in results], 0)} frames/s,"
            f" receiver {_spread([result['receiver_ms'] for result in results], 3)} ms of CPU a frame,"
            f" sender {_spread([result['sender_ms'] for result in results], 3)} ms"
        )
    print(f"\ncamfabric at {arguments.fps:g} frames/s, by subscribers")
    for subscribers in arguments.subscribers:
        several = [
            measured("camfabric", seconds=arguments.seconds, subscribers=subscribers, fps=arguments.fps)
            for _ in range(arguments.rounds)
        ]
        print(
            f"{subscribers:10} {_spread([result['fps'] for result in several], 0)} frames/s each,"
            f" receiver {_spread([result['receiver_ms'] for result in several], 3)} ms,"
            f" sender {_spread([result['sender_ms'] for result in several], 3)} ms of CPU a frame"
        )


if __name__ == "__main__":
    main()
