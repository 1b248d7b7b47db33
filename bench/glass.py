"""Glass to glass in a browser: how old the picture is that the gateway's page shows, by its own pixels. Prints rows.

    .venv/bin/python bench/glass.py [--seconds 10] [--opens 10] [--size 1280x720]

A `test://` camera of 30 frames/s draws the time into each picture; broker, gateway and Chromium run on this machine. At
each repaint the strip is read out of what the page shows. "First picture" counts from the moment at which the page's
script has come, with a wall of four cameras, until one of them shows a picture, and until all do.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import time
from typing import Any

from playwright.sync_api import sync_playwright
from processes import free_endpoint, running

_CAMERAS = ("glass/1", "glass/2", "glass/3")
_H264 = "glass/h264"
_WAYS = (
    ("JPEG", "glass/1", ""),
    ("H.264 by WebCodecs", _H264, ""),
    ("H.264 by Media Source", _H264, "&video=mse"),
    ("H.264 as JPEG of the gateway", _H264, "&video=jpeg"),
)

# The age of each new picture, at the repaint that shows it.
_WATCH = """
    (seconds) => new Promise((resolve) => {
        const ages = [];
        const end = performance.now() + seconds * 1000;
        let last = 0;
        const context = new OffscreenCanvas(1, 1).getContext("2d", { willReadFrequently: true });
        const look = () => {
            const picture = document.querySelector(".tile.big .picture > *");
            const [width, height] = [picture.videoWidth ?? picture.width, picture.videoHeight ?? picture.height];
            if (context.canvas.width !== width) {
                context.canvas.width = width;
            }
            const row = height - Math.floor(Math.max(Math.floor(height / 36), 4) / 2) - 1;
            context.drawImage(picture, 0, row, width, 1, 0, 0, width, 1);
            const { data } = context.getImageData(0, 0, width, 1);
            let time = 0;
            for (let cell = 0; cell < 48; cell += 1) {
                time = time * 2 + (data[4 * Math.floor((2 * cell + 1) * width / 128) + 1] > 127 ? 1 : 0);
            }
            if (time !== last) {
                ages.push(Date.now() - time);
                last = time;
            }
            performance.now() < end ? requestAnimationFrame(look) : resolve(ages);
        };
        requestAnimationFrame(look);
    })
"""

# Runs before the page's own script.
_FIRST = """
    window.shown = [];
    new MutationObserver(() => {
        const count = document.querySelectorAll(".tile[data-state='live'] .picture > canvas").length;
        while (shown.length < count) {
            shown.push(performance.now());
        }
    }).observe(document, { subtree: true, childList: true, attributes: true });
"""
_SCRIPT = """
    performance.getEntriesByType("resource").find(({ name }) => name.endsWith("/page/main.js"))?.responseEnd
"""


def ages(browser: Any, url: str, camera: str, how: str, seconds: float) -> list[float]:
    """The ages of the pictures of an enlarged camera, in ms."""
    page = browser.new_page(viewport={"width": 1280, "height": 800})
    page.goto(f"{url}#camera={camera}{how}")
    page.wait_for_function("() => document.querySelector('.tile.big .picture > *')")
    page.wait_for_timeout(4000)
    found: list[float] = page.evaluate(_WATCH, seconds)
    page.close()
    return found


def first_pictures(browser: Any, url: str) -> tuple[float, float]:
    """ms from the start of the page's script to the first picture, and to one of each camera."""
    context = browser.new_context(viewport={"width": 1280, "height": 800})
    page = context.new_page()
    page.add_init_script(_FIRST)
    page.goto(url)
    page.wait_for_function(f"() => window.shown.length >= {len(_CAMERAS) + 1}")
    begun, shown = page.evaluate(_SCRIPT), page.evaluate("shown")
    context.close()
    return shown[0] - begun, shown[-1] - begun


def _row(what: str, values: list[float]) -> None:
    high = sorted(values)[int(len(values) * 0.95)]
    print(f"{what:42} median {statistics.median(values):5.0f} ms   95 % {high:5.0f} ms   ({len(values)})", flush=True)


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--opens", type=int, default=10)
    parser.add_argument("--size", default="1280x720")
    arguments = parser.parse_args()
    publishers, subscribers = free_endpoint(), free_endpoint()
    listen = free_endpoint().removeprefix("tcp://")
    source = f"test://?size={arguments.size}&fps=30"
    cameras = [("publish", source, "--camera", camera, "--to", publishers) for camera in _CAMERAS]
    with running(
        ("broker", "--publishers", publishers, "--subscribers", subscribers),
        ("web", "--from", subscribers, "--listen", listen),
        ("publish", source, "--camera", _H264, "--to", publishers, "--codec", "h264", "--gop", "240"),
        *cameras,
    ):
        time.sleep(3)
        url = f"http://{listen}/"
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), chromium_sandbox=False)
            first_pictures(browser, url)
            firsts = []
            for _ in range(arguments.opens):
                time.sleep(3)  # the streams of the one before have ended, up to the cameras
                firsts.append(first_pictures(browser, url))
            _row("first picture after the script begins", [first for first, _ in firsts])
            _row("all four pictures", [last for _, last in firsts])
            for what, camera, how in _WAYS:
                _row(f"age in the page's pixels, {what}", ages(browser, url, camera, how, arguments.seconds))


if __name__ == "__main__":
    main()
