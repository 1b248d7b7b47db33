"""A container's packets as they are to be sent: Annex B, parameter sets before each keyframe, and their size known."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Final

from camfabric.common.codecs import jpeg
from camfabric.common.codecs.annexb import has_slices, is_disposable, nal_units, parameter_sets, sub_layers
from camfabric.common.codecs.video_decoder import FFMPEG_NAMES
from camfabric.common.errors import CodecError
from camfabric.common.frame import Codec
from camfabric.common.settings import LIMITS
from camfabric.publisher.sources.prefixed import Prefixed
from camfabric.publisher.sources.source import Packet

if TYPE_CHECKING:
    import av
    import av.video

__all__ = ["Packets", "codec_of"]

logger = logging.getLogger(__name__)

_CODECS: Final = {name: codec for codec, name in FFMPEG_NAMES.items()} | {"mjpeg": Codec.JPEG}
_DELIMITERS: Final = {Codec.H264: (0x1F, 9), Codec.H265: (0x7E, 35 << 1)}
"""Mask and value of the first byte of an access unit delimiter, which stands in front of the parameter sets."""


def codec_of(stream: av.video.VideoStream) -> Codec | None:
    """The codec of a stream, or None: it cannot be carried as it is."""
    return _CODECS.get(stream.codec_context.name)


class Packets:
    """Makes `Packet`s of one stream's packets, in their order. Begins at its first keyframe.

    The picture data are passed on byte for byte. Length prefixes, as MP4 and FLV have them, become start codes, and
    parameter sets that stand beside the stream are put in front of each keyframe that has none. What is shown before
    the first keyframe is left out.
    """

    def __init__(self, stream: av.video.VideoStream, codec: Codec) -> None:
        self._codec = codec
        self._stream = stream
        context = stream.codec_context
        self._prefixed: Prefixed | None = None
        self._to_jpeg: Any = None
        self._sets = b""
        if not codec.is_intra:
            self._configure(bytes(context.extradata or b""))
        base = stream.time_base
        self._time_base = (base.numerator, base.denominator) if base else None
        self._size = (context.width, context.height)
        self._sized_by = b""
        self._begun = False
        self._begun_at: int | None = None
        self._layers = 1

    def _configure(self, extradata: bytes) -> None:
        """Take in what stands beside the stream."""
        if not Prefixed.is_record(extradata):
            self._sets = parameter_sets(self._codec, extradata) or self._sets
            return
        self._prefixed = Prefixed(self._codec, extradata)
        self._sets = self._prefixed.sets

    def of(self, packet: av.Packet[Any], captured_monotonic_ns: int) -> Iterator[Packet]:
        """What is to be sent of a packet: it, or nothing, where it is damaged or before the first keyframe."""
        if not packet.size:
            return
        make = self._still if self._codec.is_intra else self._video
        try:
            made = make(packet, captured_monotonic_ns)
        except CodecError as error:
            logger.debug("a packet is left out: %s", error)
            return
        if made is not None:
            yield made

    def _still(self, packet: av.Packet[Any], captured_monotonic_ns: int) -> Packet | None:
        payload = bytes(packet)
        width, height, _ = jpeg.size_of(payload)
        self._size = (width, height)
        if not jpeg.has_huffman_tables(payload):
            payload = self._with_tables(payload)
        return self._packet(payload, packet, captured_monotonic_ns, keyframe=True, disposable=False)

    def _with_tables(self, payload: bytes) -> bytes:
        """A picture of Motion JPEG that leaves the standard tables out, as many USB cameras do, with them."""
        import av

        if self._to_jpeg is None:
            from av.bitstream import BitStreamFilterContext

            self._to_jpeg = BitStreamFilterContext("mjpeg2jpeg", self._stream)
        try:
            # A packet of its own: the filter leaves an empty one, without its times, behind.
            return b"".join(bytes(whole) for whole in self._to_jpeg.filter(av.Packet(payload)))
        except av.FFmpegError as error:
            raise CodecError(f"JPEG without Huffman tables: {error.strerror}", codec="jpeg") from error

    def _video(self, packet: av.Packet[Any], captured_monotonic_ns: int) -> Packet | None:
        if extradata := _new_extradata(packet):
            self._configure(extradata)
        payload = bytes(packet)
        if self._prefixed is not None:
            payload = self._prefixed.to_annex_b(payload)
        if not has_slices(self._codec, payload):
            # Parameter sets alone: they belong to what follows.
            self._sets = parameter_sets(self._codec, payload) or self._sets
            return None
        keyframe = packet.is_keyframe
        if keyframe:
            sets = parameter_sets(self._codec, payload)
            if not sets:
                payload = self._with_sets(payload)
            self._sets = sets or self._sets
            self._measure(payload)
            if not self._begun:
                self._begun, self._begun_at = True, packet.pts
        if not self._begun or 0 in self._size:
            return None
        if self._begun_at is not None and packet.pts is not None and packet.pts < self._begun_at:
            return None  # shown before the first keyframe: it needs what came before that
        disposable = not keyframe and self._layers == 1 and is_disposable(self._codec, payload)
        return self._packet(payload, packet, captured_monotonic_ns, keyframe=keyframe, disposable=disposable)

    def _with_sets(self, payload: bytes) -> bytes:
        mask, delimiter = _DELIMITERS[self._codec]
        begin, end = next(nal_units(payload))
        at = end if payload[begin] & mask == delimiter else 0
        return payload[:at] + self._sets + payload[at:]

    def _measure(self, keyframe: bytes) -> None:
        """Where the parameter sets have changed, find the picture's size: by decoding the keyframe, once."""
        if self._sized_by == self._sets:
            return
        self._sized_by = self._sets
        if self._codec is Codec.H265:
            self._layers = sub_layers(self._sets)
        import av

        context: Any = av.CodecContext.create(FFMPEG_NAMES[self._codec], "r")
        context.thread_type, context.thread_count = "SLICE", 1
        context.options = {"max_pixels": str(LIMITS.pixels)}
        try:
            pictures = [*context.decode(av.Packet(keyframe)), *context.decode(None)]
        except (av.FFmpegError, ValueError):
            pictures = []
        if pictures:
            self._size = (pictures[0].width, pictures[0].height)

    def _packet(
        self,
        payload: bytes,
        packet: av.Packet[Any],
        captured_monotonic_ns: int,
        *,
        keyframe: bool,
        disposable: bool,
    ) -> Packet:
        return Packet(
            payload=payload,
            codec=self._codec,
            size=self._size,
            keyframe=keyframe,
            disposable=disposable,
            pts=packet.pts,
            dts=packet.dts,
            time_base=self._time_base,
            captured_monotonic_ns=captured_monotonic_ns,
        )


def _new_extradata(packet: av.Packet[Any]) -> bytes:
    """What stands in place of the stream's extra data from this packet on, as FLV has it; older PyAV does not tell."""
    if not hasattr(packet, "has_sidedata") or not packet.has_sidedata("new_extradata"):
        return b""
    return bytes(packet.get_sidedata("new_extradata"))
