"""Codecs: one file each; `camfabric.common.codecs.codec` has their interface and the one table."""

from camfabric.common.codecs.codec import Encoder, Encoding, by_name, decode, make_encoder, names, prepare
from camfabric.common.codecs.video_decoder import Decoded, VideoDecoder

__all__ = [
    "Decoded",
    "Encoder",
    "Encoding",
    "VideoDecoder",
    "by_name",
    "decode",
    "make_encoder",
    "names",
    "prepare",
]
