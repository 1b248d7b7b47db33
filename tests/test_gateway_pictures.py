"""Snapshots and MJPEG over HTTP, by curl, ffmpeg and ffprobe too, and what is no request."""

from __future__ import annotations

import asyncio
import contextlib
import json
import shutil
import subprocess
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import quote

import aiohttp
import numpy as np
import pytest
from yarl import URL

from camfabric.common.codecs import jpeg
from camfabric.gateway.settings import WEB_LIMITS, WEB_TIMES
from camfabric.publisher import Publisher

from .conftest import Eventually, Feeder, RunningBroker, StartBroker, StartGateway
from .visitor import run

_curl = pytest.mark.skipif(shutil.which("curl") is None, reason="apt-get install curl")
_ffmpeg = pytest.mark.skipif(shutil.which("ffprobe") is None, reason="apt-get install ffmpeg")


@pytest.fixture
def broker(start_broker: StartBroker) -> RunningBroker:
    """A broker."""
    return start_broker()


@pytest.fixture
def publish(broker: RunningBroker, feed: Callable[..., Feeder]) -> Iterator[Callable[..., tuple[Publisher, Feeder]]]:
    """Publish a camera of pictures that differ."""
    publishers: list[Publisher] = []

    def start(camera: str, *, fps: float = 40, **settings: Any) -> tuple[Publisher, Feeder]:
        make = settings.pop("make", None)
        publishers.append(Publisher(camera, to=broker.to, **settings))
        return publishers[-1], feed(publishers[-1], fps=fps, **({} if make is None else {"make": make}))

    yield start
    for publisher in publishers:
        publisher.close()


@pytest.fixture
def url(broker: RunningBroker, start_gateway: StartGateway) -> str:
    """A gateway's address."""
    return start_gateway(broker.endpoint).url


@pytest.fixture
def known(url: str, eventually: Eventually) -> Callable[[str], None]:
    """Wait until the gateway knows a camera that is live."""

    def wait(camera: str, state: str = "live") -> None:
        async def states() -> dict[str, str]:
            async with aiohttp.ClientSession() as session, session.get(f"{url}/api/cameras") as answer:
                return {entry["name"]: entry["state"] for entry in json.loads(await answer.text())["cameras"]}

        eventually(lambda: asyncio.run(states()).get(camera) == state, every_s=0.1)

    return wait


async def _get(address: str, **options: Any) -> tuple[int, Any, bytes]:
    async with aiohttp.ClientSession() as session, session.get(address, **options) as answer:
        return answer.status, answer.headers, await answer.read()


@pytest.mark.parametrize("codec", ["jpeg", "h264", "raw"])
def test_a_snapshot_is_the_picture_of_now(
    publish: Callable[..., Any], url: str, known: Callable[[str], None], codec: str
) -> None:
    if codec == "h264":
        pytest.importorskip("av")
    camera, rows = "yard/Tür 2", 48
    camera = camera.replace(" ", "-")
    publish(camera, codec=codec, **({"gop": 100_000} if codec == "h264" else {}))
    known(camera)

    async def work() -> None:
        for channel, size in (("cam", (64, rows)), ("low", (64, rows))):
            status, headers, body = await _get(f"{url}/api/cameras/{quote(camera)}/snapshot.jpg?channel={channel}")
            assert status == 200
            assert jpeg.size_of(body)[:2] == size
            assert headers["Content-Type"] == "image/jpeg"
            assert headers["Cache-Control"] == "no-store"
            assert headers["Camfabric-Camera"] == quote(camera)
            assert 0 <= int(headers["Camfabric-Age-Ms"]) < 3000
            captured = datetime.fromisoformat(headers["Camfabric-Captured"])
            assert abs(datetime.now(captured.tzinfo) - captured) < timedelta(seconds=10)

    run(work)


def test_a_snapshot_of_a_long_video_is_not_one_of_its_beginning(
    publish: Callable[..., Any], url: str, known: Callable[[str], None], video: Callable[..., Any]
) -> None:
    pytest.importorskip("av")
    _, feeder = publish("v", codec="h264", gop=100_000, fps=100, make=_drawn)
    known("v")

    async def come(count: int) -> datetime:
        """Wait for so many more pictures; the time then."""
        end = feeder.count + count
        while feeder.count < end:
            await asyncio.sleep(0.01)
        return datetime.now(UTC)

    async def work() -> None:
        # Keeps the stream flowing, so that there is much to catch up with.
        async with aiohttp.ClientSession() as session, session.get(f"{url}/api/cameras/v/stream.mjpeg"):
            early = await come(50)
            await come(150)
        for _ in range(3):
            status, headers, _ = await _get(f"{url}/api/cameras/v/snapshot.jpg")
            assert status == 200
            assert datetime.fromisoformat(headers["Camfabric-Captured"]) > early

    run(work)


def _drawn(number: int) -> Any:
    image = np.zeros((240, 320, 3), np.uint8)
    image[:, number % 320 :] = number % 255
    return image


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("nope/snapshot.jpg", 404),
        ("nope/stream.mjpeg", 404),
        ("lobby/snapshot.jpg?channel=status", 400),
        ("lobby/stream.mjpeg?fps=0", 400),
        ("lobby/stream.mjpeg?fps=nan", 400),
        ("lobby/stream.mjpeg?fps=many", 400),
        ("lobby/stream.mjpeg?fps=-1e9", 400),
        ("lobby/stream.mjpeg?fps=0.00001", 400),
        ("plain/snapshot.jpg?channel=low", 404),
        ("lobby/", 404),
        ("lobby/snapshot.png", 404),
        ("../cameras/lobby/snapshot.jpg", 404),
        ("..%2fcameras/lobby/snapshot.jpg", 404),
        ("lobby%00/snapshot.jpg", 404),
        ("lobby%2f%2f/snapshot.jpg", 404),
        ("lobby%0d%0aX:y/snapshot.jpg", 404),
        ("%ff%fe/snapshot.jpg", 404),
        ("a" * 2000 + "/snapshot.jpg", 404),
        ("/snapshot.jpg", 404),
    ],
)
def test_what_there_is_not_is_refused_in_one_line(
    publish: Callable[..., Any], url: str, known: Callable[[str], None], path: str, status: int
) -> None:
    publish("lobby")
    publish("plain", low=None)
    known("lobby")
    known("plain")

    async def work() -> None:
        host, _, port = url.removeprefix("http://").partition(":")
        # By hand: clients tidy up such paths.
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(f"GET /api/cameras/{path} HTTP/1.1\r\nHost: {host}:{port}\r\nConnection: close\r\n\r\n".encode())
        answer = await asyncio.wait_for(reader.read(), 10)
        writer.close()
        head, _, body = answer.partition(b"\r\n\r\n")
        assert int(head.split()[1]) == status
        assert body.count(b"\n") == 1
        assert b"Traceback" not in body
        assert len(body) < 200

    run(work)


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/nothing", 404),
        ("GET", "/api/nothing", 404),
        ("GET", "/page/", 404),
        ("GET", "/page/..%2fserver.py", 404),
        ("GET", "/page/index.html%00.js", 404),
        ("GET", "/page/__init__.py", 404),
        ("POST", "/api/cameras", 405),
        ("DELETE", "/", 405),
        ("GET", "/sign-out", 405),
        ("GET", "/api/stream", 400),
    ],
)
def test_other_requests_are_refused_in_one_line(url: str, method: str, path: str, status: int) -> None:
    async def work() -> None:
        async with (
            aiohttp.ClientSession() as session,
            session.request(method, URL(url + path, encoded=True)) as answer,
        ):
            assert answer.status == status
            text = await answer.text()
            assert text.count("\n") <= 1
            if path.startswith("/api/"):
                assert json.loads(text)["error"]

    run(work)


def test_a_camera_without_pictures_is_503_and_says_why(
    publish: Callable[..., Any], url: str, known: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    publisher, feeder = publish("gate")
    silent, _ = publish("silent", fps=0.001)
    silent.report("live", "")
    known("gate")
    known("silent")
    monkeypatch.setattr("camfabric.gateway.stills.WEB_TIMES", type(WEB_TIMES)(snapshot_s=0.5))

    async def work() -> None:
        status, headers, body = await _get(f"{url}/api/cameras/silent/snapshot.jpg")
        assert (status, headers["Retry-After"]) == (503, "5")
        assert b"none came in time" in body
        await asyncio.to_thread(feeder.stop)
        await asyncio.to_thread(publisher.close, "gone for lunch")
        await asyncio.to_thread(known, "gate", "offline")
        for name in ("snapshot.jpg", "stream.mjpeg"):
            status, _, body = await _get(f"{url}/api/cameras/gate/{name}")
            assert (status, body) == (503, b"no picture: the camera is offline (gone for lunch)\n")

    run(work)


class _Parts:
    """Reads the parts of a multipart stream as a strict client does."""

    def __init__(self, answer: aiohttp.ClientResponse) -> None:
        assert answer.headers["Content-Type"] == "multipart/x-mixed-replace; boundary=camfabric"
        self._content = answer.content

    async def next(self) -> tuple[dict[str, str], bytes]:
        """Headers and body of the next one."""
        line = await self._line()
        while not line:
            line = await self._line()
        assert line == "--camfabric"
        headers = {}
        while line := await self._line():
            name, _, value = line.partition(": ")
            headers[name] = value
        body = await asyncio.wait_for(self._content.readexactly(int(headers["Content-Length"])), 10)
        return headers, body

    async def _line(self) -> str:
        return (await asyncio.wait_for(self._content.readline(), 10)).decode().removesuffix("\r\n")


def test_mjpeg_is_one_picture_after_the_other(
    publish: Callable[..., Any], url: str, known: Callable[[str], None]
) -> None:
    publish("lobby", fps=50)
    known("lobby")

    async def work() -> None:
        async with aiohttp.ClientSession() as session:
            async with session.get(f"{url}/api/cameras/lobby/stream.mjpeg") as answer:
                parts = _Parts(answer)
                seen = [await parts.next() for _ in range(20)]
                assert len({headers["Camfabric-Captured"] for headers, _ in seen}) > 15
                for headers, body in seen:
                    assert headers["Content-Type"] == "image/jpeg"
                    assert jpeg.size_of(body)[:2] == (64, 48)
            async with session.get(f"{url}/api/cameras/lobby/stream.mjpeg?fps=10") as answer:
                parts = _Parts(answer)
                times = [datetime.fromisoformat((await parts.next())[0]["Camfabric-Captured"]) for _ in range(8)]
                assert (times[-1] - times[0]) / 7 > timedelta(seconds=0.07)

    run(work)


def test_who_has_left_does_not_count_as_a_viewer(
    publish: Callable[..., Any], url: str, known: Callable[[str], None]
) -> None:
    publish("lobby")
    known("lobby")

    async def work() -> None:
        async with aiohttp.ClientSession() as session:
            # Its next picture is due in ten seconds.
            async with session.get(f"{url}/api/cameras/lobby/stream.mjpeg?fps=0.1") as answer:
                await _Parts(answer).next()
                assert b"camfabric_gateway_viewers 1.0" in (await _get(f"{url}/metrics"))[2]
            async with asyncio.timeout(5):
                while b"camfabric_gateway_viewers 0.0" not in (await _get(f"{url}/metrics"))[2]:
                    await asyncio.sleep(0.02)

    run(work)


def test_mjpeg_says_that_there_is_no_picture_any_more(
    publish: Callable[..., Any], url: str, known: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("camfabric.gateway.stills.WEB_TIMES", type(WEB_TIMES)(stale_s=0.5, placard_s=0.1))
    publisher, feeder = publish("lobby", make=lambda _: np.full((180, 320, 3), 255, np.uint8))
    known("lobby")

    async def work() -> None:
        import cv2

        async with (
            aiohttp.ClientSession() as session,
            session.get(f"{url}/api/cameras/lobby/stream.mjpeg") as answer,
        ):
            parts = _Parts(answer)
            _, live = await parts.next()
            await asyncio.to_thread(feeder.stop)
            await asyncio.to_thread(publisher.close)
            while (body := (await parts.next())[1]) == live:
                pass
            image: Any = cv2.imdecode(np.frombuffer(body, np.uint8), cv2.IMREAD_COLOR)
            assert image.shape == (180, 320, 3)
            assert image.mean() < 130  # grey, with a text on it
            assert image.max() > 200
            # It lives again where the camera does.
            await asyncio.to_thread(publish, "lobby", make=lambda _: np.full((90, 160, 3), 255, np.uint8))
            while jpeg.size_of((await parts.next())[1])[:2] != (160, 90):
                pass

    run(work)


def test_ten_thousand_requests_leave_nothing_behind(
    publish: Callable[..., Any], url: str, known: Callable[[str], None]
) -> None:
    publish("lobby")
    known("lobby")
    paths = ["/api/cameras/lobby/snapshot.jpg", "/api/cameras", "/healthz", "/api/cameras/no/snapshot.jpg", "/nothing"]

    async def work() -> None:
        connector = aiohttp.TCPConnector(limit=20)
        statuses: dict[int, int] = {}
        async with aiohttp.ClientSession(connector=connector) as session:

            async def some(number: int) -> None:
                for place in range(500):
                    async with session.get(url + paths[(place + number) % len(paths)]) as answer:
                        await answer.read()
                        statuses[answer.status] = statuses.get(answer.status, 0) + 1

            await asyncio.gather(*(some(number) for number in range(20)))
            assert statuses == {200: 6000, 404: 4000}
            async with session.get(f"{url}/metrics") as answer:
                text = await answer.text()
        assert "camfabric_gateway_snapshots_waiting 0.0" in text
        assert 'camfabric_gateway_requests_total{kind="snapshot"} 2000.0' in text

    run(work)


def test_more_snapshots_at_once_than_there_may_be_are_refused(
    publish: Callable[..., Any], url: str, known: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("camfabric.gateway.stills.WEB_TIMES", type(WEB_TIMES)(snapshot_s=1.0))
    silent, _ = publish("silent", fps=0.001)
    silent.report("live", "")
    known("silent")

    async def work() -> None:
        answers = await asyncio.gather(
            *(_get(f"{url}/api/cameras/silent/snapshot.jpg") for _ in range(WEB_LIMITS.snapshots + 8))
        )
        assert {status for status, _, _ in answers} == {503}
        assert sum(b"too many" in body for _, _, body in answers) == 8

    run(work)


@_curl
def test_curl_takes_a_snapshot_and_a_stream(
    publish: Callable[..., Any], url: str, known: Callable[[str], None]
) -> None:
    publish("cctv/lobby")
    known("cctv/lobby")
    taken = subprocess.run(
        ["curl", "-sf", f"{url}/api/cameras/cctv/lobby/snapshot.jpg"], capture_output=True, check=True, timeout=20
    )
    assert jpeg.size_of(taken.stdout)[:2] == (64, 48)
    stream = subprocess.run(
        ["curl", "-sN", "--max-time", "1", f"{url}/api/cameras/cctv/lobby/stream.mjpeg"],
        capture_output=True, check=False, timeout=20,
    )  # fmt: skip
    assert stream.returncode == 28  # its time was up
    assert stream.stdout.count(b"--camfabric\r\n") > 5
    failed = subprocess.run(["curl", "-s", "-f", f"{url}/api/cameras/no/snapshot.jpg"], check=False, timeout=20)
    assert failed.returncode == 22


@_ffmpeg
@pytest.mark.parametrize("codec", ["jpeg", "h264"])
def test_ffprobe_and_ffmpeg_read_the_stream(
    publish: Callable[..., Any], url: str, known: Callable[[str], None], codec: str
) -> None:
    if codec == "h264":
        pytest.importorskip("av")
    publish("lobby", codec=codec, make=_drawn)
    known("lobby")
    address = f"{url}/api/cameras/lobby/stream.mjpeg?fps=20"
    probed = subprocess.run(
        ["ffprobe", "-v", "error", "-show_entries", "stream=codec_name,width,height", "-of", "csv=p=0", address],
        capture_output=True, text=True, check=True, timeout=30,
    )  # fmt: skip
    assert probed.stdout.strip() == "mjpeg,320,240"
    read = subprocess.run(
        ["ffmpeg", "-v", "error", "-i", address, "-frames:v", "10", "-f", "framecrc", "-"],
        capture_output=True, text=True, check=True, timeout=30,
    )  # fmt: skip
    assert read.stderr == ""
    sums = [line.split(",")[-1] for line in read.stdout.splitlines() if not line.startswith("#")]
    assert len(sums) == 10
    assert len(set(sums)) > 3


def test_a_stream_that_is_not_read_gets_the_newest_pictures(
    publish: Callable[..., Any], url: str, known: Callable[[str], None]
) -> None:
    noise = np.random.default_rng(1).integers(0, 255, (8, 360, 480, 3), np.uint8)
    publish("lobby", fps=40, make=lambda number: noise[number % 8])
    known("lobby")

    async def work() -> None:
        async with (
            aiohttp.ClientSession(read_bufsize=4096) as session,
            session.get(f"{url}/api/cameras/lobby/stream.mjpeg") as answer,
        ):
            parts = _Parts(answer)
            await parts.next()
            await asyncio.sleep(3)  # 15 MB
            ages: list[float] = []
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(8):
                    while not ages or ages[-1] > 500:
                        headers, _ = await parts.next()
                        captured = datetime.fromisoformat(headers["Camfabric-Captured"])
                        ages.append((datetime.now(captured.tzinfo) - captured).total_seconds() * 1000)
            assert ages[-1] <= 500
            # What was in the sockets, and not all that came.
            assert len(ages) < 80

    run(work)
