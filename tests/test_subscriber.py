"""`Subscriber` and `AsyncSubscriber`: filters, modes, counting, silence, several endpoints."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable
from contextlib import ExitStack
from itertools import pairwise
from typing import Any

import pytest

from camfabric.common.errors import ConfigError
from camfabric.publisher import Publisher
from camfabric.subscriber import AsyncSubscriber, Subscriber

ANY = "tcp://127.0.0.1:*"


def test_a_filter_gives_what_is_under_it_and_nothing_else(feed: Any, start_broker: Any) -> None:
    broker = start_broker()
    with ExitStack() as stack:
        for name in ("cctv", "cctv/lobby", "cctv/gate", "cctv2/lobby", "drone/1", "drone/10"):
            feed(stack.enter_context(Publisher(name, to=broker.to)))
        for filters, wanted in (
            (["cctv"], {"cctv", "cctv/lobby", "cctv/gate"}),
            (["drone/1"], {"drone/1"}),
            (["drone/1", "cctv/gate"], {"drone/1", "cctv/gate"}),
        ):
            with Subscriber(broker.endpoint, cameras=filters) as subscriber:
                got: set[str] = set()
                while got != wanted:
                    got.add(subscriber.read(timeout=5).camera)
                assert {subscriber.read(timeout=5).camera for _ in range(30)} <= wanted
                assert set(subscriber.cameras()) == wanted


def test_every_gives_all_frames_in_order(feed: Any, start_broker: Any) -> None:
    broker = start_broker()
    with (
        Publisher("cam/1", to=broker.to, codec="raw") as publisher,
        Subscriber(broker.endpoint, mode="every") as subscriber,
    ):
        feed(publisher, fps=200)
        frames = [subscriber.read(timeout=5) for _ in range(200)]
    assert [frame.seq for frame in frames] == list(range(frames[0].seq, frames[0].seq + 200))
    assert not any(frame.missed or frame.dropped for frame in frames)


def test_a_slow_consumer_gets_the_newest_and_counts_add_up(feed: Any) -> None:
    """Promise 1: never late. Its figures are printed by bench/slow_consumer.py."""
    pause = threading.Event()
    with (
        Publisher("cam/1", bind=ANY, codec="raw") as publisher,
        Subscriber(publisher.endpoint) as subscriber,
    ):
        feeder = feed(publisher, fps=100)
        frames = []
        lags = []
        for _ in range(12):
            frame = subscriber.read(timeout=5)
            lags.append(feeder.count - frame.extra["number"])
            frames.append(frame)
            pause.wait(0.1)  # the consumer's work: ten frames pass meanwhile
    for before, after in pairwise(frames):
        # Another channel has other numbers.
        assert after.channel != before.channel or after.seq - before.seq == 1 + after.missed + after.dropped
    assert sum(frame.missed for frame in frames) == 0
    assert sum(frame.dropped for frame in frames) > 20
    # A queue would be some 100 frames behind at the end.
    assert sorted(lags[1:])[len(lags) // 2] <= 10


def test_a_fast_camera_does_not_starve_a_slow_one(feed: Any, start_broker: Any) -> None:
    broker = start_broker()
    pause = threading.Event()
    with (
        Publisher("fast", to=broker.to) as fast,
        Publisher("slow", to=broker.to) as slow,
        Subscriber(broker.endpoint) as subscriber,
    ):
        feed(fast, fps=200)
        feed(slow, fps=20)
        subscriber.read(timeout=5)
        names = []
        for _ in range(20):
            names.append(subscriber.read(timeout=5).camera)
            pause.wait(0.05)
    assert names.count("slow") >= 8


def test_timeout_says_which_camera_is_silent(picture: Callable[..., Any], eventually: Any) -> None:
    with Publisher("cctv/lobby", bind=ANY) as publisher:
        with Subscriber(publisher.endpoint, cameras=["cctv", "drone"]) as subscriber:
            eventually(subscriber.cameras)
            with pytest.raises(TimeoutError) as caught:
                subscriber.read(timeout=0.05)
        assert "cctv/lobby is stalled (no picture yet)" in str(caught.value)
        assert "nobody publishes 'drone'" in str(caught.value)
    with Subscriber(publisher.endpoint, cameras="cctv") as subscriber, pytest.raises(TimeoutError) as caught:
        subscriber.read(timeout=0.05)
    assert "nobody publishes 'cctv'" in str(caught.value)
    assert publisher.endpoint in str(caught.value)


def test_a_camera_over_two_paths_is_got_once(feed: Any, start_broker: Any) -> None:
    with Publisher("cam/1", bind=ANY, codec="raw") as publisher:
        broker = start_broker(upstreams=[publisher.endpoint])
        with Subscriber([publisher.endpoint, broker.endpoint], mode="every") as subscriber:
            feed(publisher, fps=100)
            seqs = [subscriber.read(timeout=5).seq for _ in range(100)]
    assert seqs == sorted(set(seqs))


def test_several_publishers_that_bind(feed: Any) -> None:
    with Publisher("a", bind=ANY) as one, Publisher("b", bind=ANY) as two:
        feed(one)
        feed(two)
        with Subscriber([one.endpoint, two.endpoint]) as subscriber:
            assert {subscriber.read(timeout=5).camera for _ in range(20)} == {"a", "b"}


def test_a_publisher_over_ipc(feed: Any, tmp_path: Any) -> None:
    with Publisher("a", bind=f"ipc://{tmp_path}/a") as publisher, Subscriber(publisher.endpoint) as subscriber:
        feed(publisher)
        assert subscriber.read(timeout=5).camera == "a"


def test_a_name_in_another_script(feed: Any) -> None:
    with Publisher("監視/入口", bind=ANY) as publisher, Subscriber(publisher.endpoint, cameras="監視") as subscriber:
        feed(publisher)
        assert subscriber.read(timeout=5).camera == "監視/入口"


def test_age_is_right_where_the_publishers_wall_clock_is_wrong(
    feed: Any, monkeypatch: pytest.MonkeyPatch, eventually: Any
) -> None:
    import time

    true_time_ns = time.time_ns
    with Publisher("cam/1", bind=ANY) as publisher, Subscriber(publisher.endpoint) as subscriber:
        # The same process plays both machines: the wall clock at capture is an hour off, the monotonic one is not.
        feeder = feed(publisher, fps=100)
        feeder.stop()

        def an_hour_off() -> int:
            return true_time_ns() - 3600 * 10**9 if "publish" in threading.current_thread().name else true_time_ns()

        stop = threading.Event()

        def run() -> None:
            import numpy as np

            while not stop.wait(0.01):
                publisher.send(
                    np.zeros((16, 16, 3), np.uint8),
                    captured_ns=true_time_ns() - 3600 * 10**9,
                    captured_monotonic_ns=time.monotonic_ns(),
                )

        monkeypatch.setattr(time, "time_ns", an_hour_off)
        thread = threading.Thread(target=run)
        thread.start()
        try:
            eventually(lambda: abs(subscriber.read(timeout=5).age_ms) < 500)
        finally:
            stop.set()
            thread.join()


def test_wrong_arguments_are_refused() -> None:
    wrong: list[dict[str, Any]] = [
        {"endpoints": []},
        {"endpoints": "tcp://127.0.0.1"},
        {"endpoints": "http://127.0.0.1:80"},
        {"endpoints": "tcp://192.0.2.1:5551"},
        {"cameras": "a b"},
        {"cameras": ["cctv/*"]},
        {"mode": "newest"},
    ]
    for arguments in wrong:
        with pytest.raises(ConfigError):
            Subscriber(**({"endpoints": "tcp://127.0.0.1:5551"} | arguments))


def test_iteration_ends_when_another_thread_closes(feed: Any) -> None:
    with Publisher("cam/1", bind=ANY) as publisher:
        feed(publisher)
        subscriber = Subscriber(publisher.endpoint)
        seen = threading.Event()
        count = 0

        def run() -> None:
            nonlocal count
            for _ in subscriber:
                count += 1
                seen.set()

        thread = threading.Thread(target=run)
        thread.start()
        assert seen.wait(5)
        subscriber.close()
        thread.join(5)
        assert not thread.is_alive()
        assert count
        with pytest.raises(ConfigError, match="closed"):
            subscriber.read(timeout=1)


def test_undecoded_frames_carry_their_payload(feed: Any) -> None:
    with Publisher("cam/1", bind=ANY) as publisher, Subscriber(publisher.endpoint, decode=False) as subscriber:
        feed(publisher)
        frame = subscriber.read(timeout=5)
        assert bytes(frame.payload[:2]) == b"\xff\xd8"
        with pytest.raises(Exception, match="decode=True"):
            _ = frame.image


def test_async_reads_iterates_times_out_and_closes(feed: Any) -> None:
    async def run() -> None:
        with Publisher("cam/1", bind=ANY) as publisher:
            async with AsyncSubscriber(publisher.endpoint, cameras="cam") as subscriber:
                with pytest.raises(TimeoutError, match=r"within 0\.1 s"):
                    await subscriber.read(timeout=0.1)
                feed(publisher)
                first = await subscriber.read(timeout=5)
                assert first.image.shape == (48, 64, 3)
                count = 0
                async for frame in subscriber:
                    assert frame.seq > first.seq
                    count += 1
                    if count == 10:
                        break
                waiting = asyncio.create_task(subscriber.read())
                waiting.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await waiting
                assert (await subscriber.read(timeout=5)).seq > first.seq
                while not (status := subscriber.cameras().get("cam/1")) or status.state != "live":
                    await subscriber.read(timeout=5)
            with pytest.raises(ConfigError, match="closed"):
                await subscriber.read(timeout=1)

    asyncio.run(run())


def test_a_cancelled_async_read_loses_no_frame(picture: Callable[..., Any]) -> None:
    async def run() -> None:
        with Publisher("cam/1", bind=ANY) as publisher:
            async with AsyncSubscriber(publisher.endpoint, mode="every") as subscriber:
                seqs: list[int] = []
                while not publisher.watched:
                    await asyncio.sleep(0.01)
                for number in range(60):
                    publisher.send(picture(number, width=640, height=480))
                    waiting = asyncio.create_task(subscriber.read())
                    await asyncio.sleep(0.004)
                    waiting.cancel()
                    with contextlib.suppress(asyncio.CancelledError):
                        seqs.append((await waiting).seq)
                with contextlib.suppress(TimeoutError):
                    while True:
                        seqs.append((await subscriber.read(timeout=0.5)).seq)
                assert seqs == list(range(seqs[-1] + 1))

    asyncio.run(run())


def test_a_callback_that_fails_ends_nothing(feed: Any, start_broker: Any, caplog: pytest.LogCaptureFixture) -> None:
    def fail(_status: Any) -> None:
        raise RuntimeError("from the callback")

    with Publisher("cam/1", bind=ANY) as publisher, Subscriber(publisher.endpoint, on_status=fail) as subscriber:
        feed(publisher)
        for _ in range(5):
            subscriber.read(timeout=5)
    assert "from the callback" in caplog.text


def test_async_decoding_leaves_the_loop_free(feed: Any) -> None:
    async def run() -> int:
        beats = 0

        async def beat() -> None:
            nonlocal beats
            while True:
                await asyncio.sleep(0.005)
                beats += 1

        with Publisher("cam/1", bind=ANY) as publisher:
            feed(publisher, fps=100)
            async with AsyncSubscriber(publisher.endpoint) as subscriber:
                beating = asyncio.create_task(beat())
                for _ in range(30):
                    await subscriber.read(timeout=5)
                beating.cancel()
        return beats

    assert asyncio.run(run()) > 10
