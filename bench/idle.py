"""What a 1080p30 camera of `test://` costs while somebody watches it and while nobody does. Prints rows.

    .venv/bin/python bench/idle.py [--seconds 15]

CPU is what the kernel accounts to the publisher; how often it has encoded is what its status says.
"""

from __future__ import annotations

import argparse
import time

from processes import cpu_percent, free_endpoint, running

from camfabric.subscriber import Subscriber


def encoded(endpoint: str) -> int:
    """How many pictures the publisher has encoded, without watching it."""
    with Subscriber(endpoint, channel=None) as subscriber:
        while not (cameras := subscriber.cameras()):
            time.sleep(0.05)
    return next(iter(cameras.values())).encoded


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=15.0)
    seconds = parser.parse_args().seconds
    for codec in ("jpeg", "h264"):
        endpoint = free_endpoint()
        command = ("publish", "test://?size=1920x1080&fps=30", "--camera", "bench/idle", "--codec", codec)
        with running((*command, "--bind", endpoint)) as (publisher,):
            encoded(endpoint)  # it is there
            time.sleep(1)
            before = encoded(endpoint)
            alone = cpu_percent({"alone": publisher.pid}, seconds)["alone"]
            calls = encoded(endpoint) - before
            with Subscriber(endpoint, cameras="bench/idle", decode=False) as subscriber:
                subscriber.read(timeout=5)
                watched = cpu_percent({"watched": publisher.pid}, seconds)["watched"]
        print(
            f"{codec}: watched {watched:5.1f} % of a core, nobody watching {alone:5.1f} %"
            f" ({100 * (1 - alone / watched):.0f} % lower), pictures encoded meanwhile: {calls}"
        )


if __name__ == "__main__":
    main()
