"""H.264's numbers of pictures: whether one that others need was lost before the stream was numbered by the fabric.

ITU-T H.264 (08/2021) 7.3.2.1.1 and 7.3.2.2 (SPS, PPS), 7.3.3 (slice header), 7.4.3 (frame_num).
"""

from __future__ import annotations

import contextlib
import functools
from dataclasses import dataclass
from typing import Final

from camfabric.common.codecs.annexb import nal_units

__all__ = ["FrameNumbers"]

_START: Final = b"\x00\x00\x01"
_SLICES: Final = frozenset({1, 2, 5})
"""Those that begin with a slice header: a slice, data partition A, a slice of an IDR picture."""
_IDR: Final = 5
_SPS: Final = 7
_PPS: Final = 8
_WITH_CHROMA_FORMAT: Final = frozenset({44, 83, 86, 100, 110, 118, 122, 128, 134, 135, 138, 139, 244})
"""profile_idc of those whose SPS has chroma_format_idc and what follows it."""
_REFERENCE: Final = 0x60
"""nal_ref_idc in a unit's first byte: not 0 where other pictures need it."""
_NUMBER_BYTES: Final = 24
"""frame_num ends within so many, emulation prevention included."""
_HEADER_BYTES: Final = 400
"""What is kept of a slice, so that its header can be read whole."""
_B_KIND: Final = 1
_I_KINDS: Final = (2, 4)
_GROUPS: Final = 3
"""Keyframe groups in a row with a gap, after which gaps are taken for the maker's."""


class _Bits:
    """Reads a NAL unit behind its first byte. Raises ValueError where it ends too soon."""

    __slots__ = ("_left", "_value")

    def __init__(self, data: bytes) -> None:
        if b"\0\0\3" in data:
            data = data.replace(b"\0\0\3", b"\0\0")  # emulation prevention, 7.4.1
        self._value = int.from_bytes(data)
        self._left = len(data) * 8

    def u(self, count: int = 1) -> int:
        self._left -= count
        if self._left < 0:
            raise ValueError("a NAL unit ends too soon")
        return self._value >> self._left & (1 << count) - 1

    def ue(self) -> int:
        rest = self._value & (1 << self._left) - 1
        self._left -= 2 * (self._left - rest.bit_length()) + 1
        if self._left < 0:
            raise ValueError("a NAL unit ends too soon")
        return (rest >> self._left) - 1

    def se(self) -> int:
        code = self.ue()
        return (code + 1) // 2 if code & 1 else -(code // 2)


@dataclass(frozen=True, slots=True)
class _Sps:
    id: int
    number_bits: int
    has_gaps: bool
    has_planes: bool
    has_chroma: bool
    has_fields: bool
    order_bits: int | None
    """Of pic_order_cnt_lsb, where there is one."""
    has_order_deltas: bool


@dataclass(frozen=True, slots=True)
class _Pps:
    id: int
    has_field_order: bool
    references: tuple[int, int]
    is_weighted: bool
    is_weighted_both: bool
    has_redundant: bool


@functools.lru_cache(maxsize=32)
def _sps(unit: bytes) -> _Sps | None:
    """An SPS; None where it cannot be read."""
    bits = _Bits(unit[1:])
    try:
        profile = bits.u(24) >> 16
        ident = bits.ue()
        chroma, planes = 1, 0
        if profile in _WITH_CHROMA_FORMAT:
            chroma = bits.ue()
            planes = bits.u() if chroma == 3 else 0
            bits.ue(), bits.ue(), bits.u()  # bit depths, qpprime_y_zero_transform_bypass_flag
            if bits.u():
                for number in range(12 if chroma == 3 else 8):
                    if bits.u():
                        _pass_scaling_list(bits, 16 if number < 6 else 64)
        number_bits = bits.ue() + 4
        order_kind = bits.ue()
        order_bits = bits.ue() + 4 if order_kind == 0 else None
        has_deltas = False
        if order_kind == 1:
            has_deltas = not bits.u()
            bits.se(), bits.se()
            for _ in range(bits.ue()):
                bits.se()
        bits.ue()  # max_num_ref_frames
        has_gaps = bits.u()
        bits.ue(), bits.ue()  # the size
        has_fields = not bits.u()
    except ValueError:
        return None
    if number_bits > 16 or order_kind > 2 or chroma > 3:
        return None
    has_chroma = chroma != 0 and not planes
    return _Sps(ident, number_bits, bool(has_gaps), bool(planes), has_chroma, has_fields, order_bits, has_deltas)


def _pass_scaling_list(bits: _Bits, size: int) -> None:
    last = 8
    for _ in range(size):
        last = (last + bits.se()) % 256
        if last == 0:
            return


@functools.lru_cache(maxsize=32)
def _pps(unit: bytes) -> _Pps | None:
    """A PPS; None where it cannot be read, or has slice groups."""
    bits = _Bits(unit[1:])
    try:
        ident = bits.ue()
        bits.ue(), bits.u()  # the SPS, entropy_coding_mode_flag
        has_field_order = bits.u()
        if bits.ue():
            return None
        references = (bits.ue() + 1, bits.ue() + 1)
        weighted, weighted_both = bits.u(), bits.u(2)
        bits.se(), bits.se(), bits.se(), bits.u(2)  # quantizers, deblocking, constrained_intra_pred_flag
        return _Pps(ident, bool(has_field_order), references, bool(weighted), weighted_both == 1, bool(bits.u()))
    except ValueError:
        return None


class FrameNumbers:
    """Of one stream, in the order of decoding: each picture has the number of the reference picture before it, or one
    more. That holds whether or not pictures that no other needs are left out.

    There is no finding where the SPS allows gaps, where several SPS are in use, and where anything cannot be read.
    Gaps in three keyframe groups in a row are taken for the maker's, until a group comes without one.
    """

    def __init__(self) -> None:
        self._sets: dict[int, _Sps] = {}
        self._pictures: dict[int, _Pps] = {}
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
        while at >= 0:
            begin = at + len(_START)
            kind = data[begin] & 0x1F if begin < len(data) else 0
            if kind in _SLICES:
                return self._take(data, begin)
            at = data.find(_START, begin)
            if kind in (_SPS, _PPS):
                self._learn(kind, data[begin : at if at >= 0 else len(data)])
        return False

    def _learn(self, kind: int, unit: bytes) -> None:
        if kind == _PPS:
            if (pps := _pps(unit)) is not None:
                self._pictures[pps.id] = pps
            return
        sps = _sps(unit)
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
            number, is_frame = (None, False) if sps is None or sps.has_gaps else _number(unit, sps)
        except ValueError:
            number = None
        if sps is None or number is None:
            self._previous = None
            return False
        is_reference = unit[0] & _REFERENCE != 0
        gap = False
        if unit[0] & 0x1F != _IDR:
            # Only a second field has the same number, and a packet with a further part of the same picture.
            least = 1 if is_reference and is_frame and _is_first(unit) else 0
            gap = self._is_gap(number, sps, least)
            if gap and self._catch_up(sps):
                gap = self._is_gap(number, sps, least)
        if is_reference:
            self._previous, self._header = number, unit
        elif gap:
            self._previous = (number - 1) % (1 << sps.number_bits)
        self._packet, self._behind = data, begin
        return gap

    def _is_gap(self, number: int, sps: _Sps, least: int) -> bool:
        if self._previous is None or least <= (number - self._previous) % (1 << sps.number_bits) <= 1:
            return False
        # Behind memory_management_control_operation 5, the number of the picture that has it counts as 0.
        return number > 1 or not self._may_be_reset(sps)

    def _catch_up(self, sps: _Sps) -> bool:
        """Look for more pictures in the packet before, which is done where it matters only. Whether there are some."""
        found = False
        packet = self._packet[self._behind :]
        for begin, end in nal_units(packet):
            unit = packet[begin : min(end, begin + _HEADER_BYTES)]
            if unit[0] & 0x1F in _SLICES and unit[0] & _REFERENCE and _is_first(unit):
                with contextlib.suppress(ValueError):
                    self._previous, self._header = _number(unit, sps)[0], unit
                    found = True
        return found

    def _may_be_reset(self, sps: _Sps) -> bool:
        """Whether the last reference picture's header has memory_management_control_operation 5, or cannot be read."""
        try:
            return _is_reset(self._header, sps, self._pictures)
        except (ValueError, KeyError):
            return True


def _is_first(unit: bytes) -> bool:
    """Whether a slice begins at macroblock 0."""
    return unit[1:2] >= b"\x80"


def _number(unit: bytes, sps: _Sps) -> tuple[int, bool]:
    """A slice's frame_num, and whether it is of a frame, not a field."""
    bits = _Bits(unit[1:_NUMBER_BYTES])
    bits.ue(), bits.ue(), bits.ue()  # first_mb_in_slice, slice_type, pic_parameter_set_id
    if sps.has_planes:
        bits.u(2)
    return bits.u(sps.number_bits), not (sps.has_fields and bits.u())


def _is_reset(unit: bytes, sps: _Sps, pictures: dict[int, _Pps]) -> bool:
    if unit[0] & 0x1F == _IDR:
        return False
    bits = _Bits(unit[1:])
    bits.ue()
    kind = bits.ue() % 5
    pps = pictures[bits.ue()]
    bits.u(2 * sps.has_planes + sps.number_bits)
    has_field_order = pps.has_field_order
    if sps.has_fields and bits.u():
        bits.u()  # bottom_field_flag
        has_field_order = False
    if sps.order_bits is not None:
        bits.u(sps.order_bits)
        if has_field_order:
            bits.se()
    if sps.has_order_deltas:
        bits.se()
        if has_field_order:
            bits.se()
    if pps.has_redundant:
        bits.ue()
    if kind not in _I_KINDS:
        _pass_references(bits, kind, sps, pps)
    return bool(bits.u()) and 5 in _operations(bits)


def _pass_references(bits: _Bits, kind: int, sps: _Sps, pps: _Pps) -> None:
    lists = 2 if kind == _B_KIND else 1
    counts = pps.references
    if kind == _B_KIND:
        bits.u()  # direct_spatial_mv_pred_flag
    if bits.u():
        counts = (bits.ue() + 1, bits.ue() + 1 if lists == 2 else 0)
    for _ in range(lists):
        if bits.u():
            while bits.ue() != 3:
                bits.ue()
    if pps.is_weighted_both if kind == _B_KIND else pps.is_weighted:
        bits.ue()
        if sps.has_chroma:
            bits.ue()
        for _ in range(sum(counts[:lists])):
            for weights in (2, 4) if sps.has_chroma else (2,):
                if bits.u():
                    for _ in range(weights):
                        bits.se()


def _operations(bits: _Bits) -> list[int]:
    found = []
    while operation := bits.ue():
        found.append(operation)
        for _ in range({1: 1, 2: 1, 3: 2, 4: 1, 6: 1}.get(operation, 0)):
            bits.ue()
    return found
