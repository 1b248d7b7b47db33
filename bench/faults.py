"""What faults cost: a stopped subscriber, and processes that are killed with -9 and started again.

    .venv/bin/python bench/faults.py [--rounds 5]

720p at 30 frames/s, raw for the stopped subscriber and JPEG for the restarts, through a broker.
"""

from __future__ import annotations

import argparse
import signal
import statistics
import time

from processes import free_endpoint, rss_mb, running, start

from camfabric.subscriber import Subscriber


def stopped_subscriber(seconds: float) -> None:
    """One subscriber is stopped with SIGSTOP; another one counts what it loses, and the broker is weighed."""
    to, endpoint = free_endpoint(), free_endpoint()
    camera = ("publish", "test://?size=1280x720&fps=30", "--camera", "bench/1", "--to", to, "--codec", "raw")
    with (
        running(("broker", "--publishers", to, "--subscribers", endpoint), camera) as (broker, _),
        Subscriber(endpoint, mode="every", decode=False) as healthy,
    ):
        stuck = start("subscribe", "--from", endpoint, "--save", "/dev/shm/camfabric-bench", "--every", "60")  # noqa: S108
        healthy.read(timeout=20)
        end = time.monotonic() + 5
        while time.monotonic() < end:
            healthy.read(timeout=5)
        before = peak = rss_mb(broker.pid)
        stuck.send_signal(signal.SIGSTOP)
        end = time.monotonic() + seconds
        frames = missed = dropped = 0
        while time.monotonic() < end:
            frame = healthy.read(timeout=5)
            frames, missed, dropped = frames + 1, missed + frame.missed, dropped + frame.dropped
            peak = max(peak, rss_mb(broker.pid))
        stuck.kill()
        stuck.wait()
    print(f"stopped for {seconds:.0f} s: the other subscriber got {frames} frames, missed {missed}, dropped {dropped}")
    print(f"broker RSS before / peak     {before:6.1f} / {peak:.1f} MB: {peak - before:+.1f} MB")


def restarts(rounds: int, what: str) -> None:
    """Kill the broker or the publisher, start it again, and wait for the first frame sent after its start."""
    to, endpoint = free_endpoint(), free_endpoint()
    commands = {
        "broker": ("broker", "--publishers", to, "--subscribers", endpoint),
        "publisher": ("publish", "test://?size=1280x720&fps=30", "--camera", "bench/1", "--to", to),
    }
    times = []
    processes = {name: start(*command) for name, command in commands.items()}
    try:
        with Subscriber(endpoint, decode=False) as subscriber:
            subscriber.read(timeout=20)
            for _ in range(rounds):
                end = time.monotonic() + 3
                while time.monotonic() < end:
                    subscriber.read(timeout=5)
                processes[what].kill()
                processes[what].wait()
                started = time.monotonic()
                started_ns = time.monotonic_ns()
                processes[what] = start(*commands[what])
                while subscriber.read(timeout=20).captured_monotonic_ns < started_ns:
                    pass
                times.append(time.monotonic() - started)
    finally:
        for process in processes.values():
            process.terminate()
            process.wait()
    print(
        f"{what + ' killed, started':<28} {statistics.median(times):6.2f} s to the first frame"
        f" (largest {max(times):.2f})"
    )


def main() -> None:
    """Run all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    stopped_subscriber(10)
    for what in ("broker", "publisher"):
        restarts(arguments.rounds, what)


if __name__ == "__main__":
    main()
