"""`broker.toml`: who may publish and see which cameras, read into a frozen object or refused in one line."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from camfabric.broker.values import (
    CAMERAS,
    EVERY,
    NAME_RULE,
    camera_filter,
    check_known,
    is_name,
    key_name,
    key_or_file,
    kind_of,
    load,
    names_of,
    nearest,
    one_address,
    path_text,
    plain,
    quoted,
    tables_of,
    text_of,
    texts_of,
    within,
)
from camfabric.common.endpoint import Endpoint, parse_endpoint, require_local
from camfabric.common.errors import ConfigError
from camfabric.common.redact import redact
from camfabric.common.settings import BROKER_PUBLISHERS, LIMITS, Limits

__all__ = [
    "EVERY",
    "SECTIONS",
    "SETTABLE_LIMITS",
    "BrokerConfig",
    "OutletConfig",
    "PublisherGrant",
    "UpstreamConfig",
    "make_config",
    "read_config",
    "unknown_keys",
]

SECTIONS: Final = ("keys", "key", "publishers", "publisher", "outlet", "upstream", "limits")
"""What a `broker.toml` may have."""
_OUTLET: Final = ("name", "endpoint", "keys", "cameras")
_UPSTREAM: Final = ("endpoint", "server_key", "cameras")
_PUBLISHER: Final = ("key", "cameras")
_RANGES: Final = {
    "connections": (1, 1_000_000),
    "connections_per_key": (1, 1_000_000),
    "subscriptions": (1, 1_000_000),
    "replay_requests": (1, 1_000_000),
    "replay_requests_s": (1, 1_000_000),
    "payload_bytes": (64 * 1024, 2**31 - 1),
    "header_bytes": (1, 16 * 1024 * 1024),
    "parts": (1, 1_000_000),
}
SETTABLE_LIMITS: Final = tuple(_RANGES)
"""The fields of `Limits` that [limits] may set."""

_KEYS: Final = '["guard", "viewer"], or ["*"] for every key in the folder'
_NO_FOLDER: Final = 'there is no folder of keys: name one by keys = "FOLDER" at the top of the file, or by --keys'
_NOTHING: Final = "a broker needs an endpoint for subscribers and something to forward"


@dataclass(frozen=True, slots=True, kw_only=True)
class PublisherGrant:
    """What a key may publish."""

    key: str
    """A key's name; "*" is every key in the folder."""
    cameras: frozenset[str]
    """Filters in NFC; "" is every camera."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OutletConfig:
    """An endpoint for subscribers, whom it admits and what they can see there."""

    name: str
    endpoint: Endpoint
    keys: frozenset[str]
    """Names of the keys that are admitted, or "*". Empty: nobody, or, without a folder of keys, nobody is asked."""
    cameras: frozenset[str]
    """Filters in NFC; "" is every camera, and an empty set is no camera."""


@dataclass(frozen=True, slots=True, kw_only=True)
class UpstreamConfig:
    """What the broker connects to, and which cameras it is believed for."""

    endpoint: Endpoint
    server_key: str
    """A key's name, or the absolute path of its file; "" for a connection without keys."""
    cameras: frozenset[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class BrokerConfig:
    """All that a broker is told. Without a folder of keys nobody is asked for one, and `grants` is empty."""

    keys: Path | None
    key: str
    """The broker's own: a name in the folder, or the absolute path of a file (it alone has a slash); "" if not said."""
    publishers: tuple[Endpoint, ...]
    grants: tuple[PublisherGrant, ...]
    outlets: tuple[OutletConfig, ...]
    upstreams: tuple[UpstreamConfig, ...]
    limits: Limits = LIMITS

    def may_publish(self, key: str) -> frozenset[str]:
        """The filters that a key was granted, by its name or with all; empty: it may publish nothing."""
        return frozenset[str]().union(*(grant.cameras for grant in self.grants if grant.key in (key, EVERY)))


def read_config(path: Path, *, keys: Path | None = None, insecure: bool = False) -> BrokerConfig:
    """Read a `broker.toml`.

    Whether the keys that it names exist is for `unknown_keys`: keys come and go without the file.

    Args:
        keys: the folder of keys, instead of the file's own.
        insecure: allow endpoints beyond loopback without keys.

    Raises:
        ConfigError: it cannot be read, or something in it is wrong; names the file, the place and what is right.
    """
    with within(plain(str(path))):
        return _parse(load(path), path.absolute().parent, keys, insecure)


def make_config(
    *,
    publishers: Sequence[str],
    subscribers: Sequence[str],
    upstreams: Sequence[str],
    keys: Path | None,
    key: str = "",
    server_key: Sequence[str] = (),
    insecure: bool,
    limits: Limits = LIMITS,
) -> BrokerConfig:
    """The simple form, from the command line: every key in the folder may publish and see every camera.

    Args:
        publishers: endpoints to bind for publishers.
        subscribers: endpoints to bind for subscribers: outlets `outlet`, `outlet-2` and so on.
        upstreams: endpoints to connect to; one that is there twice counts once.
        keys: the folder of keys.
        key: the broker's own: a name in the folder, or a file.
        server_key: keys of the upstreams, names or files: one for all of them, or one for each.
        insecure: allow endpoints beyond loopback without keys.

    Raises:
        ConfigError: an endpoint or a key is wrong, or something is missing.
    """
    if len(server_key) not in (0, 1, len(upstreams)) or (server_key and not upstreams):
        raise ConfigError(
            f"{len(server_key)} server keys for {len(upstreams)} upstreams: give one for all, or one for each",
            setting="server_key",
        )
    server_keys = [key_or_file(text, Path.cwd(), "server_key") for text in server_key] or [""]
    if len(server_keys) == 1:
        server_keys *= len(upstreams)
    every_camera = frozenset({""})
    config = BrokerConfig(
        keys=keys,
        key=key_or_file(key, Path.cwd(), "key") if key else "",
        publishers=tuple(parse_endpoint(text, bind=True) for text in publishers),
        grants=(PublisherGrant(key=EVERY, cameras=every_camera),) if keys else (),
        outlets=tuple(
            OutletConfig(
                name=f"outlet-{number}" if number > 1 else "outlet",
                endpoint=parse_endpoint(text, bind=True),
                keys=frozenset({EVERY} if keys else ()),
                cameras=every_camera,
            )
            for number, text in enumerate(subscribers, 1)
        ),
        upstreams=tuple(
            UpstreamConfig(endpoint=parse_endpoint(text, setting="upstream"), server_key=server, cameras=every_camera)
            for text, server in dict.fromkeys(zip(upstreams, server_keys, strict=True))
        ),
        limits=limits,
    )
    return _checked(config, insecure=insecure)


def unknown_keys(config: BrokerConfig, known: Collection[str]) -> list[str]:
    """One line for each key that is named and has none of the names `known`, for a warning: it admits nobody."""
    places: dict[str, list[str]] = {}

    def named(name: str, place: str) -> None:
        if name and name != EVERY and "/" not in name and name not in known:
            places.setdefault(name, []).append(place)

    named(config.key, "key")
    for grant in config.grants:
        named(grant.key, "publisher")
    for outlet in config.outlets:
        for name in sorted(outlet.keys):
            named(name, _outlet(outlet.name))
    for upstream in config.upstreams:
        named(upstream.server_key, _upstream(upstream.endpoint.text))
    return [
        f"no key {quoted(name)} in {plain(str(config.keys))}, named by {', '.join(dict.fromkeys(where))}"
        + nearest(name, known)
        for name, where in places.items()
    ]


# The whole


def _parse(content: Mapping[str, object], folder: Path, keys: Path | None, insecure: bool) -> BrokerConfig:
    check_known(content, "", SECTIONS)
    own_folder = path_text(text_of(content, "keys", '"keys"'), "keys") if "keys" in content else None
    own_key = text_of(content, "key", '"broker"') if "key" in content else ""
    publishers = texts_of(content, "publishers", f'["{BROKER_PUBLISHERS}"]') if "publishers" in content else None
    if keys is None and own_folder is not None:
        keys = folder / own_folder
    config = BrokerConfig(
        keys=keys,
        key=key_or_file(own_key, folder, "key") if own_key else "",
        publishers=tuple(
            parse_endpoint(text, bind=True, setting="publishers")
            for text in ((BROKER_PUBLISHERS,) if publishers is None else publishers)
        ),
        grants=tuple(_read_grant(table, place, keys) for table, place in tables_of(content, "publisher", "key")),
        outlets=tuple(_read_outlet(table, place, keys) for table, place in tables_of(content, "outlet", "name")),
        upstreams=tuple(
            _read_upstream(table, place, folder) for table, place in tables_of(content, "upstream", "endpoint")
        ),
        limits=_read_limits(content.get("limits", {})),
    )
    return _checked(config, insecure=insecure)


def _checked(config: BrokerConfig, *, insecure: bool) -> BrokerConfig:
    """The config, if its parts go together."""
    if not config.outlets or not (config.publishers or config.upstreams):
        raise ConfigError(_NOTHING, setting="endpoint")
    if config.keys is None and config.key:
        raise ConfigError(f"key {quoted(config.key)}, but {_NO_FOLDER}", setting="key", value=config.key)
    if config.keys is not None and config.publishers and not config.grants and not config.upstreams:
        raise ConfigError(
            'nobody may publish: add a [[publisher]] with its key and cameras ("*" is all)', setting="publisher"
        )
    _check_twice([("name", _outlet(outlet.name)) for outlet in config.outlets], "two outlets have one name")
    bound = [("publishers", endpoint) for endpoint in config.publishers]
    bound += [(_outlet(outlet.name), outlet.endpoint) for outlet in config.outlets]
    _check_twice([(who, one_address(endpoint)) for who, endpoint in bound if endpoint.port or endpoint.scheme != "tcp"])
    _check_twice([("upstream", one_address(upstream.endpoint)) for upstream in config.upstreams])
    for who, endpoint in bound if config.keys is None else ():
        with within(who):
            require_local(endpoint, insecure=insecure)
    for upstream in config.upstreams:
        with within("upstream"):
            if upstream.server_key and config.keys is None:
                raise ConfigError(f"it has a server_key, but {_NO_FOLDER}", setting="server_key")
            if config.keys is not None and not (upstream.server_key or upstream.endpoint.is_local or insecure):
                raise ConfigError(
                    f"{upstream.endpoint} is beyond loopback: say which key it has to prove, by server_key"
                    " (--server-key)",
                    setting="server_key",
                )
            if not upstream.server_key:
                require_local(upstream.endpoint, insecure=insecure)
    return config


def _check_twice(said: Iterable[tuple[str, str]], why: str = "one endpoint is there twice") -> None:
    seen: dict[str, str] = {}
    for who, what in said:
        if what in seen:
            both = who if who == seen[what] else f"{seen[what]} and {who}"
            raise ConfigError(f"{why}: {what} ({both})", setting="endpoint", value=what)
        seen[what] = who


# Its tables


def _read_grant(table: Mapping[str, object], place: str, folder: Path | None) -> PublisherGrant:
    check_known(table, place, _PUBLISHER)
    with within(place):
        key = text_of(table, "key", '"lobby", or "*" for every key in the folder')
        if folder is None:
            raise ConfigError(f"it grants something to a key, but {_NO_FOLDER}", setting="publisher")
        return PublisherGrant(key=key if key == EVERY else key_name(key, "key"), cameras=_read_cameras(table))


def _read_outlet(table: Mapping[str, object], place: str, folder: Path | None) -> OutletConfig:
    check_known(table, place, _OUTLET)
    with within(place):
        name = text_of(table, "name", '"guard"')
        if not is_name(name):
            raise ConfigError(f'name {quoted(name)}: {NAME_RULE} "guard"', setting="name")
        endpoint = parse_endpoint(text_of(table, "endpoint", '"tcp://*:5551"'), bind=True)
        if folder is None and "keys" in table:
            raise ConfigError(f"it has keys, but {_NO_FOLDER}", setting="keys")
        keys = frozenset(names_of(table, "keys", _KEYS) if folder is not None else ())
        keys = frozenset(key if key == EVERY else key_name(key, "keys") for key in keys)
        return OutletConfig(name=name, endpoint=endpoint, keys=keys, cameras=_read_cameras(table))


def _read_upstream(table: Mapping[str, object], place: str, folder: Path) -> UpstreamConfig:
    check_known(table, place, _UPSTREAM)
    with within(place):
        endpoint = parse_endpoint(text_of(table, "endpoint", '"tcp://10.0.0.5:5551"'))
        server_key = ""
        if "server_key" in table:
            server_key = key_or_file(text_of(table, "server_key", '"site-a"'), folder, "server_key")
        return UpstreamConfig(endpoint=endpoint, server_key=server_key, cameras=_read_cameras(table))


def _read_cameras(table: Mapping[str, object]) -> frozenset[str]:
    return frozenset("" if text == EVERY else camera_filter(text) for text in names_of(table, "cameras", CAMERAS))


def _read_limits(value: object) -> Limits:
    if not isinstance(value, dict):
        raise ConfigError(f"limits is {kind_of(value)}: it has to be a table, [limits]", setting="limits")
    check_known(value, "limits", SETTABLE_LIMITS)
    for name, number in value.items():
        least, most = _RANGES[name]
        if type(number) is not int:
            raise ConfigError(f"limits: {name} is {kind_of(number)}: it has to be a whole number", setting=name)
        if not least <= number <= most:
            # A number of some thousand digits cannot even be printed.
            shown = f"is {number}" if abs(number) < 2**63 else "is far out of range"
            raise ConfigError(f"limits: {name} {shown}: it can be {least} to {most}", setting=name)
    return replace(LIMITS, **value)


# What a person reads


def _outlet(name: str) -> str:
    return f"outlet {quoted(name)}"


def _upstream(endpoint: str) -> str:
    return f"upstream {quoted(redact(endpoint))}"
