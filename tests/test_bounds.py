"""Bounds, from outside: whoever goes over one is dropped, memory stays bounded, and an honest camera loses no frame."""

from __future__ import annotations

import contextlib
import logging
import re
import secrets
import socket
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import pytest
import zmq

from camfabric.common import peers
from camfabric.common.keys import KeyFolder
from camfabric.common.settings import LIMITS, TIMES
from camfabric.common.topics import request_topic, topic

from .attacker import (
    ANY,
    GREETING,
    Curve,
    Honest,
    Raw,
    bare,
    command,
    descriptors,
    forget_peak,
    heard,
    memory_bytes,
    peer,
    plain,
    ready,
    said,
)

_NAMES: Final = ("broker", "lobby", "guard", "mallory")
_TINY: Final = b"\x01\x00" * 32768
"""Parts of no bytes, and more to come."""
_GROWTH_BYTES: Final = 400e6
"""Without bounds it is 600 MB to 2 GB in these tests; what comes between two looks depends on the machine."""


@pytest.fixture
def folder(tmp_path: Path) -> KeyFolder:
    """A folder of keys."""
    made = KeyFolder.make(tmp_path / "keys")
    for name in _NAMES:
        made.new(name)
    return made


class Apart:
    """A broker in a process of its own."""

    def __init__(self, process: Any, eventually: Any) -> None:
        self.process = process
        found = eventually(lambda: process.said(r"publishers connect to (\S+), subscribers to (\S+)"), within_s=20)
        self.to, self.endpoint = found[1], found[2]

    @property
    def pid(self) -> int:
        """Of the process."""
        return int(self.process.pid)


@pytest.fixture
def broker_apart(camfabric: Any, eventually: Any) -> Callable[..., Apart]:
    """Start a broker in a process, on random ports."""

    def run(*arguments: str) -> Apart:
        return Apart(camfabric("broker", "--publishers", ANY, "--subscribers", ANY, *arguments), eventually)

    return run


def _pair(folder: KeyFolder, name: str) -> tuple[Any, bytes]:
    return folder.pair(name), folder.pair("broker").public


# Subscriptions


def test_ten_thousand_subscriptions_cost_a_key_its_connections(
    folder: KeyFolder,
    start_broker: Any,
    eventually: Any,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    caplog.set_level(logging.WARNING)
    monkeypatch.setattr("camfabric.common.sockets.TIMES", replace(TIMES, handshake_ms=600))
    broker = start_broker(keys=folder.path)
    with Honest(broker.to, broker.endpoint, folder=folder) as honest, bare() as context:
        pair, server = _pair(folder, "mallory")
        with Curve(broker.endpoint, pair, server, b"SUB") as other:
            other.wait().send(b"\x01status/")
            evil = peer(context, zmq.XSUB, broker.endpoint, pair, server)
            for number in range(10_000):
                evil.send(b"\x01" + topic("cam", f"farm/{number}"))
            # Whichever bound it meets first: it depends on how much of them comes between two looks.
            eventually(lambda: {"subscriptions", "upstream", "size"} & set(broker.broker.counts()))
            eventually(other.raw.is_closed)
        evil.close(0)
        assert re.search(r"over a bound from key mallory at 127\.0\.0\.1\S* on outlet \S+ dropped", caplog.text)
        # For a while that key gets no further than here, on any connection; the guard's does.
        with pytest.raises(ConnectionResetError), Curve(broker.endpoint, pair, server, b"SUB") as again:
            again.wait()
        with Curve(broker.endpoint, *_pair(folder, "guard"), b"SUB") as guard:
            guard.wait()
        honest.more(3)


@pytest.mark.parametrize("way", ["broker", "publisher"])
@pytest.mark.parametrize(
    "kind",
    [
        "distinct",
        "again",
        "long",
    ],
)
def test_a_flood_of_subscriptions_is_cut_off(way: str, kind: str, start_broker: Any) -> None:
    broker = start_broker()
    flood = {
        "distinct": b"".join(said(b"\x01" + topic("cam", f"farm/{number:06x}")) for number in range(100_000)),
        "again": (said(b"\x01cam/cctv/lobby/") + said(b"\x00cam/cctv/lobby/")) * 10_000,
        "long": b"".join(said(b"\x01cam/" + secrets.token_hex(120).encode()) for _ in range(20_000)),
    }[kind]
    with Honest(broker.to, broker.endpoint, bind=way == "publisher") as honest:
        before = forget_peak()
        with plain(honest.endpoint if way == "publisher" else broker.endpoint, b"SUB") as evil:
            evil.flood(flood, most=500_000_000)
        honest.more(3)
        assert memory_bytes(peak=True) - before < _GROWTH_BYTES


def test_what_one_peer_costs_is_not_laid_to_anothers_charge(broker_apart: Callable[..., Apart]) -> None:
    broker = broker_apart()
    flood = b"".join(said(b"\x01cam/" + secrets.token_hex(120).encode()) for _ in range(100_000))
    with Honest(broker.to, broker.endpoint, size=(320, 240)) as honest:
        with plain(broker.endpoint, b"SUB") as evil:
            evil.flood(flood)
        honest.more(3)
        assert not broker.process.said("over a bound from .* on publishers")
        assert honest.longest_s < 1


def test_whoever_has_the_most_subscriptions_makes_room_for_the_others(start_broker: Any, eventually: Any) -> None:
    """An upstream broker would refuse this broker's key for what one viewer behind it asks for."""
    limits = replace(LIMITS, subscriptions=200)
    upstream = start_broker(limits=limits)
    broker = start_broker(publishers=(), upstreams=(upstream.endpoint,), limits=limits)
    with Honest(upstream.to, broker.endpoint, "light/44") as honest, bare() as context:
        heavy, light = (peer(context, zmq.XSUB, broker.endpoint) for _ in range(2))
        for number in range(40):
            light.send(b"\x01" + topic("cam", f"light/{number}"))
        for number in range(180):
            heavy.send(b"\x01" + topic("cam", f"heavy/{number}"))
        eventually(lambda: broker.broker.counts().get("subscriptions"))
        light.send(b"\x01" + topic("cam", "light/44"))
        eventually(lambda: heard(light))
        honest.more(3)
        assert not upstream.broker.counts()


def test_more_requests_than_allowed_are_not_answered_and_cost_nobody_else(start_broker: Any, eventually: Any) -> None:
    broker = start_broker(limits=replace(LIMITS, replay_requests=20, replay_requests_s=5))
    with Honest(broker.to, broker.endpoint) as honest, bare() as context:
        evil = peer(context, zmq.XSUB, broker.endpoint)
        begin = time.monotonic()
        for _ in range(300):
            evil.send(b"\x01" + request_topic("replay", secrets.token_hex(8), f"cam/{honest.camera}"))
            evil.send(b"\x01" + request_topic("clock", secrets.token_hex(8), honest.camera))
        eventually(lambda: broker.broker.counts().get("requests", 0) >= 500)
        honest.more(5)
        answers = heard(evil)
        allowed = 20 + 5 * (time.monotonic() - begin) + 1
        assert 5 <= len(answers) <= allowed
        # Another one is answered at once.
        other = peer(context, zmq.XSUB, broker.endpoint)
        other.send(b"\x01" + request_topic("replay", "00ff", f"cam/{honest.camera}"))
        assert other.recv_multipart()[0].startswith(b"replay/00ff/")


# Size


def test_a_part_that_is_too_large_ends_its_connection(start_broker: Any, eventually: Any) -> None:
    broker = start_broker(limits=replace(LIMITS, payload_bytes=1 << 20))
    with Honest(broker.to, broker.endpoint) as honest, Honest("", "", "cctv/bound", bind=True) as bound:
        for endpoint, kind, size in (
            (broker.endpoint, b"SUB", 5_000_000),
            (bound.endpoint, b"SUB", 5_000_000),
            (broker.to, b"PUB", 200_000_000),
        ):
            before = forget_peak()
            with plain(endpoint, kind) as evil:
                evil.send(b"\x02" + size.to_bytes(8, "big"))
                evil.flood(b"\x01cam/" + bytes(100_000), most=size)
            honest.more(1)
            assert memory_bytes(peak=True) - before < 50e6


@pytest.mark.parametrize("place", ["outlet", "publishers", "bound"])
def test_a_message_without_an_end_takes_little_memory(
    place: str, broker_apart: Callable[..., Apart], camfabric: Any, eventually: Any, free_port: Callable[[], int]
) -> None:
    with contextlib.ExitStack() as stack:
        if place == "bound":
            endpoint = f"tcp://127.0.0.1:{free_port()}"
            process = camfabric("publish", "test://?size=32x24", "--camera", "a", "--bind", endpoint)
            pid, said_so = process.pid, lambda: process.said("over a bound")
            with _when_there(endpoint, eventually):
                pass
        else:
            broker = broker_apart()
            pid, said_so = broker.pid, lambda: broker.process.said("over a bound")
            stack.enter_context(Honest(broker.to, broker.endpoint))
            endpoint = broker.to if place == "publishers" else broker.endpoint
        before = forget_peak(pid)
        with plain(endpoint, b"PUB" if place == "publishers" else b"SUB") as evil:
            evil.flood(_TINY)
        eventually(said_so)
        assert memory_bytes(pid, peak=True) - before < _GROWTH_BYTES


def _when_there(endpoint: str, eventually: Any) -> Raw:
    def attempt() -> Raw | None:
        try:
            return Raw(endpoint)
        except OSError:
            return None

    found: Raw = eventually(attempt, within_s=20)
    return found


@pytest.mark.parametrize("place", ["outlet", "publishers"])
def test_a_key_answers_for_its_message_without_an_end(
    place: str, folder: KeyFolder, start_broker: Any, eventually: Any, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    broker = start_broker(keys=folder.path, limits=replace(LIMITS, payload_bytes=1 << 20, unfinished_bytes=1 << 18))
    endpoint, kind = (broker.to, b"XPUB") if place == "publishers" else (broker.endpoint, b"XSUB")
    pair, server = _pair(folder, "mallory")
    with Honest(broker.to, broker.endpoint, folder=folder), Curve(endpoint, pair, server, kind) as evil:
        evil.wait().send(b"\x01status/" if place == "outlet" else topic("status", "x"))
        # Each part has a nonce of its own.
        assert not all(
            evil.raw.send(b"".join(evil.said(bytes(200), more=True) for _ in range(200))) for _ in range(300)
        )
        eventually(lambda: re.search(rf"over a bound from key mallory at 127\.0\.0\.1\S* on {place}", caplog.text))


def test_messages_without_an_end_on_many_connections_take_little_memory(
    broker_apart: Callable[..., Apart], eventually: Any
) -> None:
    broker = broker_apart()
    with Honest(broker.to, broker.endpoint) as honest, contextlib.ExitStack() as stack:
        before = forget_peak(broker.pid)
        for number in range(10):
            evil = stack.enter_context(
                plain(broker.to if number % 2 else broker.endpoint, b"PUB" if number % 2 else b"SUB")
            )
            evil.send(_TINY * 15)
        honest.more(15)
        assert memory_bytes(broker.pid, peak=True) - before < _GROWTH_BYTES


@pytest.mark.parametrize("place", ["outlet", "publishers"])
def test_a_message_of_very_many_parts_is_dropped(place: str, start_broker: Any, eventually: Any) -> None:
    broker = start_broker()
    with Honest(broker.to, broker.endpoint) as honest:
        before = forget_peak()
        message = said(b"cam/cctv/lobby/", more=True) + b"\x01\x00" * 100_000 + said(b"")
        with plain(
            broker.to if place == "publishers" else broker.endpoint, b"PUB" if place == "publishers" else b"SUB"
        ) as evil:
            assert evil.send(message)
            eventually(lambda: sum(broker.broker.counts().values()) >= 1)
            assert evil.send(message)
            honest.more(5)
        assert memory_bytes(peak=True) - before < _GROWTH_BYTES


# Connections


def test_a_peer_of_an_old_version_has_the_same_bounds(start_broker: Any, eventually: Any) -> None:
    broker = start_broker(limits=replace(LIMITS, subscriptions=100))
    with Honest(broker.to, broker.endpoint), Raw(broker.endpoint) as evil:
        evil.send(b"\x01\x00")
        for number in range(1000):
            prefix = b"\x01" + topic("cam", f"farm/{number}")
            evil.send(bytes([len(prefix) + 1, 0]) + prefix)
        eventually(evil.is_closed, within_s=1)


def test_a_connection_that_ends_while_it_is_looked_at_is_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    gone = socket.create_server(("127.0.0.1", 0))
    descriptor = gone.fileno()
    gone.close()
    late = peers.Peer(descriptor, 0, "127.0.0.1", "", peers.Account(), 0.0)
    monkeypatch.setattr(peers.Peer, "is_there", lambda peer: True)  # so it was, a moment ago
    assert peers._received_bytes(late) is None


def test_connections_that_are_gone_at_once_harm_nobody(broker_apart: Callable[..., Apart]) -> None:
    broker = broker_apart()
    with Honest(broker.to, broker.endpoint) as honest:
        end = time.monotonic() + 0.6
        while time.monotonic() < end:
            for endpoint in (broker.to, broker.endpoint):
                Raw(endpoint).socket.close()
        honest.more(3)
        assert broker.process.status is None


def _greeting(keyed: bool) -> bytes:
    return GREETING.replace(b"NULL\0", b"CURVE") if keyed else GREETING


def _stages(keyed: bool) -> Iterator[bytes]:
    """How far a handshake gets that is never finished."""
    greeting = _greeting(keyed)
    yield b""
    yield greeting[:1]
    yield greeting[:10]
    yield greeting[:11]
    yield greeting[:40]
    yield greeting
    yield greeting + b"\x04"
    yield greeting + (command(b"\x05HELLO" + bytes(194))[:100] if keyed else ready(b"SUB")[:10])


@pytest.mark.parametrize("keyed", [False, True], ids=["plain", "keys"])
def test_a_handshake_that_is_never_finished_ends_in_time(
    keyed: bool, folder: KeyFolder, start_broker: Any, eventually: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("camfabric.common.sockets.TIMES", replace(TIMES, handshake_ms=600))
    keys: dict[str, Any] = {"keys": folder.path} if keyed else {}
    broker = start_broker(**keys)
    own = folder if keyed else None
    with (
        Honest(broker.to, broker.endpoint, folder=own),
        Honest("", "", "cctv/bound", folder=own, bind=True) as bound,
        contextlib.ExitStack() as stack,
    ):
        before = descriptors()
        begin = time.monotonic()
        open_ = []
        for endpoint in (broker.to, broker.endpoint, bound.endpoint):
            for data in _stages(keyed):
                raw = stack.enter_context(Raw(endpoint))
                raw.send(data)
                open_.append((raw, data))
            # A byte now and then does not buy more time.
            drop = stack.enter_context(Raw(endpoint))
            open_.append((drop, b"drop"))

        def all_gone() -> bool:
            for raw, data in open_:
                if data == b"drop":
                    raw.send(b"\xff" if not raw.got else b"\0")
                    raw.got += b"."
            return all(raw.is_closed() for raw, _ in open_)

        eventually(all_gone, within_s=5, every_s=0.05)
        assert 0.5 < time.monotonic() - begin < 3
    eventually(lambda: descriptors() <= before)


@pytest.mark.parametrize("keyed", [False, True], ids=["plain", "keys"])
def test_an_honest_newcomer_gets_in_where_too_many_say_nothing(
    keyed: bool, folder: KeyFolder, start_broker: Any, eventually: Any
) -> None:
    keys: dict[str, Any] = {"keys": folder.path} if keyed else {}
    broker = start_broker(limits=replace(LIMITS, connections=40), **keys)
    own = folder if keyed else None
    with Honest(broker.to, broker.endpoint, folder=own), contextlib.ExitStack() as stack:
        for number in range(100):
            for endpoint in (broker.to, broker.endpoint):
                raw = stack.enter_context(Raw(endpoint))
                if number % 2:
                    raw.send(_greeting(keyed))
        eventually(lambda: broker.broker.counts().get("connections", 0) >= 100)
        with Honest(broker.to, broker.endpoint, "cctv/new", folder=own):
            pass


def test_a_thousand_connections_that_come_and_go_leave_nothing(start_broker: Any, eventually: Any) -> None:
    broker = start_broker()
    with Honest(broker.to, broker.endpoint) as honest:
        before = descriptors()
        memory = memory_bytes()
        for number in range(500):
            with Raw(broker.to) as one, Raw(broker.endpoint) as two:
                if number % 3:
                    one.send(GREETING + ready(b"PUB") + said(b"status/a/"))
                    two.send(GREETING + ready(b"SUB") + said(b"\x01cam/"))
        honest.more(3)
        eventually(lambda: descriptors() <= before)
        assert memory_bytes() - memory < 50e6
        outlet, inlet = broker.broker._ports.outlets[0], broker.broker._ports.inlets[0]
        eventually(lambda: (len(outlet.peers), len(inlet.peers)) == (1, 1))
        assert b"cam/" not in outlet.subscriptions


@pytest.mark.parametrize("keyed", [False, True], ids=["plain", "keys"])
def test_a_broker_without_descriptors_serves_whom_it_has_and_recovers(
    keyed: bool, folder: KeyFolder, start: Any, eventually: Any
) -> None:
    arguments = ["--publishers", ANY, "--subscribers", ANY, *(["--keys", str(folder.path)] if keyed else [])]
    command_line = [sys.executable, "-m", "camfabric.cli", "broker", *arguments]
    broker = Apart(start("sh", "-c", 'ulimit -n 64; exec "$@"', "sh", *command_line), eventually)
    own = folder if keyed else None
    with Honest(broker.to, broker.endpoint, folder=own) as honest:
        with contextlib.ExitStack() as stack:
            for number in range(100):
                raw = stack.enter_context(Raw(broker.endpoint if number % 2 else broker.to))
                raw.send(_greeting(keyed) if number % 3 else b"")
            honest.more(10)
        with Honest(broker.to, broker.endpoint, "cctv/new", folder=own):
            pass
        assert broker.process.status is None
    assert broker.process.end() == 0
    assert not [line for line in broker.process.err if "Traceback" in line]
