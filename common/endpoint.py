"""Endpoints: which addresses there are, and which of them leave this machine."""

from __future__ import annotations

import ipaddress
import logging
import re
from dataclasses import dataclass
from typing import Final

from camfabric.common.errors import ConfigError
from camfabric.common.redact import redact

__all__ = ["Endpoint", "parse_endpoint", "require_local"]

logger = logging.getLogger(__name__)

_TCP: Final = re.compile(r"tcp://(?:\[(?P<v6>[0-9a-fA-F:.%\w]+)\]|(?P<host>[^:/\[\]\s]+)):(?P<port>\*|[0-9]{1,5})")
_HOST: Final = re.compile(r"\*|[\w.-]+")
_EXAMPLES: Final = "an endpoint is tcp://HOST:PORT, such as tcp://127.0.0.1:5551, or ipc:///PATH"
_IPC_PATH_BYTES: Final = 107


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A checked ZeroMQ endpoint. `str()` is what ZeroMQ takes."""

    text: str
    scheme: str
    host: str = ""
    port: int | None = None
    """None for one that the system chooses."""

    def __str__(self) -> str:
        return self.text

    @property
    def is_ipv6(self) -> bool:
        """Whether it is an IPv6 address."""
        return self.text.startswith("tcp://[")

    @property
    def is_local(self) -> bool:
        """Whether nothing outside this machine can reach it, or be reached through it."""
        if self.scheme != "tcp" or self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False


def parse_endpoint(text: str, *, bind: bool = False, setting: str = "endpoint") -> Endpoint:
    """Check an endpoint to connect to, or to bind.

    Raises:
        ConfigError: it is none; says why, and what one looks like.
    """

    def wrong(why: str) -> ConfigError:
        return ConfigError(f"{setting} {redact(text)!r}: {why}; {_EXAMPLES}", setting=setting, value=redact(text))

    if text.startswith("ipc://"):
        path = text.removeprefix("ipc://")
        if not path or "\0" in path:
            raise wrong("no path")
        try:
            path_bytes = len(path.encode())
        except UnicodeEncodeError:
            raise wrong("the path has characters that are no UTF-8") from None
        if path_bytes > _IPC_PATH_BYTES:
            raise wrong(f"the path has more than {_IPC_PATH_BYTES} bytes")
        return Endpoint(text, "ipc", path)
    if not text.startswith("tcp://"):
        raise wrong("no scheme" if "://" not in text else "an unknown scheme")
    if (match := _TCP.fullmatch(text)) is None:
        raise wrong("no port" if ":" not in text[6:] else "not a host and a port")
    host = match["v6"] or match["host"]
    if match["v6"]:
        try:
            ipaddress.IPv6Address(host)
        except ValueError:
            raise wrong("not an IPv6 address") from None
    elif not _HOST.fullmatch(host) or (host == "*" and not bind):
        raise wrong(f"{host!r} is no host to connect to")
    port = None if match["port"] == "*" else int(match["port"])
    if port is not None and port > 65535:
        raise wrong("a port is at most 65535")
    if port in (0, None):
        if not bind:
            raise wrong("a port to connect to is 1 to 65535")
        return Endpoint(text[: match.start("port")] + "*", "tcp", host, None)
    return Endpoint(text, "tcp", host, port)


def require_local(endpoint: Endpoint, *, insecure: bool, keyed: bool = False) -> None:
    """Refuse an endpoint beyond loopback without keys, unless that was asked for in so many words; then warn.

    Raises:
        ConfigError: it leaves this machine, and neither `keyed` nor `insecure` is True.
    """
    if endpoint.is_local or keyed:
        return
    if not insecure:
        raise ConfigError(
            f"endpoint {endpoint} is beyond loopback, where anybody on the network could see and send pictures:"
            " make keys (camfabric keys new NAME) and give --keys DIR, or use a 127.0.0.1 or ipc:// address,"
            " or say --insecure (insecure=True) if that is meant",
            setting="endpoint",
            value=endpoint.text,
        )
    logger.warning("--insecure: whoever is on the network of %s can see and send pictures", endpoint)
