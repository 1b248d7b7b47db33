"""Attacks from outside on who may say and see what, with real sockets and keys, beside a camera that loses no frame."""

from __future__ import annotations

import contextlib
import itertools
import logging
import secrets
import shutil
import socket
import struct
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import cv2
import numpy as np
import pytest
import zmq
from zmq.utils import z85

from camfabric.common import wire
from camfabric.common.frame import Codec, Frame
from camfabric.common.keys import KeyFolder
from camfabric.common.settings import LIMITS
from camfabric.common.status import OFFLINE, Status, pack_status
from camfabric.common.topics import request_topic, topic
from camfabric.publisher import Publisher
from camfabric.subscriber import Subscriber

from .attacker import (
    ANY,
    GREETING,
    Curve,
    Honest,
    Proxy,
    Raw,
    bare,
    command,
    forget_peak,
    gather,
    heard,
    memory_bytes,
    peer,
    prop,
    ready,
    said,
)

_CONFIG: Final = f"""
keys = "keys"
publishers = ["{ANY}"]
[[publisher]]
key = "lobby"
cameras = ["cctv/lobby"]
[[publisher]]
key = "vault"
cameras = ["cctv/vault"]
[[publisher]]
key = "mallory"
cameras = ["mallory"]
[[outlet]]
name = "guard"
endpoint = "{ANY}"
keys = ["guard"]
cameras = ["*"]
[[outlet]]
name = "visitor"
endpoint = "{ANY}"
keys = ["visitor", "mallory"]
cameras = ["cctv/lobby"]
"""
_LOBBY: Final = "cctv/lobby"
_VAULT: Final = "cctv/vault"


class Site:
    """A broker with keys and permissions: `guard` sees all, `visitor` the lobby; `mallory` is the attacker's key."""

    def __init__(self, path: Path, start_broker: Any) -> None:
        self.folder = KeyFolder.make(path / "keys")
        self.pairs = {name: self.folder.new(name) for name in ("broker", "lobby", "vault", "mallory", "guard")}
        self.pairs["visitor"] = self.folder.new("visitor")
        config = path / "broker.toml"
        config.write_text(_CONFIG)
        self.running = start_broker(config=config)
        self.to: str = self.running.to
        self.guard, self.visitor = self.running.broker.subscribers
        self.server = self.pairs["broker"].public

    def honest(self) -> Honest:
        """The lobby's camera, and the guard."""
        return Honest(self.to, self.guard, _LOBBY, folder=self.folder)

    def counts(self, reason: str) -> int:
        """How often the broker has refused something for a reason."""
        count: int = self.running.broker.counts().get(reason, 0)
        return count

    def peer(self, context: Any, kind: int, endpoint: str, name: str) -> Any:
        """A bare socket with somebody's key."""
        return peer(context, kind, endpoint, self.pairs[name], self.server)

    def by_hand(self, endpoint: str, name: str, kind: bytes, *properties: bytes) -> Curve:
        """A peer that says whatever it likes, with somebody's key."""
        return Curve(endpoint, self.pairs[name], self.server, kind, *properties)

    def copy(self, name: str, path: Path) -> dict[str, Any]:
        """The arguments of somebody who has a key's files, and no folder that says that it is revoked."""
        copies = {"key": path / "copied.key_secret", "server_key": path / "server.key"}
        shutil.copy(self.folder.secret_file(name), copies["key"])
        copies["key"].chmod(0o600)
        shutil.copy(self.folder.public_file("broker"), copies["server_key"])
        return copies


@pytest.fixture
def site(tmp_path: Path, start_broker: Any) -> Site:
    """A site, running."""
    return Site(tmp_path, start_broker)


def _frame(camera: str, *, epoch: int = 1, seq: int = 0, **fields: Any) -> list[bytes]:
    frame = Frame(camera=camera, codec=Codec.JPEG, width=8, height=8, epoch=epoch, seq=seq, **fields)
    return [topic("cam", camera), wire.pack_header(frame), b"forged"]


# Who may connect


def test_without_a_key_nobody_gets_in(site: Site, feed: Any) -> None:
    with (
        site.honest() as honest,
        Publisher(_LOBBY, to=site.to, codec="raw") as publisher,
        Subscriber(site.guard) as guard,
        Subscriber(site.visitor) as visitor,
    ):
        feed(publisher)
        honest.more(15)
        assert not guard.cameras()
        assert not visitor.cameras()
        assert not publisher.watched


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(GREETING.replace(b"NULL\0", b"CURVE"), id="another mechanism"),
        pytest.param(GREETING + command(b"zz"), id="no command"),
        pytest.param(GREETING + ready(b"REP"), id="another kind"),
    ],
)
def test_whoever_met_something_else_at_the_port_says_so_and_tries_again(answer: bytes, eventually: Any) -> None:
    with socket.create_server(("127.0.0.1", 0)) as impostor:
        impostor.settimeout(1.5)
        with Subscriber(f"tcp://127.0.0.1:{impostor.getsockname()[1]}") as subscriber:
            for _ in range(3):
                with impostor.accept()[0] as connection:
                    connection.settimeout(3)
                    with contextlib.suppress(OSError):
                        connection.sendall(answer)
                        while connection.recv(1000):
                            pass
            eventually(subscriber.troubles)


def test_a_client_says_so_where_the_server_has_another_key(site: Site, feed: Any, eventually: Any) -> None:
    keys: dict[str, Any] = {"keys": site.folder.path, "server_key": "vault"}
    with (
        site.honest(),
        Subscriber(site.guard, key="guard", **keys) as subscriber,
        Publisher(_LOBBY, to=site.to, key="lobby", **keys) as publisher,
    ):
        feed(publisher)
        eventually(lambda: any("another key than --server-key" in line for line in subscriber.troubles()))
        assert not subscriber.cameras()
        assert not publisher.watched


def test_a_key_that_is_revoked_loses_its_connection_and_is_refused(
    site: Site, tmp_path: Path, eventually: Any, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    copies: dict[str, Any] = site.copy("visitor", tmp_path)
    with site.honest(), Subscriber(site.visitor, channel=None, **copies) as subscriber:
        eventually(subscriber.cameras)
        site.folder.revoke("visitor")
        eventually(lambda: any("refuses the key" in line for line in subscriber.troubles()), within_s=5)
        with Subscriber(site.visitor, **copies) as again:
            eventually(lambda: any("refuses the key" in line for line in again.troubles()))
            assert not again.cameras()
    assert "key visitor (revoked) is not admitted there" in caplog.text


def test_a_key_is_of_no_use_elsewhere(site: Site, eventually: Any) -> None:
    outlets = [(name, site.guard) for name in ("visitor", "lobby", "mallory")] + [("lobby", site.visitor)]
    with site.honest() as honest, bare() as context:
        strangers = [site.peer(context, zmq.XSUB, endpoint, name) for name, endpoint in outlets]
        forgers = [site.peer(context, zmq.XPUB, site.to, name) for name in ("guard", "visitor")]
        for stranger in strangers:
            stranger.send(b"\x01")
        eventually(lambda: site.counts("refused") == len(strangers) + len(forgers))
        for forger in forgers:
            forger.send_multipart(_frame(_LOBBY))
            forger.send_multipart([topic("status", "cctv/extra"), pack_status(Status(camera="cctv/extra"))])
        honest.more(4)
        assert not any(heard(each) for each in strangers + forgers)


_CURVE: Final = GREETING.replace(b"NULL\0", b"CURVE")
_WEAK: Final = {
    "ZMTP 1": b"\x01\x00\x04\x00\x01",
    "ZMTP 2": b"\xff" + bytes(8) + b"\x7f\x01\x02\x00\x00" + b"\x00\x01\x01",
    "NULL": GREETING + ready(b"SUB") + said(b"\x01"),
    "PLAIN": GREETING.replace(b"NULL\0", b"PLAIN") + command(b"\x05HELLO\x05admin\x05admin") + said(b"\x01"),
    "READY first": _CURVE + ready(b"SUB") + said(b"\x01"),
    "INITIATE first": _CURVE + command(b"\x08INITIATE" + bytes(200)) + said(b"\x01"),
    "HELLO of zeros": _CURVE + command(b"\x05HELLO\x01\x00" + bytes(160)) + said(b"\x01"),
    "no handshake": _CURVE + said(b"\x01"),
}


def test_an_older_or_weaker_handshake_gives_nothing(site: Site, eventually: Any) -> None:
    with site.honest() as honest, contextlib.ExitStack() as stack:
        open_: dict[tuple[str, str], Raw] = {}
        for name, greeting in _WEAK.items():
            for endpoint in (site.guard, site.visitor, site.to):
                raw = open_[name, endpoint] = stack.enter_context(Raw(endpoint))
                raw.send(greeting)
        eventually(lambda: all(raw.is_closed() for raw in open_.values()))
        honest.more(2)
        for where, raw in open_.items():
            # A greeting at most, and what tells a client that it is refused.
            assert len(raw.got) < 64 + 1 + 200, where
            assert not any(word in raw.got for word in (b"cam/", b"status", b"cctv", b"READY")), where


# Who may say what


def _forgeries(epoch: int) -> Iterator[list[bytes]]:
    for camera in (_LOBBY, _VAULT, "cctv/extra"):
        for of in (epoch, 7):
            yield _frame(camera, epoch=of, seq=10_000)
            yield [topic("low", camera), *_frame(camera, epoch=of)[1:]]
            for state in ("live", OFFLINE):
                status = Status(camera=camera, state=state, epoch=of, uptime_ms=0)
                yield [topic("status", camera), pack_status(status)]
        yield wire.pack_replay(request_topic("replay", "00ff", f"cam/{camera}"), [])
        yield [topic("clock/00ff", camera), wire.pack_clock(wire.ClockAnswer(epoch, 1, 2))]
        yield [topic("status", f"mallory/../{camera}"), pack_status(Status(camera=camera))]


def test_a_forged_name_is_dropped_counted_and_logged_with_the_keys_name(
    site: Site, eventually: Any, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    with site.honest() as honest, bare() as context, site.by_hand(site.to, "mallory", b"XPUB") as forger:
        everything = site.peer(context, zmq.SUB, site.guard, "guard")
        everything.subscribe(b"")
        eventually(lambda: everything.poll(0))
        forger.wait()
        count = 0
        for forgery in _forgeries(honest.publisher.epoch):
            forger.send(*forgery)
            count += 1
        own = [topic("status", "mallory"), pack_status(Status(camera="mallory", epoch=9))]
        forger.send(*own)
        got: list[list[bytes]] = []
        eventually(lambda: own[0] in [parts[0] for parts in gather(everything, got)])
        assert site.counts("permission") + site.counts("topic") == count
        names = {parts[0] for parts in got if not parts[0].startswith((b"broker/", b"clock/", b"replay/"))}
        assert names <= {own[0], *(topic(channel, _LOBBY) for channel in ("cam", "low", "status"))}
        assert b"forged" not in [parts[-1] for parts in got]
        honest.more(2)
        status = honest.subscriber.cameras()[_LOBBY]
        assert (status.state, status.epoch, status.rivals) == ("live", honest.publisher.epoch, 0)
    assert "from key mallory at 127.0.0.1" in caplog.text
    assert "it may not publish cctv/lobby" in caplog.text


def test_nobody_answers_for_anothers_camera(site: Site, eventually: Any) -> None:
    with site.honest() as honest, bare() as context, site.by_hand(site.to, "mallory", b"XPUB") as forger:
        forger.wait()
        guard = site.peer(context, zmq.XSUB, site.guard, "guard")
        clocks = [request_topic("clock", secrets.token_hex(8), name) for name in (_LOBBY, "cctv", "") for _ in range(3)]
        replays = [request_topic("replay", secrets.token_hex(8), f"{way}/{_VAULT}") for way in ("cam", "low")]
        forged = wire.pack_clock(wire.ClockAnswer(honest.publisher.epoch, 1, 2))
        frames = [(wire.pack_header(Frame(camera=_VAULT, codec=Codec.JPEG, width=8, height=8)), b"forged")]
        for each in clocks + replays:
            guard.send(b"\x01" + each)
        # He knows what was asked, whether he was asked or not.
        for each in clocks:
            forger.send(b"/".join(each.split(b"/")[:2]) + topic("", _LOBBY), forged)
        for each in replays:
            forger.send(*wire.pack_replay(each, frames))
        eventually(lambda: site.counts("permission") == len(clocks) + len(replays))
        got: list[list[bytes]] = []
        answers = {b"/".join(each.split(b"/")[:2]) + topic("", _LOBBY) for each in clocks}
        eventually(lambda: answers <= {parts[0] for parts in gather(guard, got)})
        assert forged not in [parts[1] for parts in got]
        assert {parts[0] for parts in got} == answers


def test_a_publisher_that_says_that_it_is_a_broker_is_not_believed(site: Site, eventually: Any) -> None:
    with site.honest(), site.by_hand(site.to, "mallory", b"XPUB") as forger:
        forger.wait()
        for name in (site.running.broker.id, "0" * 16):
            forger.send(topic("broker", name), wire.pack_map({"v": 1, "hops": 0}))
        eventually(lambda: site.counts("announcement") == 2)
        with Subscriber(site.guard, channel=None, keys=site.folder.path, key="guard") as guard:
            eventually(lambda: guard.brokers() == 1)


@pytest.mark.parametrize("way", ["outlet", "publisher"])
def test_what_is_sent_upstream_goes_nowhere(site: Site, eventually: Any, way: str) -> None:
    bind = way == "publisher"
    status = [topic("status", _LOBBY), pack_status(Status(camera=_LOBBY, state=OFFLINE, epoch=1))]
    with Honest(site.to, site.guard, _LOBBY, folder=site.folder, bind=bind) as honest, bare() as context:
        endpoint = honest.endpoint if bind else site.visitor
        evil = site.peer(context, zmq.XSUB, endpoint, "visitor")
        everything = site.peer(context, zmq.SUB, endpoint, "visitor")
        everything.subscribe(b"")
        eventually(lambda: everything.poll(0))
        for _ in range(20):
            for message in (
                _frame(_LOBBY),
                _frame("cctv/extra"),
                status,
                [b""],
                [b"\x02x"],
                [b"x", b"\x00", b"\x00cam/"],
            ):
                evil.send_multipart(message)
            evil.send_multipart([b"\xff" * 300])
        honest.more(6)
        names = {parts[0] for parts in heard(everything)}
        assert {name for name in names if not name.startswith((b"broker/", b"clock/", b"replay/"))} == {
            topic(channel, _LOBBY) for channel in ("cam", "low", "status")
        }
        if not bind:
            assert site.counts("parts") >= 20


def test_a_visitor_gets_nothing_of_the_vault_whatever_it_says(site: Site, feed: Any, eventually: Any) -> None:
    with (
        site.honest() as honest,
        Publisher(_VAULT, to=site.to, codec="raw", keys=site.folder.path, key="vault") as vault,
        bare() as context,
    ):
        feed(vault, fps=30)
        visitor = site.peer(context, zmq.XSUB, site.visitor, "visitor")
        prefixes = [
            b"",
            b"c",
            b"cam",
            b"cam/",
            b"cam/cctv/",
            topic("cam", _VAULT),
            b"cam/cctv/v",
            b"low/",
            b"shm/",
            b"s",
        ]
        prefixes += [topic("low", _VAULT), topic("status", _VAULT), b"status/", b"broker/", b"clock/", b"replay/"]
        prefixes += [request_topic("replay", secrets.token_hex(8), f"{channel}/{_VAULT}") for channel in ("cam", "low")]
        prefixes += [request_topic("clock", secrets.token_hex(8), name) for name in ("", "cctv", _VAULT)]
        for prefix in prefixes:
            visitor.send(b"\x01" + prefix)
        visitor.send(b"\x01" + topic("cam", _LOBBY))
        eventually(lambda: visitor.poll(0))
        honest.more(6)
        assert not vault.watched
        with Subscriber(site.guard, cameras=_VAULT, keys=site.folder.path, key="guard", decode=False) as guard:
            assert guard.read(timeout=5).camera == _VAULT
            got = heard(visitor)
            honest.more(10)
            got += heard(visitor)
        assert len(got) > 10
        assert not any(b"vault" in part for parts in got for part in parts)


def test_who_somebody_is_is_not_for_himself_to_say(
    site: Site, eventually: Any, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    claims = [
        prop(b"User-Id", site.pairs["lobby"].public),
        prop(b"__fd", b"9"),
        prop(b"Peer-Address", b"10.1.1.1"),
        prop(b"Identity", b"x" * 200),
    ]
    with site.honest() as honest, site.by_hand(site.to, "mallory", b"XPUB", *claims) as forger:
        forger.wait().send(*_frame(_LOBBY, epoch=honest.publisher.epoch, seq=1 << 40))
        eventually(lambda: site.counts("permission") == 1)
        assert "from key mallory at 127.0.0.1" in caplog.text


def test_nobody_but_its_holder_takes_a_subscription_back(site: Site) -> None:
    with (
        site.honest() as honest,
        Subscriber(site.visitor, keys=site.folder.path, key="visitor", mode="every", decode=False) as visitor,
        site.by_hand(site.visitor, "mallory", b"SUB") as evil,
    ):
        evil.wait()
        visitor.read(timeout=5)
        for _ in range(10):
            for prefix in (topic("cam", _LOBBY), topic("status"), b"cam/", b"", topic("status", _LOBBY)):
                evil.send(b"\x00" + prefix)
            honest.more(1)
        assert sum(visitor.read(timeout=5).missed for _ in range(10)) == 0


# Old messages, and no messages at all


def test_what_was_recorded_of_an_ended_epoch_does_not_displace_the_living(start_broker: Any, eventually: Any) -> None:
    broker = start_broker()
    image = np.zeros((24, 32, 3), np.uint8)
    with bare() as context:
        recorder = peer(context, zmq.SUB, broker.endpoint)
        recorder.subscribe(topic("cam", _LOBBY))
        recorder.subscribe(topic("status", _LOBBY))
        record: list[list[bytes]] = []
        with Publisher(_LOBBY, to=broker.to, codec="raw") as old:
            ended = old.epoch

            def enough() -> bool:
                old.send(image)
                record.extend(heard(recorder))
                return len({parts[0] for parts in record}) == 2 and len(record) > 20

            eventually(enough, every_s=0.02)
        eventually(lambda: gather(recorder, record)[-1][0].startswith(b"status/"))
        recorder.close(0)
        # Until then the broker hands out the last picture that it has kept for the recorder.
        eventually(lambda: not broker.broker._ports.outlets[0].subscriptions)
        with Honest(broker.to, broker.endpoint, _LOBBY) as honest:
            evil = peer(context, zmq.XPUB, broker.to)
            eventually(lambda: [b"\x01cam/cctv/lobby/"] in heard(evil))
            for _ in range(10):
                for parts in record:
                    evil.send_multipart(parts)
                honest.more(2)
            status = honest.subscriber.cameras()[_LOBBY]
            assert honest.publisher.epoch != ended
            assert (status.state, status.epoch) == ("live", honest.publisher.epoch)


_RAW: Final = {
    "http": b"GET / HTTP/1.1\r\nHost: camera\r\n\r\n",
    "tls": bytes.fromhex("16030100f1010000ed0303") + bytes(range(240)),
    "zeros": bytes(70_000),
    "ones": b"\xff" * 70_000,
    "ssh": b"SSH-2.0-OpenSSH_9.6\r\n",
    "noise": np.random.default_rng(4).bytes(70_000),
    "long": GREETING + b"\x06" + b"\x7f" + b"\xff" * 7 + b"READY",
    "part": GREETING + ready(b"SUB") + b"\x02" + b"\xff" * 8,
    "nothing": b"",
}


@pytest.mark.parametrize("keyed", [False, True], ids=["plain", "keys"])
def test_raw_bytes_on_each_port_harm_nobody(tmp_path: Path, start_broker: Any, keyed: bool, eventually: Any) -> None:
    folder = KeyFolder.make(tmp_path / "keys") if keyed else None
    if folder is not None:
        for name in ("broker", "lobby", "guard"):
            folder.new(name)
    keys = {} if folder is None else {"keys": folder.path}
    broker = start_broker(**keys)
    with (
        Honest(broker.to, broker.endpoint, folder=folder),
        Honest("", "", "cctv/bound", folder=folder, bind=True) as bound,
        contextlib.ExitStack() as stack,
    ):
        open_: list[Raw] = []
        for data, endpoint in itertools.product(_RAW.values(), (broker.to, broker.endpoint, bound.endpoint)):
            raw = stack.enter_context(Raw(endpoint))
            raw.send(data)
            if data:
                open_.append(raw)
        # Without keys, what is no greeting may be the length of a message of ZMTP 1.
        eventually(lambda: sum(raw.is_closed() for raw in open_) >= (len(open_) if keyed else len(open_) // 3))
        assert not keyed or all(b"cctv" not in raw.got for raw in open_)


# Pictures


def _jpeg(side: int) -> bytes:
    data = bytearray(cv2.imencode(".jpg", np.zeros((16, 16, 3), np.uint8))[1].tobytes())
    at = data.index(b"\xff\xc0")
    data[at + 5 : at + 9] = struct.pack(">HH", side, side)
    return bytes(data)


def _bits(text: str) -> bytes:
    text += "0" * (-len(text) % 8)
    return int(text, 2).to_bytes(len(text) // 8, "big")


def _golomb(number: int) -> str:
    code = f"{number + 1:b}"
    return "0" * (len(code) - 1) + code


def _h264(side: int) -> bytes:
    blocks = _golomb(side // 16 - 1)
    sps = (
        f"{66:08b}{0:08b}{51:08b}" + "1" + "1" + _golomb(0) + _golomb(2) + _golomb(1) + "0" + blocks * 2 + "1100" + "1"
    )
    pps = "11" + "00" + _golomb(0) * 3 + "000" + _golomb(0) * 3 + "000" + "1"
    start = b"\0\0\0\1"
    return start + b"\x67" + _bits(sps) + start + b"\x68" + _bits(pps) + start + b"\x65\x88\x84" + bytes(range(1, 200))


def _bombs() -> Iterator[tuple[Frame, bytes]]:
    for width, height in ((65_500, 65_500), (8208, 8208), (64, 48)):
        for codec, payload in (
            (Codec.JPEG, _jpeg(65_500)),
            (Codec.JPEG, _jpeg(8208)),
            (Codec.H264, _h264(65_520)),
            (Codec.H264, _h264(16_384)),
            (Codec.RAW, b"x" * 1000),
        ):
            yield Frame(camera="a", codec=codec, width=width, height=height, keyframe=True), payload


def test_a_picture_that_says_it_is_huge_takes_no_memory(start_broker: Any, eventually: Any) -> None:
    broker = start_broker()
    unlimited = replace(LIMITS, pixels=1 << 33)
    with Honest(broker.to, broker.endpoint), bare() as context:
        with Subscriber(broker.endpoint, cameras="bomb", mode="every") as victim:
            evil = peer(context, zmq.XPUB, broker.to)
            eventually(lambda: [b"\x01cam/bomb/"] in heard(evil))
            before = forget_peak()
            count = 0
            for number, (frame, payload) in enumerate(_bombs()):
                name = f"bomb/{number}"
                status = Status(camera=name, epoch=5)
                bomb = replace(frame, camera=name, epoch=5)
                # Meta says what it likes.
                header = _header(bomb, unlimited)
                evil.send_multipart([topic("status", name), pack_status(status)])
                evil.send_multipart([topic("cam", name), header, payload])
                count += 1
            last = replace(Frame(camera="bomb/last", codec=Codec.JPEG), epoch=5, width=16, height=16)
            picture = cv2.imencode(".jpg", np.zeros((16, 16, 3), np.uint8))[1].tobytes()
            evil.send_multipart([topic("cam", "bomb/last"), wire.pack_header(last), picture])
            assert victim.read(timeout=10).camera == "bomb/last"
            counts = victim.counts()
        refused = sum(counts.values()) + sum(broker.broker.counts().values())
        assert refused >= count - 4, (counts, broker.broker.counts())
        assert memory_bytes(peak=True) - before < 300e6, (memory_bytes(peak=True) - before) / 1e6


def _header(frame: Frame, limits: Any) -> bytes:
    """A header whatever it says: made of a small one where the fabric would not make it."""
    try:
        return wire.pack_header(frame, limits=limits)
    except Exception:
        small = wire.pack_header(replace(frame, width=0x1234, height=0x2345))
        found = small.replace(struct.pack("<II", 0x1234, 0x2345), struct.pack("<II", frame.width, frame.height))
        assert found != small
        return found


# What is seen on the way


@pytest.mark.parametrize("keyed", [True, False], ids=["keys", "plain"])
def test_a_link_with_keys_shows_neither_pictures_nor_names(
    tmp_path: Path, start_broker: Any, keyed: bool, eventually: Any
) -> None:
    folder = KeyFolder.make(tmp_path / "keys")
    pairs = {name: folder.new(name) for name in ("broker", "lobby", "guard")}
    keys: dict[str, Any] = {"keys": folder.path} if keyed else {}
    broker = start_broker(**keys)
    noise = np.random.default_rng(1).integers(0, 255, (48, 64, 3)).astype(np.uint8)
    with (
        Honest(broker.to, broker.endpoint, "yard/gate", folder=folder if keyed else None),
        Proxy(broker.to) as inward,
        Proxy(broker.endpoint) as outward,
        Publisher(_LOBBY, to=inward.endpoint, codec="jpeg", **(keys and {**keys, "key": "lobby"})) as publisher,
        Subscriber(
            outward.endpoint, cameras=_LOBBY, decode=False, mode="every", **(keys and {**keys, "key": "guard"})
        ) as subscriber,
    ):
        eventually(lambda: publisher.watched)
        publisher.send(noise, extra={"zone": "strongroom"})
        payload = bytes(subscriber.read(timeout=5).payload or b"")
        eventually(subscriber.cameras)
        records = [bytes(inward.record), bytes(outward.record)]
    assert payload[6:10] == b"JFIF"
    pieces = [payload[place : place + 16] for place in range(0, len(payload) - 16, 16)]
    words = [b"cctv", b"lobby", b"cam/", b"status/", b"live", b"strongroom", b"JFIF", b"JPEG", b"epoch", *pieces]
    words += [z85.decode(pairs[name].public) for name in ("lobby", "guard", "broker")]
    words += [pair.secret for pair in pairs.values()] + [z85.decode(pair.secret) for pair in pairs.values()]
    for record in records:
        assert len(record) > len(payload)
        found = [word for word in words if word in record]
        if keyed:
            assert not found
            assert b"CURVE" in record
        else:
            assert {b"lobby", b"cam/", b"status/", b"strongroom", b"JFIF", *pieces} <= set(found)


def test_the_picture_makers_here_make_what_they_say() -> None:
    decoded: Any = cv2.imdecode(np.frombuffer(_jpeg(16), np.uint8), cv2.IMREAD_COLOR)
    assert decoded.shape == (16, 16, 3)
    import av

    context: Any = av.CodecContext.create("h264", "r")
    with contextlib.suppress(av.error.InvalidDataError):
        context.decode(av.Packet(_h264(1024)))
    assert (context.width, context.height) == (1024, 1024)
