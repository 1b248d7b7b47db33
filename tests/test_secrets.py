"""Secrets stay secret: a source's credentials and everybody's secret keys are in no log, error, status, repr or
command line."""

from __future__ import annotations

import base64
import contextlib
import logging
import re
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import pytest
import zmq

from camfabric.broker import Broker
from camfabric.broker.config import read_config
from camfabric.cli import main as cli
from camfabric.common.errors import ConfigError
from camfabric.common.keys import KeyFolder, client_keys, server_keys
from camfabric.publisher import Publisher
from camfabric.publisher.capture import Capture
from camfabric.publisher.sources.source import Wanted, parse_source
from camfabric.subscriber import Subscriber

_PASSWORD: Final = "s3cr3tpassword"
_ASKS: Final = b'HTTP/1.1 401 No\r\nWWW-Authenticate: Basic realm="x"\r\nContent-Length: 0\r\nConnection: close\r\n\r\n'
_HAS_NOT: Final = b"HTTP/1.1 404 No\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"


class _Camera:
    """An HTTP camera that asks for a password, and has no picture."""

    def __init__(self) -> None:
        self._server = socket.create_server(("127.0.0.1", 0))
        self.credentials: list[bytes] = []
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self._server.getsockname()[1]}"

    def _run(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._server.accept()
                with connection, contextlib.suppress(OSError):
                    connection.settimeout(2)
                    asked = connection.recv(65536)
                    given = re.search(rb"Authorization: Basic (\S+)", asked)
                    self.credentials += [base64.b64decode(given[1])] if given else []
                    connection.sendall(_HAS_NOT if given else _ASKS)

    def close(self) -> None:
        self._server.shutdown(socket.SHUT_RDWR)
        self._thread.join(5)
        self._server.close()


@pytest.fixture
def cameras() -> Iterator[list[_Camera]]:
    made = [_Camera(), _Camera()]
    yield made
    for camera in made:
        camera.close()


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Callable[..., Any]:
    """Run a `camfabric` command in this process: (status, what it wrote)."""
    monkeypatch.setattr(cli, "watch_signals", lambda: None)
    monkeypatch.setattr("os.execv", lambda *_: None)

    def run(*arguments: str) -> tuple[int, str]:
        capfd.readouterr()
        status = cli.main(list(arguments))
        written = capfd.readouterr()
        return status, written.out + written.err

    return run


# Of sources


@pytest.mark.parametrize("by", ["file", "argument", "environment"])
def test_the_credentials_of_a_source_are_nowhere_to_be_seen(
    camfabric: Any, cameras: list[_Camera], start_broker: Any, eventually: Any, tmp_path: Path, by: str
) -> None:
    addresses = [
        f"http://admin:{_PASSWORD}@{camera.host}/{name}.mjpeg?token={_PASSWORD}"
        for camera, name in zip(cameras, ("main", "low"), strict=True)
    ]
    given, environment = list(addresses), {}
    if by == "file":
        for place, address in enumerate(addresses):
            (tmp_path / str(place)).write_text(f"{address}\n# the camera at the gate\n")
        given = [f"@{tmp_path / str(place)}" for place in range(2)]
    elif by == "environment":
        environment = {"CAMFABRIC_PUBLISH_SOURCE": addresses[0], "CAMFABRIC_PUBLISH_LOW": addresses[1]}
    broker = start_broker()
    options = ["--camera", "a", "--to", broker.to]
    options += [] if by == "environment" else [given[0], "--low", given[1]]
    process = camfabric("--log-level", "debug", "publish", *options, env=environment)
    arguments = Path(f"/proc/{process.pid}/cmdline")
    if by != "argument":
        assert _PASSWORD.encode() not in arguments.read_bytes()
    with Subscriber(broker.endpoint, channel=None) as subscriber:
        for camera in cameras:
            eventually(lambda: f"admin:{_PASSWORD}".encode() in camera.credentials, within_s=20)  # noqa: B023
        assert _PASSWORD.encode() not in arguments.read_bytes()
        eventually(lambda: process.said("404") or process.status is not None)
        assert _PASSWORD not in repr(subscriber.cameras())
    process.end()
    said = "\n".join([*process.err, *process.out])
    assert said
    assert _PASSWORD not in said


def test_no_repr_shows_a_sources_credentials() -> None:
    address = parse_source(f"rtsp://admin:{_PASSWORD}@10.0.0.5/live?token={_PASSWORD}")
    with Publisher("a", bind="tcp://127.0.0.1:*", source=address.kind) as publisher:
        capture = Capture(address, publisher, Wanted(label="a"))
        for shown in (address, [address], publisher, capture, publisher.status()):
            assert _PASSWORD not in repr(shown)
            assert _PASSWORD not in str(shown)


_HERE: Final = ("--camera", "a", "--bind", "tcp://127.0.0.1:*")


@pytest.mark.parametrize(
    "address",
    [
        f"gopher://u:{_PASSWORD}@h/",
        f"rtsp://u:{_PASSWORD}@h:port/",
        f"rtsp://u:{_PASSWORD}@",
        f"rtsp://u:{_PASSWORD}/x@y#z?@h:port",
        f"RTSP://u:{_PASSWORD}@h:port",
        f"rtsp//admin:{_PASSWORD}@127.0.0.1/1",
        f"rtsp:/admin:{_PASSWORD}@127.0.0.1/1",
        f"admin:{_PASSWORD}@127.0.0.1",
    ],
)
@pytest.mark.parametrize("option", ["SOURCE", "--low"])
def test_an_address_in_a_file_that_is_none_is_not_shown(
    command: Callable[..., Any], tmp_path: Path, address: str, option: str
) -> None:
    file = tmp_path / "address"
    file.write_text(address)
    options = [f"@{file}"] if option == "SOURCE" else ["test://", "--low", f"@{file}"]
    status, said = command("publish", *options, *_HERE)
    assert status in (1, 2)
    assert len(said.splitlines()) == 1
    assert _PASSWORD not in said


@pytest.mark.parametrize("option", ["SOURCE", "--low"])
@pytest.mark.parametrize(
    ("content", "says"),
    [
        (None, "cannot be read: No such file"),
        (b"", "first line is empty"),
        (b"\n" + _PASSWORD.encode(), "first line is empty"),
        (b"\xff\xfe" + _PASSWORD.encode(), "it is no text"),
    ],
)
def test_a_file_for_an_address_that_has_none(
    command: Callable[..., Any], tmp_path: Path, content: bytes | None, says: str, option: str
) -> None:
    file = tmp_path / "address"
    if content is not None:
        file.write_bytes(content)
    options = [f"@{file}"] if option == "SOURCE" else ["test://", "--low", f"@{file}"]
    status, said = command("publish", *options, *_HERE)
    assert status == 2
    assert len(said.splitlines()) == 1
    assert option in said
    assert str(file) in said
    assert says in said
    assert _PASSWORD not in said


def test_an_address_where_a_file_was_meant_is_not_shown(command: Callable[..., Any]) -> None:
    status, said = command("publish", f"@rtsp://admin:{_PASSWORD}@127.0.0.1/1", *_HERE)
    assert status == 2
    assert _PASSWORD not in said


# Of keys


@pytest.fixture
def keys(tmp_path: Path) -> KeyFolder:
    folder = KeyFolder.make(tmp_path / "keys")
    for name in ("broker", "lobby", "viewer"):
        folder.new(name)
    return folder


def _secrets(keys: KeyFolder) -> list[str]:
    return [keys.pair(name).secret.decode() for name in keys.secrets()]


def test_no_log_repr_or_status_shows_a_secret_key(
    keys: KeyFolder,
    tmp_path: Path,
    start_broker: Any,
    feed: Any,
    eventually: Any,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    caplog.set_level(logging.DEBUG)
    secrets = _secrets(keys)
    file = tmp_path / "broker.toml"
    file.write_text(
        'keys = "keys"\nkey = "broker"\npublishers = ["tcp://127.0.0.1:*"]\n[[publisher]]\nkey = "lobby"\n'
        'cameras = ["a"]\n[[outlet]]\nname = "all"\nendpoint = "tcp://127.0.0.1:*"\nkeys = ["*"]\ncameras = ["*"]\n'
    )
    broker = start_broker(config=file)
    other = KeyFolder.make(tmp_path / "other")
    secrets.append(other.new("stranger").secret.decode())
    mine: dict[str, Any] = {"keys": keys.path, "key": "viewer"}
    with (
        Publisher("a", to=broker.to, keys=keys.path, key="lobby") as publisher,
        Publisher("b", bind="tcp://127.0.0.1:*", keys=keys.path, key="lobby") as bound,
        Subscriber(broker.endpoint, **mine) as subscriber,
        Subscriber(
            broker.endpoint, key=other.secret_file("stranger"), server_key=keys.public_file("broker")
        ) as stranger,
        Subscriber(broker.endpoint, **mine, server_key="lobby") as deceived,
    ):
        feed(publisher)
        subscriber.read(timeout=10)
        eventually(lambda: stranger.troubles() and deceived.troubles())
        file.write_text(file.read_text() + "colour = 3\n")
        keys.revoke("viewer")
        broker.broker.reload()
        eventually(lambda: subscriber.troubles() and "nothing is changed" in caplog.text)
        shown = [
            publisher,
            bound,
            subscriber,
            stranger,
            broker.broker,
            broker,
            keys,
            keys.contents(),
            publisher.status(),
        ]
        shown += [keys.pair("broker"), server_keys(key="broker", keys=keys.path)]
        shown += [client_keys(key="lobby", keys=keys.path), stranger.troubles(), deceived.troubles()]
        shown += [subscriber.cameras(), broker.broker.counts()]
    texts = [caplog.text, *capfd.readouterr(), *map(repr, shown), *map(str, shown)]
    assert [secret for secret in secrets for text in texts if secret in text] == []


@pytest.mark.parametrize(
    "options",
    [
        ["ls", "--key", "{secret}", "--keys", "{keys}"],
        ["ls", "--server-key", "{secret}", "--keys", "{keys}", "--key", "viewer"],
        ["ls", "--key", "{secret}", "--server-key", "{secret}"],
        ["broker", "--key", "{secret}", "--keys", "{keys}"],
        [
            "broker",
            "--keys",
            "{keys}",
            "--key",
            "broker",
            "--upstream",
            "tcp://127.0.0.1:1",
            "--server-key",
            "{secret}",
        ],
        ["keys", "new", "{secret}", "--keys", "{keys}"],
        ["keys", "show", "{secret}", "--keys", "{keys}"],
        ["keys", "revoke", "{secret}", "--keys", "{keys}"],
        ["broker", "--config", "{config}", "--check-config"],
        ["ls", "--keys", "{secret}"],
    ],
    ids=" ".join,
)
def test_a_secret_key_in_the_wrong_place_is_not_shown(
    command: Callable[..., Any], keys: KeyFolder, tmp_path: Path, options: list[str]
) -> None:
    secret = _awkward()
    config = tmp_path / "broker.toml"
    config.write_text(f"keys = 'keys'\n[[outlet]]\nname = 'a'\nendpoint = 'tcp://*:1'\nkeys = ['{secret}']\n")
    status, said = command(*(option.format(secret=secret, keys=keys.path, config=config) for option in options))
    assert status == 2
    assert len(said.splitlines()) == 1
    assert secret not in said
    assert secret[:20] not in said


def _awkward() -> str:
    """A secret key that stands in TOML and is a file's name."""
    while True:
        secret = zmq.curve_keypair()[1].decode()
        if not {"'", "/"} & set(secret) and re.search(r"[^\w.-]", secret):
            return secret


@pytest.mark.parametrize("place", ["keys", "key", "outlet", "publisher", "upstream"])
def test_a_secret_key_in_a_file_is_not_shown(tmp_path: Path, place: str) -> None:
    secret = _awkward()
    values = dict.fromkeys(("keys", "key", "outlet", "publisher", "upstream"), "name") | {place: secret}
    file = tmp_path / "broker.toml"
    file.write_text(
        "keys = '{keys}'\nkey = '{key}'\n[[publisher]]\nkey = '{publisher}'\ncameras = ['a']\n"
        "[[outlet]]\nname = 'all'\nendpoint = 'tcp://127.0.0.1:*'\nkeys = ['{outlet}']\ncameras = ['*']\n"
        "[[upstream]]\nendpoint = 'tcp://127.0.0.1:1'\nserver_key = '{upstream}'\ncameras = ['*']\n".format(**values)
    )
    for make in (read_config, lambda path: Broker(config=path)):
        with pytest.raises(ConfigError) as caught:
            make(file)
        for error in (caught.value, caught.value.__cause__):
            assert secret not in f"{error!r} {error} {getattr(error, 'value', '')}"


def test_a_damaged_secret_file_is_not_shown(keys: KeyFolder) -> None:
    path = keys.secret_file("lobby")
    secret = keys.pair("lobby").secret.decode()
    text = path.read_text()
    for damaged in (
        text.replace('secret-key = "', 'secret-key = "x'),
        text.replace("secret-key", "sekret-key"),
        text.replace("curve\n", "metadata\n"),
        text.replace(secret, secret[:-1]),
        text.replace(secret, secret[:-1] + "\u00fc"),
        text + text,
    ):
        path.write_text(damaged)
        with pytest.raises(ConfigError) as caught:
            client_keys(key="lobby", keys=keys.path)
        assert secret[:-1] not in f"{caught.value!r} {caught.value} {caught.value.__cause__!r}"
