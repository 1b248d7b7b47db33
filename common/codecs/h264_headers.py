"""Headers of H.264 as far as `frame_num` and what resets it: sequence and picture parameter sets, and slices.

ITU-T H.264 (08/2021) 7.3.2.1.1 and 7.3.2.2 (SPS, PPS), 7.3.3 (slice header), 7.4.1 (emulation prevention).
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Final

__all__ = ["IDR", "Pps", "Sps", "is_first", "is_reset", "read_number", "read_pps", "read_sps"]

IDR: Final = 5
"""Type of the NAL units of an IDR picture."""
_WITH_CHROMA_FORMAT: Final = frozenset({44, 83, 86, 100, 110, 118, 122, 128, 134, 135, 138, 139, 244})
"""profile_idc of those whose SPS has chroma_format_idc and what follows it."""
_NUMBER_BYTES: Final = 24
"""frame_num ends within so many, emulation prevention included."""
_MAX_SPS: Final = 31
_MAX_PPS: Final = 255
_MAX_CYCLE: Final = 255
"""num_ref_frames_in_pic_order_cnt_cycle, 7.4.2.1.1."""
_B_KIND: Final = 1
_I_KINDS: Final = (2, 4)


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
class Sps:
    """What a sequence parameter set says of slice headers."""

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
class Pps:
    """What a picture parameter set says of slice headers."""

    id: int
    has_field_order: bool
    references: tuple[int, int]
    is_weighted: bool
    is_weighted_both: bool
    has_redundant: bool


@functools.lru_cache(maxsize=32)
def read_sps(unit: bytes) -> Sps | None:
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
            if (cycle := bits.ue()) > _MAX_CYCLE:
                return None
            for _ in range(cycle):
                bits.se()
        bits.ue()  # max_num_ref_frames
        has_gaps = bits.u()
        bits.ue(), bits.ue()  # the size
        has_fields = not bits.u()
    except ValueError:
        return None
    if ident > _MAX_SPS or number_bits > 16 or order_kind > 2 or chroma > 3:
        return None
    has_chroma = chroma != 0 and not planes
    return Sps(ident, number_bits, bool(has_gaps), bool(planes), has_chroma, has_fields, order_bits, has_deltas)


def _pass_scaling_list(bits: _Bits, size: int) -> None:
    last = 8
    for _ in range(size):
        last = (last + bits.se()) % 256
        if last == 0:
            return


@functools.lru_cache(maxsize=32)
def read_pps(unit: bytes) -> Pps | None:
    """A PPS; None where it cannot be read, or has slice groups."""
    bits = _Bits(unit[1:])
    try:
        if (ident := bits.ue()) > _MAX_PPS:
            return None
        bits.ue(), bits.u()  # the SPS, entropy_coding_mode_flag
        has_field_order = bits.u()
        if bits.ue():
            return None
        references = (bits.ue() + 1, bits.ue() + 1)
        weighted, weighted_both = bits.u(), bits.u(2)
        bits.se(), bits.se(), bits.se(), bits.u(2)  # quantizers, deblocking, constrained_intra_pred_flag
        return Pps(ident, bool(has_field_order), references, bool(weighted), weighted_both == 1, bool(bits.u()))
    except ValueError:
        return None


def is_first(unit: bytes) -> bool:
    """Whether a slice begins at macroblock 0."""
    return unit[1:2] >= b"\x80"


def read_number(unit: bytes, sps: Sps) -> tuple[int, bool]:
    """A slice's frame_num, and whether it is of a frame, not a field.

    Raises:
        ValueError: the header ends too soon.
    """
    bits = _Bits(unit[1:_NUMBER_BYTES])
    bits.ue(), bits.ue(), bits.ue()  # first_mb_in_slice, slice_type, pic_parameter_set_id
    if sps.has_planes:
        bits.u(2)
    return bits.u(sps.number_bits), not (sps.has_fields and bits.u())


def is_reset(unit: bytes, sps: Sps, pictures: dict[int, Pps]) -> bool:
    """Whether a reference picture's slice has memory_management_control_operation 5: numbers begin anew behind it.

    Raises:
        ValueError: the header ends too soon.
        KeyError: its picture parameter set is not known.
    """
    if unit[0] & 0x1F == IDR:
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


def _pass_references(bits: _Bits, kind: int, sps: Sps, pps: Pps) -> None:
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
