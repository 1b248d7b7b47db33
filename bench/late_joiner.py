"""How soon a late joiner sees a picture, and how fast it catches up. Prints rows.

    .venv/bin/python bench/late_joiner.py [--runs 20] [--film FILE.mp4]

An H.264 film is passed on through a broker, again and again. Subscribers come at random moments; the time counts from
the end of `Subscriber(...)` to the first picture out of `read`. Without --film there are two, made here: one of 640x360
with B-frames and a keyframe every 8.4 s, and one of 1080p25 with a keyframe every 30 s.
"""

from __future__ import annotations

import argparse
import random
import statistics
import tempfile
import time
from pathlib import Path

from footage import make_film
from processes import free_endpoint, running

from camfabric.subscriber import Subscriber

_CAUGHT_UP_MS = 400.0
"""Of a stream with B-frames, no picture is much younger."""
_WORTH_MS = 3000.0
"""From this age of the first picture on, catching up is measured."""


def join(endpoint: str) -> tuple[float, float, float | None]:
    """(ms to the first picture, its age in ms, times real time at which it caught up, if it had to)."""
    with Subscriber(endpoint, cameras="bench/late") as subscriber:
        begun = time.monotonic()
        frame = subscriber.read(timeout=10)
        first_s, first_age_ms = time.monotonic() - begun, frame.age_ms
        if first_age_ms < _WORTH_MS:
            return first_s * 1e3, first_age_ms, None
        at, at_ns = time.monotonic(), frame.captured_monotonic_ns
        while frame.age_ms > _CAUGHT_UP_MS:
            frame = subscriber.read(timeout=10)
        speed = (frame.captured_monotonic_ns - at_ns) / 1e9 / (time.monotonic() - at)
    return first_s * 1e3, first_age_ms, speed


def measure(film: Path, *, runs: int, spread_s: float) -> None:
    """Join so many times, and print what came of it."""
    publishers, subscribers = free_endpoint(), free_endpoint()
    with running(
        ("broker", "--publishers", publishers, "--subscribers", subscribers),
        ("publish", str(film), "--loop", "--codec", "copy", "--camera", "bench/late", "--to", publishers),
    ):
        join(subscribers)
        time.sleep(spread_s)
        joins = []
        for _ in range(runs):
            time.sleep(random.uniform(0, spread_s))
            joins.append(join(subscribers))
    firsts = [first for first, _, _ in joins]
    speeds = [speed for _, _, speed in joins if speed is not None]
    print(f"{film.name}: {runs} late joiners")
    print(f"  first picture after    median {statistics.median(firsts):6.0f} ms   largest {max(firsts):6.0f} ms")
    print(f"  its age                median {statistics.median(age for _, age, _ in joins):6.0f} ms")
    if speeds:
        print(f"  catching up            median {statistics.median(speeds):6.1f} x   least {min(speeds):6.1f} x")


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--film", type=Path)
    arguments = parser.parse_args()
    if arguments.film is not None:
        measure(arguments.film, runs=arguments.runs, spread_s=4.0)
        return
    folder = Path(tempfile.gettempdir())
    short = make_film(
        folder / "camfabric-bench-360p.mp4",
        size=(640, 360), fps=30, seconds=42, bit_rate=300_000, gop=252, b_frames=3,
    )  # fmt: skip
    measure(short, runs=arguments.runs, spread_s=4.0)
    for b_frames in (2, 0):
        long = make_film(folder / f"camfabric-bench-gop30-{b_frames}b.mp4", seconds=60, gop=750, b_frames=b_frames)
        measure(long, runs=max(arguments.runs // 2, 1), spread_s=9.0)


if __name__ == "__main__":
    main()
