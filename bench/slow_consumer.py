"""How late a slow consumer is: 720p raw at 30 frames/s, 200 ms of work a frame, 15 s. Prints a row.

    .venv/bin/python bench/slow_consumer.py [--seconds 15] [--codec raw]

The publisher is a process of its own. Ages are taken when the consumer gets a frame; RSS is the consumer's at its end.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time
from pathlib import Path

from camfabric.common.frame import Frame
from camfabric.subscriber import Subscriber


def rss_mb(pid: int | str = "self", field: str = "VmRSS") -> float:
    """A process's resident memory in MB, from the kernel's own accounting."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) / 1000
    raise ValueError(f"no {field} of process {pid}")


def consume(subscriber: Subscriber, *, seconds: float, work_s: float) -> list[tuple[float, Frame]]:
    """Take frames for a time, each followed by work. Returns when each was got, with its age fixed in `extra`."""
    got: list[tuple[float, Frame]] = []
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        frame = subscriber.read(timeout=5)
        got.append((frame.age_ms, frame))
        if len(got) > 1:
            got[-2] = (got[-2][0], _without_picture(got[-2][1]))
        time.sleep(work_s)
    return got


def _without_picture(frame: Frame) -> Frame:
    from dataclasses import replace

    return replace(frame, payload=None, decoded=None)


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=15.0)
    parser.add_argument("--codec", default="raw")
    arguments = parser.parse_args()
    endpoint = f"ipc:///tmp/camfabric-bench-{time.monotonic_ns()}"
    command = [sys.executable, "-m", "camfabric.cli", "--log-level", "warning", "publish"]
    command += ["test://?size=1280x720&fps=30", "--camera", "bench/slow", "--codec", arguments.codec]
    publisher = subprocess.Popen([*command, "--bind", endpoint])
    try:
        with Subscriber(endpoint, cameras="bench/slow") as subscriber:
            got = consume(subscriber, seconds=arguments.seconds, work_s=0.2)
            rss = rss_mb()
    finally:
        publisher.terminate()
        publisher.wait(5)
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
