"""What the benchmarks film: files of H.264 made of the drawn scene with grain, and RTSP cameras that play them."""

from __future__ import annotations

import contextlib
import socket
import subprocess
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from camfabric.publisher.sources.scene import Scene

__all__ = ["make_film", "rtsp_camera"]

_GRAIN = 6

# Run by the system's Python, which has GStreamer's bindings.
_SERVER = """
import sys, gi
gi.require_version("Gst", "1.0"); gi.require_version("GstRtspServer", "1.0")
from gi.repository import GLib, Gst, GstRtspServer
port, path = sys.argv[1:3]
Gst.init(None)
server = GstRtspServer.RTSPServer.new()
server.set_address("127.0.0.1"); server.set_service(port)
factory = GstRtspServer.RTSPMediaFactory.new()
launch = 'filesrc location="%s" ! qtdemux ! h264parse config-interval=-1 ! rtph264pay name=pay0 pt=96' % path
factory.set_launch("( " + launch + " )")
factory.set_shared(True)
server.get_mount_points().add_factory("/cam", factory)
assert server.attach(None)
print("ready", flush=True)
GLib.MainLoop().run()
"""
_PACKAGES = (
    "python3-gi gir1.2-gst-rtsp-server-1.0 gstreamer1.0-rtsp"
    " gstreamer1.0-plugins-base gstreamer1.0-plugins-good gstreamer1.0-plugins-bad"
)


def make_film(
    path: Path,
    *,
    size: tuple[int, int] = (1920, 1080),
    fps: int = 25,
    seconds: float = 30.0,
    bit_rate: int = 4_000_000,
    gop: int = 50,
    b_frames: int = 2,
) -> Path:
    """Make an MP4, unless it is there already. Grain, four pictures in turn, makes it as large as real film."""
    if path.exists():
        return path
    scene = Scene(size, path.stem)
    random = np.random.default_rng(1)
    grain = [random.integers(0, _GRAIN, (size[1], size[0], 3), dtype=np.uint8) for _ in range(4)]
    options = {
        "preset": "veryfast",
        "g": str(gop),
        "keyint_min": str(gop),
        "sc_threshold": "0",
        "bf": str(b_frames),
        "maxrate": str(bit_rate),
        "bufsize": str(2 * bit_rate),
    }
    part = path.with_suffix(".part.mp4")
    with av.open(str(part), "w") as container:
        stream = container.add_stream("libx264", rate=fps, options=options)
        stream.width, stream.height = size
        stream.pix_fmt = "yuv420p"
        stream.bit_rate = bit_rate
        for number in range(int(seconds * fps)):
            image = scene.draw(number, int(number * 1e9 / fps))
            np.minimum(image, 255 - _GRAIN, out=image)
            picture = av.VideoFrame.from_ndarray(image + grain[number % 4], format="bgr24")
            picture.pts = number
            picture.time_base = Fraction(1, fps)
            container.mux(stream.encode(picture))
        container.mux(stream.encode(None))
    part.rename(path)
    return path


@contextlib.contextmanager
def rtsp_camera(film: Path) -> Iterator[str]:
    """A camera that plays a film, once for each time that nobody was there. Gives its URL."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = subprocess.Popen(
        ["/usr/bin/python3", "-c", _SERVER, str(port), str(film.resolve())], stdout=subprocess.PIPE, text=True
    )
    try:
        if server.stdout is None or server.stdout.readline() != "ready\n":
            raise SystemExit(f"no RTSP camera; apt-get install {_PACKAGES}")
        yield f"rtsp://127.0.0.1:{port}/cam"
    finally:
        server.terminate()
        server.wait()
