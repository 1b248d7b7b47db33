"""Certificates: CURVE keys in libzmq's file format, read strictly and written once.

A file is what `zmq.auth.create_certificates` writes and `zmq.auth.load_certificate` reads:

    # comments
    metadata
        name = value
    curve
        public-key = "40 characters of Z85"
        secret-key = "40 characters of Z85"      (in NAME.key_secret alone)

What the two could read differently (a key twice, a key outside `curve`, more entries) is refused. No error and no
repr shows a secret, nor a line of a file, which could hold one.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import shlex
import stat
import struct
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import zmq
from zmq.utils import z85

from camfabric.common.errors import ConfigError

__all__ = [
    "PUBLIC_SUFFIX",
    "SECRET_SUFFIX",
    "Certificate",
    "KeyPair",
    "MalformedCertificateError",
    "certificate_text",
    "load_certificate",
    "looks_like_key",
    "new_pair",
    "read_pair",
    "read_public",
    "shown",
    "write_new",
]

PUBLIC_SUFFIX: Final = ".key"
SECRET_SUFFIX: Final = ".key_secret"  # noqa: S105 - a file's ending

_FILE_BYTES: Final = 64 * 1024
_FOR_OTHERS: Final = stat.S_IRWXO
_NO_LINKS: Final = frozenset({errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK})
"""What file systems without hard links say."""
_SECTION: Final = re.compile(rb"[A-Za-z][\w-]*")
_ENTRY: Final = re.compile(rb"(public|secret)-key[ \t]*=[ \t]*(\"|'|)([0-9a-zA-Z.\-:+=^!/*?&<>()\[\]{}@%$#]{40})\2")
_LIKE_A_KEY: Final = re.compile(r"[0-9a-zA-Z.\-:+=^!/*?&<>()\[\]{}@%$#]{40}")
_BANNER: Final = "#   Made on {0:%Y-%m-%d %H:%M:%S} UTC by camfabric keys: a CURVE {1}\n\nmetadata\ncurve\n"
_PUBLIC_BANNER: Final = "public key.\n#   Give it to those who are to know its owner."
_OWNER_BANNER: Final = (
    "SECRET key.\n#   It stays with its owner: give it to nobody, and leave the file's mode as it is."
)


class MalformedCertificateError(ValueError):
    """A file is no certificate. `str()` says why, in a few words that go after the file's name."""


@dataclass(frozen=True, slots=True)
class KeyPair:
    """A public key and its secret, in Z85 (40 ASCII bytes), as sockets take them. The secret never shows."""

    name: str
    public: bytes
    secret: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Certificate:
    """What a file holds."""

    public: bytes
    secret: bytes | None = field(repr=False)
    mode: int
    """The file's permissions."""


def shown(path: str | os.PathLike[str]) -> str:
    """A path for a message: one line, and such that a shell takes it."""
    text = str(path)
    return shlex.quote(text) if text.isprintable() else ascii(text)


def looks_like_key(text: str) -> bool:
    """Whether a text could be a key itself, given in the place of its file or name: it must not be shown then."""
    return _LIKE_A_KEY.fullmatch(text.strip()) is not None


def new_pair(name: str) -> KeyPair:
    """A fresh pair.

    Raises:
        ConfigError: this libzmq has no CURVE.
    """
    try:
        public, secret = zmq.curve_keypair()
    except zmq.ZMQError as error:
        raise ConfigError(
            "this libzmq was built without CURVE: install pyzmq from its wheels (pip install pyzmq)", setting="--keys"
        ) from error
    return KeyPair(name, public, secret)


def certificate_text(public: bytes, secret: bytes | None = None) -> bytes:
    """A file's bytes, with the secret for NAME.key_secret and without for NAME.key."""
    banner = _BANNER.format(datetime.now(UTC), _OWNER_BANNER if secret else _PUBLIC_BANNER)
    entries = [f'    public-key = "{public.decode()}"\n', f'    secret-key = "{secret.decode()}"\n' if secret else ""]
    return (banner + "".join(entries)).encode()


def write_new(path: Path, data: bytes, *, mode: int) -> None:
    """Write a file that is not there yet, and see it to the disk. Whoever looks sees all of it or nothing.

    `mode` is there from the start; the umask may take from it, but never the owner's own rights.

    Raises:
        OSError: it cannot be written; FileExistsError where something has that name.
    """
    part = path.with_name(f".{path.name}.{os.urandom(6).hex()}.part")
    with contextlib.ExitStack() as undo:
        undo.callback(part.unlink, missing_ok=True)
        _write(part, data, mode)
        try:
            path.hardlink_to(part)
        except OSError as error:
            if error.errno not in _NO_LINKS:
                raise
            _write(path, data, mode)


def _write(path: Path, data: bytes, mode: int) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, mode)
    try:
        with os.fdopen(descriptor, "wb") as file:
            os.fchmod(descriptor, stat.S_IMODE(os.fstat(descriptor).st_mode) | 0o600)
            file.write(data)
            file.flush()
            os.fsync(descriptor)
    except BaseException:
        with contextlib.suppress(OSError):
            path.unlink()
        raise


def load_certificate(path: str | Path) -> Certificate:
    """Read a file, whatever it holds. It never waits (a pipe), and never reads much (a disk).

    Raises:
        OSError: it cannot be read.
        MalformedCertificateError: it is no certificate.
    """
    # Without O_NONBLOCK, opening a named pipe waits for ever.
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        state = os.fstat(descriptor)
        if not stat.S_ISREG(state.st_mode):
            raise MalformedCertificateError("it is no regular file")
        data = b""
        while len(data) <= _FILE_BYTES and (part := os.read(descriptor, _FILE_BYTES + 1 - len(data))):
            data += part
    finally:
        os.close(descriptor)
    public, secret = _parse(data)
    return Certificate(public, secret, stat.S_IMODE(state.st_mode))


def _parse(data: bytes) -> tuple[bytes, bytes | None]:
    if len(data) > _FILE_BYTES:
        raise MalformedCertificateError(f"it has more than {_FILE_BYTES // 1024} kB")
    section = b""
    keys: dict[bytes, bytes] = {}
    for number, line in enumerate(data.split(b"\n"), 1):
        text = line.strip()
        if not text or text.startswith(b"#"):
            continue
        if _SECTION.fullmatch(line.rstrip()):
            section = text
        elif section == b"curve":
            if (match := _ENTRY.fullmatch(text)) is None:
                raise MalformedCertificateError(f"line {number} is no public or secret key of 40 Z85 characters")
            if match[1] in keys:
                raise MalformedCertificateError(f"line {number} has a key that was there before")
            keys[match[1]] = match[3]
        elif text.startswith((b"public-key", b"secret-key")):
            # zmq.auth would take it.
            raise MalformedCertificateError(f"line {number} has a key outside the section `curve`")
    return _checked(keys)


def _checked(keys: dict[bytes, bytes]) -> tuple[bytes, bytes | None]:
    public, secret = keys.get(b"public"), keys.get(b"secret")
    if public is None:
        raise MalformedCertificateError("it has no public key")
    for key in keys.values():
        try:
            raw = z85.decode(key)
        except (struct.error, ValueError, KeyError):
            raise MalformedCertificateError("its key is no Z85") from None
        if not any(raw):
            raise MalformedCertificateError("its key is all zeros")
    if secret is not None:
        try:
            derived = zmq.curve_public(secret)
        except zmq.ZMQError:
            raise MalformedCertificateError("its secret key is none") from None
        if derived != public:
            raise MalformedCertificateError("its secret key does not belong to its public key")
    return public, secret


def read_public(path: str | Path, *, setting: str = "--server-key") -> bytes:
    """Read the public key, Z85, of a NAME.key file.

    Raises:
        ConfigError: it is none, or it holds a secret, which nobody needs who wants a public key.
    """
    if str(path).endswith(SECRET_SUFFIX):
        raise _holds_secret(path, setting)
    certificate = _load(path, setting)
    if certificate.secret is not None:
        raise _holds_secret(path, setting)
    return certificate.public


def read_pair(path: str | Path, *, setting: str = "--key") -> KeyPair:
    """Read a pair from a NAME.key_secret file. Its group may read it (mounted secrets are such), others not.

    Raises:
        ConfigError: it is none, or others may read, write or execute it.
    """
    certificate = _load(path, setting)
    if certificate.secret is None:
        raise ConfigError(
            f"{setting} {shown(path)}: it holds no secret key: give the file NAME{SECRET_SUFFIX}",
            setting=setting,
            value=str(path),
        )
    if certificate.mode & _FOR_OTHERS:
        raise ConfigError(
            f"{setting} {shown(path)}: its secret is open to other users of this machine: chmod 600 {shown(path)}",
            setting=setting,
            value=str(path),
        )
    return KeyPair(Path(path).name.removesuffix(SECRET_SUFFIX), certificate.public, certificate.secret)


def _holds_secret(path: str | Path, setting: str) -> ConfigError:
    return ConfigError(
        f"{setting} {shown(path)}: it holds a secret key, which stays with its owner: give the public one,"
        f" NAME{PUBLIC_SUFFIX}",
        setting=setting,
        value=str(path),
    )


def _load(path: str | Path, setting: str) -> Certificate:
    try:
        return load_certificate(path)
    except MalformedCertificateError as error:
        raise ConfigError(
            f"{setting} {shown(path)}: it is no key file: {error}; camfabric keys new NAME makes one",
            setting=setting,
            value=str(path),
        ) from None
    except (OSError, ValueError) as error:
        if looks_like_key(str(path)):
            # It may be a secret, given in the place of its file; the cause would show it.
            raise ConfigError(
                f"{setting}: there is no such file; if that is a key itself, give the file that it stands in",
                setting=setting,
            ) from None
        why = (error.strerror or "it cannot be read") if isinstance(error, OSError) else "it is no path"
        raise ConfigError(
            f"{setting} {shown(path)}: {why}: give a file that is there and that this user may read",
            setting=setting,
            value=str(path),
        ) from error
