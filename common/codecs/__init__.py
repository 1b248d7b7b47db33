"""Codecs: one file each; `camfabric.common.codecs.codec` has their interface and the one table."""

from camfabric.common.codecs.codec import by_name, decode, encoder, names, prepare

__all__ = ["by_name", "decode", "encoder", "names", "prepare"]
