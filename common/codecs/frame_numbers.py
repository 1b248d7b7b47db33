"""H.264's numbers of pictures: whether one that others need was lost before the stream was numbered by the fabric.

ITU-T H.264 (08/2021) 7.4.3 (frame_num).
"""

from __future__ import annotations

import contextlib
from typing import Final

from camfabric.common.codecs.annexb import nal_units
from camfabric.common.codecs.h264_headers import IDR, Pps, Sps, is_first, is_reset, read_number, read_pps, read_sps

__all__ = ["FrameNumbers"]

_START: Final = b"\x00\x00\x01"
_SLICES: Final = frozenset({1, 2, 5})
"""Those that begin with a slice header: a slice, data partition A, a slice of an IDR picture."""
_SPS: Final = 7
_PPS: Final = 8
_REFERENCE: Final = 0x60
"""nal_ref_idc in a unit's first byte: not 0 where other pictures need it."""
_HEADER_BYTES: Final = 400
"""What is kept of a slice, so that its header can be read whole."""
_SET_BYTES: Final = 4096
"""What is kept of a parameter set: more than any needs as far as it is read."""
_MAX_UNITS: Final = 1000
"""Before the first slice."""
_GROUPS: Final = 3
"""Keyframe groups in a row with a gap, after which gaps are taken for the maker's."""


class FrameNumbers:
    """Of one stream, in the order of decoding: each picture has the number of the reference picture before it, or one
    more. That holds whether or not pictures that no other needs are left out.

    There is no finding where the SPS allows gaps, where several SPS are in use, and where anything cannot be read.
    Gaps in three keyframe groups in a row are taken for the maker's, until a group comes without one.
    """

    def __init__(self) -> None:
        self._sets: dict[int, Sps] = {}
        self._pictures: dict[int, Pps] = {}
        self._is_readable = True
        self._previous: int | None = None
        self._header = b""
        self._packet = b""
        self._behind = 0
        self._has_gap = False
        self._is_whole = False
        self._groups = 0

    def is_missing(self, data: bytes, *, keyframe: bool, follows: bool) -> bool:
        """Take in the next packet. Whether a reference picture is missing between it and the one before it.

        `follows` is false where packets are missing, as is known: nothing is concluded then.
        """
        if not follows:
            self._sets.clear()
            self._pictures.clear()
            self._is_readable, self._previous, self._is_whole = True, None, False
        gap = self._read(data)
        self._has_gap |= gap
        if keyframe:
            if self._has_gap:
                self._groups += 1
            elif self._is_whole:
                self._groups = 0
            self._has_gap, self._is_whole = False, True
        return gap and self._groups < _GROUPS

    def _read(self, data: bytes) -> bool:
        at = data.find(_START)
        for _ in range(_MAX_UNITS):
            if at < 0:
                break
            begin = at + len(_START)
            kind = data[begin] & 0x1F if begin < len(data) else 0
            if kind in _SLICES:
                return self._take(data, begin)
            at = data.find(_START, begin)
            if kind in (_SPS, _PPS):
                self._learn(kind, data[begin : min(at if at >= 0 else len(data), begin + _SET_BYTES)])
        return False

    def _learn(self, kind: int, unit: bytes) -> None:
        if kind == _PPS:
            if (pps := read_pps(unit)) is not None:
                self._pictures[pps.id] = pps
            return
        sps = read_sps(unit)
        if sps is None:
            self._is_readable = False
        elif self._sets.get(sps.id) != sps:
            self._sets[sps.id] = sps
            self._previous = None

    def _take(self, data: bytes, begin: int) -> bool:
        """Take in a packet whose first slice begins at `begin`. Whether a picture before it is missing."""
        sps = next(iter(self._sets.values())) if len(self._sets) == 1 and self._is_readable else None
        unit = data[begin : begin + _HEADER_BYTES]
        try:
            number, is_frame = (None, False) if sps is None or sps.has_gaps else read_number(unit, sps)
        except ValueError:
            number = None
        if sps is None or number is None:
            self._previous = None
            return False
        is_reference = unit[0] & _REFERENCE != 0
        gap = False
        if unit[0] & 0x1F != IDR:
            # Only a second field has the same number, and a packet with a further part of the same picture.
            least = 1 if is_reference and is_frame and is_first(unit) else 0
            gap = self._is_gap(number, sps, least)
            if gap and self._catch_up(sps):
                gap = self._is_gap(number, sps, least)
        if is_reference:
            self._previous, self._header = number, unit
        elif gap:
            self._previous = (number - 1) % (1 << sps.number_bits)
        self._packet, self._behind = data, begin
        return gap

    def _is_gap(self, number: int, sps: Sps, least: int) -> bool:
        if self._previous is None or least <= (number - self._previous) % (1 << sps.number_bits) <= 1:
            return False
        # Behind memory_management_control_operation 5, the number of the picture that has it counts as 0.
        return number > 1 or not self._may_be_reset(sps)

    def _catch_up(self, sps: Sps) -> bool:
        """Look for more pictures in the packet before, which is done where it matters only. Whether there are some."""
        found = False
        packet = self._packet[self._behind :]
        for begin, end in nal_units(packet):
            unit = packet[begin : min(end, begin + _HEADER_BYTES)]
            if unit[0] & 0x1F in _SLICES and unit[0] & _REFERENCE and is_first(unit):
                with contextlib.suppress(ValueError):
                    self._previous, self._header = read_number(unit, sps)[0], unit
                    found = True
        return found

    def _may_be_reset(self, sps: Sps) -> bool:
        """Whether the last reference picture's header has memory_management_control_operation 5, or cannot be read."""
        try:
            return is_reset(self._header, sps, self._pictures)
        except (ValueError, KeyError):
            return True
