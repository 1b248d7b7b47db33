"""Subscribing to cameras: `Subscriber`, and `AsyncSubscriber` for asyncio."""

from camfabric.subscriber.aio import AsyncSubscriber
from camfabric.subscriber.subscriber import Subscriber

__all__ = ["AsyncSubscriber", "Subscriber"]
