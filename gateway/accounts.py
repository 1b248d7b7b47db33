"""Accounts: who may sign in, with which password, and which cameras he may see. A file of one line for each.

A line is `name:scrypt$ln=15,r=8,p=1$SALT$HASH:filter,filter`; without filters, all cameras. `camfabric password` makes
them. Passwords are hashed by scrypt (RFC 7914), never kept.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import os
import re
import secrets
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from camfabric.common.errors import ConfigError
from camfabric.common.topics import check_filter

__all__ = ["TOKEN_USER", "Account", "check_name", "make_line", "parse_accounts", "read_private", "read_token", "verify"]

TOKEN_USER: Final = "token"  # noqa: S105  (a name)
"""Whoever signs in by the token instead of a password of his own."""

_NAME: Final = re.compile(r"[\w.@-]{1,64}")
_HASH: Final = re.compile(r"scrypt\$ln=([0-9]{1,2}),r=([0-9]{1,2}),p=([0-9]{1,2})\$([A-Za-z0-9+/]+)\$([A-Za-z0-9+/]+)")
_LN: Final = 15
_R: Final = 8
_P: Final = 1
_MOST_LN: Final = 17
_MOST_R: Final = 16
_MOST_P: Final = 4
_SALT_BYTES: Final = 16
_HASH_BYTES: Final = 32
_MAX_PASSWORD_BYTES: Final = 1024
_MAX_MEMORY: Final = 512 * 1024 * 1024
_MAX_FILE_BYTES: Final = 1024 * 1024
_LEAST_TOKEN: Final = 16
_RULE: Final = "a line is NAME:scrypt$...:FILTER,FILTER, as `camfabric password NAME` makes it"


@dataclass(frozen=True, slots=True)
class _Hash:
    ln: int
    r: int
    p: int
    salt: bytes
    digest: bytes


@dataclass(frozen=True, slots=True)
class Account:
    """Somebody who may sign in."""

    name: str
    filters: tuple[str, ...]
    """Of the cameras that he may see; "" is every camera."""
    hash: _Hash

    def __repr__(self) -> str:
        return f"Account({self.name!r}, {self.filters!r})"


_NOBODY: Final = _Hash(_LN, _R, _P, bytes(_SALT_BYTES), bytes(_HASH_BYTES))
"""What the passwords of unknown users are compared with, so that it takes as long."""


def check_name(name: str) -> str:
    """Return a user's name.

    Raises:
        ConfigError: it is none.
    """
    if not _NAME.fullmatch(name):
        raise ConfigError(
            f"user {name!r}: a name is 1 to 64 letters, digits, '-', '_', '.' and '@'", setting="user", value=name
        )
    if name == TOKEN_USER:
        raise ConfigError(f"user {name!r}: that is who signs in by --token-file; take another", setting="user")
    return name


def make_line(name: str, password: str, filters: Iterable[str] = ()) -> str:
    """A line for the file. Takes a tenth of a second.

    Raises:
        ConfigError: the name, the password or a filter cannot be.
    """
    if not password:
        raise ConfigError("the password is empty", setting="password")
    if "\0" in password:
        raise ConfigError("the password has a zero byte", setting="password")
    if len(password.encode()) > _MAX_PASSWORD_BYTES:
        raise ConfigError(f"the password has more than {_MAX_PASSWORD_BYTES} bytes", setting="password")
    salt = secrets.token_bytes(_SALT_BYTES)
    digest = _digest(password, _Hash(_LN, _R, _P, salt, bytes(_HASH_BYTES)))
    return (
        f"{check_name(name)}:scrypt$ln={_LN},r={_R},p={_P}${_text_of(salt)}${_text_of(digest)}"
        f":{','.join(check_filter(text) for text in filters)}"
    )


def _text_of(data: bytes) -> str:
    return base64.b64encode(data).decode().rstrip("=")


def _bytes_of(text: str) -> bytes:
    return base64.b64decode(text + "=" * (-len(text) % 4), validate=True)


def _digest(password: str, hash_: _Hash) -> bytes:
    return hashlib.scrypt(
        password.encode("utf-8", "surrogatepass"),
        salt=hash_.salt,
        n=1 << hash_.ln,
        r=hash_.r,
        p=hash_.p,
        dklen=len(hash_.digest),
        maxmem=_MAX_MEMORY,
    )


def verify(account: Account | None, password: str) -> bool:
    """Whether it is the account's password; of no account, never, and as slowly. Takes a tenth of a second."""
    hash_ = _NOBODY if account is None else account.hash
    if len(password) > _MAX_PASSWORD_BYTES:
        return False
    is_equal = hmac.compare_digest(_digest(password, hash_), hash_.digest)
    # HMAC takes a key with zeros behind it for the key without: it is another password all the same.
    return is_equal and account is not None and "\0" not in password


def parse_accounts(text: str) -> tuple[dict[str, Account], list[str]]:
    """The accounts in a file, by name, and what is wrong with its other lines, without their secrets."""
    accounts: dict[str, Account] = {}
    problems: list[str] = []
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip() or line.startswith("#"):
            continue
        try:
            account = _account(line.strip())
        except ConfigError as error:
            problems.append(f"line {number}: {error}")
            continue
        if account.name in accounts:
            problems.append(f"line {number}: user {account.name!r} is there already")
            continue
        accounts[account.name] = account
    return accounts, problems


def _account(line: str) -> Account:
    name, colon, rest = line.partition(":")
    hash_text, _, filters = rest.partition(":")
    match = _HASH.fullmatch(hash_text)
    if not colon or match is None:
        raise ConfigError(_RULE, setting="password file")
    ln, r, p = (int(number) for number in match.groups()[:3])
    if not (10 <= ln <= _MOST_LN and 1 <= r <= _MOST_R and 1 <= p <= _MOST_P):
        raise ConfigError(f"ln={ln},r={r},p={p} is beyond what is allowed; {_RULE}", setting="password file")
    try:
        hash_ = _Hash(ln, r, p, _bytes_of(match[4]), _bytes_of(match[5]))
    except (binascii.Error, ValueError):
        raise ConfigError(_RULE, setting="password file") from None
    if len(hash_.digest) < _HASH_BYTES or len(hash_.salt) < _SALT_BYTES // 2:
        raise ConfigError(f"the hash is cut off; {_RULE}", setting="password file")
    wanted = [text.strip() for text in filters.split(",") if text.strip()]
    if filters and not wanted:
        raise ConfigError("its filters are empty: leave them out, with the comma, for all cameras", setting="filters")
    return Account(check_name(name), tuple(check_filter(text) for text in wanted) or ("",), hash_)


def read_private(path: Path, option: str) -> str:
    """The text of a file that nobody else may read.

    Raises:
        ConfigError: it cannot be read, or others can read it.
    """
    try:
        with path.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            data = file.read(_MAX_FILE_BYTES + 1)
    except OSError as error:
        raise ConfigError(f"{option} {path}: {error.strerror}", setting=option, value=str(path)) from error
    if mode & 0o077:
        raise ConfigError(f"{option} {path}: others may read it: chmod 600 {path}", setting=option, value=str(path))
    if len(data) > _MAX_FILE_BYTES:
        raise ConfigError(f"{option} {path}: more than {_MAX_FILE_BYTES} bytes", setting=option, value=str(path))
    try:
        return data.decode()
    except UnicodeDecodeError:
        raise ConfigError(f"{option} {path}: it is no UTF-8", setting=option, value=str(path)) from None


def read_token(path: Path) -> str:
    """The token in a file.

    Raises:
        ConfigError: there is none, or it is too short.
    """
    token = read_private(path, "--token-file").strip()
    if len(token) < _LEAST_TOKEN or not token.isascii() or not token.isprintable() or " " in token:
        raise ConfigError(
            f"--token-file {path}: a token is at least {_LEAST_TOKEN} characters without spaces:"
            " openssl rand -hex 32 makes one",
            setting="--token-file",
            value=str(path),
        )
    return token
