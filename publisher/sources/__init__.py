"""Sources: where pictures come from, a file for each kind; `source` has the interface and the one table."""

from camfabric.publisher.sources.source import Shot, Source, SourceAddress, open_source, parse_source

__all__ = ["Shot", "Source", "SourceAddress", "open_source", "parse_source"]
