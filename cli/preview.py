"""The window of `camfabric publish --preview`: the outgoing picture."""

from __future__ import annotations

import itertools
import logging
import threading
from typing import TYPE_CHECKING

from camfabric.cli.window import Window
from camfabric.common.decoding import Decoding
from camfabric.common.errors import CodecError
from camfabric.common.frame import Frame
from camfabric.common.mailbox import Mailbox, Slot
from camfabric.publisher.low import resized
from camfabric.publisher.sources import Packet, Shot

if TYPE_CHECKING:
    from camfabric.common.frame import Image

__all__ = ["Preview"]

logger = logging.getLogger(__name__)

_KEY_WAIT_MS = 15


class Preview:
    """A window in the main thread, as the window system wants it. Packets are decoded for it, pictures drawn."""

    def __init__(self, camera: str, size: tuple[int, int] | None) -> None:
        self._window = Window(f"{camera} (outgoing)")
        self._camera = camera
        self._size = size
        self._shots: Slot[Shot] = Slot()
        self._numbers = itertools.count()
        self._mailbox = Mailbox()
        self._decoding = Decoding(self._mailbox, _complain)

    def put(self, shot: Shot | Packet) -> None:
        """Take what was published. Never waits."""
        if isinstance(shot, Shot):
            self._shots.put(shot)
            return
        self._mailbox.put(
            Frame(
                camera=self._camera,
                codec=shot.codec,
                width=shot.size[0],
                height=shot.size[1],
                keyframe=shot.keyframe,
                disposable=shot.disposable,
                seq=next(self._numbers),
                pts=shot.pts,
                payload=shot.payload,
            )
        )

    def show(self, ended: threading.Event) -> None:
        """Show it until `ended` is set, the window is closed, or q is pressed."""
        while not ended.is_set() and self._window.is_open:
            if (image := self._newest()) is not None:
                self._window.show(image)
            if self._window.key(_KEY_WAIT_MS) == "q":
                break
        self._window.close()

    def _newest(self) -> Image | None:
        if (shot := self._shots.take()) is not None:
            try:
                image = shot.draw()
            except CodecError as error:
                _complain(self._camera, error)
                return None
            return resized(image, self._size) if self._size is not None else image
        try:
            picture = self._decoding.picture(self._decoding.take(0))
        except TimeoutError:
            return None
        return picture.image if picture is not None else None


def _complain(camera: str, error: CodecError) -> None:
    logger.debug("no preview of %s: %s", camera, error)
