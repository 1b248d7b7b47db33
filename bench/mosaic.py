"""What a window with nine 1080p H.264 cameras costs, on their main streams and on their small pictures. Prints rows.

    .venv/bin/python bench/mosaic.py [--seconds 20]

The viewer is `camfabric view`, on the screen that DISPLAY names or on Xvfb. CPU is what the kernel accounts to it.
Nine cameras, each decoding its own stream for its small picture, may take all of a small machine: what they take
together is printed as well.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from footage import make_film
from processes import cpu_percent, free_endpoint, running

_CAMERAS = 9


@contextlib.contextmanager
def screen() -> Iterator[None]:
    """A screen: the one that there is, or Xvfb."""
    if os.environ.get("DISPLAY"):
        yield
        return
    server = subprocess.Popen(
        ["Xvfb", "-displayfd", "1", "-screen", "0", "1280x800x24", "-nolisten", "tcp", "-noreset"],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    number = server.stdout.readline().strip() if server.stdout is not None else ""
    os.environ["DISPLAY"] = f":{number}"
    try:
        yield
    finally:
        del os.environ["DISPLAY"]
        server.terminate()
        server.wait()


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=20.0)
    seconds = parser.parse_args().seconds
    film = make_film(Path(tempfile.gettempdir()) / "camfabric-bench-1080p25.mp4", seconds=60)
    publishers, subscribers = free_endpoint(), free_endpoint()
    publish = ("publish", str(film), "--loop", "--codec", "copy", "--to", publishers)
    with (
        screen(),
        running(
            ("broker", "--publishers", publishers, "--subscribers", subscribers),
            *((*publish, "--camera", f"bench/{number}") for number in range(_CAMERAS)),
        ) as (_, *cameras),
    ):
        time.sleep(5)
        taken = {}
        for channel in ("cam", "low"):
            with running(("view", "bench", "--from", subscribers, "--channel", channel)) as (viewer,):
                time.sleep(8)
                pids = {"viewer": viewer.pid} | {f"camera {camera.pid}": camera.pid for camera in cameras}
                taken[channel] = cpu_percent(pids, seconds)
    for channel, cpu in taken.items():
        viewer_cpu = cpu.pop("viewer")
        print(f"{channel}: viewer {viewer_cpu:6.1f} % of a core, the nine cameras together {sum(cpu.values()):6.1f} %")
        taken[channel] = {"viewer": viewer_cpu}
    print(f"low / cam: {100 * taken['low']['viewer'] / taken['cam']['viewer']:.1f} %")


if __name__ == "__main__":
    main()
