"""Sources: where pictures come from, a file for each kind; `source` has the interface and the one table."""

from camfabric.publisher.sources.source import Packet, Shot, Source, SourceAddress, open_source, parse_source

__all__ = ["Packet", "Shot", "Source", "SourceAddress", "open_source", "parse_source"]
