"""Real RTSP: GStreamer's server with H.264, with and without a password, over TCP and UDP, gone and back."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from camfabric.common.codecs.annexb import slices
from camfabric.common.frame import Codec
from camfabric.subscriber import Subscriber

pytestmark = pytest.mark.rtsp

# Run by the system's Python, which has GStreamer's bindings.
_SERVER = """
import sys, gi
gi.require_version("Gst", "1.0"); gi.require_version("GstRtspServer", "1.0")
from gi.repository import GLib, Gst, GstRtspServer
port, path, user, password = sys.argv[1:5]
Gst.init(None)
server = GstRtspServer.RTSPServer.new()
server.set_address("127.0.0.1"); server.set_service(port)
factory = GstRtspServer.RTSPMediaFactory.new()
pipeline = 'filesrc location="%s" ! qtdemux ! h264parse config-interval=-1 ! rtph264pay name=pay0 pt=96'
factory.set_launch("( " + pipeline % path + " )")
factory.set_shared(True)
if user:
    auth = GstRtspServer.RTSPAuth.new()
    token = GstRtspServer.RTSPToken()
    token.set_string("media.factory.role", "viewer")
    auth.add_basic(GstRtspServer.RTSPAuth.make_basic(user, password), token)
    server.set_auth(auth)
    permissions = GstRtspServer.RTSPPermissions.new()
    permissions.add_permission_for_role("viewer", "media.factory.access", True)
    permissions.add_permission_for_role("viewer", "media.factory.construct", True)
    factory.set_permissions(permissions)
server.get_mount_points().add_factory("/cam", factory)
assert server.attach(None)
print("ready", flush=True)
GLib.MainLoop().run()
"""


@pytest.fixture(scope="module")
def footage(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight seconds of H.264, a square that wanders, with B-frames."""
    path = tmp_path_factory.mktemp("rtsp") / "footage.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25, options={"g": "25", "bf": "2"})
        stream.width, stream.height, stream.pix_fmt = 320, 240, "yuv420p"
        for number in range(200):
            image = np.full((240, 320, 3), 40, np.uint8)
            image[100:140, number : number + 40] = 220
            for packet in stream.encode(av.VideoFrame.from_ndarray(image, format="bgr24")):
                container.mux(packet)
        for packet in stream.encode():
            container.mux(packet)
    return path


@pytest.fixture
def serve(start: Any, free_port: Callable[[], int], footage: Path, eventually: Any) -> Callable[..., Any]:
    """Start a camera. Returns its process and its address without credentials."""

    def run(*, port: int | None = None, user: str = "", password: str = "") -> tuple[Any, str]:
        number = port or free_port()
        process = start("/usr/bin/python3", "-c", _SERVER, str(number), str(footage), user, password)
        eventually(lambda: process.said("ready"), within_s=20)
        return process, f"rtsp://127.0.0.1:{number}/cam"

    return run


@pytest.mark.parametrize("transport", ["tcp", "udp"])
def test_a_camera_arrives_in_order_and_looks_right(
    serve: Any, camfabric: Any, start_broker: Any, transport: str
) -> None:
    _, url = serve()
    broker = start_broker()
    camfabric("publish", url, "--camera", "cctv/road", "--to", broker.to, "--rtsp-transport", transport)
    with Subscriber(broker.endpoint, cameras="cctv", mode="every") as subscriber:
        frames = [subscriber.read(timeout=20) for _ in range(50)]
    assert sum(frame.missed for frame in frames) == 0
    times = [frame.captured_monotonic_ns for frame in frames]
    assert times == sorted(times)
    assert 0.8 < (times[49] - times[20]) / 1e9 < 2  # 25 a second, after the burst that a camera begins with
    left_edges = []
    for frame in frames:
        assert frame.image.shape == (240, 320, 3)
        bright = np.flatnonzero(frame.image[120].mean(axis=1) > 130)
        assert 30 <= len(bright) <= 50, "not the square"
        left_edges.append(int(bright[0]))
    assert left_edges == sorted(left_edges), "pictures out of order"


def test_passwords(serve: Any, camfabric: Any, start_broker: Any) -> None:
    _, url = serve(user="admin", password="s3cret")
    broker = start_broker()
    for credentials in ("", "admin:wrong@"):
        refused = camfabric(
            "publish", url.replace("rtsp://", f"rtsp://{credentials}"), "--camera", "a", "--to", broker.to
        )
        assert refused.wait(20) == 1
        assert len(refused.err) == 1
        assert "refuses the user name or the password" in refused.err[0]
        assert "wrong" not in refused.err[0].replace("wrong password", "")
    admitted = camfabric("publish", url.replace("rtsp://", "rtsp://admin:s3cret@"), "--camera", "a", "--to", broker.to)
    with Subscriber(broker.endpoint) as subscriber:
        subscriber.read(timeout=20)
        assert "s3cret" not in repr(subscriber.cameras())
    assert b"s3cret" not in Path(f"/proc/{admitted.pid}/cmdline").read_bytes()
    assert admitted.end() == 0
    assert "s3cret" not in " ".join(admitted.err + admitted.out)


def test_a_camera_that_reboots(
    serve: Any, camfabric: Any, start_broker: Any, eventually: Any, free_port: Callable[[], int]
) -> None:
    port = free_port()
    camera, url = serve(port=port)
    broker = start_broker()
    camfabric("publish", url, "--camera", "a", "--to", broker.to)
    with Subscriber(broker.endpoint) as subscriber:
        first = subscriber.read(timeout=20)
        eventually(lambda: "a" in subscriber.cameras())
        camera.kill()
        eventually(lambda: subscriber.cameras()["a"].state in ("stalled", "offline"), within_s=15)
        eventually(lambda: subscriber.cameras()["a"].state == "offline", within_s=15)
        serve(port=port)
        eventually(lambda: subscriber.cameras()["a"].state == "live", within_s=30)
        again = subscriber.read(timeout=10)
        assert again.epoch == first.epoch
        assert again.seq > first.seq


def _film(path: Path) -> tuple[list[list[bytes]], list[Any]]:
    """The slices of each packet of a film, by their lengths in it, and its pictures."""
    packets = []
    with av.open(str(path)) as container:
        for data in [bytes(packet) for packet in container.demux(video=0) if packet.size]:
            units, at = [], 0
            while at < len(data):
                size = int.from_bytes(data[at : at + 4])
                units.append(data[at + 4 : at + 4 + size])
                at += 4 + size
            packets.append([unit for unit in units if 1 <= unit[0] & 31 <= 5])
    with av.open(str(path)) as container:
        return packets, [picture.to_ndarray(format="bgr24") for picture in container.decode(video=0)]


@pytest.mark.parametrize("transport", ["tcp", "udp"])
def test_packets_arrive_as_they_are_in_the_film(
    serve: Any, camfabric: Any, start_broker: Any, footage: Path, transport: str
) -> None:
    packets, _ = _film(footage)
    _, url = serve()
    broker = start_broker()
    camfabric("publish", url, "--camera", "a", "--to", broker.to, "--rtsp-transport", transport)
    with Subscriber(broker.endpoint, cameras="a", mode="every", decode=False) as subscriber:
        frames = [subscriber.read(timeout=20) for _ in range(60)]
    assert {(frame.codec, frame.width, frame.height) for frame in frames} == {(Codec.H264, 320, 240)}
    arrived = [slices(Codec.H264, bytes(frame.payload)) for frame in frames]
    first = packets.index(arrived[0])
    assert arrived == packets[first : first + 60]
    assert [frame.seq for frame in frames] == list(range(frames[0].seq, frames[0].seq + 60))
    for frame, units in zip(frames, arrived, strict=True):
        kinds = [unit[0] & 31 for unit in bytes(frame.payload).split(b"\0\0\1")[1:]]
        assert frame.keyframe is (units[0][0] & 31 == 5)
        assert (kinds.count(7), kinds.count(8)) == ((1, 1) if frame.keyframe else (0, 0))
        assert frame.disposable is all(not unit[0] & 0x60 for unit in units)
    assert frames[0].keyframe
    assert any(frame.disposable for frame in frames)
    assert all(frame.pts is not None for frame in frames[1:])  # FFmpeg knows no time before the second one
    shown = frames[:1] + sorted(frames[1:], key=lambda frame: frame.pts or 0)
    assert shown != frames, "there are B-frames"
    times = [frame.pts or 0 for frame in shown[1:51]]
    assert len(set(np.diff(times))) == 1
    captured = [frame.captured_monotonic_ns for frame in shown]
    assert captured == sorted(captured)


def test_a_camera_that_stops_in_the_middle_of_a_group_and_comes_back(
    serve: Any, camfabric: Any, start_broker: Any, eventually: Any, free_port: Callable[[], int], footage: Path
) -> None:
    _, pictures = _film(footage)
    port = free_port()
    camera, url = serve(port=port)
    broker = start_broker()
    publisher = camfabric("publish", url, "--camera", "a", "--to", broker.to)

    def number_of(image: Any) -> int:
        """Which of the film's pictures it is; a broken one is none."""
        return next(number for number, picture in enumerate(pictures) if np.array_equal(picture, image))

    with Subscriber(broker.endpoint, cameras="a", mode="every") as subscriber:
        frames = [subscriber.read(timeout=20) for _ in range(40)]
        eventually(lambda: "a" in subscriber.cameras())
        while (number_of(frames[-1].image) + 5) % 25 != 12:
            frames.append(subscriber.read(timeout=20))
        camera.kill()
        eventually(lambda: subscriber.cameras()["a"].state == "offline", within_s=15)
        assert "127.0.0.1" in subscriber.cameras()["a"].reason
        with Subscriber(broker.endpoint, cameras="a") as late:
            number_of(late.read(timeout=10).image)  # the last picture, as old as it is
        serve(port=port)
        eventually(lambda: subscriber.cameras()["a"].state == "live", within_s=30)
        while (frame := subscriber.read(timeout=20)).captured_ns < frames[-1].captured_ns + 300_000_000:
            frames.append(frame)
        again = [frame] + [subscriber.read(timeout=20) for _ in range(30)]
    before, after = [number_of(frame.image) for frame in frames], [number_of(frame.image) for frame in again]
    # The last picture may be one that was sent before those that are shown in front of it, which were not.
    assert before[:-1] == list(range(before[0], before[0] + len(before) - 1))
    assert before[-2] < before[-1] < before[-2] + 4
    assert after == list(range(after[0], after[0] + len(after)))
    assert {frame.epoch for frame in again} == {frames[0].epoch}
    assert sum(frame.missed for frame in frames[1:] + again) == 1  # a number is left out where it was away
    assert publisher.end() == 0
