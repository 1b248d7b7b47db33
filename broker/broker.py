"""`Broker`: one loop over XSUB and XPUB sockets that checks, counts, keeps and forwards. It never decodes a picture."""

from __future__ import annotations

import logging
import secrets
import time
from collections import Counter
from collections.abc import Container, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import zmq

from camfabric.broker.admission import Admission
from camfabric.broker.config import BrokerConfig, make_config, read_config
from camfabric.broker.demand import Demand
from camfabric.broker.forwarding import Forwarding
from camfabric.broker.inlet import UpstreamInlet
from camfabric.broker.interest import Interest
from camfabric.broker.outlet import Outlet
from camfabric.broker.permissions import Cameras
from camfabric.broker.ports import Port, Ports
from camfabric.broker.removals import only_removals
from camfabric.common.allocator import keep_freed_memory
from camfabric.common.errors import ConfigError, FabricError
from camfabric.common.groups import Groups
from camfabric.common.keys import server_keys
from camfabric.common.settings import BROKER_PUBLISHERS, BROKER_SUBSCRIBERS, LIMITS, TIMES, Limits
from camfabric.common.sockets import Waker, Watch, room_for_connections
from camfabric.common.zap import Gate

__all__ = ["Broker"]

logger = logging.getLogger(__name__)

_BATCH: Final = 64
"""Messages of one inlet, until the others have their turn."""
_TICK_S: Final = 0.25
"""Between two looks at what depends on time."""


class Broker:
    """Forwards cameras from publishers and upstreams to subscribers, and subscriptions the other way.

    Args:
        publishers: endpoints to bind for publishers.
        subscribers: endpoints to bind for subscribers and for further brokers.
        upstreams: endpoints to connect to: publishers that bind, or other brokers' endpoints for subscribers.
        config: a `broker.toml`, in place of the three above.
        key: the broker's own secret key: a file, or a name in the folder `keys`.
        server_key: the upstreams' public keys, likewise: one for all of them, or one for each.
        keys: the folder with the public keys of those who may connect. A key that is taken out of it, or revoked,
            loses its connections.
        insecure: allow endpoints beyond loopback without keys.

    Raises:
        ConfigError: an argument, or the file, is wrong; nothing was started.
        EndpointError: an endpoint is taken, or not of this machine.
    """

    def __init__(
        self,
        *,
        publishers: Sequence[str] = (BROKER_PUBLISHERS,),
        subscribers: Sequence[str] = (BROKER_SUBSCRIBERS,),
        upstreams: Sequence[str] = (),
        config: str | Path | None = None,
        key: str | Path | None = None,
        server_key: str | Path | Sequence[str | Path] | None = None,
        keys: str | Path | None = None,
        insecure: bool = False,
        limits: Limits = LIMITS,
    ) -> None:
        self._path = None if config is None else Path(config)
        self._folder = None if keys is None else Path(keys)
        self._insecure_asked = insecure
        if self._path is not None:
            self._config = read_config(self._path, keys=self._folder, insecure=insecure)
        else:
            self._config = make_config(
                publishers=publishers,
                subscribers=subscribers,
                upstreams=upstreams,
                keys=self._folder,
                key="" if key is None else str(key),
                server_key=_texts(server_key),
                insecure=insecure,
                limits=limits,
            )
        self._keys = server_keys(key=self._config.key or key, keys=self._config.keys)
        limits = _within_descriptors(self._config)
        keep_freed_memory()
        self.id: Final = secrets.token_hex(8)
        self._waker = Waker()
        self._stop_asked = False
        self._reload_asked = False
        self._next_keys = 0.0
        self._watch = Watch()
        # With keys, what comes in and what goes out are each as much work as one thread can do.
        self._context: zmq.Context[Any] = zmq.Context(1 if self._keys is None else 2)
        self._gate = Gate(self._context)
        self._admission = Admission(self._gate, self._keys)
        self._ports = Ports(
            self._context, gate=self._gate, keys=self._keys, limits=limits, may_publish=self._admission.may_publish
        )
        interest, groups = Interest(), Groups(limits)
        self._demand = Demand(self._ports, interest, groups, limits=limits)
        self._forwarding = Forwarding(self._ports, interest, groups, broker_id=self.id, limits=limits)
        try:
            self._apply(self._config)
        except BaseException:
            self._close()
            raise

    @property
    def publishers(self) -> list[str]:
        """The endpoints bound for publishers, with their real ports."""
        return [inlet.endpoint for inlet in self._ports.inlets if not isinstance(inlet, UpstreamInlet)]

    @property
    def subscribers(self) -> list[str]:
        """The endpoints bound for subscribers, with their real ports."""
        return [outlet.endpoint for outlet in self._ports.outlets]

    @property
    def insecure(self) -> bool:
        """Whether something goes beyond this machine without keys."""
        config = self._config
        plain = [upstream.endpoint for upstream in config.upstreams if not upstream.server_key]
        if self._keys is None:
            plain += [*config.publishers, *(outlet.endpoint for outlet in config.outlets)]
        return not all(endpoint.is_local for endpoint in plain)

    def counts(self) -> dict[str, int]:
        """What was dropped or refused, by reason. Safe to call from another thread."""
        counts = Counter(self._forwarding.complaints.counts)
        counts["refused"] += self._gate.refused
        for port in self._ports.all:
            if not isinstance(port, UpstreamInlet):
                counts += port.peers.complaints.counts
        return {reason: count for reason, count in counts.items() if count}

    def stop(self) -> None:
        """Make `run` end. Safe to call from a signal handler or another thread."""
        self._stop_asked = True
        self._waker.wake()

    def reload(self) -> None:
        """Read the configuration and the folder of keys again. Safe to call from a signal handler or another thread.

        What has not changed keeps its connections. A file that is wrong changes nothing, but for what it takes away.
        """
        self._reload_asked = True
        self._waker.wake()

    def run(self) -> None:
        """Forward until `stop`; then close everything."""
        self._watch.register(self._waker.fileno())
        self._watch.register(self._gate.socket, quiet=True)
        next_tick = next_word = time.monotonic()
        try:
            while not self._stop_asked:
                wait_s = min(next_tick + _TICK_S - time.monotonic(), self._pause_s())
                ready = self._watch.wait(wait_s)
                if self._waker.fileno() in ready:
                    self._waker.clear()
                if self._gate.socket in ready:
                    self._gate.answer()
                self._serve(ready)
                if self._reload_asked:
                    self._reload_asked = False
                    self._reload()
                if (now := time.monotonic()) >= next_tick:
                    next_tick = now + _TICK_S
                    self._tick(now)
                    if now >= next_word:
                        next_word = now + TIMES.announce_s
                        self._forwarding.announce()
        finally:
            self._close()

    def _pause_s(self) -> float:
        """How long there is nothing to do, if nothing comes."""
        if any(outlet.audience.has_news for outlet in self._ports.outlets):
            return 0.0
        doubt = any(outlet.peers.in_doubt for outlet in self._ports.outlets)
        return TIMES.doubt_s if doubt else 2 * TIMES.look_s

    def _serve(self, ready: Container[Any]) -> None:
        """Subscriptions first, then frames, and only then what can wait."""
        for outlet in self._ports.outlets:
            if outlet.monitor in ready:
                outlet.peers.accept()
            if outlet.socket in ready:
                self._demand.hear(outlet)
            outlet.audience.backlog.look()
        for inlet in self._ports.inlets:
            if inlet.monitor in ready:
                inlet.hear()
            if inlet.socket in ready:
                self._forwarding.drain(inlet, most=1 if self._watch.has_waited else _BATCH)
            inlet.look()
        for outlet in self._ports.outlets:
            outlet.peers.look()
            if outlet.audience.has_news and outlet.socket not in ready:
                self._demand.hear(outlet)
            if outlet.is_asked:
                outlet.hand_out(self._forwarding.statuses())

    def _tick(self, now: float) -> None:
        for outlet in self._ports.outlets:
            outlet.audience.backlog.check()
        self._forwarding.tick()
        if now >= self._next_keys:
            self._next_keys = now + TIMES.keys_s
            if self._admission.has_changed():
                logger.info("the folder of keys has changed")
                self._reapply(self._config)

    def _close(self) -> None:
        self._ports.close()
        self._gate.close()
        self._context.term()
        self._waker.close()

    # Configuration

    def _reload(self) -> None:
        config = self._config
        if self._path is not None:
            try:
                config = self._read(self._path)
            except ConfigError as error:
                self._refuse(error)
                return
        self._reapply(config)

    def _read(self, path: Path) -> BrokerConfig:
        config = read_config(path, keys=self._folder, insecure=self._insecure_asked)
        if (config.keys, config.key) != (self._config.keys, self._config.key):
            raise ConfigError(
                f"{path}: another key, or folder of keys, needs a new start of the broker", setting="keys"
            )
        if config.limits != self._config.limits:
            logger.warning("%s: new limits need a new start of the broker; until then the old ones hold", path)
        return replace(config, limits=self._config.limits)

    def _reapply(self, config: BrokerConfig) -> None:
        try:
            self._apply(config)
        except FabricError as error:
            self._refuse(error)
        else:
            logger.info("configuration and keys are read again")

    def _refuse(self, error: FabricError) -> None:
        """A new configuration is wrong, or cannot be had."""
        logger.error("nothing is changed, but for what is taken away: %s", error)
        self._apply(self._config if self._path is None else only_removals(self._config, self._path))

    def _apply(self, config: BrokerConfig) -> None:
        """Have the ports as the configuration wants them, and drop whoever is not admitted any more."""
        new, gone = self._ports.apply(config)
        self._config = config
        self._forwarding.insecure = self.insecure
        self._admission.apply(config, self._ports)
        self._forwarding.forget_routes()
        for port in gone:
            self._end(port)
        for port in new:
            self._begin(port)
        for outlet in self._ports.outlets:
            self._demand.cut_anew(outlet)
        believed = {upstream.endpoint.text: upstream.cameras for upstream in config.upstreams}
        for inlet in self._ports.inlets:
            if isinstance(inlet, UpstreamInlet) and inlet.cameras.filters != Cameras(believed[inlet.endpoint]).filters:
                self._demand.change(inlet, Cameras(believed[inlet.endpoint]))

    def _begin(self, port: Port) -> None:
        self._watch.register(port.socket)
        if port.monitor is not None:
            self._watch.register(port.monitor, quiet=True)
        if not isinstance(port, Outlet):
            self._demand.begin(port)

    def _end(self, port: Port) -> None:
        self._watch.unregister(port.socket)
        if port.monitor is not None:
            self._watch.unregister(port.monitor)
        if isinstance(port, Outlet):
            self._demand.end(port)
        port.close()


def _within_descriptors(config: BrokerConfig) -> Limits:
    """The limits, with no more connections than this process has descriptors for."""
    room = room_for_connections(len(config.publishers) + len(config.outlets))
    if room < config.limits.connections:
        logger.warning("%d connections an endpoint at most: this process may have no more descriptors", room)
    return replace(config.limits, connections=min(config.limits.connections, room))


def _texts(value: str | Path | Sequence[str | Path] | None) -> list[str]:
    if value is None:
        return []
    return [str(value)] if isinstance(value, (str, Path)) else [str(one) for one in value]
