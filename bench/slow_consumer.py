"""How late a slow consumer is: 720p raw at 30 frames/s, 200 ms of work a frame, 15 s. Prints a row.

    .venv/bin/python bench/slow_consumer.py [--seconds 15] [--codec raw]

The publisher is a process of its own. Ages are taken when the consumer gets a frame; RSS is the consumer's at its end.
"""

from __future__ import annotations

import argparse
import statistics
import time
from dataclasses import replace

from processes import free_endpoint, rss_mb, running

from camfabric.common.frame import Frame
from camfabric.subscriber import Subscriber


def consume(subscriber: Subscriber, *, seconds: float, work_s: float) -> list[tuple[float, Frame]]:
    """Take frames for a time, each followed by work. Returns each, without its picture, and its age when it was got."""
    got: list[tuple[float, Frame]] = []
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        frame = subscriber.read(timeout=5)
        got.append((frame.age_ms, replace(frame, payload=None, decoded=None)))
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
    with running((*command, "--bind", endpoint)), Subscriber(endpoint, cameras="bench/slow") as subscriber:
        got = consume(subscriber, seconds=arguments.seconds, work_s=0.2)
        rss = rss_mb()
    ages = [age for age, _ in got]
    fifth = max(len(ages) // 5, 1)
    print(f"frames got                  {len(got)}")
    print(f"age, median                 {statistics.median(ages):8.1f} ms")
    print(f"age, median of first fifth  {statistics.median(ages[:fifth]):8.1f} ms")
    print(f"age, median of last fifth   {statistics.median(ages[-fifth:]):8.1f} ms")
    print(f"age, largest after first    {max(ages[1:]):8.1f} ms")
    print(f"dropped / missed            {sum(f.dropped for _, f in got)} / {sum(f.missed for _, f in got)}")
    print(f"consumer RSS                {rss:8.1f} MB  (peak {rss_mb(field='VmHWM'):.1f})")


if __name__ == "__main__":
    main()
