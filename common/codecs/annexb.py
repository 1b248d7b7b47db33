"""Annex B byte streams of H.264 and H.265: NAL units, parameter sets, and what no other picture needs.

ITU-T H.264 (08/2021) 7.3.1, 7.4.1, table 7-1 and annex B; ITU-T H.265 (08/2021) 7.3.1, 7.4.2, table 7-1 and annex B.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from camfabric.common.frame import Codec

__all__ = ["has_slices", "is_disposable", "is_instantaneous", "nal_units", "parameter_sets", "slices", "sub_layers"]

_START: Final = b"\x00\x00\x01"
_MAX_UNITS: Final = 10_000
"""NAL units that are looked at in a packet: one has some hundreds, and a hostile one of 128 MB may have 40 million."""
_H264_SETS: Final = frozenset({7, 8})
"""SPS, PPS."""
_H264_SLICES: Final = frozenset(range(1, 6))
_H264_IDR: Final = frozenset({5})
_H265_IDR: Final = frozenset(range(16, 21))
"""BLA_W_LP to IDR_N_LP."""
_H265_SETS: Final = frozenset({32, 33, 34})
"""VPS, SPS, PPS."""
_H265_SPS: Final = 33
_H265_SLICES: Final = frozenset(range(32))
_H265_NON_REFERENCE: Final = frozenset(range(0, 16, 2))
"""TRAIL_N to RSV_VCL_N14: pictures that none of their own temporal sub-layer needs."""


def nal_units(data: bytes) -> Iterator[tuple[int, int]]:
    """(first byte, byte behind the last one) of each NAL unit, start codes and trailing zeros left out."""
    at = data.find(_START)
    for _ in range(_MAX_UNITS):
        if at < 0:
            return
        begin = at + len(_START)
        at = data.find(_START, begin)
        end = len(data) if at < 0 else at
        if data[end - 1] == 0:
            end = begin + len(data[begin:end].rstrip(b"\0"))
        if end > begin:
            yield begin, end


def _kind(codec: Codec, first: int) -> int:
    """The NAL unit type in a unit's first byte."""
    return first & 0x1F if codec is Codec.H264 else first >> 1 & 0x3F


def parameter_sets(codec: Codec, data: bytes) -> bytes:
    """The SPS and PPS (H.265: and VPS) of `data`, each with a start code; empty where there are none."""
    wanted = _H264_SETS if codec is Codec.H264 else _H265_SETS
    units = [data[begin:end] for begin, end in nal_units(data) if _kind(codec, data[begin]) in wanted]
    return b"".join(b"\x00" + _START + unit for unit in units)


def slices(codec: Codec, data: bytes) -> list[bytes]:
    """The NAL units that hold picture data."""
    wanted = _H264_SLICES if codec is Codec.H264 else _H265_SLICES
    return [data[begin:end] for begin, end in nal_units(data) if _kind(codec, data[begin]) in wanted]


def has_slices(codec: Codec, data: bytes) -> bool:
    """Whether there are NAL units that hold picture data."""
    wanted = _H264_SLICES if codec is Codec.H264 else _H265_SLICES
    return any(_kind(codec, data[begin]) in wanted for begin, _ in nal_units(data))


def is_disposable(codec: Codec, data: bytes) -> bool:
    """Whether the NAL units of a packet say that no other picture needs it.

    With H.265 that holds for streams of one temporal sub-layer alone.
    """
    found = False
    for begin, _ in nal_units(data):
        first = data[begin]
        kind = _kind(codec, first)
        if codec is Codec.H264 and kind in _H264_SLICES:
            if first & 0x60:  # nal_ref_idc
                return False
            found = True
        elif codec is Codec.H265 and kind in _H265_SLICES:
            if kind not in _H265_NON_REFERENCE:
                return False
            found = True
    return found


def is_instantaneous(codec: Codec, data: bytes) -> bool:
    """Whether no picture behind this one can refer to one before it: H.264's IDR, H.265's IDR and BLA."""
    wanted = _H264_IDR if codec is Codec.H264 else _H265_IDR
    return any(_kind(codec, data[begin]) in wanted for begin, _ in nal_units(data))


def sub_layers(data: bytes) -> int:
    """How many temporal sub-layers the H.265 SPS in `data` allows; 7, the most, where there is none."""
    for begin, end in nal_units(data):
        if _kind(Codec.H265, data[begin]) == _H265_SPS and end - begin > 2:
            return (data[begin + 2] >> 1 & 7) + 1
    return 7
