"""Who asks, and which cameras he may see."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass, field
from typing import Final

from aiohttp import web

from camfabric.common.topics import covers

__all__ = ["ANYBODY", "Caller", "caller_of", "is_loopback", "network_of", "set_caller"]


@dataclass(frozen=True, slots=True)
class Caller:
    """Who has signed in, if that is asked for."""

    user: str | None = None
    """None where there is no sign-in."""
    filters: tuple[str, ...] = ("",)
    """Of the cameras that he may see; "" is every camera."""
    proof: bytes = field(default=b"", repr=False)
    """What he has proved to know: where that changes, he is not let in any more."""
    session: bytes = field(default=b"", repr=False)
    """By what his session is found, where he came by cookie."""
    address: str = ""
    """Where he comes from, as `network_of` counts it."""

    @property
    def holder(self) -> str:
        """Whose share of what is bounded he uses up; "" for nobody's: from loopback come a proxy's users, all alike."""
        if self.user is not None:
            return f"user {self.user}"
        return "" if is_loopback(self.address) else self.address

    @property
    def sees_all(self) -> bool:
        """Whether he may see every camera."""
        return "" in self.filters

    def sees(self, camera: str) -> bool:
        """Whether he may see a camera; to him, others do not exist."""
        return any(covers(filter_, camera) for filter_ in self.filters)


def is_loopback(address: str) -> bool:
    """Whether an address is this machine's own, or none."""
    try:
        return ipaddress.ip_address(address).is_loopback
    except ValueError:
        return not address


def network_of(address: str) -> str:
    """What an address is counted as: one of IPv6 as its network of 64 bits, for its holder has all of these.

    Loopback stays as it is.
    """
    try:
        number = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if isinstance(number, ipaddress.IPv4Address):
        return address
    if number.ipv4_mapped is not None:
        return str(number.ipv4_mapped)
    if number.is_loopback:
        return str(number)
    return str(ipaddress.ip_network((int(number), 64), strict=False))


ANYBODY: Final = Caller()
"""Where there is no sign-in."""


_KEY: Final = web.RequestKey("caller", Caller)


def set_caller(request: web.Request, caller: Caller) -> None:
    """Note who asks."""
    request[_KEY] = caller


def caller_of(request: web.Request) -> Caller:
    """Who asks. There is nobody but where the door let him in: a request that did not pass it is a KeyError."""
    return request[_KEY]
