"""Removals: what a `broker.toml` that is wrong takes away all the same."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from camfabric.broker.config import SECTIONS, BrokerConfig, PublisherGrant
from camfabric.broker.values import (
    EVERY,
    are_tables,
    camera_filter,
    is_name,
    key_name,
    load,
    one_address,
    text_of,
)
from camfabric.common.endpoint import parse_endpoint
from camfabric.common.errors import ConfigError

__all__ = ["only_removals"]


@dataclass(frozen=True, slots=True)
class _Said:
    """What a bad file still says in one kind of list."""

    lists: Mapping[str, frozenset[str] | None]
    """The valid entries, by the name of the table; None where it has no list, or not in each table of this name."""
    complete: bool
    """What is not there has been taken away: it is in no table that was misspelt."""

    def of(self, name: str, old: frozenset[str]) -> frozenset[str]:
        """The list of a name; nothing where it was taken away, and `old` where that is not clear."""
        listed = self.lists.get(name, frozenset() if self.complete else None)
        return old if listed is None else listed

    def gone(self, name: str) -> bool:
        return self.complete and name not in self.lists


def only_removals(old: BrokerConfig, path: Path) -> BrokerConfig:
    """`old`, less what a file that `read_config` refuses has clearly taken away: for a reload that fails.

    The result gives nobody anything that `old` did not. A filter under one that `old` had is the removal of the rest
    of it. An outlet that was removed stays with no keys and no cameras: its endpoint is bound, and nobody gets in.
    Where the file cannot be read, is not TOML or is empty, nothing was taken away.
    """
    try:
        content = load(path)
    except ConfigError:
        return old
    if not content:
        return old
    admitted = _said(content, "outlet", _outlet_name, "keys", _known_key)
    shown = _said(content, "outlet", _outlet_name, "cameras", _known_filter)
    believed = _said(content, "upstream", _upstream_address, "cameras", _known_filter)
    granted = _said(content, "publisher", _publisher_key, "cameras", _known_filter)
    names = _renamed(content, old)
    outlets = (
        replace(
            outlet,
            keys=_common_keys(outlet.keys, admitted.of(names[outlet.name], outlet.keys)),
            cameras=_common(outlet.cameras, shown.of(names[outlet.name], outlet.cameras)),
        )
        for outlet in old.outlets
    )
    upstreams = (
        replace(upstream, cameras=_common(upstream.cameras, believed.of(address, upstream.cameras)))
        for upstream in old.upstreams
        if not believed.gone(address := one_address(upstream.endpoint))
    )
    return replace(old, outlets=tuple(outlets), upstreams=tuple(upstreams), grants=_left(old.grants, granted))


def _renamed(content: Mapping[str, object], old: BrokerConfig) -> dict[str, str]:
    """What each outlet is called in the file: one whose name is gone, and whose endpoint is there, was renamed."""
    tables = content.get("outlet", [])
    places: dict[str, str] = {}
    for table in tables if isinstance(tables, list) else ():
        if isinstance(table, dict) and (name := _outlet_name(table)):
            places[name] = _address(table, bind=True)
    known = {outlet.name for outlet in old.outlets}
    new = {place: name for name, place in places.items() if place and name not in known}
    return {
        outlet.name: outlet.name if outlet.name in places else new.get(one_address(outlet.endpoint), outlet.name)
        for outlet in old.outlets
    }


def _left(old: tuple[PublisherGrant, ...], said: _Said) -> tuple[PublisherGrant, ...]:
    """What both give each key, by its name or with all."""
    all_had = frozenset[str]().union(*(grant.cameras for grant in old if grant.key == EVERY))
    all_get = said.of(EVERY, all_had)
    left = []
    for grant in old:
        given = said.of(grant.key, grant.cameras) | (all_get if grant.key != EVERY else frozenset())
        left.append(replace(grant, cameras=_common(grant.cameras, given)))
    every = _common(all_had, all_get)
    for key, listed in said.lists.items():
        if key != EVERY and listed:
            # It had this with all others, and is named now: that takes from the others alone.
            has = every.union(*(grant.cameras for grant in left if grant.key == key))
            left.append(PublisherGrant(key=key, cameras=_uncovered(_common(all_had, listed), has)))
    return tuple(grant for grant in left if grant.cameras)


def _common(old: frozenset[str], new: frozenset[str]) -> frozenset[str]:
    """The filters for what two sets of them give."""
    kept = old - _uncovered(old, new)
    narrower = new - _uncovered(new, old)
    return kept | _uncovered(narrower, kept)


def _uncovered(filters: frozenset[str], others: frozenset[str]) -> frozenset[str]:
    # By its leading parts, and not by running through the others: there may be thousands of both.
    return frozenset(filter_ for filter_ in filters if others.isdisjoint(_leading(filter_)))


def _leading(filter_: str) -> Iterator[str]:
    """The filters that cover one."""
    yield ""
    yield filter_
    for position, character in enumerate(filter_):
        if character == "/":
            yield filter_[:position]


def _common_keys(old: frozenset[str], new: frozenset[str]) -> frozenset[str]:
    if EVERY in new:
        return old
    return new if EVERY in old else old & new


def _said(
    content: Mapping[str, object],
    section: str,
    identity: Callable[[Mapping[str, object]], str],
    list_: str,
    valid: Callable[[str], str | None],
) -> _Said:
    tables = content.get(section, [])
    # [[publishers]] for [[publisher]] is a known name, and as easily misspelt.
    endpoints = content.get("publishers", []) if section == "publisher" else []
    complete = (
        all(name in SECTIONS for name in content)
        and are_tables(tables)
        and isinstance(endpoints, list)
        and all(isinstance(endpoint, str) for endpoint in endpoints)
    )
    lists: dict[str, frozenset[str] | None] = {}
    for table in tables if isinstance(tables, list) else ():
        if not isinstance(table, dict) or not (name := identity(table)):
            complete = False
            continue
        values = table.get(list_)
        before = lists.get(name, frozenset())
        if before is None or not isinstance(values, list):
            lists[name] = None
        else:
            named = (valid(value) for value in values if isinstance(value, str))
            lists[name] = before.union(value for value in named if value is not None)
    return _Said(lists, complete)


def _outlet_name(table: Mapping[str, object]) -> str:
    name = table.get("name")
    return name if isinstance(name, str) and is_name(name) else ""


def _publisher_key(table: Mapping[str, object]) -> str:
    key = table.get("key")
    return (_known_key(key) or "") if isinstance(key, str) else ""


def _upstream_address(table: Mapping[str, object]) -> str:
    return _address(table, bind=False)


def _address(table: Mapping[str, object], *, bind: bool) -> str:
    try:
        return one_address(parse_endpoint(text_of(table, "endpoint", ""), bind=bind))
    except ConfigError:
        return ""


def _known_key(text: str) -> str | None:
    try:
        return text if text == EVERY else key_name(text, "key")
    except ConfigError:
        return None


def _known_filter(text: str) -> str | None:
    try:
        return "" if text == EVERY else camera_filter(text)
    except ConfigError:
        return None
