"""What keys and permission checks cost: a broker against ZeroMQ's own proxy, side by side, alternating. Prints rows.

    .venv/bin/python bench/keys.py [--rounds 5] [--seconds 3]

A sender gives frames as fast as they are taken over one connection, a receiver counts what comes out of the relay. The
relay is the broker, or a process that does nothing but `zmq.proxy`, with keys on both sides or without. The broker with
keys checks each message against its sender's key, and has 20 outlets' worth of permissions: 50 keys, 2 outlets.
"""

from __future__ import annotations

import argparse
import contextlib
import multiprocessing
import statistics
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import zmq
from processes import cpu_s, free_endpoint, running
from zmq.auth.thread import ThreadAuthenticator

from camfabric.common import wire
from camfabric.common.frame import Codec, Frame
from camfabric.common.keys import KeyFolder

_KEYS = 50
_CAMERAS = 10


@dataclass(frozen=True)
class Case:
    """What is measured."""

    relay: str
    keyed: bool
    size_bytes: int

    @property
    def label(self) -> str:
        """For a person."""
        return f"{self.relay:<6} {'keys ' if self.keyed else 'plain'} {self.size_bytes / 1000:6.0f} kB"


def _secure(socket: Any, folder: Path, own: str, server: str = "broker") -> None:
    public = KeyFolder(folder)
    pair = public.pair(own)
    socket.curve_publickey, socket.curve_secretkey = pair.public, pair.secret
    socket.curve_serverkey = public.pair(server).public


def _bounded(context: zmq.Context[Any], kind: int) -> Any:
    socket = context.socket(kind)
    socket.linger = 0
    socket.setsockopt(zmq.SNDHWM, 100 if kind == zmq.XPUB else 0)
    socket.setsockopt(zmq.RCVHWM, 100)
    return socket


def send(to: str, case: Case, folder: Path, begun: float) -> None:
    """A process: frames of some cameras, as fast as they are taken."""
    context: zmq.Context[Any] = zmq.Context()
    socket = _bounded(context, zmq.XPUB)
    socket.setsockopt(zmq.XPUB_NODROP, 1)
    if case.keyed:
        _secure(socket, folder, "key-0")
    socket.connect(to)
    socket.recv()
    payload = bytes(case.size_bytes)
    frames = [Frame(camera=f"c/0/{n}", codec=Codec.JPEG, width=640, height=480, epoch=n + 1) for n in range(_CAMERAS)]
    seq = 0
    while True:
        for frame in frames:
            header = wire.pack_header(replace(frame, seq=seq))
            socket.send_multipart([f"cam/{frame.camera}/".encode(), header, payload], copy=False)
        seq += 1


def proxy(publishers: str, subscribers: str, case: Case, folder: Path) -> None:
    """A process: nothing but `zmq.proxy`."""
    context: zmq.Context[Any] = zmq.Context(2 if case.keyed else 1)
    inlet, outlet = _bounded(context, zmq.XSUB), _bounded(context, zmq.XPUB)
    if case.keyed:
        admission = ThreadAuthenticator(context)
        admission.start()
        admission.configure_curve(domain="*", location=str(folder))
        for socket in (inlet, outlet):
            pair = KeyFolder(folder).pair("broker")
            socket.curve_server, socket.curve_publickey, socket.curve_secretkey = True, pair.public, pair.secret
    inlet.bind(publishers)
    outlet.bind(subscribers)
    zmq.proxy(inlet, outlet)


def _config(folder: Path, publishers: str, subscribers: str) -> Path:
    """A broker.toml with all permission checks."""
    grants = "".join(f'[[publisher]]\nkey = "key-{n}"\ncameras = ["c/{n}"]\n' for n in range(_KEYS))
    path = folder.parent / "broker.toml"
    path.write_text(
        f'keys = "{folder}"\npublishers = ["{publishers}"]\n{grants}'
        f'[[outlet]]\nname = "guard"\nendpoint = "{subscribers}"\nkeys = ["key-0"]\ncameras = ["c"]\n'
        f'[[outlet]]\nname = "visitor"\nendpoint = "{free_endpoint()}"\nkeys = ["key-1"]\ncameras = ["c/1"]\n'
    )
    return path


@contextlib.contextmanager
def _relay(case: Case, folder: Path, publishers: str, subscribers: str) -> Iterator[int]:
    """Run the relay. Gives its process id."""
    if case.relay == "proxy":
        process = multiprocessing.Process(target=proxy, args=(publishers, subscribers, case, folder), daemon=True)
        process.start()
        try:
            yield process.pid or 0
        finally:
            process.kill()
            process.join()
        return
    command: tuple[str, ...] = ("broker", "--publishers", publishers, "--subscribers", subscribers)
    if case.keyed:
        command = ("broker", "--config", str(_config(folder, publishers, subscribers)))
    with running(command) as (broker,):
        yield broker.pid


def measure(case: Case, folder: Path, seconds: float) -> tuple[float, float]:
    """Messages a second that come out, and the relay's CPU for each in microseconds."""
    publishers, subscribers = free_endpoint(), free_endpoint()
    context: zmq.Context[Any] = zmq.Context()
    with _relay(case, folder, publishers, subscribers) as pid:
        sender = multiprocessing.Process(target=send, args=(publishers, case, folder, time.time()), daemon=True)
        sender.start()
        socket = _bounded(context, zmq.SUB)
        if case.keyed:
            _secure(socket, folder, "key-0")
        socket.subscribe(b"cam/")
        socket.connect(subscribers)
        try:
            _count(socket, 0.7)
            cpu = cpu_s(pid)
            count, elapsed_s = _count(socket, seconds)
            return count / elapsed_s, 1e6 * (cpu_s(pid) - cpu) / max(count, 1)
        finally:
            sender.kill()
            sender.join()
            socket.close(0)
            context.term()


def _count(socket: Any, seconds: float) -> tuple[int, float]:
    socket.recv_multipart(copy=False)
    begun, count = time.monotonic(), 0
    while (elapsed_s := time.monotonic() - begun) < seconds:
        socket.recv_multipart(copy=False)
        count += 1
    return count, elapsed_s


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=3.0)
    arguments = parser.parse_args()
    sizes = (30_000, 250_000, 6_220_800)
    cases = [Case(relay, keyed, size) for size in sizes for keyed in (False, True) for relay in ("proxy", "broker")]
    rates: dict[Case, list[float]] = {case: [] for case in cases}
    costs: dict[Case, list[float]] = {case: [] for case in cases}
    with tempfile.TemporaryDirectory() as path:
        folder = Path(path) / "keys"
        keys = KeyFolder.make(folder)
        for name in ("broker", *(f"key-{n}" for n in range(_KEYS))):
            keys.new(name)
        for number in range(arguments.rounds):
            for case in cases:
                rate, cost = measure(case, folder, arguments.seconds)
                rates[case].append(rate)
                costs[case].append(cost)
                print(f"round {number + 1}  {case.label}  {rate:8.0f} messages/s", flush=True)
    print()
    for case in cases:
        rate = statistics.median(rates[case])
        peer = statistics.median(rates[replace(case, relay="proxy")])
        print(
            f"{case.label}  {rate:8.0f} messages/s  {rate * case.size_bytes / 1e6:6.0f} MB/s"
            f"  {statistics.median(costs[case]):6.1f} us CPU each  {rate / peer:4.2f} of the proxy"
            f"  ({min(rates[case]):.0f} to {max(rates[case]):.0f})"
        )


if __name__ == "__main__":
    main()
