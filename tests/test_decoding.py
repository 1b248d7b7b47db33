"""What is shown of a mailbox's packets: what is counted, what a change of codec and a replay do, several threads."""

from __future__ import annotations

import random
import threading
from typing import Any

import pytest

from camfabric.common.codecs import jpeg
from camfabric.common.decoding import Decoding
from camfabric.common.errors import CodecError
from camfabric.common.frame import Codec, Frame
from camfabric.common.mailbox import Closed, Mailbox
from camfabric.common.settings import Limits
from camfabric.common.shared_pictures import SharedPictures


def test_pictures_that_are_not_shown_are_counted_and_add_up(video: Any) -> None:
    clean = video(Codec.H264, "bframes=0", count=60)
    rng = random.Random(1)  # noqa: S311
    mailbox = Mailbox()
    decoding = Decoding(mailbox, lambda _camera, error: pytest.fail(str(error)))
    shown: list[Frame] = []
    for frame in clean.frames:
        mailbox.put(frame)
        if rng.random() < 0.2 and (picture := decoding.picture(decoding.take(0))) is not None:
            shown.append(picture)
    total = mailbox.dropped.get("a", 0) + decoding.dropped.get("a", 0)
    last = -1
    for frame in shown:
        assert frame.seq - last == 1 + frame.missed + frame.dropped
        last = frame.seq
    assert len(shown) + sum(frame.dropped for frame in shown) == last + 1
    assert total >= sum(frame.dropped for frame in shown)
    assert all(clean.is_clean(frame) for frame in shown)


def test_a_camera_that_changes_to_stills_and_back_is_shown(video: Any, picture: Any) -> None:
    clean = video(Codec.H264, "bframes=0", count=20)
    for mode in ("latest", "every"):
        mailbox = Mailbox(mode=mode)
        decoding = Decoding(mailbox, lambda _camera, error: pytest.fail(str(error)))
        for frame in clean.frames[:5]:
            mailbox.put(frame)
        taken = decoding.take(0)
        coded = bytes(jpeg.encode(picture(3), quality=90))
        mailbox.put(Frame(camera="a", codec=Codec.JPEG, epoch=1, seq=20, width=64, height=48, payload=coded))
        codecs = []
        while True:
            if (shown := decoding.picture(taken)) is not None:
                codecs.append((shown.codec, shown.seq))
            try:
                taken = decoding.take(0)
            except TimeoutError:
                break
        for frame in clean.renumbered(21):
            mailbox.put(frame)
            if (shown := decoding.picture(decoding.take(0))) is not None:
                codecs.append((shown.codec, shown.seq))
        assert (Codec.JPEG, 20) in codecs
        assert codecs[-20:] == [(Codec.H264, seq) for seq in range(21, 41)]


def test_what_a_replay_brings_again_is_not_shown_again(video: Any) -> None:
    clean = video(Codec.H264, "bframes=0:keyint=200:min-keyint=200", count=60)
    mailbox = Mailbox(limits=Limits(backlog_frames=50))
    complaints: list[CodecError] = []
    decoding = Decoding(mailbox, lambda _camera, error: complaints.append(error))
    shown: list[Frame] = []

    def take() -> None:
        if (frame := decoding.picture(decoding.take(0))) is not None:
            shown.append(frame)

    for frame in clean.frames[:5]:
        mailbox.put(frame)
        take()
    for frame in clean.frames[5:]:  # the consumer is away for too long
        mailbox.put(frame)
    assert mailbox.dropped == {"a": 55}
    with pytest.raises(TimeoutError):
        take()
    assert mailbox.overflowed() == {"a"}
    for frame in clean.frames:
        mailbox.put(frame)
        take()
    assert [frame.seq for frame in shown] == list(range(60))
    assert all(clean.is_clean(frame) for frame in shown)
    assert not any(frame.dropped or frame.missed for frame in shown)
    assert mailbox.dropped == {"a": 0}
    assert complaints == []


def test_several_threads_share_cameras_and_each_picture_is_shown_once(video: Any) -> None:
    streams = {name: video(Codec.H264, "bframes=2:b-adapt=0", count=90, camera=name) for name in "abc"}
    mailbox = Mailbox(mode="every")
    decoding = Decoding(mailbox, lambda _camera, error: pytest.fail(str(error)))
    got: list[list[Frame]] = [[] for _ in range(4)]

    def consume(frames: list[Frame]) -> None:
        try:
            while True:
                if (frame := decoding.picture(decoding.take(None))) is not None:
                    frames.append(frame)
        except Closed:
            pass

    consumers = [threading.Thread(target=consume, args=(frames,)) for frames in got]
    for thread in consumers:
        thread.start()
    for place in range(90):
        for stream in streams.values():
            mailbox.put(stream.frames[place])
    mailbox.close()
    for thread in consumers:
        thread.join(20)
        assert not thread.is_alive()
    for name, stream in streams.items():
        shown = [frame for frames in got for frame in frames if frame.camera == name]
        assert sorted(frame.extra["number"] for frame in shown) == list(range(len(shown)))
        assert len(shown) >= 88
        assert all(stream.is_clean(frame) for frame in shown)


def test_a_camera_that_goes_over_is_shown_again_although_its_capture_times_do_not_rise(picture: Any) -> None:
    mailbox = Mailbox()
    decoding = Decoding(mailbox, lambda _camera, error: pytest.fail(str(error)), SharedPictures())

    def shown(channel: str, captured_s: float, came_s: float, epoch: int = 1) -> Frame | None:
        frame = Frame(
            camera="a",
            channel=channel,
            codec=Codec.RAW,
            epoch=epoch,
            captured_monotonic_ns=round(captured_s * 1e9),
            received_ns=round(came_s * 1e9),
            missed=1,
            decoded=picture(1),
        )
        return decoding.picture(frame)

    assert shown("shm", 5, 100) is not None
    # What came by the other way already, and what its viewers are given first, is not shown, however late that is.
    assert shown("cam", 4.5, 130) is None
    assert shown("cam", 5, 130.5) is None
    frame = shown("cam", 5.1, 133)
    assert frame is not None
    assert frame.missed == 3
    # Of the other way again, and for good.
    assert shown("shm", 5.1, 133.1) is None
    assert shown("cam", 5.2, 133.2) is not None
    assert shown("shm", 2.0, 140) is None
    assert shown("shm", 2.1, 140.9) is None
    frame = shown("shm", 2.0, 141)
    assert frame is not None
    assert frame.missed == 3
    assert shown("shm", 2.0, 141.1) is not None
    # The clock goes back by an hour.
    assert shown("cam", 2.0, 142) is None
    assert shown("cam", 2.0, 142 - 3600) is not None
    # Another publisher's times are others.
    assert shown("shm", 1.0, 143 - 3600, epoch=2) is not None
    assert decoding._passed_over == {}
