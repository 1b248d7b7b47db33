"""A window on this machine's screen, by OpenCV."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING

from camfabric.common.errors import ConfigError

if TYPE_CHECKING:
    from camfabric.common.frame import Image

__all__ = ["Window", "can_show"]


def can_show() -> str | None:
    """Why there can be no window here, or None: there can."""
    # cv2 before av, wherever both are loaded: the other way round its windows hang for ever.
    import cv2

    if sys.platform.startswith("linux") and not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
        return "there is no screen here (DISPLAY is not set)"
    if cv2.currentUIFramework() == "":
        return "this OpenCV has no windows: pip uninstall opencv-python-headless, pip install opencv-python"
    return None


class Window:
    """One window.

    Raises:
        ConfigError: there can be none here; says why.
    """

    def __init__(self, title: str, *, width: int | None = None, height: int | None = None) -> None:
        if (why := can_show()) is not None:
            raise ConfigError(f"no window: {why}", setting="window")
        os.environ.setdefault("QT_LOGGING_RULES", "*.warning=false")
        import cv2

        self._title = title
        cv2.namedWindow(title, cv2.WINDOW_NORMAL | cv2.WINDOW_KEEPRATIO | cv2.WINDOW_GUI_NORMAL)
        self._sized = width is not None and height is not None
        if width is not None and height is not None:
            cv2.resizeWindow(title, width, height)

    def show(self, image: Image) -> None:
        """Show a picture: (H, W, 3) uint8 BGR, or (H, W) uint8."""
        import cv2

        if not self._sized:
            self._sized = True
            cv2.resizeWindow(self._title, image.shape[1], image.shape[0])
        cv2.imshow(self._title, image)

    def on_click(self, act: Callable[[int, int], None]) -> None:
        """Call `act` with the picture's column and row at each click with the left button, while `key` is called."""
        import cv2

        def hear(event: int, x: int, y: int, flags: int, data: object) -> None:
            if event == cv2.EVENT_LBUTTONUP:
                act(x, y)

        cv2.setMouseCallback(self._title, hear)

    def key(self, wait_ms: int) -> str:
        """The key pressed within the time, or ""; the window lives only while this is called."""
        import cv2

        code = cv2.waitKey(max(wait_ms, 1))
        return chr(code & 0xFF) if code != -1 else ""

    @property
    def is_open(self) -> bool:
        """Whether the user has not closed it."""
        import cv2

        return cv2.getWindowProperty(self._title, cv2.WND_PROP_VISIBLE) >= 1

    def close(self) -> None:
        """Close it."""
        import cv2

        cv2.destroyAllWindows()
