"""Links with keys: each kind of link, each way to say which, wrong ones, new starts, and nothing open by accident."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import shutil
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import pytest
import zmq

from camfabric.broker import Broker
from camfabric.cli import main as cli
from camfabric.common.errors import ConfigError
from camfabric.common.keys import KeyFolder
from camfabric.common.peers import Peer, Peers
from camfabric.common.settings import TIMES
from camfabric.publisher import Publisher
from camfabric.subscriber import AsyncSubscriber, Subscriber

_NAMES: Final = ("broker", "site", "lobby", "viewer")


@pytest.fixture
def keys(tmp_path: Path) -> KeyFolder:
    """A folder with everybody's keys."""
    folder = KeyFolder.make(tmp_path / "keys")
    for name in _NAMES:
        folder.new(name)
    return folder


@pytest.fixture(params=["tcp", "ipc"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[], str]:
    """Endpoints to bind."""
    numbers = iter(range(100))
    return lambda: "tcp://127.0.0.1:*" if request.param == "tcp" else f"ipc://{tmp_path}/{next(numbers)}"


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Look at the folder, and try again, five times as often as usual."""
    for module in ("broker.broker", "publisher.link", "common.dial"):
        monkeypatch.setattr(f"camfabric.{module}.TIMES", replace(TIMES, keys_s=0.2, redial_s=0.2))


# Each link


def test_publishers_brokers_and_subscribers(
    place: Callable[[], str], keys: KeyFolder, start_broker: Any, feed: Any, eventually: Any
) -> None:
    broker = start_broker(publishers=[place()], subscribers=[place()], keys=keys.path)
    site = start_broker(
        publishers=[],
        subscribers=[place()],
        upstreams=[broker.endpoint],
        keys=keys.path,
        key="site",
        server_key="broker",
    )
    with ExitStack() as stack:
        feed(stack.enter_context(Publisher("a", to=broker.to, keys=keys.path, key="lobby")))
        for endpoint, server, hops in ((broker.endpoint, "broker", 1), (site.endpoint, "site", 2)):
            subscriber = Subscriber(endpoint, keys=keys.path, key="viewer", server_key=server)
            stack.enter_context(subscriber)
            eventually(lambda: subscriber.read(timeout=10).hops == hops)  # noqa: B023
            eventually(lambda: "a" in subscriber.cameras())  # noqa: B023
            assert not subscriber.cameras()["a"].insecure
        # Both at once, with a key for each.
        both = Subscriber(
            [site.endpoint, broker.endpoint], keys=keys.path, key="viewer", server_key=["site", "broker"], mode="every"
        )
        assert stack.enter_context(both).read(timeout=10).camera == "a"
        plain = stack.enter_context(Subscriber(broker.endpoint))
        with pytest.raises(TimeoutError):
            plain.read(timeout=0.3)
        assert plain.cameras() == {}


def test_a_publisher_that_binds(
    place: Callable[[], str], keys: KeyFolder, start_broker: Any, feed: Any, eventually: Any
) -> None:
    with ExitStack() as stack:
        publisher = stack.enter_context(Publisher("a", bind=place(), keys=keys.path, key="lobby"))
        feed(publisher)
        plain = stack.enter_context(Subscriber(publisher.endpoint))
        broker = start_broker(
            publishers=[],
            subscribers=[place()],
            upstreams=[publisher.endpoint],
            keys=keys.path,
            key="broker",
            server_key="lobby",
        )
        subscribers = []
        for endpoint, server in ((publisher.endpoint, "lobby"), (broker.endpoint, "broker")):
            subscriber = Subscriber(endpoint, keys=keys.path, key="viewer", server_key=server)
            subscribers.append(stack.enter_context(subscriber))
            assert subscriber.read(timeout=10).camera == "a"
        assert plain.cameras() == {}
        for subscriber in subscribers:
            subscriber.close()
        broker.stop()
        eventually(lambda: not publisher.watched)


# Each way to say which keys


def test_a_folder_on_each_machine_is_all_that_is_said(
    keys: KeyFolder, tmp_path: Path, start_broker: Any, feed: Any
) -> None:
    keys.new("gate", into=tmp_path / "gate")
    keys.new("guard", into=tmp_path / "guard")
    for name in ("site", "lobby", "viewer"):
        keys.secret_file(name).unlink()
    broker = start_broker(keys=str(keys.path))
    with Publisher("a", to=broker.to, keys=str(tmp_path / "gate")) as publisher:
        feed(publisher)
        with Subscriber(broker.endpoint, keys=tmp_path / "guard") as subscriber:
            assert subscriber.read(timeout=10).camera == "a"


def test_a_file_for_each_key(keys: KeyFolder, tmp_path: Path, start_broker: Any, feed: Any) -> None:
    moved = tmp_path / "mine"
    shutil.move(keys.secret_file("broker"), moved)
    broker = start_broker(keys=keys.path, key=moved)
    server = keys.public_file("broker")
    with Publisher("a", to=broker.to, key=keys.secret_file("lobby"), server_key=server) as publisher:
        feed(publisher)
        with Subscriber(broker.endpoint, key=str(keys.secret_file("viewer")), server_key=str(server)) as subscriber:
            assert subscriber.read(timeout=10).camera == "a"


def test_the_environment_and_the_command_line(
    keys: KeyFolder, start_broker: Any, camfabric: Any, free_port: Callable[[], int]
) -> None:
    broker = start_broker(keys=keys.path)
    named = {"CAMFABRIC_KEYS": str(keys.path), "CAMFABRIC_KEY": "lobby", "CAMFABRIC_SERVER_KEY": "broker"}
    files = ["--key", str(keys.secret_file("viewer")), "--server-key", str(keys.public_file("broker"))]
    publisher = camfabric("publish", "test://?size=64x48&fps=50", "--camera", "a", "--to", broker.to, env=named)
    site = f"tcp://127.0.0.1:{free_port()}"
    relay = camfabric(
        "broker", "--upstream", broker.endpoint, "--publishers", "tcp://127.0.0.1:*", "--subscribers", site,
        "--keys", str(keys.path), "--key", "site", "--server-key", "broker",
    )  # fmt: skip
    by_file = camfabric("subscribe", "--frames", "3", "--from", broker.endpoint, *files)
    by_name = camfabric("subscribe", "--frames", "3", "--from", site, env=named | {"CAMFABRIC_SERVER_KEY": "site"})
    assert (by_file.wait(30), by_name.wait(30)) == (0, 0)
    assert (publisher.end(), relay.end()) == (0, 0)
    for process in (publisher, relay, by_file, by_name):
        assert not process.said("WARNING|insecure|loopback"), process.err


def test_asyncio(keys: KeyFolder, start_broker: Any, feed: Any) -> None:
    broker = start_broker(keys=keys.path)

    async def read() -> str:
        async with AsyncSubscriber(broker.endpoint, keys=keys.path, key="viewer") as subscriber:
            return (await subscriber.read(timeout=10)).camera

    with Publisher("a", to=broker.to, keys=keys.path, key="lobby") as publisher:
        feed(publisher)
        assert asyncio.run(read()) == "a"


# Wrong keys


def test_a_server_with_another_key_is_not_believed(
    place: Callable[[], str], keys: KeyFolder, start_broker: Any, eventually: Any, feed: Any, caplog: Any
) -> None:
    broker = start_broker(publishers=[place()], subscribers=[place()], keys=keys.path)
    with (
        Publisher("a", to=broker.to, keys=keys.path, key="lobby", server_key="site") as publisher,
        Subscriber(broker.endpoint, keys=keys.path, key="viewer", server_key="site") as deceived,
        Subscriber(broker.endpoint, keys=keys.path, key="viewer") as subscriber,
    ):
        feed(publisher)
        eventually(deceived.troubles)
        assert "another key than --server-key says" in deceived.troubles()[0]
        eventually(lambda: f"no connection to {broker.to}: it has another key" in caplog.text)
        with pytest.raises(TimeoutError, match="another key than --server-key says"):
            deceived.read(timeout=0.05)
        with pytest.raises(TimeoutError, match="nobody publishes"):
            subscriber.read(timeout=0.3)
        assert not publisher.watched


def test_keys_that_are_admitted_later_come_in_by_themselves(
    quick: None,
    keys: KeyFolder,
    tmp_path: Path,
    start_broker: Any,
    eventually: Any,
    feed: Any,
    caplog: pytest.LogCaptureFixture,
) -> None:
    late = KeyFolder.make(tmp_path / "late")
    names = ("publisher", "subscriber", "relay", "direct")
    for name in names:
        late.new(name)
    for server in ("broker", "lobby"):
        shutil.copy(keys.public_file(server), late.path)
    broker = start_broker(keys=keys.path)
    with ExitStack() as stack:
        direct = stack.enter_context(Publisher("a", bind="tcp://127.0.0.1:*", keys=keys.path, key="lobby"))
        feed(direct)
        feed(stack.enter_context(Publisher("b", to=broker.to, keys=keys.path, key="lobby")))
        feed(stack.enter_context(Publisher("c", to=broker.to, keys=late.path, key="publisher")))
        relay = start_broker(
            publishers=[], upstreams=[broker.endpoint], keys=late.path, key="relay", server_key="broker"
        )
        subscribers = [
            Subscriber(direct.endpoint, keys=late.path, key="direct", server_key="lobby"),
            Subscriber(broker.endpoint, cameras="b", keys=late.path, key="subscriber"),
            Subscriber(broker.endpoint, cameras="c", keys=keys.path, key="viewer"),
            Subscriber(relay.endpoint, cameras="b", keys=late.path, key="subscriber", server_key="relay"),
        ]
        for subscriber in subscribers:
            stack.enter_context(subscriber)
        for name in names:
            eventually(lambda: f"it refuses the key '{name}': see which keys it admits" in caplog.text)  # noqa: B023
        for subscriber in subscribers:
            with pytest.raises(TimeoutError):
                subscriber.read(timeout=0.01)
        for name in names:
            shutil.copy(late.public_file(name), keys.path)
        assert [subscriber.read(timeout=6).camera for subscriber in subscribers] == ["a", "b", "c", "b"]
        assert [subscriber.troubles() for subscriber in subscribers] == [[]] * 4


# New starts


def test_a_broker_that_is_killed_comes_back_to_the_same_keys(
    keys: KeyFolder, camfabric: Any, free_port: Callable[[], int], feed: Any, eventually: Any
) -> None:
    to, endpoint = (f"tcp://127.0.0.1:{free_port()}" for _ in range(2))
    command = ["broker", "--publishers", to, "--subscribers", endpoint, "--keys", str(keys.path)]
    with (
        Publisher("a", to=to, keys=keys.path, key="lobby") as publisher,
        Subscriber(endpoint, keys=keys.path, key="viewer") as subscriber,
    ):
        feed(publisher)
        first = camfabric(*command)
        assert subscriber.read(timeout=20).camera == "a"
        first.signal(signal.SIGKILL)
        first.wait()
        eventually(lambda: not publisher.watched)
        second = camfabric(*command)
        eventually(lambda: second.said("publishers connect"), within_s=20)
        sent = publisher.status().sent
        eventually(lambda: publisher.watched, within_s=5)
        while subscriber.read(timeout=5).seq < sent:
            pass  # it was read from the first one
        assert subscriber.troubles() == []


_GREETING: Final = b"\xff" + bytes(8) + b"\x7f\3\1" + b"NULL".ljust(20, b"\0") + bytes(32)
"""What a peer without keys says first, in ZMTP 3.1."""


@contextmanager
def _impostor(endpoint: str) -> Iterator[threading.Event]:
    """A server without keys at that endpoint. Sets the event once somebody has answered its greeting."""
    met = threading.Event()
    with socket.create_server(("127.0.0.1", int(endpoint.rpartition(":")[2])), reuse_port=False) as server:

        def serve() -> None:
            with contextlib.suppress(OSError):
                while True:
                    connection, _ = server.accept()
                    with connection:
                        connection.sendall(_GREETING)
                        while connection.recv(4096):
                            pass
                        met.set()

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield met
        server.shutdown(socket.SHUT_RDWR)
        thread.join(5)


def test_who_takes_a_brokers_place_for_a_while_does_no_lasting_harm(
    keys: KeyFolder, free_port: Callable[[], int], start_broker: Any, feed: Any
) -> None:
    to, endpoint = (f"tcp://127.0.0.1:{free_port()}" for _ in range(2))
    with ExitStack() as stack:
        with _impostor(to) as met_publisher, _impostor(endpoint) as met_subscriber:
            publisher = stack.enter_context(Publisher("a", to=to, keys=keys.path, key="lobby"))
            subscriber = stack.enter_context(Subscriber(endpoint, keys=keys.path, key="viewer"))
            feed(publisher)
            assert met_publisher.wait(5)
            assert met_subscriber.wait(5)
            assert not publisher.watched
        start_broker(publishers=[to], subscribers=[endpoint], keys=keys.path)
        assert subscriber.read(timeout=2.5).camera == "a"
        assert subscriber.troubles() == []


def test_a_connection_that_ends_while_it_is_looked_at_ends_nothing_else(
    monkeypatch: pytest.MonkeyPatch, eventually: Any
) -> None:
    context: zmq.Context[Any] = zmq.Context()
    bound = context.socket(zmq.XPUB)
    bound.linger = 0
    peers = Peers(bound, label="here", bound=True, keyed=False)
    port = bound.bind_to_random_port("tcp://127.0.0.1")

    def seen() -> int:
        peers.accept()
        peers.look()
        return len(peers)

    try:
        with socket.create_connection(("127.0.0.1", port)):
            eventually(seen)
            (peer,) = peers
        eventually(lambda: not peer.is_there())
        with monkeypatch.context() as patch:
            patch.setattr(Peer, "is_there", lambda self: True)  # as it was a moment ago
            eventually(lambda: TIMES.look_s < time.monotonic() - peer.since)
            peers.look()
        eventually(lambda: not seen())
    finally:
        peers.close()
        bound.close()
        context.term()


# Nothing is open by accident

_ANY_HOST: Final = "0.0.0.0"  # noqa: S104
_ANYWHERE: Final = f"tcp://{_ANY_HOST}:*"


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Any]:
    """Run a `camfabric` command in this process: (status, lines on standard error)."""
    monkeypatch.setattr(cli, "watch_signals", lambda: None)

    def run(*arguments: str) -> tuple[int, list[str]]:
        capsys.readouterr()
        status = cli.main(list(arguments))
        return status, capsys.readouterr().err.splitlines()

    return run


@pytest.mark.parametrize(
    "arguments",
    [
        ["publish", "test://", "--camera", "a", "--bind", "tcp://*:5550"],
        ["publish", "test://", "--camera", "a", "--to", "tcp://192.0.2.7:5550"],
        ["subscribe", "--from", "tcp://192.0.2.7:5551"],
        ["subscribe", "--from", "tcp://127.0.0.1:5551", "--from", "tcp://camera.example:5551"],
        ["ls", "--from", "tcp://[2001:db8::1]:5551"],
        ["top", "--from", "tcp://192.0.2.7:5551"],
        ["broker", "--publishers", "tcp://0.0.0.0:5550"],
        ["broker", "--subscribers", "tcp://*:5551"],
        ["broker", "--subscribers", "tcp://[::]:5551"],
        ["broker", "--upstream", "tcp://192.0.2.7:5551"],
        ["broker", "--config", "{config}"],
        ["broker", "--config", "{config}", "--check-config"],
    ],
    ids=" ".join,
)
def test_beyond_loopback_without_keys_is_refused(
    command: Callable[..., Any], arguments: list[str], tmp_path: Path
) -> None:
    config = tmp_path / "broker.toml"
    config.write_text('[[outlet]]\nname = "a"\nendpoint = "tcp://0.0.0.0:5551"\ncameras = ["*"]\n')
    status, lines = command(*(argument.format(config=config) for argument in arguments))
    assert status == 2
    assert len(lines) == 1
    for essential in ("beyond loopback", "camfabric keys new NAME", "--keys DIR", "--insecure"):
        assert essential in lines[0]


@pytest.mark.parametrize(
    "make",
    [
        lambda **how: Publisher("a", bind=_ANYWHERE, **how),
        lambda **how: Publisher("a", to="tcp://0.0.0.0:5550", **how),
        lambda **how: Subscriber("tcp://0.0.0.0:5551", **how),
        lambda **how: Broker(publishers=[_ANYWHERE], subscribers=["tcp://127.0.0.1:*"], **how),
        lambda **how: Broker(publishers=["tcp://127.0.0.1:*"], subscribers=[_ANYWHERE], **how),
        lambda **how: Broker(publishers=[], subscribers=["tcp://127.0.0.1:*"], upstreams=["tcp://0.0.0.0:1"], **how),
    ],
    ids=["bind", "to", "from", "publishers", "subscribers", "upstream"],
)
def test_insecure_is_said_out_loud(make: Callable[..., Any], caplog: pytest.LogCaptureFixture, keys: KeyFolder) -> None:
    caplog.set_level(logging.WARNING)
    with pytest.raises(ConfigError, match="beyond loopback"):
        make()
    for _ in range(2):
        caplog.clear()
        made = make(insecure=True)
        assert [record.getMessage().partition(":")[0] for record in caplog.records] == ["--insecure"]
        assert not isinstance(made, Broker) or made.insecure
        _end(made)
    caplog.clear()
    how: dict[str, Any] = {"keys": keys.path, "key": "lobby", "insecure": False}
    made = None
    try:
        made = make(**how)
    except ConfigError:
        made = make(**how, server_key="broker")
    assert caplog.records == []
    assert not isinstance(made, Broker) or not made.insecure
    _end(made)


def test_an_upstream_without_its_key_is_refused_by_what_is_missing(keys: KeyFolder) -> None:
    with pytest.raises(ConfigError, match=r"server.key"):
        Broker(publishers=[], upstreams=["tcp://192.0.2.7:5551"], keys=keys.path)


def _end(made: Publisher | Subscriber | Broker) -> None:
    if isinstance(made, Broker):
        made.stop()
        made.run()
    else:
        made.close()


def test_each_command_warns_at_each_start(
    command: Callable[..., Any],
    caplog: pytest.LogCaptureFixture,
    free_port: Callable[[], int],
    tmp_path: Path,
    picture: Any,
) -> None:
    import cv2

    cv2.imwrite(str(tmp_path / "1.png"), picture())
    endpoint = f"tcp://0.0.0.0:{free_port()}"
    for arguments in (
        ["ls", "--from", endpoint, "--wait", "0.05"],
        ["subscribe", "--from", endpoint, "--duration", "0.05"],
        ["top", "--from", endpoint, "--duration", "0.05"],
        ["publish", str(tmp_path), "--camera", "a", "--bind", "tcp://0.0.0.0:*", "--low", "off"],
    ):
        caplog.clear()
        status, _ = command(*arguments, "--insecure")
        assert status in (0, 1), arguments
        warnings = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
        assert warnings[0].startswith("--insecure: whoever is on the network of tcp://0.0.0.0:"), arguments


def test_a_status_says_what_is_insecure(start_broker: Any, eventually: Any, keys: KeyFolder) -> None:
    here, anywhere = "tcp://127.0.0.1:*", _ANYWHERE
    for outside, inside, insecure in ((here, here, False), (anywhere, here, True), (here, anywhere, True)):
        broker = start_broker(publishers=[inside], subscribers=[outside], insecure=True)
        with Publisher("a", to=_local(broker.to)), Subscriber(_local(broker.endpoint), channel=None) as subscriber:
            eventually(subscriber.cameras)
            assert subscriber.cameras()["a"].insecure == insecure
    for how, insecure in ({"insecure": True}, True), ({"keys": keys.path, "key": "lobby"}, False):
        mine: dict[str, Any] = {} if insecure else {"keys": keys.path, "key": "viewer", "server_key": "lobby"}
        with (
            Publisher("a", bind=anywhere, **how) as publisher,
            Subscriber(_local(publisher.endpoint), channel=None, **mine) as subscriber,
        ):
            eventually(subscriber.cameras)
            assert subscriber.cameras()["a"].insecure == insecure
    broker = start_broker(publishers=[anywhere], subscribers=[anywhere], keys=keys.path)
    with (
        Publisher("a", to=_local(broker.to), keys=keys.path, key="lobby"),
        Subscriber(_local(broker.endpoint), channel=None, keys=keys.path, key="viewer") as subscriber,
    ):
        eventually(subscriber.cameras)
        assert not subscriber.cameras()["a"].insecure


def _local(endpoint: str) -> str:
    return endpoint.replace(_ANY_HOST, "127.0.0.1")
