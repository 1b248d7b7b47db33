"""What the browser gateway takes for nine cameras to ten viewers, small JPEG pictures at 5 a second. Prints rows.

    .venv/bin/python bench/gateway.py [--seconds 30] [--viewers 10] [--cameras 9] [--stop 1]

A broker, a publisher for each camera (720p), the gateway and the viewers are processes of their own. A viewer speaks
the WebSocket's protocol and acknowledges as the page does, every 8 ms at most. CPU is what the kernel accounts to each
process. `--stop` more viewers ask for all cameras and never read.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import statistics
import struct
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import aiohttp
from processes import cpu_percent, free_endpoint, rss_mb, running

_HEADER: Final = struct.Struct("<BBBBHHHHIIIIq")
_ACK_S: Final = 0.008
_WARM_UP_S: Final = 4.0


async def view(url: str, cameras: list[str], seconds: float, *, reads: bool) -> dict[str, Any]:
    """Be a viewer. Returns how many frames came, how many were lost, and their ages in ms."""
    ages: list[int] = []
    lost = 0
    streams = [{"id": number, "camera": name, "channel": "low"} for number, name in enumerate(cameras)]
    begun, first = time.monotonic(), 0.0
    async with aiohttp.ClientSession() as session, session.ws_connect(f"{url}/api/stream", max_msg_size=0) as socket:
        await socket.send_json({"type": "hello", "v": 1})
        await socket.send_json({"type": "watch", "streams": streams})
        if not reads:
            assert socket._response.connection is not None  # noqa: S101
            socket._response.connection.transport.pause_reading()  # type: ignore[union-attr]
            await asyncio.sleep(seconds)
            return {}
        acknowledging: asyncio.TimerHandle | None = None
        newest = 0

        def acknowledge() -> None:
            nonlocal acknowledging
            acknowledging = None
            tasks.add(asyncio.ensure_future(socket.send_str(f'{{"type":"ack","n":{newest}}}')))

        tasks: set[Any] = set()
        loop = asyncio.get_running_loop()
        while (now := time.monotonic()) < begun + seconds:
            message = await socket.receive(10)
            if message.type is not aiohttp.WSMsgType.BINARY:
                continue
            *_, newest, age_ms, _, skipped, _ = _HEADER.unpack_from(message.data)
            first = first or now - begun
            if now > begun + _WARM_UP_S:
                ages.append(age_ms)
                lost += skipped
            if acknowledging is None:
                acknowledging = loop.call_later(_ACK_S, acknowledge)
            tasks = {task for task in tasks if not task.done()}
        if acknowledging is not None:
            acknowledging.cancel()
    return {"frames": len(ages), "lost": lost, "ages": ages, "first_s": first}


@contextmanager
def viewers(url: str, cameras: list[str], seconds: float, count: int, *, reads: bool) -> Iterator[list[Any]]:
    """Run viewers as processes."""
    task = json.dumps({"url": url, "cameras": cameras, "seconds": seconds, "reads": reads})
    processes = [
        subprocess.Popen([sys.executable, str(Path(__file__)), "--be-viewer", task], stdout=subprocess.PIPE)
        for _ in range(count)
    ]
    try:
        yield processes
    finally:
        for process in processes:
            process.kill()
            process.wait()


def wait_for(url: str, count: int) -> None:
    """Wait until so many cameras are live, and what starting them costs is over."""
    end = time.monotonic() + 60
    while time.monotonic() < end:
        with contextlib.suppress(OSError), urllib.request.urlopen(url) as answer:  # noqa: S310  (a local http)
            if sum(camera["state"] == "live" for camera in json.load(answer)["cameras"]) == count:
                time.sleep(3)
                return
        time.sleep(0.2)
    raise TimeoutError(f"{count} cameras are not live at {url}")


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument("--viewers", type=int, default=10)
    parser.add_argument("--cameras", type=int, default=9)
    parser.add_argument("--stop", type=int, default=0)
    parser.add_argument("--be-viewer", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.be_viewer:
        print(json.dumps(asyncio.run(view(**json.loads(arguments.be_viewer)))))
        return
    cameras = [f"bench/{number}" for number in range(arguments.cameras)]
    publishers, subscribers = free_endpoint(), free_endpoint()
    listen = free_endpoint().removeprefix("tcp://")
    fabric = [
        ("web", "--from", subscribers, "--listen", listen),
        ("broker", "--publishers", publishers, "--subscribers", subscribers),
        # Slow cameras: what they cost is not what is measured, and they share the machine.
        *(("publish", "test://?size=1280x720&fps=5", "--camera", name, "--to", publishers) for name in cameras),
    ]
    length_s = _WARM_UP_S + arguments.seconds + 4
    with running(*fabric) as (gateway, broker, *_):
        url = f"http://{listen}"
        wait_for(f"{url}/api/cameras", len(cameras))
        idle = cpu_percent({"gateway": gateway.pid}, 5.0)["gateway"]
        with (
            viewers(url, cameras, length_s, arguments.viewers, reads=True) as readers,
            viewers(url, cameras, length_s, arguments.stop, reads=False),
        ):
            time.sleep(_WARM_UP_S)
            before = rss_mb(gateway.pid)
            cpu = cpu_percent({"gateway": gateway.pid, "broker": broker.pid}, arguments.seconds)
            after = rss_mb(gateway.pid)
            told = [json.loads(reader.communicate(timeout=60)[0]) for reader in readers]
    frames = sum(each["frames"] for each in told)
    ages = sorted(age for each in told for age in each["ages"])
    print(f"gateway: CPU {cpu['gateway']:5.2f} % of a core, {idle:.2f} % without viewers; broker {cpu['broker']:.2f} %")
    print(f"gateway: RSS {before:.1f} MB, {after:.1f} MB after {arguments.seconds:.0f} s")
    lost = sum(each["lost"] for each in told)
    print(f"{arguments.viewers} viewers of {len(cameras)} cameras: {frames} frames, {lost} lost; {arguments.stop} dead")
    slowest = ages[len(ages) * 99 // 100]
    print(f"age of a frame when it is sent: median {statistics.median(ages):.0f} ms, 99 % {slowest} ms")
    print(f"first picture after the start of a viewer: {max(each['first_s'] for each in told) * 1000:.0f} ms at most")


if __name__ == "__main__":
    main()
