"""A container's packets as they are to be sent: Annex B, parameter sets before each keyframe, and their size known."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Final

from camfabric.common.codecs import jpeg
from camfabric.common.codecs.annexb import is_disposable, parameter_sets, slices, sub_layers
from camfabric.common.errors import CodecError
from camfabric.common.frame import Codec
from camfabric.publisher.sources.source import Packet

if TYPE_CHECKING:
    import av
    import av.video

__all__ = ["Packets", "codec_of"]

logger = logging.getLogger(__name__)

_CODECS: Final = {"h264": Codec.H264, "hevc": Codec.H265, "mjpeg": Codec.JPEG}
_TO_ANNEX_B: Final = {Codec.H264: "h264_mp4toannexb", Codec.H265: "hevc_mp4toannexb"}
_NAMES: Final = {Codec.H264: "h264", Codec.H265: "hevc"}


def codec_of(stream: av.video.VideoStream) -> Codec | None:
    """The codec of a stream, or None: it cannot be carried as it is."""
    return _CODECS.get(stream.codec_context.name)


class Packets:
    """Makes `Packet`s of one stream's packets, in their order. Begins at its first keyframe.

    The picture data are passed on byte for byte. Length prefixes, as MP4 and FLV have them, become start codes, and
    parameter sets that stand beside the stream are put in front of each keyframe that has none.
    """

    def __init__(self, stream: av.video.VideoStream, codec: Codec) -> None:
        self._codec = codec
        self._stream = stream
        context = stream.codec_context
        extradata = bytes(context.extradata or b"")
        self._to_annex_b: Any = None
        self._to_jpeg: Any = None
        self._sets = b""
        if not codec.is_intra:
            if extradata[:1] == b"\x01":  # avcC or hvcC: ISO/IEC 14496-15
                from av.bitstream import BitStreamFilterContext

                self._to_annex_b = BitStreamFilterContext(_TO_ANNEX_B[codec], stream)
            else:
                self._sets = parameter_sets(codec, extradata)
        base = stream.time_base
        self._time_base = (base.numerator, base.denominator) if base else None
        self._size = (context.width, context.height)
        self._sized_by = b""
        self._begun = False
        self._layers = 1

    def of(self, packet: av.Packet[Any], captured_monotonic_ns: int) -> Iterator[Packet]:
        """What is to be sent of a packet: mostly one, none of what is damaged or before the first keyframe."""
        make = self._still if self._codec.is_intra else self._video
        for converted in [packet] if self._to_annex_b is None else self._to_annex_b.filter(packet):
            payload = bytes(converted)
            if payload and (made := make(payload, converted, captured_monotonic_ns)) is not None:
                yield made

    def _still(self, payload: bytes, packet: av.Packet[Any], captured_monotonic_ns: int) -> Packet | None:
        try:
            width, height, _ = jpeg.size_of(payload)
        except CodecError as error:
            logger.debug("a packet is left out: %s", error)
            return None
        self._size = (width, height)
        if not jpeg.has_huffman_tables(payload):
            payload = self._with_tables(packet)
        return self._packet(payload, packet, captured_monotonic_ns, keyframe=True, disposable=False)

    def _with_tables(self, packet: av.Packet[Any]) -> bytes:
        """A picture of Motion JPEG that leaves the standard tables out, as many USB cameras do, with them."""
        if self._to_jpeg is None:
            from av.bitstream import BitStreamFilterContext

            self._to_jpeg = BitStreamFilterContext("mjpeg2jpeg", self._stream)
        return b"".join(bytes(whole) for whole in self._to_jpeg.filter(packet))

    def _video(self, payload: bytes, packet: av.Packet[Any], captured_monotonic_ns: int) -> Packet | None:
        if not slices(self._codec, payload):
            # Parameter sets alone: they belong to what follows.
            self._sets = parameter_sets(self._codec, payload) or self._sets
            return None
        keyframe = packet.is_keyframe
        if keyframe:
            sets = parameter_sets(self._codec, payload)
            if not sets:
                payload = self._sets + payload
            self._sets = sets or self._sets
            self._measure(payload)
            self._begun = True
        if not self._begun or 0 in self._size:
            return None
        disposable = not keyframe and self._layers == 1 and is_disposable(self._codec, payload)
        return self._packet(payload, packet, captured_monotonic_ns, keyframe=keyframe, disposable=disposable)

    def _measure(self, keyframe: bytes) -> None:
        """Where the parameter sets have changed, find the picture's size: by decoding the keyframe, once."""
        if self._sized_by == self._sets:
            return
        self._sized_by = self._sets
        if self._codec is Codec.H265:
            self._layers = sub_layers(self._sets)
        import av

        context: Any = av.CodecContext.create(_NAMES[self._codec], "r")
        context.thread_type, context.thread_count = "SLICE", 1
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
