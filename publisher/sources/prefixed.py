"""NAL units with their lengths in front, as MP4, Matroska and FLV have them, turned into an Annex B stream.

ISO/IEC 14496-15 (2022), 5.3.3.1 (avcC) and 8.3.2.1 (hvcC). FFmpeg's own filters do this too, but put parameter sets in
front of a keyframe that has them already (H.265), and of none that is not an IDR picture (H.264).
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Final

from camfabric.common.errors import CodecError
from camfabric.common.frame import Codec

__all__ = ["Prefixed"]

_START: Final = b"\x00\x00\x00\x01"


class Prefixed:
    """What a stream's configuration record says: how long the lengths are, and the parameter sets.

    Of a record that is cut off, what is there is taken.
    """

    def __init__(self, codec: Codec, record: bytes) -> None:
        self._codec = codec
        at = 4 if codec is Codec.H264 else 21
        self._length_bytes = (record[at] & 3) + 1 if len(record) > at else 4
        self.sets = b""
        """The SPS and PPS (H.265: and VPS), each with a start code."""
        with contextlib.suppress(IndexError):
            for unit in _avc_sets(record) if codec is Codec.H264 else _hevc_sets(record):
                self.sets += _START + unit if unit else b""

    @staticmethod
    def is_record(extradata: bytes) -> bool:
        """Whether a stream's extra data are a configuration record, and not an Annex B stream."""
        return extradata[:1] == b"\x01"

    def to_annex_b(self, data: bytes) -> bytes:
        """A packet with start codes in place of its lengths.

        Raises:
            CodecError: the lengths do not add up.
        """
        units = []
        at = 0
        while at < len(data):
            begin = at + self._length_bytes
            at = begin + int.from_bytes(data[at:begin])
            if at > len(data) or begin > len(data):
                raise CodecError("a NAL unit is longer than its packet", codec=self._codec.label)
            if at > begin:
                units.append(data[begin:at])
        return b"".join(_START + unit for unit in units)


def _avc_sets(record: bytes) -> Iterator[bytes]:
    at = 5
    for mask in (0x1F, 0xFF):  # SPS, PPS
        count = record[at] & mask
        at += 1
        for _ in range(count):
            size = record[at] << 8 | record[at + 1]
            yield record[at + 2 : at + 2 + size]
            at += 2 + size


def _hevc_sets(record: bytes) -> Iterator[bytes]:
    at = 23
    for _ in range(record[22]):
        kind, count = record[at] & 0x3F, record[at + 1] << 8 | record[at + 2]
        at += 3
        for _ in range(count):
            size = record[at] << 8 | record[at + 1]
            if kind in (32, 33, 34):
                yield record[at + 2 : at + 2 + size]
            at += 2 + size
