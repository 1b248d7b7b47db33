"""Keys: which of them somebody who connects, and somebody who binds, takes.

The pairs are files (`camfabric.common.certificates`) in a folder (`camfabric.common.key_folder`); all that others need
of the two is here as well.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from camfabric.common.certificates import SECRET_SUFFIX, KeyPair, read_pair, read_public, shown
from camfabric.common.errors import ConfigError
from camfabric.common.key_folder import BROKER, Contents, KeyFolder, named, not_revoked, unknown_key

__all__ = [
    "BROKER",
    "ClientKeys",
    "Contents",
    "KeyFolder",
    "KeyPair",
    "ServerKeys",
    "client_keys",
    "read_pair",
    "read_public",
    "server_keys",
]


@dataclass(frozen=True, slots=True)
class ClientKeys:
    """What somebody who connects needs."""

    pair: KeyPair
    servers: tuple[bytes, ...]
    """Public keys, Z85: one for all endpoints, or one for each."""

    def server(self, place: int) -> bytes:
        """The key that the endpoint at that place, counted from 0, has to prove."""
        return self.servers[place] if len(self.servers) > 1 else self.servers[0]


@dataclass(frozen=True, slots=True)
class ServerKeys:
    """What somebody who binds needs."""

    pair: KeyPair
    folder: KeyFolder
    """Who may connect."""


def client_keys(
    *,
    key: str | Path | None = None,
    server_key: str | Path | Sequence[str | Path] | None = None,
    keys: str | Path | None = None,
    endpoints: int = 1,
) -> ClientKeys | None:
    """The keys of somebody who connects; None where none are given.

    With `keys`, a folder, each of the others may be a NAME in it (a text without a path separator); a `Path` is
    always a file. `keys` alone takes the only secret of the folder, and `broker` as the server, or the only other key.

    Raises:
        ConfigError: something is missing, unclear, malformed, revoked or open to others; says what to do.
    """
    given = [server_key] if isinstance(server_key, str | Path) else list(server_key or ())
    if key is None and not given and keys is None:
        return None
    if keys is None and not given:
        raise _one_without_the_other("--key", "--server-key FILE, the public key of the one to connect to")
    if keys is None and key is None:
        raise _one_without_the_other("--server-key", "--key FILE, the secret key of this side")
    folder = None if keys is None else KeyFolder(keys)
    contents = folder.contents() if folder else Contents()
    if folder is not None and key is None:
        pair = folder.pair(_own_of_client(folder), setting="--keys")
    else:
        pair = _own(key or "", folder, contents)
    servers = tuple(_server(each, folder, contents) for each in given)
    if folder is not None and not servers:
        servers = (_server_of(folder, contents, pair),)
    if len(servers) not in (1, endpoints):
        raise ConfigError(
            f"--server-key: {len(servers)} keys for {endpoints} endpoint{'s' * (endpoints != 1)}: give one for all,"
            " or one for each, in their order",
            setting="--server-key",
            value=len(servers),
        )
    return ClientKeys(pair, servers)


def server_keys(*, key: str | Path | None = None, keys: str | Path | None = None) -> ServerKeys | None:
    """The keys of somebody who binds, and the folder of those who may connect; None where none are given.

    `key` is a file or a NAME in the folder; without it, `broker`'s or the only secret in the folder is taken.

    Raises:
        ConfigError: something is missing, unclear, malformed, revoked or open to others; says what to do.
    """
    if keys is None:
        if key is None:
            return None
        raise _one_without_the_other("--key", "--keys DIR, the folder of those who may connect")
    folder = KeyFolder(keys)
    if key is None:
        return ServerKeys(folder.pair(_own_of_server(folder), setting="--keys"), folder)
    return ServerKeys(_own(key, folder, folder.contents()), folder)


def _own_of_client(folder: KeyFolder) -> str:
    secrets = folder.secrets()
    own = [name for name in secrets if name != BROKER]
    if secrets and not own:
        raise ConfigError(
            f"--keys {shown(folder.path)} has the broker's own secret alone: make one for yourself, by"
            " camfabric keys new NAME, and say --key NAME",
            setting="--keys",
        )
    return _only(own, folder)


def _own_of_server(folder: KeyFolder) -> str:
    secrets = folder.secrets()
    return BROKER if BROKER in secrets else _only(list(secrets), folder)


def _only(own: list[str], folder: KeyFolder) -> str:
    if len(own) == 1:
        return own[0]
    if own:
        why = f"has the secrets of {', '.join(own[:10])}{' and more' * (len(own) > 10)}: say which with --key NAME"
    else:
        why = f"has no secret key (NAME{SECRET_SUFFIX}): camfabric keys new NAME makes one, or give --key FILE"
    raise ConfigError(f"--keys {shown(folder.path)}: it {why}", setting="--keys", value=str(folder.path))


def _is_name(given: str | Path, folder: KeyFolder | None) -> bool:
    return folder is not None and isinstance(given, str) and os.sep not in given


def _own(key: str | Path, folder: KeyFolder | None, contents: Contents) -> KeyPair:
    if folder is not None and _is_name(key, folder):
        return folder.pair(str(key))
    return not_revoked(read_pair(key), contents, "--key")


def _server(given: str | Path, folder: KeyFolder | None, contents: Contents) -> bytes:
    if folder is not None and _is_name(given, folder):
        if (public := contents.keys.get(str(given))) is not None:
            return public
        if str(given) in contents.revoked_names.values() or os.path.lexists(folder.public_file(str(given))):
            raise _not_believed(folder, str(given), contents)
        raise unknown_key(folder, str(given), contents.keys, "--server-key", f"has no key of {named(str(given))}")
    public = read_public(given)
    if public in contents.revoked:
        raise ConfigError(
            f"--server-key {shown(given)}: that key is revoked: get the server's new one",
            setting="--server-key",
            value=str(given),
        )
    return public


def _server_of(folder: KeyFolder, contents: Contents, pair: KeyPair) -> bytes:
    others = {name: public for name, public in contents.keys.items() if public != pair.public}
    if BROKER in others:
        return others[BROKER]
    was_broker = {name for name in contents.revoked_names.values() if re.fullmatch(rf"{BROKER}(\.[0-9]+)?", name)}
    if pair.name != BROKER and (was_broker or os.path.lexists(folder.public_file(BROKER))):
        # Another client's key must not take its place: he could then pass for the broker.
        raise _not_believed(folder, BROKER, contents)
    if len(others) == 1:
        return next(iter(others.values()))
    why = f"the keys of {', '.join(sorted(others)[:10])}" if others else "no other public key"
    raise ConfigError(
        f"--keys {shown(folder.path)}: it has {why}, and none named {BROKER}: say who is to be connected to with"
        " --server-key NAME or FILE",
        setting="--server-key",
        value=str(folder.path),
    )


def _not_believed(folder: KeyFolder, name: str, contents: Contents) -> ConfigError:
    path = shown(folder.public_file(name))
    why = next((problem for problem in contents.problems if problem.startswith(path)), f"{path}: the key was revoked")
    return ConfigError(
        f"--server-key: {why}: get the server's key anew, or give another with --server-key",
        setting="--server-key",
        value=name,
    )


def _one_without_the_other(given: str, missing: str) -> ConfigError:
    also = "" if "--keys" in missing else ", or --keys DIR, a folder with both"
    return ConfigError(f"{given} cannot go alone: give {missing}{also}", setting=given)
