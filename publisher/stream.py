"""One channel of a camera: what was captured, how it is coded, and what is kept of it for late joiners."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from camfabric.common import wire
from camfabric.common.codecs import Encoder
from camfabric.common.errors import CodecError, FabricError
from camfabric.common.frame import Frame
from camfabric.common.groups import Groups
from camfabric.common.mailbox import Slot
from camfabric.common.settings import LIMITS, Limits
from camfabric.common.topics import topic

if TYPE_CHECKING:
    from camfabric.common.frame import Image

__all__ = ["Captured", "Message", "Stream"]

logger = logging.getLogger(__name__)

Message: TypeAlias = tuple[bytes, Any]
"""A frame's header and payload."""


@dataclass(frozen=True, slots=True)
class Captured:
    """A picture that was captured. It is drawn, or turned into an array, only when it is to be encoded."""

    frame: Frame
    """What is known of it."""
    draw: Callable[[], Image | None]

    def drawn(self) -> Image | None:
        """The picture; None where there is a newer one by now, which is on its way.

        Raises:
            FabricError: it cannot be drawn.
        """
        try:
            return self.draw()
        except FabricError:
            raise
        except Exception as error:  # of a program's own function: it is not to end the publisher
            logger.debug("drawing failed", exc_info=True)
            raise CodecError(f"a picture cannot be drawn: {error}", codec="") from error


class Stream:
    """Belongs to the sender's thread, but for `offer` and `offer_packet`, and what may be read from any thread."""

    def __init__(
        self,
        channel: str,
        camera: str,
        encoder: Encoder,
        *,
        resize: Callable[[Image], Image] | None = None,
        limits: Limits = LIMITS,
    ) -> None:
        self.topic: Final = topic(channel, camera)
        self._channel = channel
        self._encoder = encoder
        self._resize = resize
        self._limits = limits
        self._subscriptions: set[bytes] = set()
        self._slot: Slot[Captured] = Slot()
        self._lock = threading.Lock()
        self._packets: deque[Frame | None] = deque()
        self._packet_bytes = 0
        self._choked = False
        self._newest: Captured | None = None
        self._needs_keyframe = True
        self._groups = Groups(limits)
        self._next_seq = 0
        self._watched = threading.Event()
        self.on_packet: Callable[[Frame], None] | None = None
        """Called with each packet that is passed on."""
        self.carries_packets = False
        """Whether coded frames are passed on, and not pictures encoded."""
        self.is_held = False
        """Whether a picture would be held back now, and the sender's thread be woken once there is room.

        Of several links none says so: then it is false, and the thread looks again and again while it holds one back.
        """
        self.codec = ""
        """Of the last frame."""
        self.encoded = 0
        """Pictures given to the encoder."""
        self.dropped = 0
        """Pictures replaced by a newer one before they were encoded, while somebody watched; packets passed over."""

    @property
    def watched(self) -> bool:
        """Whether somebody subscribes to it."""
        return self._watched.is_set()

    @property
    def kept(self) -> int:
        """How many frames a late joiner is given at once."""
        return len(self._groups.get(self.topic))

    @property
    def kept_over(self) -> bool:
        """Whether what came since the last keyframe is too much to be kept."""
        return self._groups.is_over(self.topic)

    # From whoever captures

    def offer(self, captured: Captured) -> bool:
        """Put a picture in place of the one that is not encoded yet. Returns whether there was none."""
        replaced = self._slot.put(captured)
        if replaced and self.watched:
            self.dropped += 1
        return not replaced

    def offer_packet(self, frame: Frame) -> None:
        """Add a coded frame. All are passed on, but where the sender is stuck: then from a keyframe on that fits."""
        self._slot.take()  # a picture from before it is not the newest any more
        with self._lock:
            full = len(self._packets) >= self._limits.backlog_frames or (
                self._packet_bytes > 0 and self._packet_bytes + len(frame.payload) > self._limits.backlog_bytes
            )
            self._choked = full or (self._choked and not frame.keyframe)
            if self._choked:
                self.dropped += 1
                return
            self._packets.append(frame)
            self._packet_bytes += len(frame.payload)

    def forget(self) -> None:
        """Forget the packets that are kept: their source is closed, and what it gives next does not follow.

        A number is left out, so that no decoder goes on with what it has.
        """
        self._packets.append(None)

    # From whoever subscribes

    def subscribe(self, prefix: bytes) -> list[Message]:
        """Add a subscription that covers the topic. Returns what goes out at once: the newest, to the first viewer."""
        # Only what matches is kept, so that nobody can fill this set.
        self._subscriptions.add(prefix)
        if self.watched:
            return []
        self._watched.set()
        self._needs_keyframe = True
        return self._newest_messages()

    def unsubscribe(self, prefix: bytes) -> None:
        """Remove a subscription."""
        self._subscriptions.discard(prefix)
        if not self._subscriptions:
            self._watched.clear()

    def unwatch(self) -> None:
        """Nobody subscribes any more: the socket is closed."""
        self._subscriptions.clear()
        self._watched.clear()

    def _newest_messages(self) -> list[Message]:
        captured = self._slot.take() or self._newest
        if captured is not None:
            return self._coded(captured)
        kept = self._groups.get(self.topic)
        return list(kept) if self._is_still() else []

    def replay(self) -> Sequence[Message]:
        """What is kept for late joiners, the newest picture with it."""
        if not self.watched and (captured := self._slot.take()) is not None:
            self._needs_keyframe = True
            self._coded(captured)
        return self._groups.get(self.topic)

    def _is_still(self) -> bool:
        """Whether one frame is all that is kept, as of intra-coded streams."""
        return len(self._groups.get(self.topic)) == 1

    @property
    def has_picture(self) -> bool:
        """Whether a picture waits to be encoded for somebody."""
        return self.watched and not self._slot.is_empty

    def pull(self, *, pictures: bool = True) -> list[Message]:
        """What is to be sent now: packets that came, and the newest picture, encoded, if somebody watches.

        Args:
            pictures: False leaves the picture where it is, to be replaced by a newer one.

        Raises:
            FabricError: a picture cannot be encoded.
        """
        messages = []
        while self._packets:
            if (frame := self._next_packet()) is not None:
                messages.append(self._passed_on(frame))
            elif not self._is_still():
                self._groups.drop(self.topic)
                self._next_seq += 1
        if pictures and self.watched and (captured := self._slot.take()) is not None:
            messages += self._coded(captured)
        return messages

    def _next_packet(self) -> Frame | None:
        with self._lock:
            frame = self._packets.popleft()
            self._packet_bytes -= len(frame.payload) if frame is not None else 0
        return frame

    def frames_kept(self) -> list[Frame]:
        """What is kept, as frames."""
        return [wire.unpack_frame(self.topic, header, payload) for header, payload in self._groups.get(self.topic)]

    def _passed_on(self, frame: Frame) -> Message:
        frame, message = self._numbered(frame, time.time_ns())
        self.carries_packets = True
        if self.on_packet is not None:
            self.on_packet(frame)
        return message

    def _coded(self, captured: Captured) -> list[Message]:
        frame, image = captured.frame, captured.drawn()
        if image is None:
            return []
        if self._resize is not None:
            image = self._resize(image)
        self.encoded += 1
        frames = self._encoder.encode(frame, image, keyframe=self._needs_keyframe)
        now_ns = time.time_ns()
        messages = [self._numbered(frame, now_ns)[1] for frame in frames]
        if frames:
            self._needs_keyframe = False
            # A still is kept coded; of a video stream the picture is needed, to make a keyframe of it.
            self._newest = None if frames[-1].codec.is_intra else Captured(captured.frame, captured.draw)
        return messages

    def _numbered(self, frame: Frame, encoded_ns: int) -> tuple[Frame, Message]:
        """Give a coded frame its number, and keep it."""
        frame = frame.replace(channel=self._channel, seq=self._next_seq, encoded_ns=encoded_ns)
        header = wire.pack_header(frame)
        self._next_seq += 1
        self._groups.keep(
            self.topic,
            epoch=frame.epoch,
            seq=frame.seq,
            keyframe=frame.keyframe,
            header=header,
            payload=frame.payload,
        )
        self.codec = frame.codec.label
        return frame, (header, frame.payload)
