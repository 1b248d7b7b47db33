"""Permissions: what is cut from a subscription, and that an outlet shows nothing of another one's cameras."""

from __future__ import annotations

import contextlib
import functools
import threading
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import pytest
import zmq
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from camfabric.broker.permissions import Cameras
from camfabric.common import topics, wire
from camfabric.common.frame import Codec, Frame
from camfabric.common.keys import KeyFolder
from camfabric.common.settings import TIMES
from camfabric.common.status import Status, pack_status, unpack_status
from camfabric.common.topics import check_filter, parse_request, parse_topic, topic
from camfabric.publisher import Publisher

_SOME = settings(max_examples=200, deadline=None)
_ALL: Final = Cameras([""])
_NONE: Final = Cameras([])
_LOBBY: Final = Cameras(["cctv/lobby"])
_TWO: Final = Cameras(["cctv/lobby", "drone"])
_N: Final = b"0123456789abcdef"


# Which cameras


@pytest.mark.parametrize(
    ("cameras", "yes", "no"),
    [
        (_ALL, ["a", "cctv/lobby", "T\u00fcr"], []),
        (_NONE, [], ["a", "cctv/lobby", ""]),
        (_LOBBY, ["cctv/lobby", "cctv/lobby/1"], ["cctv", "cctv/lobb", "cctv/lobby2", "cctv/gate", "lobby", ""]),
        (_TWO, ["drone", "drone/1", "drone/1/front"], ["drones", "drone1", "a/drone", "cctv"]),
        (Cameras(["T\u00fcr"]), ["T\u00fcr", "T\u00fcr/1"], ["Tu\u0308r", "T\u00fc"]),
    ],
)
def test_cameras(cameras: Cameras, yes: list[str], no: list[str]) -> None:
    assert [name for name in yes if not cameras.covers(name)] == []
    assert [name for name in no if cameras.covers(name)] == []
    assert bool(cameras) == bool(yes)


def test_what_another_filter_covers_says_nothing() -> None:
    assert Cameras(["cctv", "cctv/lobby", "cctv2"]).filters == {"cctv", "cctv2"}
    assert Cameras(["", "cctv"]).filters == {""}
    assert repr(Cameras(["b", "a"])) == "Cameras(['a', 'b'])"


@pytest.mark.parametrize(
    ("cameras", "subscription", "cut"),
    [
        # What is wider is narrowed to the cameras.
        (_LOBBY, b"", [b"cam/cctv/lobby/", b"low/cctv/lobby/", b"status/cctv/lobby/"]),
        (_LOBBY, b"c", [b"cam/cctv/lobby/"]),
        (_LOBBY, b"cam", [b"cam/cctv/lobby/"]),
        (_LOBBY, b"cam/", [b"cam/cctv/lobby/"]),
        (_LOBBY, b"cam/cctv/", [b"cam/cctv/lobby/"]),
        (_LOBBY, b"cam/cctv/lob", [b"cam/cctv/lobby/"]),
        (_LOBBY, b"low/", [b"low/cctv/lobby/"]),
        (_LOBBY, b"status/", [b"status/cctv/lobby/"]),
        (_TWO, b"cam/", [b"cam/cctv/lobby/", b"cam/drone/"]),
        (_ALL, b"", [b"cam/", b"low/", b"status/"]),
        (_ALL, b"cam/", [b"cam/"]),
        # What is within stays.
        (_LOBBY, b"cam/cctv/lobby/", [b"cam/cctv/lobby/"]),
        (_LOBBY, b"cam/cctv/lobby/1/", [b"cam/cctv/lobby/1/"]),
        (_TWO, b"cam/drone/1", [b"cam/drone/1"]),
        (_ALL, b"cam/cctv/gate/", [b"cam/cctv/gate/"]),
        # What is beside is nothing.
        (_NONE, b"", []),
        (_NONE, b"cam/cctv/lobby/", []),
        (_LOBBY, b"cam/cctv/gate/", []),
        (_LOBBY, b"cam/cctv/lobby2/", []),
        (_LOBBY, b"cam/cctv/lobby2", []),
        (_LOBBY, b"status/cctv/gate/", []),
        (_LOBBY, b"low/cctv/gate/", []),
        # What is no topic is nothing.
        (_ALL, b"shm/host/", []),
        (_ALL, b"broker/", []),
        (_ALL, b"cam/\xff", []),
        (_ALL, "cam/T\u00fcr/".encode()[:6], []),
        (_ALL, b"cam//", []),
        (_ALL, b"clock/%b//" % _N, []),
        (_ALL, b"cam/a//b/", []),
        (_ALL, b"cam/../", []),
        (_ALL, b"cam/a b/", []),
        (_ALL, b"cam/\0/", []),
        (_ALL, b"cam/" + b"a" * 300, []),
        # Replays, of one stream each.
        (_LOBBY, b"replay/", []),
        (_LOBBY, b"replay/%b/" % _N, []),
        (_LOBBY, b"replay/%b/cam/" % _N, []),
        (_LOBBY, b"replay/%b/cam/cctv/" % _N, []),
        (_LOBBY, b"replay/%b/cam/cctv/gate/" % _N, []),
        (_LOBBY, b"replay/%b/cam/cctv/lobby" % _N, []),
        (_LOBBY, b"replay/%b/cam/cctv/lobby/" % _N, [b"replay/%b/cam/cctv/lobby/" % _N]),
        (_LOBBY, b"replay/%b/low/cctv/lobby/" % _N, [b"replay/%b/low/cctv/lobby/" % _N]),
        (_LOBBY, b"replay/%b/status/cctv/lobby/" % _N, []),
        (_LOBBY, b"replay//cam/cctv/lobby/", []),
        (_LOBBY, b"replay/%b/cam/cctv/lobby/../gate/" % _N, []),
        (_LOBBY, b"replay/%b/cam/cctv/lobby//" % _N, []),
        (_ALL, b"replay/%b/" % _N, []),
        (_ALL, b"replay/%b/cam/" % _N, []),
        (_ALL, b"replay/%b/cam/cctv/gate/" % _N, [b"replay/%b/cam/cctv/gate/" % _N]),
        # Clocks, by filters.
        (_LOBBY, b"clock/", []),
        (_LOBBY, b"clock/%b" % _N, []),
        (_LOBBY, b"clock/%b/" % _N, [b"clock/%b/cctv/lobby/" % _N]),
        (_LOBBY, b"clock/%b/cctv/" % _N, [b"clock/%b/cctv/lobby/" % _N]),
        (_LOBBY, b"clock/%b/cctv/lobby/" % _N, [b"clock/%b/cctv/lobby/" % _N]),
        (_LOBBY, b"clock/%b/cctv/gate/" % _N, []),
        (_TWO, b"clock/%b/" % _N, [b"clock/%b/cctv/lobby/" % _N, b"clock/%b/drone/" % _N]),
        (_ALL, b"clock/%b/" % _N, [b"clock/%b/" % _N]),
        (_ALL, b"clock/%b/cctv/" % _N, [b"clock/%b/cctv/" % _N]),
        (_ALL, b"clock/%b/a//b/" % _N, []),
        (_NONE, b"clock/%b/" % _N, []),
    ],
)
def test_what_is_cut(cameras: Cameras, subscription: bytes, cut: list[bytes]) -> None:
    assert sorted(cameras.cut(subscription)) == cut


_names = st.lists(st.sampled_from(["a", "b", "ab", "cctv", "\u00fc", "\u0915\u093e", "1.2"]), min_size=1, max_size=3)
_filters = st.lists(st.one_of(st.just(""), _names.map("/".join)), max_size=4)
_camera = _names.map("/".join)
_channel = st.sampled_from(["cam", "low", "status", "shm/x", "broker", "replay", "clock", ""])
_piece = st.one_of(
    st.sampled_from([b"cam", b"low", b"status", b"replay", b"clock", b"broker", b"a", b"b", b"ab", b"cctv", _N]),
    st.sampled_from([b"/", b"/", b"/", b"//", b".", b"..", b"\0", b"\xff", "\u00fc".encode(), b"\xc3", b" "]),
    st.binary(max_size=4),
)
_subscription = st.one_of(
    st.lists(_piece, max_size=10).map(b"".join),
    st.tuples(_channel, _camera, st.integers(0, 60)).map(lambda made: topic(made[0], made[1])[: made[2]]),
    st.tuples(st.sampled_from(["replay", "clock"]), st.sampled_from(["", "cam/", "low/", "status/"]), _camera).map(
        lambda made: f"{made[0]}/{_N.decode()}/{made[1]}{made[2]}/".encode()
    ),
)


def _is_within(filters: list[str], name: str) -> bool:
    return any(topics.covers(filter_, name) for filter_ in filters)


@_SOME
@given(_filters, _camera)
def test_a_camera_is_covered_by_one_of_the_filters(filters: list[str], camera: str) -> None:
    assert Cameras(filters).covers(camera) == _is_within(filters, camera)


@_SOME
@given(_filters, _subscription)
def test_whatever_is_cut_is_a_prefix_of_topics_of_the_cameras_alone(filters: list[str], subscription: bytes) -> None:
    heads = [f"{name}/".encode() if name else b"" for name in filters]
    for wanted in Cameras(filters).cut(subscription):
        assert wanted.startswith(subscription)
        channel, _, rest = wanted.partition(b"/")
        if channel in (b"replay", b"clock"):
            request = parse_request(wanted)
            assert request is not None
            kind, _, name = request
            if kind == "replay":
                channel_, name = parse_topic(f"{name}/".encode())
                assert channel_ in ("cam", "low")
            assert _is_within(filters, name)
            assert check_filter(name) == name
        else:
            # Whatever comes behind it, the camera's name begins as one of the filters.
            assert channel in (b"cam", b"low", b"status")
            assert any(rest.startswith(head) for head in heads)
            rest.decode()


@_SOME
@given(_filters, st.sampled_from(["cam", "low", "status"]), _camera, st.integers(0, 40))
def test_nothing_that_one_may_see_is_lost(filters: list[str], channel: str, camera: str, length: int) -> None:
    wanted = topic(channel, camera)
    subscription = wanted[:length]
    try:
        subscription.decode()
    except UnicodeDecodeError:
        assume(False)  # half a letter is not well formed
    found = [prefix for prefix in Cameras(filters).cut(subscription) if wanted.startswith(prefix)]
    assert bool(found) == _is_within(filters, camera)


@_SOME
@given(_filters, _camera)
def test_a_clock_is_asked_for_of_all_that_one_may_see(filters: list[str], camera: str) -> None:
    cameras = Cameras(filters)
    for asked in ("", camera.partition("/")[0], camera):
        found = [parse_request(prefix) for prefix in cameras.cut(topics.request_topic("clock", _N.decode(), asked))]
        reached = any(request is not None and topics.covers(request[2], camera) for request in found)
        assert reached == _is_within(filters, camera)


# Outlets, from outside

_GROUP: Final = 10
"""From one keyframe of the gate to the next."""
_LATER: Final = 25
"""So many frames of the lobby after an attack, its effects would have shown."""
_MARK: Final = b"nobody but the guard sees this"
_CONFIG: Final = """
publishers = ["tcp://127.0.0.1:*"]
[[publisher]]
key = "lobby"
cameras = ["cctv/lobby"]
[[publisher]]
key = "gate"
cameras = ["cctv/gate", "cctv/gate-2"]
[[outlet]]
name = "guard"
endpoint = "tcp://127.0.0.1:*"
keys = ["guard", "relay"]
cameras = ["*"]
[[outlet]]
name = "visitor"
endpoint = "tcp://127.0.0.1:*"
keys = ["visitor", "mallory"]
cameras = ["cctv/lobby"]
"""
_RELAY: Final = """
key = "relay"
publishers = []
[[upstream]]
endpoint = "{endpoint}"
server_key = "broker"
cameras = ["*"]
"""


@pytest.fixture
def keys(tmp_path: Path) -> KeyFolder:
    folder = KeyFolder.make(tmp_path / "keys")
    for name in ("broker", "relay", "lobby", "gate", "guard", "visitor", "mallory"):
        folder.new(name)
    return folder


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Statuses come, and cameras are offline, four times as soon as usual."""
    for module in ("publisher.sender", "common.roster"):
        times = replace(TIMES, status_s=TIMES.status_s / 4, offline_s=TIMES.offline_s / 4)
        monkeypatch.setattr(f"camfabric.{module}.TIMES", times)


class _Plain:
    """A socket of its own, as somebody would make it who knows the protocol, and keeps all that it receives."""

    def __init__(self, kind: int, endpoint: str, keys: KeyFolder, name: str, server: str = "broker") -> None:
        self._context: zmq.Context[Any] = zmq.Context()
        self._socket = self._context.socket(kind)
        self._socket.linger = 0
        self._socket.rcvhwm = self._socket.sndhwm = 0
        self._socket.curve_serverkey = keys.contents().keys[server]
        self._socket.curve_publickey = keys.pair(name).public
        self._socket.curve_secretkey = keys.pair(name).secret
        self._todo: deque[Callable[[], Any]] = deque()
        self._stop = threading.Event()
        self.messages: list[list[bytes]] = []
        self.respond: Callable[[list[bytes]], list[list[bytes]]] = lambda message: []
        self._socket.connect(endpoint)
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self._stop.is_set():
            if self._socket.poll(5):
                self.messages.append(self._socket.recv_multipart())
                self.send(*self.respond(self.messages[-1]))
            while self._todo:
                self._todo.popleft()()
        self._socket.close()

    def send(self, *messages: list[bytes]) -> None:
        self._todo += [functools.partial(self._socket.send_multipart, message) for message in messages]

    def subscribe(self, *prefixes: bytes) -> None:
        self._todo += [functools.partial(self._socket.subscribe, prefix) for prefix in prefixes]

    def count(self, start: bytes) -> int:
        return sum(message[0].startswith(start) for message in list(self.messages))

    def __enter__(self) -> _Plain:
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(5)
        self._context.term()


def _frame(seq: int, *, channel: str = "cam") -> list[bytes]:
    """A packet of the gate."""
    frame = Frame(
        camera="cctv/gate", channel=channel, codec=Codec.H264, width=64, height=48, epoch=7, seq=seq,
        keyframe=seq % _GROUP == 0, extra={"mark": _MARK.decode()},
    )  # fmt: skip
    return [topic(channel, "cctv/gate"), wire.pack_header(frame), _MARK]


class _Gate:
    """The gate's publisher as a hostile, or broken, one could be: it sends on any subscription that is not the
    lobby's, and notes which there were."""

    def __init__(self, endpoint: str, keys: KeyFolder) -> None:
        self._plain = _Plain(zmq.XPUB, endpoint, keys, "gate")
        self._plain.respond = self._respond
        self._stop = threading.Event()
        self._seq = 0
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self._stop.wait(0.02):
            status = Status(camera="cctv/gate", epoch=7, uptime_ms=1000 + self._seq * 20, reason=_MARK.decode())
            self._plain.send(
                _frame(self._seq), _frame(self._seq, channel="low"), [topic("status", "cctv/gate"), pack_status(status)]
            )
            self._seq += 1

    def _respond(self, message: list[bytes]) -> list[list[bytes]]:
        prefix = message[0][1:]
        if message[0][:1] == b"\1" and (request := parse_request(prefix)) is not None:
            if request[0] == "replay":
                return [wire.pack_replay(prefix, [(_frame(0)[1], _MARK)])]
            clock = topic(f"clock/{request[1]}", "cctv/gate")
            return [[clock, wire.pack_clock(wire.ClockAnswer(7, 1, 2))]]
        return []

    def asked(self) -> set[bytes]:
        """What was subscribed to."""
        return {message[0][1:] for message in list(self._plain.messages) if message[0][:1] == b"\1"}

    def forget(self) -> None:
        self._plain.messages.clear()

    def close(self) -> None:
        self._stop.set()
        self._thread.join(5)
        self._plain.__exit__()


@pytest.fixture
def hostile_gate() -> Iterator[Callable[..., _Gate]]:
    gates: list[_Gate] = []

    def make(endpoint: str, keys: KeyFolder) -> _Gate:
        gates.append(_Gate(endpoint, keys))
        return gates[-1]

    yield make
    for gate in gates:
        gate.close()


_OTHERS_NONCE: Final = b"feedfacefeedface"
"""What the guard asks with."""
_WANTED: Final = [
    b"", b"c", b"cam", b"cam/", b"cam/cctv/", b"cam/cctv/g", b"cam/cctv/gate", b"cam/cctv/gate/", b"l", b"low/",
    b"low/cctv/gate/", b"s", b"status", b"status/", b"status/cctv/gate/", b"shm/", b"broker/", b"r", b"replay/",
    b"replay/%b/" % _N, b"replay/%b/cam/" % _N, b"replay/%b/cam/cctv/" % _N, b"replay/%b/cam/cctv/gate/" % _N,
    b"replay/%b/low/cctv/gate/" % _N, b"replay/%b/status/cctv/gate/" % _N, b"replay/%b/cam/cctv/gate" % _N,
    b"replay/%b/cam/cctv/lobby/../gate/" % _N, b"replay/%b/cam/cctv/gate/" % _OTHERS_NONCE,
    b"replay/%b/" % _OTHERS_NONCE, b"clock/", b"clock/%b/" % _N, b"clock/%b/cctv/" % _N, b"clock/%b/cctv/gate/" % _N,
    b"clock/%b/" % _OTHERS_NONCE, b"clock/%b/cctv/gate/" % _OTHERS_NONCE, b"\0cam/cctv/gate/", b"\1cam/cctv/gate/",
    b"cam/cctv/lobby/../gate/", b"cam//cctv/gate/", b"cam/cctv/gate/\xff", b"cam/cctv/\0", b"cam/" + b"a" * 200,
]  # fmt: skip
_RAW: Final = [
    [b"\2cam/cctv/gate/"],
    [b"cam/cctv/gate/"],
    [b"\1cam/cctv/gate/", b"more"],
    [b"\1", b"cam/cctv/gate/"],
    [b"", b"\1cam/cctv/gate/"],
    [b""],
    [b"\0cam/cctv/gate/"],  # not its own to end
    [b"\0cam/"],
    [b"\0status/"],
    [b"\0broker/"],
    [b"\0"],
    _frame(0),
]
_MAY_BE_ASKED: Final = (
    b"cam/cctv/lobby/",
    b"low/cctv/lobby/",
    b"status/cctv/lobby/",
    b"replay/%b/cam/cctv/lobby/",
    b"clock/%b/cctv/lobby/",
)


def _may_be_asked(prefix: bytes) -> bool:
    """Whether it says nothing but what the visitor may see, and what brokers ask for themselves."""
    if (request := parse_request(prefix)) is not None:
        return request[2].removeprefix("cam/").removeprefix("low/") == "cctv/lobby"
    return prefix in (b"status/", b"broker/") or prefix.partition(b"/")[2].startswith(b"cctv/lobby/")


def _saw(plain: _Plain) -> list[list[bytes]]:
    """What it has received of the gate."""
    return [message for message in list(plain.messages) if any(b"gate" in part or _MARK in part for part in message)]


@pytest.fixture(params=["one broker", "two in a row", "a broker of the visitor's"])
def site(request: pytest.FixtureRequest, tmp_path: Path, keys: KeyFolder, start_broker: Any) -> tuple[str, str, str]:
    """Endpoints for publishers, the guard and the visitor; the visitor connects with `mallory`."""
    file = tmp_path / "broker.toml"
    file.write_text(f'keys = "keys"\nkey = "broker"\n{_CONFIG}')
    first = start_broker(config=file)
    guard, visitor = first.broker.subscribers
    if request.param == "two in a row":
        relayed = _RELAY.format(endpoint=guard) + _CONFIG[_CONFIG.index("[[outlet]]") :]
        (tmp_path / "relay.toml").write_text(f'keys = "keys"\n{relayed}')
        guard, visitor = start_broker(config=tmp_path / "relay.toml").broker.subscribers
    elif request.param == "a broker of the visitor's":
        visitor = start_broker(
            publishers=[], upstreams=[visitor], keys=keys.path, key="visitor", server_key="broker"
        ).endpoint
    return first.to, guard, visitor


def _server(endpoint: str, site: tuple[str, str, str], request: pytest.FixtureRequest) -> str:
    which = request.node.callspec.params["site"]
    if which == "two in a row":
        return "relay"
    return "visitor" if which == "a broker of the visitor's" and endpoint == site[2] else "broker"


@pytest.mark.usefixtures("quick")
def test_a_visitor_learns_nothing_of_the_gate(
    request: pytest.FixtureRequest,
    site: tuple[str, str, str],
    keys: KeyFolder,
    feed: Any,
    eventually: Any,
    hostile_gate: Callable[..., _Gate],
) -> None:
    to, guard, visitor = site
    own = _server(visitor, site, request)
    seen_by_guard = _server(guard, site, request)
    gate = hostile_gate(to, keys)
    with contextlib.ExitStack() as stack:
        lobby = stack.enter_context(Publisher("cctv/lobby", to=to, keys=keys.path, key="lobby"))
        feed(lobby)
        other = stack.enter_context(Publisher("cctv/gate-2", to=to, keys=keys.path, key="gate"))
        feed(other)
        observer = stack.enter_context(_Plain(zmq.SUB, guard, keys, "guard", seen_by_guard))
        observer.subscribe(b"status/")
        eventually(lambda: observer.count(b"status/cctv/gate/") and observer.count(b"status/cctv/lobby/"))

        # It is alone with its questions.
        spies = [stack.enter_context(_Plain(zmq.XSUB, visitor, keys, "mallory", own)) for _ in range(3)]
        subscriber = stack.enter_context(_Plain(zmq.SUB, visitor, keys, "mallory", own))
        for prefix in _WANTED:
            subscriber.subscribe(prefix)
            spies[0].send([b"\1" + prefix])
        spies[1].send(*_RAW, [b"\1"])
        spies[2].send([b"\1"], *([b"\1" + prefix] for prefix in reversed(_WANTED)))
        eyes = [*spies, subscriber]

        def all_saw_more_of_the_lobby() -> None:
            counts = [eye.count(b"cam/cctv/lobby/") for eye in eyes]
            eventually(
                lambda: all(
                    eye.count(b"cam/cctv/lobby/") > before + _LATER for eye, before in zip(eyes, counts, strict=True)
                )
            )

        all_saw_more_of_the_lobby()
        said = observer.count(b"status/cctv/gate-2/")
        eventually(lambda: observer.count(b"status/cctv/gate-2/") > said)
        statuses = [unpack_status(*parts) for parts in list(observer.messages) if parts[0] == b"status/cctv/gate-2/"]
        assert {(status.watched, status.encoded, status.sent) for status in statuses} == {(False, 0, 0)}
        assert (other.watched, other.status().encoded) == (False, 0)
        assert [prefix for prefix in gate.asked() if not _may_be_asked(prefix)] == []
        assert b"cam/cctv/lobby/" in gate.asked()
        assert observer.count(b"cam/") == 0

        # It looks on while the guard watches.
        observer.subscribe(b"cam/")
        observer.subscribe(b"low/")
        for asked in (b"replay/%b/cam/cctv/gate/", b"clock/%b/", b"clock/%b/cctv/gate/"):
            observer.subscribe(asked % _OTHERS_NONCE)
        for kind in (b"cam/cctv/gate/", b"low/cctv/gate/", b"replay/", b"clock/"):
            eventually(lambda: observer.count(kind))  # noqa: B023
        eventually(lambda: observer.count(b"cam/cctv/gate/") > 2 * _GROUP)
        for prefix in _WANTED:
            spies[0].send([b"\0" + prefix], [b"\1" + prefix])
        spies[1].send(*_RAW, [b"\1"])
        before = observer.count(b"cam/cctv/gate/")
        kept = b"replay/%b/cam/cctv/gate/" % _OTHERS_NONCE[::-1]
        observer.subscribe(kept)
        eventually(lambda: observer.count(kept))
        assert kept not in gate.asked(), "the broker has kept it"
        all_saw_more_of_the_lobby()
        assert observer.count(b"cam/cctv/gate/") > before, "it has ended what is the guard's"
        for eye in eyes:
            assert _saw(eye) == []
        assert all(eye.count(b"status/cctv/lobby/") for eye in eyes)


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("site", ["one broker"], indirect=True)
def test_a_visitor_does_not_hear_that_the_gate_has_gone(
    site: tuple[str, str, str],
    keys: KeyFolder,
    feed: Any,
    eventually: Any,
    hostile_gate: Callable[..., _Gate],
) -> None:
    to, guard, visitor = site
    gate = hostile_gate(to, keys)
    with (
        Publisher("cctv/lobby", to=to, keys=keys.path, key="lobby") as lobby,
        _Plain(zmq.SUB, guard, keys, "guard") as observer,
        _Plain(zmq.SUB, visitor, keys, "mallory") as early,
    ):
        feed(lobby)
        observer.subscribe(b"status/")
        early.subscribe(b"")
        eventually(lambda: observer.count(b"status/cctv/gate/"))
        gate.close()
        eventually(lambda: any(b"offline" in message[-1] for message in list(observer.messages)))
        with _Plain(zmq.SUB, visitor, keys, "mallory") as late:
            late.subscribe(b"")
            eventually(lambda: late.count(b"cam/cctv/lobby/") and late.count(b"status/cctv/lobby/"))
            assert _saw(early) == _saw(late) == []


# Publishers, and upstreams


def test_a_publisher_is_believed_for_its_own_cameras_alone(
    keys: KeyFolder, tmp_path: Path, start_broker: Any, eventually: Any, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "broker.toml"
    file.write_text(f'keys = "keys"\n{_CONFIG}')
    broker = start_broker(config=file)
    guard = broker.broker.subscribers[0]
    with (
        _Plain(zmq.XPUB, broker.to, keys, "lobby") as forger,
        _Plain(zmq.SUB, guard, keys, "guard") as eye,
    ):
        asked = b"replay/%b/cam/cctv/gate/" % _N
        clock = b"clock/%b/" % _N
        eye.subscribe(b"", asked, clock)
        for prefix in (b"cam/", asked, clock):
            eventually(lambda: [b"\1" + prefix] in list(forger.messages))  # noqa: B023
        forged = [
            _frame(0),
            _frame(0, channel="low"),
            [b"status/cctv/gate/", pack_status(Status(camera="cctv/gate", epoch=7))],
            wire.pack_replay(asked, [(_frame(0)[1], _MARK)]),
            [topic(f"clock/{_N.decode()}", "cctv/gate"), wire.pack_clock(wire.ClockAnswer(7, 1, 2))],
            [clock, wire.pack_clock(wire.ClockAnswer(7, 1, 2))],
            [b"cam/cctv/lobby2/", *_frame(0)[1:]],
            [b"cam/cctv/", *_frame(0)[1:]],
        ]
        forger.send(*forged, [b"status/cctv/lobby/", pack_status(Status(camera="cctv/lobby", epoch=8))])
        eventually(lambda: eye.count(b"status/cctv/lobby/"))
        assert _saw(eye) == []
        assert eye.count(b"cam/") == 0
        assert broker.broker.counts() == {"permission": len(forged)}
    logged = [record.getMessage() for record in caplog.records if "may not" in record.getMessage()]
    assert len(logged) == 1, "once a minute for each peer"
    assert "key lobby at 127.0.0.1" in logged[0]


@pytest.fixture
def upstreams(
    keys: KeyFolder, tmp_path: Path, start_broker: Any, feed: Any, eventually: Any
) -> Iterator[tuple[Publisher, _Plain]]:
    """A gate that binds, and whoever looks at a broker that believes each upstream for the lobby alone."""
    with (
        Publisher("cctv/lobby", bind="tcp://127.0.0.1:*", keys=keys.path, key="lobby") as lobby,
        Publisher("cctv/gate", bind="tcp://127.0.0.1:*", keys=keys.path, key="gate") as gate,
    ):
        feed(lobby)
        feed(gate)
        tables = [
            f'[[upstream]]\nendpoint = "{publisher.endpoint}"\nserver_key = "{key}"\ncameras = ["cctv/lobby"]\n'
            for publisher, key in ((lobby, "lobby"), (gate, "gate"))
        ]
        file = tmp_path / "broker.toml"
        outlets = _CONFIG[_CONFIG.index("[[outlet]]") :]
        file.write_text(f'keys = "keys"\npublishers = []\n{outlets}{"".join(tables)}')
        broker = start_broker(config=file)
        with _Plain(zmq.SUB, broker.broker.subscribers[0], keys, "guard") as eye:
            eye.subscribe(b"")
            eventually(lambda: eye.count(b"cam/cctv/lobby/") > _LATER and eye.count(b"status/cctv/lobby/"))
            eventually(lambda: eye.count(b"cam/cctv/lobby/") > 3 * _LATER)
            yield gate, eye


def test_an_upstream_is_believed_for_its_cameras_alone(upstreams: tuple[Publisher, _Plain]) -> None:
    assert _saw(upstreams[1]) == []


def test_an_upstream_is_asked_for_its_cameras_alone(upstreams: tuple[Publisher, _Plain]) -> None:
    assert not upstreams[0].watched
