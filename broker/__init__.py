"""The broker: many publishers and subscribers at one address."""

from camfabric.broker.broker import Broker

__all__ = ["Broker"]
