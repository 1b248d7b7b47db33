"""How late a slow consumer is: 720p raw at 30 frames/s, 200 ms of work a frame, 15 s. Prints a row.

    .venv/bin/python bench/slow_consumer.py [--seconds 15] [--codec raw]

With --codec h264 as well. The publisher is a process of its own. Ages are taken when the consumer gets a frame; RSS is
the consumer's at its end. Each picture has its time drawn into it: one that shows another than its frame says is wrong.
"""

from __future__ import annotations

import argparse
import statistics
import time
from dataclasses import replace

from processes import free_endpoint, rss_mb, running

from camfabric.common.frame import Frame
from camfabric.publisher.sources.scene import read_timecode
from camfabric.subscriber import Subscriber

_CLOSE_MS = 3.0


def is_wrong(frame: Frame) -> bool:
    """Whether a picture does not show the time at which it was captured."""
    shown_ms, _ = read_timecode(frame.image)
    return abs(shown_ms - frame.captured_ns / 1e6) > _CLOSE_MS


def consume(subscriber: Subscriber, *, seconds: float, work_s: float) -> list[tuple[float, Frame, bool]]:
    """Take frames for a time, each followed by work.

    Returns each, without its picture, with its age when it was got, and whether its picture was wrong.
    """
    got: list[tuple[float, Frame, bool]] = []
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        frame = subscriber.read(timeout=5)
        got.append((frame.age_ms, replace(frame, payload=None, decoded=None), is_wrong(frame)))
        time.sleep(work_s)
    return got


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=15.0)
    parser.add_argument("--codec", default="raw")
    arguments = parser.parse_args()
    endpoint = free_endpoint()
    command = ("publish", "test://?size=1280x720&fps=30", "--camera", "bench/slow", "--codec", arguments.codec)
    with running((*command, "--bind", endpoint)), Subscriber(endpoint, cameras="bench/slow", local="off") as subscriber:
        got = consume(subscriber, seconds=arguments.seconds, work_s=0.2)
        rss = rss_mb()
    ages = [age for age, _, _ in got]
    fifth = max(len(ages) // 5, 1)
    print(f"frames got                  {len(got)}")
    print(f"age, median                 {statistics.median(ages):8.1f} ms")
    print(f"age, median of first fifth  {statistics.median(ages[:fifth]):8.1f} ms")
    print(f"age, median of last fifth   {statistics.median(ages[-fifth:]):8.1f} ms")
    print(f"age, largest after first    {max(ages[1:]):8.1f} ms")
    print(f"dropped / missed            {sum(f.dropped for _, f, _ in got)} / {sum(f.missed for _, f, _ in got)}")
    print(f"wrong pictures              {sum(wrong for _, _, wrong in got)}")
    print(f"consumer RSS                {rss:8.1f} MB  (peak {rss_mb(field='VmHWM'):.1f})")


if __name__ == "__main__":
    main()
