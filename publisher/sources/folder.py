"""A folder of pictures, in the order of their names."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import cv2

from camfabric.common.errors import SourceError
from camfabric.publisher.sources.pacer import Pacer
from camfabric.publisher.sources.source import Shot

__all__ = ["FolderSource"]

logger = logging.getLogger(__name__)

_ENDINGS: Final = {".bmp", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"}
_DEFAULT_FPS: Final = 1.0


class FolderSource:
    """The pictures of a folder at a steady rate, once or for ever. New files are seen at the next turn."""

    def __init__(self, folder: Path, *, fps: float | None, loop: bool, stop: threading.Event) -> None:
        self._folder = folder
        self._interval_s = 1 / (fps or _DEFAULT_FPS)
        self._loop = loop
        self._stop = stop
        self._names()

    def _names(self) -> list[Path]:
        try:
            paths = sorted(path for path in self._folder.iterdir() if path.suffix.lower() in _ENDINGS)
        except OSError as error:
            raise SourceError(f"folder {self._folder}: {error.strerror}", source=str(self._folder)) from error
        if not paths:
            endings = " ".join(sorted(_ENDINGS))
            raise SourceError(f"folder {self._folder} has no pictures ({endings})", source=str(self._folder))
        return paths

    def shots(self) -> Iterator[Shot]:
        """The pictures.

        Raises:
            SourceError: none of the files is a picture, or the folder is gone.
        """
        pacer = Pacer(self._stop)
        number = 0
        while True:
            found = False
            for path in self._names():
                image = cv2.imread(str(path), cv2.IMREAD_COLOR)
                if image is None:
                    logger.warning("%s is not a picture: left out", path)
                    continue
                found = True
                if not pacer.wait(number * self._interval_s):
                    return
                number += 1
                yield Shot.of(image, time.monotonic_ns())
            if not found:
                raise SourceError(f"folder {self._folder}: none of its files is a picture", source=str(self._folder))
            if not self._loop:
                # The last picture is shown for as long as the others.
                pacer.wait(number * self._interval_s)
                return

    def close(self) -> None:
        """Nothing to give back."""
