"""Chromium with the gateway's page: starting it, and reading what the page shows out of its own pixels."""

from __future__ import annotations

import contextlib
import importlib.util
import shutil
from collections.abc import Iterator
from typing import Any, Final

__all__ = ["CHROMIUM", "chromium", "have_browser", "picture", "state", "timecode", "wait_for_states"]

CHROMIUM: Final = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")

_TILE: Final = "document.querySelector(`.tile[data-camera='${camera}']`)"
_READ_STRIP: Final = f"""
    (camera) => {{
        const picture = {_TILE}?.querySelector(".picture > *");
        const [width, height] = [picture?.videoWidth ?? picture?.width, picture?.videoHeight ?? picture?.height];
        if (!width) {{
            return null;
        }}
        const row = height - Math.floor(Math.max(Math.floor(height / 36), 4) / 2) - 1;
        const context = new OffscreenCanvas(width, 1).getContext("2d");
        context.drawImage(picture, 0, row, width, 1, 0, 0, width, 1);
        const {{ data }} = context.getImageData(0, 0, width, 1);
        return Array.from({{ length: 64 }}, (_, cell) => data[4 * Math.floor((2 * cell + 1) * width / 128) + 1]);
    }}
"""


def have_browser() -> bool:
    """Whether there are both a browser and the package that drives it."""
    return CHROMIUM is not None and importlib.util.find_spec("playwright") is not None


@contextlib.contextmanager
def chromium() -> Iterator[Any]:
    """A browser without a window: Playwright's `Browser`."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        # Its sandbox wants rights that containers and root do not have; it opens nothing but our own page.
        browser = playwright.chromium.launch(executable_path=CHROMIUM, chromium_sandbox=False)
        try:
            yield browser
        finally:
            browser.close()


def timecode(page: Any, camera: str) -> tuple[int, int] | None:
    """(Unix time in ms, frame number) in the picture that a tile shows of a `test://` source; None without one."""
    strip = page.evaluate(_READ_STRIP, camera)
    if strip is None:
        return None
    value = sum((level > 127) << (63 - cell) for cell, level in enumerate(strip))
    return value >> 16, value & 0xFFFF


def state(page: Any, camera: str) -> str | None:
    """What a tile says of its camera, as "live" or "offline"; None where there is no such tile."""
    found: str | None = page.evaluate(f"(camera) => {_TILE}?.dataset.state ?? null", camera)
    return found


def picture(page: Any, camera: str) -> dict[str, Any]:
    """The element that shows a camera: `tag`, `width`, `height`; empty where there is none."""
    found: dict[str, Any] = page.evaluate(
        f"""(camera) => {{
            const found = {_TILE}?.querySelector(".picture > *");
            return found ? {{
                tag: found.tagName, width: found.videoWidth ?? found.width, height: found.videoHeight ?? found.height,
            }} : {{}};
        }}""",
        camera,
    )
    return found


def wait_for_states(page: Any, wanted: str, *cameras: str, within_s: float = 15.0) -> None:
    """Wait until the tiles of these cameras say so.

    Raises:
        playwright.sync_api.TimeoutError: they do not.
    """
    page.wait_for_function(
        f"([wanted, cameras]) => cameras.every((camera) => {_TILE}?.dataset.state === wanted)",
        arg=[wanted, list(cameras)],
        timeout=within_s * 1000,
        polling=50,
    )
