"""The browser gateway: cameras of a fabric as a page, a WebSocket, snapshots and MJPEG. Needs the extra `web`."""

from camfabric.gateway.server import Gateway
from camfabric.gateway.settings import GatewaySettings

__all__ = ["Gateway", "GatewaySettings"]
