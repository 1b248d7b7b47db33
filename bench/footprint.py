"""What the processes weigh: RSS of a publisher and a broker, PSS of the whole demo, and the time to import.

    .venv/bin/python bench/footprint.py [--seconds 10]

One 720p JPEG camera at 30 frames/s through a broker to one subscriber; then `camfabric demo` with its four.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time
from pathlib import Path

from processes import free_endpoint, pss_mb, rss_mb, running, start

from camfabric.subscriber import Subscriber


def one_camera(seconds: float) -> None:
    """A publisher, a broker and a subscriber in this process."""
    to, endpoint = free_endpoint(), free_endpoint()
    with (
        running(
            ("broker", "--publishers", to, "--subscribers", endpoint),
            ("publish", "test://?size=1280x720&fps=30", "--camera", "bench/1", "--to", to),
        ) as (broker, publisher),
        Subscriber(endpoint, decode=False) as subscriber,
    ):
        subscriber.read(timeout=20)
        end = time.monotonic() + seconds
        frames = 0
        while time.monotonic() < end:
            subscriber.read(timeout=5)
            frames += 1
        print(f"frames/s                     {frames / seconds:8.1f}")
        print(
            f"publisher RSS                {rss_mb(publisher.pid):8.1f} MB  (peak {rss_mb(publisher.pid, 'VmHWM'):.1f})"
        )
        print(f"broker RSS                   {rss_mb(broker.pid):8.1f} MB  (peak {rss_mb(broker.pid, 'VmHWM'):.1f})")


def whole_demo(seconds: float) -> None:
    """`camfabric demo` without a window: broker, four 720p cameras, live table."""
    demo = start("demo", "--no-window", "--duration", str(seconds))
    time.sleep(seconds * 0.8)
    children = [int(pid) for pid in Path(f"/proc/{demo.pid}/task/{demo.pid}/children").read_text().split()]
    figures = {pid: pss_mb(pid) for pid in (demo.pid, *children)}
    demo.wait(20)
    print(f"demo, processes              {len(figures):8d}")
    print(f"demo, sum of PSS             {sum(figures.values()):8.1f} MB")


def import_time() -> None:
    """`import camfabric.subscriber` in fresh interpreters."""
    code = "import time; t = time.perf_counter(); import camfabric.subscriber; print(time.perf_counter() - t)"
    times = [
        float(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout)
        for _ in range(9)
    ]
    print(f"import camfabric.subscriber  {statistics.median(times):8.3f} s   (largest of 9: {max(times):.3f})")


def main() -> None:
    """Run all three."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=10.0)
    arguments = parser.parse_args()
    import_time()
    one_camera(arguments.seconds)
    whole_demo(arguments.seconds)


if __name__ == "__main__":
    main()
