"""Chromium with the gateway's page: starting it, and reading what the page shows out of its own pixels."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import shutil
import subprocess
import time
from collections.abc import Iterator
from typing import Any, Final

__all__ = [
    "CHROMIUM",
    "Tab",
    "chromium",
    "have_browser",
    "picture",
    "state",
    "timecode",
    "wait_for_states",
    "wait_for_text",
]

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
    """Whether there are both a browser and the package that drives it, and its own program starts."""
    if CHROMIUM is None or importlib.util.find_spec("playwright") is None:
        return False
    from playwright._impl._driver import compute_driver_executable

    node, _ = compute_driver_executable()
    return subprocess.run([node, "--version"], capture_output=True, check=False).returncode == 0


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


class Tab:
    """A tab that can be hidden by another one. Playwright's own pages are visible whatever is before them."""

    def __init__(self, browser: Any, url: str) -> None:
        self._answers: dict[int, Any] = {}
        self._count = 0
        self._pump = browser.new_page()  # the browser's answers come while one waits in a page of Playwright's
        self._session = browser.new_browser_cdp_session()
        self._session.on("Target.receivedMessageFromTarget", self._take)
        self._context = self._session.send("Target.createBrowserContext")["browserContextId"]
        self._target = self._create(url)
        attached = self._session.send("Target.attachToTarget", {"targetId": self._target, "flatten": False})
        self._id = attached["sessionId"]

    def _create(self, url: str) -> str:
        created = self._session.send("Target.createTarget", {"url": url, "browserContextId": self._context})
        return str(created["targetId"])

    def _take(self, event: dict[str, Any]) -> None:
        answer = json.loads(event["message"])
        self._answers[answer.get("id", 0)] = answer

    def evaluate(self, expression: str) -> Any:
        """The value of an expression in the tab. Asked again where the page was exchanged for another one meanwhile."""
        end = time.monotonic() + 10
        while True:
            answer = self._ask(expression, end)
            if "result" in answer:
                return answer["result"]["result"].get("value")
            assert time.monotonic() < end, f"{expression}: {answer}"

    def _ask(self, expression: str, end: float) -> dict[str, Any]:
        self._count += 1
        parameters = {"expression": expression, "returnByValue": True}
        message = json.dumps({"id": self._count, "method": "Runtime.evaluate", "params": parameters})
        self._session.send("Target.sendMessageToTarget", {"sessionId": self._id, "message": message})
        while self._count not in self._answers:
            assert time.monotonic() < end, f"no answer to {expression}"
            self._pump.wait_for_timeout(10)
        answer: dict[str, Any] = self._answers.pop(self._count)
        return answer

    def hide(self) -> None:
        """Open another tab before it."""
        self._create("about:blank")

    def show(self) -> None:
        """Bring it to the front."""
        self._session.send("Target.activateTarget", {"targetId": self._target})

    def close(self) -> None:
        """Close it and what hides it."""
        self._session.send("Target.disposeBrowserContext", {"browserContextId": self._context})
        self._session.detach()
        self._pump.close()


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


def wait_for_text(page: Any, selector: str, text: str) -> None:
    """Wait until an element has a text in it.

    Raises:
        playwright.sync_api.TimeoutError: it has not.
    """
    page.wait_for_function(
        "([selector, text]) => document.querySelector(selector)?.textContent.includes(text)", arg=[selector, text]
    )
