"""`--on-demand`: the source is closed some time after the last viewer left, and opened for the next one."""

from __future__ import annotations

import contextlib
import dataclasses
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from camfabric.common.errors import ConfigError, SourceError
from camfabric.common.frame import Codec
from camfabric.common.settings import TIMES
from camfabric.publisher import Low, Publisher, capture
from camfabric.publisher.capture import Capture
from camfabric.publisher.sources import open_source, parse_source
from camfabric.publisher.sources.source import Wanted
from camfabric.subscriber import Subscriber

ANY = "tcp://127.0.0.1:*"
SCENE = "test://?size=64x48&fps=100"


class Doors:
    """Counts how often sources are opened and closed, and can refuse to open them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.opened: list[str] = []
        self.closed: list[str] = []
        self.refuse = threading.Event()
        self.refused = 0
        monkeypatch.setattr(capture, "open_source", self._open)

    @property
    def are_open(self) -> int:
        """How many are open now."""
        return len(self.opened) - len(self.closed)

    def _open(self, address: Any, wanted: Wanted, *, stop: threading.Event) -> Any:
        if self.refuse.is_set():
            self.refused += 1
            raise SourceError(f"{address} refuses", source=str(address))
        source = open_source(address, wanted, stop=stop)
        close = source.close

        def closed() -> None:
            close()
            self.closed.append(address.kind)

        source.close = closed  # type: ignore[method-assign]
        self.opened.append(address.kind)
        return source


@pytest.fixture
def doors(monkeypatch: pytest.MonkeyPatch) -> Doors:
    """Watches what is opened and closed; sources are idle after a tenth of a second."""
    times = dataclasses.replace(TIMES, idle_s=0.1, reopen_first_s=0.02, reopen_max_s=0.1)
    monkeypatch.setattr(capture, "TIMES", times)
    return Doors(monkeypatch)


@pytest.fixture
def run() -> Iterator[Callable[..., Capture]]:
    """Run captures in threads until the test ends."""
    running: list[tuple[Capture, threading.Thread]] = []

    def start(publisher: Publisher, source: str = SCENE, *, channel: Any = "cam", **wanted: Any) -> Capture:
        made = Capture(parse_source(source), publisher, Wanted(label="a", **wanted), on_demand=True, channel=channel)

        def publish() -> None:
            with contextlib.suppress(ConfigError):  # the test has closed its publisher already
                made.run()

        thread = threading.Thread(target=publish)
        thread.start()
        running.append((made, thread))
        return made

    yield start
    for made, thread in running:
        made.stop()
        thread.join(10)
        assert not thread.is_alive()


def _fresh(subscriber: Subscriber) -> Any:
    """A picture that was captured after this was called."""
    now_ns = time.monotonic_ns()
    while (frame := subscriber.read(timeout=10)).captured_monotonic_ns < now_ns:
        pass
    return frame


def test_a_source_is_opened_closed_when_nobody_watches_and_opened_again(doors: Any, run: Any, eventually: Any) -> None:
    with Publisher("a", bind=ANY) as publisher, Subscriber(publisher.endpoint, channel=None) as statuses:
        run(publisher)
        eventually(lambda: doors.opened == ["test"])  # at the start, so that a wrong address is found then
        eventually(lambda: statuses.cameras().get("a") and statuses.cameras()["a"].state == "idle")
        assert statuses.cameras()["a"].reason == "nobody watches"
        assert doors.are_open == 0
        epochs = set()
        for turn in range(2, 5):
            with Subscriber(publisher.endpoint, cameras=["a"]) as subscriber:
                frame = _fresh(subscriber)
                epochs.add(frame.epoch)
                assert doors.are_open == 1
                eventually(lambda: statuses.cameras()["a"].state == "live")
                count = len(doors.closed)
                for _ in range(30):  # three times as long as it takes to become idle
                    subscriber.read(timeout=10)
                assert len(doors.closed) == count
            eventually(lambda: statuses.cameras()["a"].state == "idle")
            assert doors.are_open == 0
            assert len(doors.opened) == turn
            assert statuses.cameras()["a"].fps_in == 0
        assert len(epochs) == 1


def test_a_viewer_of_the_small_picture_opens_it_and_keeps_it_open(doors: Any, run: Any, eventually: Any) -> None:
    with Publisher("a", bind=ANY, low=Low(size=(32, 24), fps=100)) as publisher:
        run(publisher)
        eventually(lambda: publisher.status().state == "idle")
        with Subscriber(publisher.endpoint, cameras=["a"], channel="low") as subscriber:
            _fresh(subscriber)
            closed = len(doors.closed)
            for _ in range(30):
                assert subscriber.read(timeout=10).image.shape == (24, 32, 3)
            assert len(doors.closed) == closed
            assert publisher.status().state == "live"
            assert not publisher.watched
        eventually(lambda: publisher.status().state == "idle")
        assert doors.are_open == 0


def test_the_small_pictures_own_source_is_closed_and_opened_as_well(doors: Any, run: Any, eventually: Any) -> None:
    with Publisher("a", bind=ANY, low=Low(own_source=True)) as publisher:
        run(publisher)
        run(publisher, "test://?size=32x24&fps=50", channel="low")
        eventually(lambda: len(doors.opened) == 2 and doors.are_open == 0)
        with Subscriber(publisher.endpoint, cameras=["a"], channel="low") as subscriber:
            assert _fresh(subscriber).image.shape == (24, 32, 3)
        eventually(lambda: doors.are_open == 0)


def test_whoever_comes_just_as_it_closes_is_served(doors: Any, run: Any, eventually: Any) -> None:
    with Publisher("a", bind=ANY) as publisher:
        run(publisher)
        for turn in range(12):
            eventually(lambda: not publisher.watched)
            left_at = time.monotonic()
            # About when the tenth of a second is over, a little earlier each time.
            eventually(lambda: time.monotonic() - left_at > 0.12 - turn * 0.005, every_s=0.001)  # noqa: B023
            with Subscriber(publisher.endpoint, cameras=["a"]) as subscriber:
                _fresh(subscriber)
                _fresh(subscriber)
        assert len(doors.closed) > 2


def test_a_source_that_cannot_be_opened_again_is_offline_and_tried_again(doors: Any, run: Any, eventually: Any) -> None:
    with Publisher("a", bind=ANY) as publisher, Subscriber(publisher.endpoint, channel=None) as statuses:
        run(publisher)
        eventually(lambda: statuses.cameras().get("a") and statuses.cameras()["a"].state == "idle")
        doors.refuse.set()
        with Subscriber(publisher.endpoint, cameras=["a"]) as subscriber:
            eventually(lambda: statuses.cameras()["a"].state == "offline")
            assert statuses.cameras()["a"].reason == f"{SCENE} refuses"
            eventually(lambda: doors.refused > 3)
            doors.refuse.clear()
            _fresh(subscriber)
            eventually(lambda: statuses.cameras()["a"].state == "live")


def test_a_source_that_fails_the_first_time_is_an_error(doors: Any) -> None:
    doors.refuse.set()
    with Publisher("a", bind=ANY) as publisher, pytest.raises(SourceError, match="refuses"):
        Capture(parse_source(SCENE), publisher, Wanted(label="a"), on_demand=True).run()


def _film(path: Path) -> Path:
    with av.open(str(path), "w") as container:
        options = {"preset": "veryfast", "x264-params": "keyint=1000:scenecut=0:bframes=2"}
        stream = container.add_stream("libx264", rate=100, options=options)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for number in range(100):
            image = np.full((48, 64, 3), 40 + number * 2, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="bgr24")))
        container.mux(stream.encode(None))
    return path


def test_what_was_kept_of_packets_is_not_mixed_with_what_comes_later(
    doors: Any, run: Any, eventually: Any, tmp_path: Path
) -> None:
    path = _film(tmp_path / "a.mp4")
    with av.open(str(path)) as container:
        pictures = [picture.to_ndarray(format="bgr24") for picture in container.decode(video=0)]
    with Publisher("a", bind=ANY, codec="copy") as publisher:
        run(publisher, str(path), packets=True, loop=True)
        seqs: list[int] = []
        for turn in range(3):
            eventually(lambda: publisher.status().state == "idle")
            eventually(lambda: publisher.status().kept == 0)
            with Subscriber(publisher.endpoint, cameras=["a"], mode="every") as subscriber:
                frames = [subscriber.read(timeout=10) for _ in range(20)]
            assert len(doors.opened) == turn + 2
            assert {frame.codec for frame in frames} == {Codec.H264}
            for frame, picture in zip(frames, pictures, strict=False):  # the film from its beginning
                assert np.array_equal(frame.image, picture)
            assert sum(frame.missed for frame in frames[1:]) == 0
            seqs += [frame.seq for frame in frames if frame.keyframe]
        assert seqs == sorted(set(seqs))


@pytest.mark.parametrize("number", ["SIGTERM", "SIGINT"])
def test_a_signal_ends_it_while_it_is_idle(start: Any, start_broker: Any, eventually: Any, number: str) -> None:
    import signal

    code = (
        "import dataclasses, sys; from camfabric.publisher import capture\n"
        "capture.TIMES = dataclasses.replace(capture.TIMES, idle_s=0.1)\n"
        "from camfabric.cli.main import main; sys.exit(main())"
    )
    broker = start_broker()
    process = start(sys.executable, "-c", code, "publish", SCENE, "--camera", "a", "--to", broker.to, "--on-demand")
    with Subscriber(broker.endpoint, channel=None) as statuses:
        eventually(lambda: statuses.cameras().get("a") and statuses.cameras()["a"].state == "idle", within_s=20)
        process.signal(signal.Signals[number])
        assert process.wait(10) == 0, process.err
        eventually(lambda: statuses.cameras()["a"].state == "offline")
        assert statuses.cameras()["a"].reason == "its publisher ended"
    assert not any("Traceback" in line for line in process.err)
