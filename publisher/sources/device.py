"""A camera at this machine, by OpenCV."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import cv2

from camfabric.common.errors import SourceError
from camfabric.publisher.sources.source import Shot

__all__ = ["DeviceSource"]


class DeviceSource:
    """A video device, such as `/dev/video0`. It is asked for a size and a rate, and gives what it can."""

    def __init__(
        self, path: str, *, size: tuple[int, int] | None = None, fps: float | None = None, backend: int = cv2.CAP_ANY
    ) -> None:
        self._path = path
        if not Path(path).exists():
            there = ", ".join(sorted(str(device) for device in Path("/dev").glob("video*"))) or "none"
            raise SourceError(f"device {path} is not there; there are: {there}", source=path)
        if not os.access(path, os.R_OK):
            raise SourceError(f"device {path} may not be read: add this user to the group 'video'", source=path)
        # What OpenCV would print is said in the error.
        cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
        self._capture = cv2.VideoCapture(path, backend)
        if not self._capture.isOpened():
            self._capture.release()
            raise SourceError(f"device {path} cannot be opened: in use by another program, or no camera", source=path)
        self._capture.set(cv2.CAP_PROP_BUFFERSIZE, 1)
        if size is not None:
            self._capture.set(cv2.CAP_PROP_FRAME_WIDTH, size[0])
            self._capture.set(cv2.CAP_PROP_FRAME_HEIGHT, size[1])
        if fps is not None:
            self._capture.set(cv2.CAP_PROP_FPS, fps)

    def shots(self) -> Iterator[Shot]:
        """Pictures as the device gives them.

        Raises:
            SourceError: it gave none; unplugged, most likely.
        """
        while True:
            grabbed = self._capture.grab()
            captured_ns = time.monotonic_ns()
            done, image = self._capture.retrieve() if grabbed else (False, None)
            if not done or image is None:
                raise SourceError(f"device {self._path} gives no more pictures", source=self._path)
            yield Shot.of(image, captured_ns)

    def close(self) -> None:
        """Give the device back."""
        self._capture.release()
