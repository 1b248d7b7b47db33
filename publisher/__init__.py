"""Publishing a camera: `Publisher` for programs that have pictures, `capture` and `sources` for `camfabric publish`."""

from camfabric.publisher.low import Low
from camfabric.publisher.publisher import Publisher

__all__ = ["Low", "Publisher"]
