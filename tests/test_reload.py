"""Changes of `broker.toml` and of the folder of keys while a broker runs: what they give, what they take, from whom."""

from __future__ import annotations

import logging
import re
import signal
import socket
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import pytest

from camfabric.broker import Broker
from camfabric.cli import main as cli
from camfabric.common.keys import KeyFolder
from camfabric.common.settings import TIMES
from camfabric.publisher import Publisher
from camfabric.subscriber import Subscriber

_NAMES: Final = ("broker", "site", "lobby", "gate", "guard", "visitor")
_WITHIN_S: Final = 5.0
"""How soon a key that was revoked has lost its connections."""
_MORE: Final = 10


@pytest.fixture
def keys(tmp_path: Path) -> KeyFolder:
    folder = KeyFolder.make(tmp_path / "keys")
    for name in _NAMES:
        folder.new(name)
    return folder


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Look at the folder, and try again, five times as often as usual."""
    for module in ("broker.broker", "publisher.link", "common.dial"):
        monkeypatch.setattr(f"camfabric.{module}.TIMES", replace(TIMES, keys_s=0.2, redial_s=0.2))


class _File:
    """A `broker.toml` that is written again and again."""

    def __init__(self, path: Path, *, publishers: str, guard: str, visitor: str) -> None:
        self.path, self.publishers, self.visitor = path, publishers, visitor
        self.text = f"""\
keys = "keys"
key = "broker"
publishers = ["{publishers}"]
[[publisher]]
key = "lobby"
cameras = ["cctv/lobby"]
[[publisher]]
key = "gate"
cameras = ["cctv/gate"]
[[outlet]]
name = "guard"
endpoint = "{guard}"
keys = ["guard", "site"]
cameras = ["*"]
[[outlet]]
name = "visitor"
endpoint = "{visitor}"
keys = ["visitor"]
cameras = ["cctv/lobby"]
"""
        self.write()

    def write(self, *changes: tuple[str, str]) -> None:
        """Write it, changed from what it was at first."""
        text = self.text
        for old, new in changes:
            assert text.count(old) == 1, old
            text = text.replace(old, new)
        part = self.path.with_suffix(".part")
        part.write_text(text)
        part.replace(self.path)  # at once, as an editor does it: a broker may be reading it


@pytest.fixture(params=["tcp"])
def file(request: pytest.FixtureRequest, tmp_path: Path, keys: KeyFolder, free_port: Callable[[], int]) -> _File:
    def endpoint(name: str) -> str:
        return f"ipc://{tmp_path}/{name}" if request.param == "ipc" else f"tcp://127.0.0.1:{free_port()}"

    return _File(tmp_path / "broker.toml", **{name: endpoint(name) for name in ("publishers", "guard", "visitor")})


def _connections(*endpoints: str) -> set[str]:
    """The TCP connections to these, each by both its ports and its inode."""
    ports = {f"{int(endpoint.rpartition(':')[2]):04X}" for endpoint in endpoints if endpoint.startswith("tcp")}
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return {
        f"{row[1]} {row[2]} {row[9]}"
        for row in rows
        if row[3] == "01" and {row[1].rpartition(":")[2], row[2].rpartition(":")[2]} & ports
    }


class _Site:
    """A running broker with a publisher for each camera, and whoever looks."""

    def __init__(self, broker: Any, keys: KeyFolder, feed: Any, eventually: Any, stack: ExitStack) -> None:
        self.broker: Broker = broker.broker
        self.keys = keys
        self.eventually = eventually
        self._stack = stack
        self.lobby, self.gate = (
            stack.enter_context(Publisher(f"cctv/{name}", to=broker.to, keys=keys.path, key=name))
            for name in ("lobby", "gate")
        )
        for publisher in (self.lobby, self.gate):
            feed(publisher, fps=50)

    def look(self, name: str, place: int, **how: Any) -> Subscriber:
        """A subscriber with the key of that name at an outlet."""
        subscriber = Subscriber(
            self.broker.subscribers[place], keys=self.keys.path, key=name, server_key="broker", mode="every", **how
        )
        return self._stack.enter_context(subscriber)

    def loses(self, subscriber: Subscriber) -> None:
        """Wait until it is refused; it gets nothing from then on."""
        self.eventually(lambda: any("it refuses the key" in line for line in subscriber.troubles()), within_s=_WITHIN_S)
        _taken(subscriber)
        with pytest.raises(TimeoutError):
            subscriber.read(timeout=0.1)


def _taken(subscriber: Subscriber) -> list[Any]:
    """What has come to a subscriber until now."""
    frames = []
    while True:
        try:
            frames.append(subscriber.read(timeout=0))
        except TimeoutError:
            return frames


def _cameras(subscriber: Subscriber, *, frames: int = _MORE, with_gaps: str = "") -> set[str]:
    """The cameras of what comes to a subscriber from now on; nothing was missed since it was last asked, but of the
    one that comes and goes."""
    got = [*_taken(subscriber), *(subscriber.read(timeout=5) for _ in range(frames))]
    assert {frame.missed for frame in got if frame.camera != with_gaps} <= {0}
    return {frame.camera for frame in got[-frames:]}


@pytest.fixture
def site(
    file: _File, keys: KeyFolder, start_broker: Any, feed: Any, eventually: Any, request: pytest.FixtureRequest
) -> Any:
    with ExitStack() as stack:
        made = _Site(start_broker(config=file.path), keys, feed, eventually, stack)
        yield made


class _Untouched:
    """Those who are not concerned: no frame is missed, and each connection stays the one that it was."""

    def __init__(self, *subscribers: Subscriber, endpoints: Iterable[str]) -> None:
        self._subscribers = subscribers
        self._endpoints = list(endpoints)
        for subscriber in subscribers:
            _cameras(subscriber, frames=2)
        self._before = _connections(*self._endpoints)
        assert self._before or self._endpoints[0].startswith("ipc")

    def check(self) -> None:
        for subscriber in self._subscribers:
            _cameras(subscriber)
        assert self._before <= _connections(*self._endpoints)


# Revocation


def test_a_key_that_is_revoked_loses_its_connection(site: _Site, caplog: pytest.LogCaptureFixture) -> None:
    guard, visitor = site.look("guard", 0), site.look("visitor", 1)
    assert _cameras(visitor) == {"cctv/lobby"}
    others = _Untouched(guard, endpoints=[*site.broker.publishers, site.broker.subscribers[0]])
    site.keys.revoke("visitor")
    site.loses(visitor)
    others.check()
    site.eventually(lambda: "key visitor (revoked) is not admitted there" in caplog.text)


@pytest.mark.usefixtures("quick")
def test_a_publisher_whose_key_is_revoked_loses_its_connection(site: _Site) -> None:
    guard = site.look("guard", 0)
    site.eventually(lambda: _cameras(guard) == {"cctv/lobby", "cctv/gate"})
    visitor = site.look("visitor", 1)
    others = _Untouched(visitor, endpoints=site.broker.subscribers)
    site.keys.revoke("gate")
    site.eventually(lambda: not site.gate.watched, within_s=_WITHIN_S)
    site.eventually(lambda: _cameras(guard) == {"cctv/lobby"}, within_s=_WITHIN_S)
    others.check()


@pytest.mark.parametrize("file", ["ipc"], indirect=True)
@pytest.mark.usefixtures("quick")
def test_a_publisher_that_binds_and_a_broker_without_a_file_look_at_the_folder_as_well(
    keys: KeyFolder, start_broker: Any, feed: Any, eventually: Any, file: _File
) -> None:
    broker = start_broker(keys=keys.path)
    with (
        Publisher("a", bind="tcp://127.0.0.1:*", keys=keys.path, key="lobby") as publisher,
        Publisher("b", to=broker.to, keys=keys.path, key="gate") as other,
    ):
        feed(publisher)
        feed(other)
        with (
            Subscriber(publisher.endpoint, keys=keys.path, key="guard", server_key="lobby", mode="every") as guard,
            Subscriber(
                [publisher.endpoint, broker.endpoint], keys=keys.path, key="visitor", server_key=["lobby", "broker"]
            ) as visitor,
        ):
            eventually(lambda: {visitor.read(timeout=5).camera, visitor.read(timeout=5).camera} == {"a", "b"})
            untouched = _Untouched(guard, endpoints=[publisher.endpoint])
            before = _connections(publisher.endpoint)
            keys.revoke("visitor")
            broker.broker.reload()
            eventually(lambda: len(visitor.troubles()) == 2, within_s=_WITHIN_S)
            _taken(visitor)
            assert _cameras(guard) == {"a"}
            assert len(before & _connections(publisher.endpoint)) == len(before) - 2, "one's own two ends of it"
            assert untouched


@pytest.mark.usefixtures("quick")
def test_the_key_of_an_upstream_is_revoked(
    site: _Site, keys: KeyFolder, tmp_path: Path, start_broker: Any, eventually: Any, feed: Any
) -> None:
    own = KeyFolder.make(tmp_path / "own")
    for name in ("relay", "eye"):
        own.new(name)
    own.public_file("server").write_bytes(keys.public_file("broker").read_bytes())
    keys.public_file("relay").write_bytes(own.public_file("relay").read_bytes())
    (tmp_path / "relay.toml").write_text(f"""
        keys = "own"
        key = "relay"
        publishers = ["tcp://127.0.0.1:*"]
        [[publisher]]
        key = "eye"
        cameras = ["own"]
        [[upstream]]
        endpoint = "{site.broker.subscribers[0]}"
        server_key = "server"
        cameras = ["cctv"]
        [[outlet]]
        name = "all"
        endpoint = "tcp://127.0.0.1:*"
        keys = ["eye"]
        cameras = ["*"]
    """)
    file = Path(tmp_path / "broker.toml")
    file.write_text(file.read_text().replace('"guard", "site"', '"guard", "relay"'))
    site.broker.reload()
    relay = start_broker(config=tmp_path / "relay.toml")
    with (
        Publisher("own", to=relay.to, keys=own.path, key="eye", server_key="relay") as publisher,
        Subscriber(relay.endpoint, keys=own.path, key="eye", server_key="relay", mode="every") as eye,
    ):
        feed(publisher)
        eventually(lambda: _cameras(eye) == {"own", "cctv/lobby", "cctv/gate"})
        own.revoke("server")
        eventually(lambda: not site.gate.watched and not site.lobby.watched, within_s=_WITHIN_S)
        assert _connections(site.broker.subscribers[0]) == set()
        _taken(eye)
        assert _cameras(eye) == {"own"}


# The file


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("file", ["tcp", "ipc"], indirect=True)
def test_a_key_that_is_taken_out_of_the_file_loses_its_connection(site: _Site, file: _File) -> None:
    guard, visitor = site.look("guard", 0), site.look("visitor", 1)
    assert _cameras(visitor) == {"cctv/lobby"}
    others = _Untouched(guard, endpoints=[*site.broker.publishers, site.broker.subscribers[0]])
    file.write(('keys = ["visitor"]', 'keys = ["site"]'))
    site.broker.reload()
    site.loses(visitor)
    file.write()
    site.broker.reload()
    assert visitor.read(timeout=5).camera == "cctv/lobby"
    others.check()


def test_cameras_are_added_to_an_outlet_and_taken_from_it(site: _Site, file: _File) -> None:
    visitor = site.look("visitor", 1)
    assert _cameras(visitor) == {"cctv/lobby"}
    others = _Untouched(visitor, endpoints=[*site.broker.publishers, *site.broker.subscribers])
    assert not site.gate.watched
    for _ in range(2):
        file.write(('keys = ["visitor"]\ncameras = ["cctv/lobby"]', 'keys = ["visitor"]\ncameras = ["cctv"]'))
        site.broker.reload()
        site.eventually(lambda: site.gate.watched)
        site.eventually(lambda: _cameras(visitor, with_gaps="cctv/gate") == {"cctv/lobby", "cctv/gate"})
        site.eventually(lambda: "cctv/gate" in visitor.cameras())
        file.write()
        site.broker.reload()
        site.eventually(lambda: not site.gate.watched)
        site.eventually(lambda: _cameras(visitor, with_gaps="cctv/gate") == {"cctv/lobby"})
    others.check()
    file.write(('keys = ["visitor"]\ncameras = ["cctv/lobby"]', 'keys = ["visitor"]\ncameras = ["cctv/gate"]'))
    site.broker.reload()
    site.eventually(lambda: not site.lobby.watched)
    site.eventually(lambda: {frame.camera for frame in _taken(visitor)} == {"cctv/gate"})


def test_an_offline_camera_is_listed_where_it_is_added(site: _Site, file: _File) -> None:
    guard, visitor = site.look("guard", 0, channel=None), site.look("visitor", 1, channel=None)
    site.eventually(lambda: "cctv/lobby" in visitor.cameras() and "cctv/gate" in guard.cameras())
    site.gate.close()
    site.eventually(lambda: guard.cameras()["cctv/gate"].state == "offline")
    assert "cctv/gate" not in visitor.cameras()
    file.write(('keys = ["visitor"]\ncameras = ["cctv/lobby"]', 'keys = ["visitor"]\ncameras = ["cctv"]'))
    site.broker.reload()
    site.eventually(lambda: "cctv/gate" in visitor.cameras(), within_s=1.5)


def test_outlets_are_added_renamed_and_removed(site: _Site, file: _File, free_port: Callable[[], int]) -> None:
    guard, visitor = site.look("guard", 0), site.look("visitor", 1)
    others = _Untouched(guard, visitor, endpoints=[*site.broker.publishers, *site.broker.subscribers])
    third = f"tcp://127.0.0.1:{free_port()}"
    added = f'[[outlet]]\nname = "third"\nendpoint = "{third}"\nkeys = ["site"]\ncameras = ["cctv/gate"]\n[[outlet]]'
    file.write(('[[outlet]]\nname = "visitor"', f'{added}\nname = "visitors"'))
    site.broker.reload()
    site.eventually(lambda: len(site.broker.subscribers) == 3)
    assert set(site.broker.subscribers) >= {third}
    place = site.broker.subscribers.index(third)
    assert _cameras(site.look("site", place)) == {"cctv/gate"}
    guard.close()
    others = _Untouched(visitor, endpoints=[*site.broker.publishers, site.broker.subscribers[-1]])
    assert site.gate.watched
    file.write()
    site.broker.reload()
    site.eventually(lambda: len(site.broker.subscribers) == 2)
    site.eventually(lambda: not site.gate.watched)
    site.eventually(lambda: not _answers(third))
    others.check()


def _answers(endpoint: str) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", int(endpoint.rpartition(":")[2]))) == 0


@pytest.mark.usefixtures("quick")
def test_the_guard_and_the_visitor_change_places(site: _Site, file: _File) -> None:
    """Nobody keeps what his outlet showed before."""
    visitor = site.look("visitor", 1)
    assert _cameras(visitor) == {"cctv/lobby"}
    text = file.text.replace('keys = ["guard", "site"]\ncameras = ["*"]', 'keys = ["guard"]\ncameras = ["cctv/lobby"]')
    file.path.write_text(
        text.replace('keys = ["visitor"]\ncameras = ["cctv/lobby"]', 'keys = ["site"]\ncameras = ["*"]')
    )
    site.broker.reload()
    site.loses(visitor)
    with pytest.raises(TimeoutError):
        visitor.read(timeout=0.2)
    assert "cctv/gate" not in visitor.cameras()
    assert _cameras(site.look("guard", 0)) == {"cctv/lobby"}


def test_an_outlet_moves_to_all_addresses_at_its_port(site: _Site, file: _File) -> None:
    visitor = site.look("visitor", 1)
    assert _cameras(visitor) == {"cctv/lobby"}
    endpoint = site.broker.subscribers[1]
    anywhere = f"tcp://*:{endpoint.rpartition(':')[2]}"
    file.write((f'"{endpoint}"', f'"{anywhere}"'))
    site.broker.reload()
    site.eventually(lambda: site.broker.subscribers[1] != endpoint, within_s=1)
    site.eventually(lambda: visitor.read(timeout=5).camera == "cctv/lobby")


def test_what_publishers_may_is_changed(site: _Site, file: _File, caplog: pytest.LogCaptureFixture) -> None:
    guard = site.look("guard", 0)
    site.eventually(lambda: _cameras(guard) == {"cctv/lobby", "cctv/gate"})
    before = _connections(*site.broker.publishers)
    file.write(('cameras = ["cctv/gate"]', 'cameras = ["cctv/gates"]'))
    site.broker.reload()
    # Said once a minute, of whatever comes first.
    site.eventually(lambda: re.search("it may not (publish|answer for) '?cctv/gate", caplog.text))
    site.eventually(lambda: {frame.camera for frame in _taken(guard)} == {"cctv/lobby"})
    file.write()
    site.broker.reload()
    site.eventually(lambda: guard.read(timeout=5).camera == "cctv/gate")
    assert before <= _connections(*site.broker.publishers), "it has kept its connection"
    file.write(('key = "gate"', 'key = "site"'))
    site.broker.reload()
    site.eventually(lambda: not site.gate.watched, within_s=_WITHIN_S)
    site.eventually(lambda: "key gate is not admitted there" in caplog.text)


# A bad file


def test_a_bad_file_changes_nothing(site: _Site, file: _File, caplog: pytest.LogCaptureFixture) -> None:
    guard, visitor = site.look("guard", 0), site.look("visitor", 1)
    others = _Untouched(guard, visitor, endpoints=[*site.broker.publishers, *site.broker.subscribers])
    more = ('keys = ["visitor"]\ncameras = ["cctv/lobby"]', 'keys = ["visitor", "lobby"]\ncameras = ["*"]\ncolour = 3')
    bad: list[Callable[[], object]] = [
        lambda: file.write(more),
        lambda: file.write(('keys = "keys"', 'keys = "others"')),
        lambda: file.write(('key = "broker"', 'key = "site"')),
        lambda: file.path.write_text(file.text + "["),
        lambda: file.path.write_text(""),
        lambda: file.path.write_bytes(b"\xff" * 100),
        lambda: file.path.unlink(),
        lambda: file.path.mkdir(),
    ]
    for spoil in bad:
        caplog.clear()
        spoil()
        site.broker.reload()
        site.eventually(lambda: "nothing is changed, but for what is taken away" in caplog.text)
        assert len([record for record in caplog.records if record.levelno >= logging.ERROR]) == 1
        assert _cameras(visitor, frames=3) == {"cctv/lobby"}
    others.check()
    file.path.rmdir()
    file.write(('keys = ["visitor"]\ncameras = ["cctv/lobby"]', 'keys = ["visitor"]\ncameras = ["*"]'))
    site.broker.reload()
    site.eventually(lambda: _cameras(visitor) == {"cctv/lobby", "cctv/gate"})


def test_what_a_bad_file_takes_away_is_gone(site: _Site, file: _File) -> None:
    guard, visitor = site.look("guard", 0), site.look("visitor", 1)
    assert _cameras(visitor) == {"cctv/lobby"}
    others = _Untouched(guard, endpoints=[*site.broker.publishers, site.broker.subscribers[0]])
    file.write(
        ('keys = ["visitor"]', 'keys = ["site"]\ncolour = 3'),
        ('cameras = ["*"]', 'cameras = ["cctv/gate"]'),
    )
    site.broker.reload()
    site.loses(visitor)
    site.eventually(lambda: {frame.camera for frame in _taken(guard)} == {"cctv/gate"})
    with Subscriber(site.broker.subscribers[1], keys=site.keys.path, key="site", server_key="broker") as added:
        site.eventually(added.troubles)
    assert others


@pytest.mark.parametrize("file", ["ipc"], indirect=True)
def test_an_endpoint_that_is_taken_changes_nothing(
    site: _Site, file: _File, start_broker: Any, caplog: pytest.LogCaptureFixture
) -> None:
    taken = start_broker().endpoint
    visitor = site.look("visitor", 1)
    assert _cameras(visitor) == {"cctv/lobby"}
    more = f'[[outlet]]\nname = "third"\nendpoint = "{taken}"\nkeys = ["*"]\ncameras = ["*"]\n[[outlet]]\n'
    file.write(('[[outlet]]\nname = "visitor"', f'{more}name = "visitor"'))
    site.broker.reload()
    site.eventually(lambda: f"cannot bind {taken}: the port is taken" in caplog.text)
    assert _cameras(visitor) == {"cctv/lobby"}
    assert len(site.broker.subscribers) == 2


# As a process


def test_sighup_and_check_config(
    file: _File,
    keys: KeyFolder,
    camfabric: Any,
    feed: Any,
    eventually: Any,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(cli, "watch_signals", lambda: None)
    process = camfabric("broker", "--config", str(file.path))
    to, visitors = file.publishers, file.visitor
    check = ["broker", "--config", str(file.path), "--check-config"]
    with (
        Publisher("cctv/lobby", to=to, keys=keys.path, key="lobby") as publisher,
        Subscriber(visitors, keys=keys.path, key="visitor", server_key="broker", mode="every") as visitor,
    ):
        feed(publisher)
        assert visitor.read(timeout=20).camera == "cctv/lobby"
        assert cli.main(check) == 0
        out = capsys.readouterr().out
        assert len(out.splitlines()) == 1
        assert "is right" in out
        file.write(('keys = ["visitor"]', 'keys = ["nobody"]'))
        assert cli.main(check) == 0
        assert 'no key "nobody"' in caplog.text
        file.write(('keys = ["visitor"]', 'keys = ["visitor"]\ncolour = 3'))
        assert cli.main(check) == 2
        assert 'unknown "colour" in outlet "visitor"' in capsys.readouterr().err
        others = _Untouched(visitor, endpoints=[to, visitors])
        process.signal(signal.SIGHUP)
        eventually(lambda: process.said('nothing is changed, .*unknown "colour" in outlet "visitor"'))
        others.check()
        file.write(('keys = ["visitor"]', 'keys = ["site"]'))
        process.signal(signal.SIGHUP)
        eventually(visitor.troubles, within_s=_WITHIN_S)
        assert process.status is None
    assert process.end() == 0
