"""Where the gateway listens, and what it takes to listen beyond this machine."""

from __future__ import annotations

import ipaddress
import logging
import re
import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from camfabric.common.errors import ConfigError
from camfabric.gateway.settings import GatewaySettings

__all__ = [
    "Address",
    "check_host",
    "check_open",
    "check_origin",
    "load_certificate",
    "origin_of",
    "parse_address",
    "tls_context",
]

logger = logging.getLogger(__name__)

_FORM: Final = re.compile(r"(?:\[(?P<v6>[0-9a-fA-F:.]+)\]|(?P<host>\*|[\w.-]+)):(?P<port>[0-9]{1,5})")
_HOST: Final = re.compile(r"[\w-]+(\.[\w-]+)*\.?")
_PORTS: Final = {"http": 80, "https": 443}
_EXAMPLES: Final = "it is HOST:PORT, such as 127.0.0.1:8080, [::1]:8080 or *:8443"


@dataclass(frozen=True, slots=True)
class Address:
    """A checked address to listen at."""

    host: str
    """ "*" is every address of this machine."""
    port: int
    """0 for one that the system chooses."""

    @property
    def is_local(self) -> bool:
        """Whether nothing outside this machine can reach it."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False


def parse_address(text: str) -> Address:
    """Check what `--listen` says.

    Raises:
        ConfigError: it is no address.
    """
    match = _FORM.fullmatch(text)
    if match is None or int(match["port"]) > 65535:
        raise ConfigError(f"--listen {text!r}: {_EXAMPLES}", setting="--listen", value=text)
    return Address(match["v6"] or match["host"], int(match["port"]))


def check_host(text: str) -> str:
    """Return what `--host` says, in small letters.

    Raises:
        ConfigError: it is no name of a host.
    """
    if not _HOST.fullmatch(text):
        raise ConfigError(
            f"--host {text!r}: it is a name alone, such as cameras.example, without a scheme, port or path",
            setting="--host",
            value=text,
        )
    return text.lower()


def check_origin(text: str) -> str:
    """Return what `--embed` says as browsers send it.

    Raises:
        ConfigError: it is no origin.
    """
    origin = origin_of(text)
    if not origin or text.lower().rstrip("/") not in (origin, f"{origin}:80", f"{origin}:443"):
        raise ConfigError(
            f"--embed {text!r}: it is the origin of a page, such as https://home.example:8123",
            setting="--embed",
            value=text,
        )
    return origin


def origin_of(url: str) -> str:
    """The origin of an address of a page: scheme, host, and the port where it is not the usual one; "" for none."""
    try:
        parts = urlsplit(url.lower())
        host, port = parts.hostname or "", parts.port
    except ValueError:
        return ""
    usual = _PORTS.get(parts.scheme)
    if usual is None or not (_HOST.fullmatch(host) or ":" in host):
        return ""
    return f"{parts.scheme}://{f'[{host}]' if ':' in host else host}{f':{port}' if port not in (None, usual) else ''}"


def check_open(settings: GatewaySettings, address: Address) -> None:
    """Refuse to show cameras beyond this machine without a sign-in over HTTPS, unless that was asked for; then warn.

    Raises:
        ConfigError: it would be open, and `insecure` is False.
    """
    has_sign_in = settings.password_file is not None or settings.token_file is not None
    has_tls = settings.cert is not None
    if address.is_local or (has_sign_in and has_tls):
        return
    lacks = []
    if not has_sign_in:
        lacks.append("--password-file FILE (camfabric password NAME makes its lines) or --token-file FILE")
    if not has_tls:
        lacks.append("--cert FILE and --cert-key FILE")
    if not settings.insecure:
        raise ConfigError(
            f"--listen {settings.listen} is beyond loopback, where anybody on the network could watch:"
            f" give {' and '.join(lacks)}, or listen at 127.0.0.1, or say --insecure if that is meant",
            setting="--listen",
            value=settings.listen,
        )
    danger = "watch the cameras" if not has_sign_in else "listen in on pictures and passwords"
    logger.warning("--insecure: whoever is on the network of %s can %s", settings.listen, danger)


def tls_context(cert: Path | None, cert_key: Path | None) -> ssl.SSLContext | None:
    """What HTTPS needs, of two files in PEM; None where neither is given.

    Raises:
        ConfigError: one is missing, or they are no certificate and its key.
    """
    if cert is None and cert_key is None:
        return None
    if cert is None or cert_key is None:
        raise ConfigError("--cert and --cert-key go together", setting="--cert")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    load_certificate(context, cert, cert_key)
    return context


def load_certificate(context: ssl.SSLContext, cert: Path, cert_key: Path) -> None:
    """Take a certificate and its key from files, for connections from now on.

    Raises:
        ConfigError: they are none.
    """
    for option, path in (("--cert", cert), ("--cert-key", cert_key)):
        try:
            path.open("rb").close()
        except OSError as error:
            raise ConfigError(f"{option} {path}: {error.strerror}", setting=option, value=str(path)) from error
    asked: list[str] = []

    def no_password() -> str:
        # Without it, it would be asked for on the terminal.
        asked.append("password")
        return ""

    try:
        context.load_cert_chain(cert, cert_key, password=no_password)
    except (ssl.SSLError, OSError) as error:
        if asked:
            raise ConfigError(
                f"--cert-key {cert_key}: it has a password: take that off by"
                f" openssl pkey -in {cert_key} -out plain.pem, and give plain.pem",
                setting="--cert-key",
                value=str(cert_key),
            ) from error
        why = getattr(error, "reason", None) or "they cannot be read"
        raise ConfigError(
            f"--cert {cert} and --cert-key {cert_key}: {str(why).lower().replace('_', ' ')}:"
            " give a certificate and its own key without a password, in PEM",
            setting="--cert",
            value=str(cert),
        ) from error
