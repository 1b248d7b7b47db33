"""Admission: which keys may connect where, and publish what, from the folder of keys and the configuration."""

from __future__ import annotations

import logging
from typing import Final

from camfabric.broker.config import EVERY, BrokerConfig, unknown_keys
from camfabric.broker.inlet import PUBLISHERS, PublisherInlet
from camfabric.broker.permissions import Cameras
from camfabric.broker.ports import Ports
from camfabric.common.keys import ServerKeys
from camfabric.common.register import Register
from camfabric.common.stats import Standing
from camfabric.common.zap import Gate

__all__ = ["Admission"]

logger = logging.getLogger(__name__)

_NOTHING: Final = Cameras(())


class Admission:
    """Fills the gate's tables, and says who may publish what. Without keys everybody may everything.

    Used by one thread.
    """

    def __init__(self, gate: Gate, keys: ServerKeys | None) -> None:
        self._gate = gate
        self._register = None if keys is None else Register(keys)
        self._grants: dict[str, Cameras] = {}
        self._standing = Standing(logger)

    def has_changed(self) -> bool:
        """Whether a file in the folder has changed since `apply`."""
        return self._register is not None and self._register.has_changed()

    def apply(self, config: BrokerConfig, ports: Ports) -> None:
        """Read the folder, admit whom the configuration names, and drop whoever is not admitted any more."""
        if self._register is None:
            return
        known = self._register.read()
        self._standing.say(unknown_keys(config, known))
        names = self._register.names
        self._gate.know(self._register.all_names)
        self._grants = {key: cameras for key, name in names.items() if (cameras := Cameras(config.may_publish(name)))}
        self._gate.admit(PUBLISHERS, {key: names[key] for key in self._grants}, label=PUBLISHERS)
        for inlet in ports.inlets:
            if isinstance(inlet, PublisherInlet):
                inlet.peers.admit(self._grants)
        for outlet in ports.outlets:
            admitted = outlet.config.keys
            table = {key: name for key, name in names.items() if name in admitted or EVERY in admitted}
            self._gate.admit(outlet.domain, table, label=outlet.label)
            outlet.peers.admit(table)

    def may_publish(self, key: str, camera: str) -> bool:
        """Whether the owner of a public key (Z85) may publish a camera."""
        return self._register is None or self._grants.get(key, _NOTHING).covers(camera)
