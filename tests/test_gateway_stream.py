"""The gateway's WebSocket, with real sockets, cameras and codecs: what a page gets, and what it may not do."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import re
import socket
import struct
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np
import pytest

from camfabric.common.codecs import VideoDecoder, decode
from camfabric.common.frame import Codec, Frame
from camfabric.gateway.settings import WEB_LIMITS, WEB_TIMES
from camfabric.publisher import Publisher

from .conftest import Eventually, RunningBroker, StartBroker, StartGateway, StartProcess
from .visitor import Picture, Visitor, run, visit


@pytest.fixture
def broker(start_broker: StartBroker) -> RunningBroker:
    """A broker."""
    return start_broker()


@pytest.fixture
def publish(broker: RunningBroker, feed: Callable[..., Any]) -> Iterator[Callable[..., Publisher]]:
    """Publish a camera of pictures that differ."""
    publishers: list[Publisher] = []

    def start(camera: str, *, fps: float = 40, make: Callable[[int], Any] | None = None, **settings: Any) -> Publisher:
        publishers.append(Publisher(camera, to=broker.to, **settings))
        feed(publishers[-1], fps=fps, **({} if make is None else {"make": make}))
        return publishers[-1]

    yield start
    for publisher in publishers:
        publisher.close()


def _as_frame(picture: Picture) -> Frame:
    return Frame(
        camera="x",
        codec=picture.codec,
        width=picture.width,
        height=picture.height,
        keyframe=picture.keyframe,
        epoch=1,
        seq=picture.seq,
        payload=picture.payload,
    )


def test_a_page_is_greeted_and_told_of_all_cameras(
    broker: RunningBroker, publish: Callable[..., Publisher], start_gateway: StartGateway
) -> None:
    publish("cctv/lobby")
    publish("Tür/β")
    url = start_gateway(broker.endpoint).url

    async def work() -> None:
        async with visit(url) as visitor:
            await visitor.text("cameras")
            hello, cameras, *_ = visitor.texts
            assert (hello["type"], hello["v"], hello["user"]) == ("hello", 1, None)
            assert hello["server"].startswith("camfabric ")
            assert abs(hello["now_ms"] / 1000 - time.time()) < 5
            names = {camera["name"] for camera in cameras["cameras"]}
            while names != {"cctv/lobby", "Tür/β"}:
                status = await visitor.text("status", lambda message: message["cameras"])
                visitor.texts.remove(status)
                names |= {camera["name"] for camera in status["cameras"]}
            live = await visitor.text("status", lambda message: [c for c in message["cameras"] if c["width"]])
            (camera, *_) = [camera for camera in live["cameras"] if camera["width"]]
            assert (camera["state"], camera["codec"], camera["low"]) == ("live", "jpeg", True)
            assert (camera["width"], camera["height"]) == (64, 48)
            assert camera["since_ms"] >= 0

    run(work)


def test_a_page_that_says_nothing_hears_something_now_and_then(
    broker: RunningBroker, start_gateway: StartGateway
) -> None:
    url = start_gateway(broker.endpoint).url

    async def work() -> None:
        async with visit(url) as visitor:
            status = await visitor.text("status")
            assert status["cameras"] == status["gone"] == []

    run(work)


def test_pictures_come_as_they_are_and_their_own(
    broker: RunningBroker, publish: Callable[..., Publisher], start_gateway: StartGateway
) -> None:
    publish("a")
    publish("b", make=lambda number: np.full((96, 128, 3), number % 256, np.uint8))
    url = start_gateway(broker.endpoint).url

    async def work() -> None:
        async with visit(url) as visitor:
            await visitor.watch((3, "a", "cam", "any"), (500, "b", "cam", "jpeg"), (7, "b", "low", "any"))
            pictures = [await visitor.picture() for _ in range(60)]
            by_stream = {number: [p for p in pictures if p.stream == number] for number in (3, 500, 7)}
            assert all(len(found) > 3 for found in by_stream.values())
            assert [picture.n for picture in pictures] == list(range(1, 61))
            for number, size in ((3, (64, 48)), (500, (128, 96)), (7, (128, 96))):
                for place, picture in enumerate(by_stream[number]):
                    assert (picture.codec, picture.keyframe) == (Codec.JPEG, True)
                    assert (picture.width, picture.height) == size
                    assert picture.discontinuity == (place == 0)
                    assert decode(_as_frame(picture)).shape == (*size[::-1], 3)
                    assert picture.age_ms < 5000
                    assert abs(picture.time_us / 1e6 - time.time()) < 60
                seqs = [picture.seq for picture in by_stream[number]]
                assert seqs == sorted(set(seqs))
            # What is not said to be lost is there.
            last = by_stream[3][0].seq
            for picture in by_stream[3][1:]:
                assert picture.seq == last + 1 + picture.lost
                last = picture.seq

    run(work)


def test_a_late_joiner_of_a_video_has_all_since_the_only_keyframe(
    broker: RunningBroker, publish: Callable[..., Publisher], start_gateway: StartGateway
) -> None:
    pytest.importorskip("av")
    publish("v", codec="h264", gop=100_000)
    url = start_gateway(broker.endpoint).url

    async def decoded(visitor: Visitor, number: int) -> int:
        """The number of the first packet; all are decoded."""
        pictures = await visitor.pictures(40, of=number)
        for place, picture in enumerate(pictures):
            assert (picture.codec, picture.keyframe) == (Codec.H264, place == 0)
            assert picture.discontinuity == (place == 0)
            assert picture.seq == pictures[0].seq + place
        times = [picture.time_us for picture in pictures]
        assert times == sorted(set(times))
        decoder = VideoDecoder()
        assert sum(len(decoder.feed(_as_frame(picture))) for picture in pictures) == 40
        return pictures[0].seq

    async def work() -> None:
        async with visit(url) as early:
            await early.watch((1, "v", "cam", "any"))
            first = await decoded(early, 1)
            async with visit(url) as late:
                await late.watch((2, "v", "cam", "any"))
                assert await decoded(late, 2) == first
            # The same page once more, and with another number.
            await early.watch((9, "v", "cam", "any"))
            assert await decoded(early, 9) == first

    run(work)


def test_jpeg_is_made_of_video_and_of_raw_pictures(
    broker: RunningBroker, publish: Callable[..., Publisher], start_gateway: StartGateway
) -> None:
    pytest.importorskip("av")
    publish("v", codec="h264", gop=100_000)
    publish("raw", codec="raw")
    publish("thermal", codec="raw", make=lambda _: np.full((48, 64), 0x8000, np.uint16))
    url = start_gateway(broker.endpoint).url

    async def work() -> None:
        async with visit(url) as visitor:
            await visitor.watch((1, "v", "cam", "jpeg"), (2, "raw", "cam", "any"), (3, "thermal", "cam", "any"))
            for number in (1, 2, 3):
                (first, second) = await visitor.pictures(2, of=number)
                for picture in (first, second):
                    assert (picture.codec, picture.keyframe, picture.width, picture.height) == (
                        Codec.JPEG,
                        True,
                        64,
                        48,
                    )
                image = decode(_as_frame(second))
                assert image.shape[:2] == (48, 64)
                if number == 3:
                    assert abs(int(image.mean()) - 0x80) <= 1
                assert second.seq > first.seq
        # One who joins while it is being made has the last one at once; and the video as it is beside it.
        async with visit(url) as visitor, visit(url) as other:
            await visitor.watch((1, "v", "cam", "jpeg"), (2, "v", "cam", "any"))
            await other.watch((1, "v", "cam", "jpeg"))
            assert (await other.picture()).codec is Codec.JPEG
            codecs = {picture.stream: picture.codec for picture in await visitor.pictures(30)}
            assert codecs == {1: Codec.JPEG, 2: Codec.H264}

    run(work)


def test_what_nobody_watches_is_not_taken(
    broker: RunningBroker, publish: Callable[..., Publisher], start_gateway: StartGateway, eventually: Eventually
) -> None:
    one, two = publish("one"), publish("two")
    url = start_gateway(broker.endpoint).url

    async def work() -> None:
        async with visit(url) as visitor, visit(url) as other:
            await visitor.text("cameras")
            assert [one.watched, two.watched] == [False, False]
            await visitor.watch((1, "one", "cam", "any"), (2, "two", "cam", "any"))
            await other.watch((1, "one", "cam", "any"))
            await visitor.pictures(3, of=1)
            await visitor.pictures(3, of=2)
            assert [one.watched, two.watched] == [True, True]
            await visitor.watch((2, "two", "cam", "any"))
            await other.watch()
            await asyncio.to_thread(eventually, lambda: not one.watched)
            assert two.watched
            # What was under way has come by then.
            assert {picture.stream for picture in (await visitor.pictures(200))[-20:]} == {2}
            # And again.
            await other.watch((5, "one", "cam", "any"))
            await other.pictures(3, of=5)

    run(work)
    eventually(lambda: not one.watched and not two.watched)


def test_a_camera_that_ends_and_comes_back_is_told(
    broker: RunningBroker, publish: Callable[..., Publisher], start_gateway: StartGateway
) -> None:
    lobby = publish("lobby")
    url = start_gateway(broker.endpoint).url

    def has(state: str) -> Callable[[dict[str, Any]], bool]:
        return lambda message: any(c["name"] == "lobby" and c["state"] == state for c in message["cameras"])

    async def work() -> None:
        async with visit(url) as visitor:
            await visitor.watch((1, "lobby", "cam", "any"))
            before = await visitor.picture()
            await asyncio.to_thread(lobby.close, "it was taken down")
            status = await visitor.text("status", has("offline"))
            assert status["cameras"][0]["reason"] == "it was taken down"
            visitor.texts.clear()
            await asyncio.to_thread(publish, "lobby")
            after = await visitor.picture()
            while after.seq >= before.seq and not after.discontinuity:
                after = await visitor.picture()
            assert after.discontinuity
            await visitor.text("status", has("live"))

    run(work)


def test_a_broker_that_goes_and_comes_back_is_told(start_broker: StartBroker, start_gateway: StartGateway) -> None:
    broker = start_broker()
    gateway = start_gateway(broker.endpoint)

    async def health() -> tuple[int, str]:
        async with aiohttp.ClientSession() as session, session.get(f"{gateway.url}/healthz") as answer:
            return answer.status, await answer.text()

    async def work() -> None:
        async with visit(gateway.url) as visitor:
            await visitor.text("cameras")
            assert await health() == (200, "ok\n")
            await asyncio.to_thread(broker.stop)
            trouble = await visitor.text("trouble", lambda message: message["text"])
            assert broker.endpoint in trouble["text"]
            status, why = await health()
            assert status == 503
            assert broker.endpoint not in why
            visitor.texts.clear()
            await asyncio.to_thread(start_broker, publishers=[broker.to], subscribers=[broker.endpoint])
            await visitor.text("trouble", lambda message: not message["text"])
            assert await health() == (200, "ok\n")

    run(work)


def test_a_page_that_acknowledges_nothing_is_sent_no_more_than_a_window(
    broker: RunningBroker, publish: Callable[..., Publisher], start_gateway: StartGateway
) -> None:
    publish("a", fps=200)
    url = start_gateway(broker.endpoint).url

    async def work() -> None:
        async with visit(url) as visitor, visit(url) as other:
            visitor.acknowledges = False
            await visitor.watch((1, "a", "cam", "any"))
            await other.watch((1, "a", "cam", "any"))
            last = 0
            for _ in range(WEB_LIMITS.window_messages):
                picture = await visitor.picture()
                last = picture.n
                await other.picture()
            # Others go on; here nothing comes any more, and then the newest alone.
            for _ in range(50):
                newest = await other.picture()
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.3):
                    await visitor.picture()
            await visitor.say(type="ack", n=last)
            visitor.acknowledges = True
            picture = await visitor.picture()
            assert picture.n == last + 1
            assert picture.lost >= 40
            assert picture.seq >= newest.seq

    run(work)


def test_a_page_that_never_acknowledges_is_cut_off(
    broker: RunningBroker,
    publish: Callable[..., Publisher],
    start_gateway: StartGateway,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("camfabric.gateway.viewer.WEB_TIMES", type(WEB_TIMES)(stuck_s=0.5))
    publish("a", fps=200)
    url = start_gateway(broker.endpoint).url

    async def work() -> None:
        async with visit(url) as visitor, visit(url) as other, asyncio.timeout(10):
            visitor.acknowledges = False
            await visitor.watch((1, "a", "cam", "any"))
            await other.watch((1, "a", "cam", "any"))
            others = asyncio.create_task(other.closed())
            # It answers pings, and reads what it is sent.
            await visitor.closed()
            assert not others.done()
            others.cancel()

    run(work)


def test_a_page_that_resets_is_no_fault(
    broker: RunningBroker, start_gateway: StartGateway, caplog: pytest.LogCaptureFixture, eventually: Eventually
) -> None:
    gateway = start_gateway(broker.endpoint)
    hello = b'{"type":"hello","v":1}'
    for _ in range(5):
        connection = _upgraded(gateway.url)
        connection.sendall(bytes([0x81, 0x80 | len(hello)]) + bytes(4) + hello)
        # Pings, whose answers have nowhere to go.
        for _ in range(200):
            connection.sendall((bytes([0x89, 0x80 | 100]) + bytes(4) + bytes(100)) * 50)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        connection.close()

    run(lambda: _all_left(gateway.url))
    assert [record.getMessage() for record in caplog.records if record.levelname == "ERROR"] == []


def _noise(number: int) -> Any:
    """A picture of 100 kB."""
    return np.random.default_rng(number % 8).integers(0, 255, (360, 480, 3), np.uint8)


async def _all_left(url: str) -> None:
    async with aiohttp.ClientSession() as session, asyncio.timeout(10):
        text = ""
        while "camfabric_gateway_viewers 0.0" not in text:
            async with session.get(f"{url}/metrics") as answer:
                text = await answer.text()


def _upgraded(url: str) -> socket.socket:
    """A WebSocket by hand, which never reads."""
    port = int(url.rpartition(":")[2])
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    connection.connect(("127.0.0.1", port))
    key = base64.b64encode(bytes(16)).decode()
    connection.sendall(
        f"GET /api/stream HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        f"Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n\r\n".encode()
    )
    return connection


def _dead_viewer(url: str, camera: str) -> socket.socket:
    """A page that asks for a camera, and never reads."""
    connection = _upgraded(url)
    stream = {"id": 1, "camera": camera, "channel": "cam", "as": "any"}
    for message in ({"type": "hello", "v": 1}, {"type": "watch", "streams": [stream]}):
        text = json.dumps(message).encode()
        # Masked with zeros: the text as it is.
        connection.sendall(bytes([0x81, 0x80 | 126]) + len(text).to_bytes(2, "big") + bytes(4) + text)
    return connection


def test_viewers_that_do_not_read_cost_the_others_nothing_and_are_cut_off(
    broker: RunningBroker,
    publish: Callable[..., Publisher],
    start_gateway: StartGateway,
    monkeypatch: pytest.MonkeyPatch,
    eventually: Eventually,
) -> None:
    quick = type(WEB_TIMES)(stuck_s=2.0, heartbeat_s=2.0)
    monkeypatch.setattr("camfabric.gateway.viewer.WEB_TIMES", quick)
    monkeypatch.setattr("camfabric.gateway.stream.WEB_TIMES", quick)
    publish("a", fps=30, make=_noise)
    gateway = start_gateway(broker.endpoint)
    dead = [_dead_viewer(gateway.url, "a") for _ in range(3)]

    async def viewers() -> int:
        async with aiohttp.ClientSession() as session, session.get(f"{gateway.url}/metrics") as answer:
            (line,) = re.findall(r"^camfabric_gateway_viewers (.*)$", await answer.text(), re.MULTILINE)
            return int(float(line))

    async def work() -> None:
        async with visit(gateway.url) as other:
            await other.watch((1, "a", "cam", "any"))
            await other.picture()
            assert await viewers() == 4
            while await viewers() > 1:
                pictures = await other.pictures(30)
                # None for their sake; on a busy machine the newest may win over a few.
                assert sum(picture.lost for picture in pictures) <= 10

    run(work)
    for connection in dead:
        with contextlib.suppress(ConnectionError):
            while connection.recv(1 << 20):
                pass
        connection.close()


def test_memory_is_bounded_where_viewers_do_not_read(
    broker: RunningBroker,
    publish: Callable[..., Publisher],
    camfabric: StartProcess,
    free_port: Callable[[], int],
    eventually: Eventually,
) -> None:
    publish("a", fps=40, make=_noise)
    listen = f"127.0.0.1:{free_port()}"
    process = camfabric("web", "--from", broker.endpoint, "--listen", listen)
    eventually(lambda: process.said("the page is at"))

    async def work() -> None:
        async with visit(f"http://{listen}") as other:
            await other.watch((1, "a", "cam", "any"))
            await other.pictures(20)
            before = _rss_mb(process.pid)
            dead = [_dead_viewer(f"http://{listen}", "a") for _ in range(10)]
            pictures = await other.pictures(200)
            came = sum(len(picture.payload) for picture in pictures) / 1e6
            grown = _rss_mb(process.pid) - before
            # Each might have kept what came meanwhile; a window and two buffers are 0.7 MB.
            assert came > 15
            assert grown < 25, f"{came:.0f} MB came for each of {len(dead)}, and memory grew by {grown:.0f} MB"
            for connection in dead:
                connection.close()

    run(work)


def _rss_mb(pid: int) -> float:
    (line,) = re.findall(r"VmRSS:\s*(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    return int(line) / 1024


@pytest.mark.parametrize(
    ("texts", "why"),
    [
        (['{"type":"watch","streams":[]}'], "hello"),
        (["{"], "JSON"),
        (['{"type":"hello","v":9}'], "reload"),
        (['{"type":"hello","v":1}', '{"type":"ack","n":5}'], "never sent"),
        (['{"type":"hello","v":1}', '{"type":"hello","v":1}'], "once"),
        (['{"type":"hello","v":1}', '{"type":"watch","streams":[{"camera":"../x"}]}'], "name"),
        (['{"type":"hello","v":1}', *['{"type":"watch","streams":[]}'] * 200], "too many messages"),
        (['{"type":"hello","v":1}', *['{"type":"ack","n":0}'] * 200], "too many messages"),
    ],
    ids=["no hello", "no JSON", "version", "ack", "hello twice", "name", "flood", "flood of acks"],
)
def test_a_page_that_breaks_the_protocol_is_told_and_closed(
    broker: RunningBroker, start_gateway: StartGateway, texts: list[str], why: str
) -> None:
    url = start_gateway(broker.endpoint).url

    async def work() -> None:
        async with visit(url, hello=False) as visitor:
            for text in texts:
                await visitor.socket.send_str(text)
            closed = await visitor.closed()
            assert closed.code == 1008
            assert why in closed.reason
            assert why in visitor.texts[-1]["text"]
            assert visitor.texts[-1]["type"] == "error"
        async with visit(url) as visitor:
            await visitor.text("cameras")

    run(work)


def test_binary_and_oversized_messages_close(broker: RunningBroker, start_gateway: StartGateway) -> None:
    url = start_gateway(broker.endpoint).url

    async def work() -> None:
        async with visit(url) as visitor:
            await visitor.socket.send_bytes(b"x")
            assert (await visitor.closed()).code == 1008
        async with visit(url) as visitor:
            await visitor.socket.send_str(" " * (WEB_LIMITS.message_bytes + 1))
            assert (await visitor.closed()).code == 1009
        # In pieces, each of which is small.
        async with visit(url) as visitor:
            raw = visitor.socket.get_extra_info("socket")
            assert raw is not None
            writer = visitor.socket._writer
            for place in range(66):  # and no more: what comes behind the end would be answered by a reset
                head = bytes([0x01 if place == 0 else 0x00, 0xFE]) + (1000).to_bytes(2, "big") + bytes(4)
                writer.transport.write(head + b" " * 1000)
            assert (await visitor.closed()).code == 1009

    run(work)


def test_more_viewers_than_there_may_be_are_turned_away(
    broker: RunningBroker, start_gateway: StartGateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("camfabric.gateway.hub.WEB_LIMITS", type(WEB_LIMITS)(viewers=2))
    url = start_gateway(broker.endpoint).url

    async def work() -> None:
        async with visit(url) as one, visit(url) as two:
            await one.text("cameras")
            await two.text("cameras")
            async with visit(url) as three:
                closed = await three.closed()
                assert (closed.code, closed.reason) == (1013, "too many viewers")
        await _all_left(url)
        async with visit(url) as again:
            await again.text("cameras")
        await _all_left(url)
        # Who has not said hello yet counts as well.
        async with visit(url, hello=False) as one, visit(url, hello=False) as two, visit(url) as three:
            assert (await three.closed()).code == 1013
            for visitor in (one, two):
                await visitor.say(type="hello", v=1)
                await visitor.text("cameras")

    run(work)


def test_a_camera_that_there_is_not_yet_comes_when_it_is_there(
    broker: RunningBroker, publish: Callable[..., Publisher], start_gateway: StartGateway
) -> None:
    url = start_gateway(broker.endpoint).url

    async def work() -> None:
        async with visit(url) as visitor:
            await visitor.watch((1, "later", "cam", "any"))
            await visitor.text("cameras")
            await asyncio.to_thread(publish, "later")
            assert (await visitor.picture()).stream == 1

    run(work)


def test_names_of_one_page_are_another_ones_numbers(
    broker: RunningBroker, publish: Callable[..., Publisher], start_gateway: StartGateway
) -> None:
    """An id that is taken again for another camera never shows the old one."""
    publish("a", make=lambda _: np.zeros((48, 64, 3), np.uint8))
    publish("b", make=lambda _: np.full((96, 128, 3), 255, np.uint8))
    url = start_gateway(broker.endpoint).url

    async def work() -> None:
        async with visit(url) as visitor:
            await visitor.watch((1, "a", "cam", "any"))
            assert {picture.width for picture in await visitor.pictures(5)} == {64}
            await visitor.watch((1, "b", "cam", "any"))
            widths = [picture.width for picture in await visitor.pictures(30)]
            assert widths == sorted(widths)
            assert widths[-1] == 128

    run(work)


def test_the_cameras_json_is_the_same_by_http(
    broker: RunningBroker, publish: Callable[..., Publisher], start_gateway: StartGateway, eventually: Eventually
) -> None:
    publish("a")
    url = start_gateway(broker.endpoint).url

    async def work() -> None:
        async with aiohttp.ClientSession() as session, visit(url) as visitor:
            told = await visitor.text("status", lambda message: [c for c in message["cameras"] if c["width"]])
            async with session.get(f"{url}/api/cameras") as answer:
                assert answer.content_type == "application/json"
                (camera,) = json.loads(await answer.text())["cameras"]
            assert camera.keys() == told["cameras"][0].keys()
            assert camera["name"] == "a"

    run(work)
