"""What it costs to pass on an RTSP camera of 1080p25 with 4 Mbit/s, and whether its bytes arrive. Prints rows.

    .venv/bin/python bench/passthrough.py [--seconds 30] [--film FILE.mp4]

The camera is GStreamer's RTSP server, with a film made here or any H.264 in MP4. CPU is what the kernel accounts to
each process; the slice NAL units that arrive are compared with the film's by their hashes.
"""

from __future__ import annotations

import argparse
import hashlib
import tempfile
import threading
from pathlib import Path

import av
from av.bitstream import BitStreamFilterContext
from footage import make_film, rtsp_camera
from processes import cpu_percent, free_endpoint, rss_mb, running

from camfabric.common.codecs.annexb import slices
from camfabric.common.errors import ConfigError
from camfabric.common.frame import Codec
from camfabric.subscriber import Subscriber


def film_slices(film: Path) -> list[str]:
    """The hashes of a film's slice NAL units, in decoding order."""
    with av.open(str(film)) as container:
        stream = container.streams.video[0]
        convert = BitStreamFilterContext("h264_mp4toannexb", stream)
        packets = [bytes(part) for packet in container.demux(stream) if packet.size for part in convert.filter(packet)]
    return [_hash(unit) for packet in packets for unit in slices(Codec.H264, packet)]


def _hash(unit: bytes) -> str:
    return hashlib.sha256(unit).hexdigest()


class Listener(threading.Thread):
    """Takes all packets, as a recorder would."""

    def __init__(self, endpoint: str) -> None:
        super().__init__()
        self.subscriber = Subscriber(endpoint, cameras="bench/rtsp", mode="every", decode=False)
        self.hashes: list[str] = []
        self.missed = self.dropped = 0
        self.bytes = 0

    def run(self) -> None:
        """Until the subscriber is closed."""
        while True:
            try:
                frame = self.subscriber.read()
            except ConfigError:
                return
            self.hashes += [_hash(unit) for unit in slices(Codec.H264, bytes(frame.payload))]
            self.missed += frame.missed
            self.dropped += frame.dropped
            self.bytes += len(frame.payload)


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument("--film", type=Path)
    arguments = parser.parse_args()
    film = arguments.film or make_film(
        Path(tempfile.gettempdir()) / "camfabric-bench-1080p25.mp4", seconds=max(arguments.seconds, 30) + 30
    )
    wanted = film_slices(film)
    publishers, subscribers = free_endpoint(), free_endpoint()
    with (
        rtsp_camera(film) as url,
        running(("broker", "--publishers", publishers, "--subscribers", subscribers)) as (broker,),
    ):
        listener = Listener(subscribers)
        listener.start()
        with running(("publish", url, "--camera", "bench/rtsp", "--to", publishers)) as (publisher,):
            while not listener.hashes:
                if publisher.poll() is not None:
                    raise SystemExit("the publisher ended")
                cpu_percent({}, 0.1)
            cpu_percent({}, 2.0)
            cpu = cpu_percent({"publisher": publisher.pid, "broker": broker.pid}, arguments.seconds)
            rss = {"publisher": rss_mb(publisher.pid), "broker": rss_mb(broker.pid)}
            listener.subscriber.close()
            listener.join()
    got = listener.hashes
    begin = wanted.index(got[0]) if got[0] in wanted else 0
    equal = got == wanted[begin : begin + len(got)]
    for name in cpu:
        print(f"{name:<12} CPU {cpu[name]:5.2f} % of a core   RSS {rss[name]:6.1f} MB")
    print(f"slice NAL units: {len(got)}, {'all equal to the film, in order' if equal else 'NOT EQUAL TO THE FILM'}")
    print(f"missed {listener.missed}, dropped {listener.dropped}, {listener.bytes / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
