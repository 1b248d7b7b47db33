"""A folder of keys: CURVE key pairs in libzmq's certificate format, as plain files.

    NAME.key             the public key of NAME, who is believed
    NAME.key_secret      its secret, mode 0600, where its owner is at home here
    revoked/             keys that are never believed again, under whatever name they come back

Whatever cannot be read or understood is not believed.
"""

from __future__ import annotations

import contextlib
import difflib
import errno
import fcntl
import os
import re
import stat
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Final

from camfabric.common.certificates import (
    PUBLIC_SUFFIX,
    SECRET_SUFFIX,
    KeyPair,
    MalformedCertificateError,
    certificate_text,
    load_certificate,
    looks_like_key,
    new_pair,
    read_pair,
    read_public,
    shown,
    write_new,
)
from camfabric.common.errors import ConfigError

__all__ = ["BROKER", "Contents", "KeyFolder", "named", "not_revoked", "unknown_key"]

BROKER: Final = "broker"
"""The name that a folder's server has, unless another is given."""
_REVOKED: Final = "revoked"
_NAME: Final = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,63}")
_NAMES: Final = "up to 64 ASCII letters, digits, '-', '_' and '.', no '.' at its start"
_NUMBERED: Final = re.compile(r"(.+)\.[0-9]+")
_SHORTAGE: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM})
_TICK_NS: Final = 100_000_000
"""A file's times are this coarse at worst: within it, an edit may leave them as they were."""


@dataclass(frozen=True, slots=True)
class Contents:
    """What a folder held at one moment."""

    keys: Mapping[str, bytes] = field(default_factory=dict)
    """Name to public key, Z85: all that are believed."""
    revoked: frozenset[bytes] = frozenset()
    """Public keys that are never believed."""
    problems: tuple[str, ...] = ()
    """What is left out, and why: one line each."""
    revoked_names: Mapping[bytes, str] = field(default_factory=dict)
    """The names that the revoked ones had, for whoever logs that one of them has knocked."""
    stamp: tuple[object, ...] = field(default=(), repr=False, compare=False)
    """`KeyFolder.stamp()` as it was before the reading began: where that differs now, read again."""
    _names: Mapping[bytes, str] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "keys", MappingProxyType(dict(self.keys)))
        object.__setattr__(self, "revoked_names", MappingProxyType(dict(self.revoked_names)))
        object.__setattr__(self, "_names", {public: name for name, public in self.keys.items()})

    def name_of(self, public: bytes) -> str | None:
        """Whose public key (Z85) that is; None for one that is not believed."""
        return self._names.get(public)


class KeyFolder:
    """A folder of keys. Any number of processes and threads may read and change it at the same time.

    Raises:
        ConfigError: there is no such folder (`KeyFolder.make` makes it).
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        # Path("") is the working folder, which an empty setting does not mean.
        if path == "" or not os.path.isdir(path):  # noqa: PTH112 - Path.is_dir raises where it may not look
            why = "it is no folder" if path and os.path.lexists(self.path) else "there is no such folder"
            given = "(a key, not a folder)" if looks_like_key(str(path)) else shown(path)
            raise ConfigError(f"--keys {given}: {why}: camfabric keys new NAME --keys DIR makes one", setting="--keys")

    @classmethod
    def make(cls, path: str | Path) -> KeyFolder:
        """The folder, which is made (mode 0700) where it is missing.

        Raises:
            ConfigError: it cannot be made.
        """
        _make_folder(Path(path), "--keys")
        return cls(path)

    def __repr__(self) -> str:
        return f"KeyFolder({str(self.path)!r})"

    def public_file(self, name: str) -> Path:
        """Where the public key of a name is, or would be."""
        return self.path / f"{name}{PUBLIC_SUFFIX}"

    def secret_file(self, name: str) -> Path:
        """Where its secret is, or would be."""
        return self.path / f"{name}{SECRET_SUFFIX}"

    def has(self, name: str) -> bool:
        """Whether there is a public key file of that name, believed or not.

        Raises:
            ConfigError: that is no name.
        """
        _check_name(name)
        return os.path.lexists(self.public_file(name))

    def secrets(self) -> tuple[str, ...]:
        """The names whose secret is here."""
        try:
            return tuple(sorted(name for name in _stems(self.path, SECRET_SUFFIX) if _NAME.fullmatch(name)))
        except OSError as error:
            raise _cannot("read", self.path, error) from error

    def pair(self, name: str, *, setting: str = "--key") -> KeyPair:
        """The pair of a name whose secret is here.

        Raises:
            ConfigError: there is none of that name, its file is none, or others may read it, or it is revoked.
        """
        if not _NAME.fullmatch(name) or not os.path.lexists(self.secret_file(name)):
            raise unknown_key(self, name, self.secrets(), setting, f"has no secret of {named(name)}")
        pair = read_pair(self.secret_file(name), setting=setting)
        contents = self.contents()
        if contents.keys.get(name, pair.public) != pair.public:
            raise ConfigError(
                f"{setting} {shown(self.secret_file(name))}: {name}{PUBLIC_SUFFIX} beside it is another key's:"
                " one of the two is out of date",
                setting=setting,
                value=name,
            )
        return not_revoked(pair, contents, setting)

    # Reading

    def stamp(self) -> tuple[object, ...]:
        """A cheap token that differs after any key file here was added, removed, replaced or edited in place.

        Reads no file; 1 000 keys take some milliseconds. Just after a change it differs once more without need.
        """
        try:
            here, revoked = _state(self.path), _state(self.path / _REVOKED)
        except OSError as error:
            return (error.errno, time.monotonic_ns())
        now_ns = time.time_ns()
        # What was changed this very moment can be changed once more without a trace: read it again a little later.
        is_hot = any(abs(now_ns - changed_ns) < _TICK_NS for *_, changed_ns in (*here, *revoked))
        return (here, revoked, time.monotonic_ns() if is_hot else 0)

    def contents(self) -> Contents:
        """Read all public keys. What is malformed or cannot be read is left out, and named in `problems`.

        Nobody is believed while `revoked/` is there and cannot be listed; nor a name whose file there is malformed.

        Raises:
            ConfigError: descriptors or memory have run out, which says nothing about the keys: keep those that were
                read before, and try again.
        """
        stamp, problems = self.stamp(), list[str]()
        try:
            found = self._believed(problems)
            revoked, unclear = self._revoked(problems)
        except OSError as error:
            raise _cannot("read", self.path, error) from error
        keys: dict[str, bytes] = {}
        names: dict[bytes, list[str]] = {}
        for name, public in found.items():
            names.setdefault(public, []).append(name)
        for public, same in names.items():
            files = " and ".join(shown(self.public_file(name)) for name in same)
            if public in revoked:
                problems.append(f"{files}: left out: that key is revoked")
            elif len(same) > 1:
                problems.append(f"{files}: left out: two names for one key: remove all but one of the files")
            elif unclear is None or same[0] in unclear:
                problems.append(f"{files}: left out: {shown(self.path / _REVOKED)} does not tell whether it is revoked")
            else:
                keys[same[0]] = public
        return Contents(keys, frozenset(revoked), tuple(problems), revoked, stamp)

    def _believed(self, problems: list[str]) -> dict[str, bytes]:
        try:
            stems = _stems(self.path, PUBLIC_SUFFIX)
        except OSError as error:
            _note(problems, self.path, error)
            return {}
        found: dict[str, bytes] = {}
        for name in sorted(stems):
            path = self.public_file(name)
            if not _NAME.fullmatch(name):
                problems.append(f"{shown(path)}: left out: its name is not one of {_NAMES}")
                continue
            try:
                certificate = load_certificate(path)
            except (OSError, MalformedCertificateError) as error:
                if not _has_vanished(path, error):
                    _note(problems, path, error)
                continue
            if certificate.secret is None:
                found[name] = certificate.public
            else:
                problems.append(
                    f"{shown(path)}: left out: it holds a secret key, which belongs in {name}{SECRET_SUFFIX}"
                )
        return found

    def _revoked(self, problems: list[str]) -> tuple[dict[bytes, str], set[str] | None]:
        """Public key to name; and the names of which it is unclear whether they are revoked: None for all."""
        folder = self.path / _REVOKED
        try:
            public = _stems(folder, PUBLIC_SUFFIX)
            # One that was put there by hand, alone, counts as well.
            alone = _stems(folder, SECRET_SUFFIX) - public
        except FileNotFoundError:
            return {}, set()
        except OSError as error:
            _note(problems, folder, error)
            return {}, None
        revoked: dict[bytes, str] = {}
        unclear: set[str] = set()
        for name in sorted([*public, *alone]):
            path = folder / f"{name}{SECRET_SUFFIX if name in alone else PUBLIC_SUFFIX}"
            match = _NUMBERED.fullmatch(name)
            try:
                revoked.setdefault(load_certificate(path).public, name)
            except (OSError, MalformedCertificateError) as error:
                if not _has_vanished(path, error):
                    _note(problems, path, error)
                    unclear |= {name, match[1]} if match else {name}
        return revoked, unclear

    # Changing

    def new(self, name: str, *, into: Path | None = None) -> KeyPair:
        """Make a pair. Nothing is ever overwritten, and after an error nothing of it is left.

        With `into`, its secret is never here: that folder (made with mode 0700 where it is missing) gets it, beside
        its public key and those of the ones at home here (the broker's): all that another machine needs.

        Raises:
            ConfigError: the name is none or taken, or a file cannot be written.
        """
        _check_name(name)
        with self._locked():
            for path in (self.public_file(name), self.secret_file(name)):
                if os.path.lexists(path):
                    raise _taken(path, name, into=into)
            pair = new_pair(name)
            public = certificate_text(pair.public)
            files = {(into or self.path) / f"{name}{SECRET_SUFFIX}": certificate_text(pair.public, pair.secret)}
            if into is not None:
                files |= {into / f"{name}{PUBLIC_SUFFIX}": public, **self._for_another_machine(into)}
            # The last one: from here on the key is believed.
            files[self.public_file(name)] = public
            with contextlib.ExitStack() as undo:
                for path, text in files.items():
                    try:
                        write_new(path, text, mode=0o600 if path.name.endswith(SECRET_SUFFIX) else 0o644)
                    except FileExistsError:
                        raise _taken(path, name, into=into) from None
                    except OSError as error:
                        raise _cannot("write", path, error) from error
                    undo.callback(_remove, path)
                undo.pop_all()
        return pair

    def _for_another_machine(self, into: Path) -> dict[Path, bytes]:
        _make_folder(into, "--into")
        if into.resolve() == self.path.resolve():
            raise ConfigError(
                f"--into {shown(into)}: it is the folder of --keys itself: leave --into out, or give another",
                setting="--into",
                value=str(into),
            )
        contents, copies = self.contents(), dict[Path, bytes]()
        secrets = self.secrets()
        for name in (BROKER,) if BROKER in secrets else secrets:
            copy = into / f"{name}{PUBLIC_SUFFIX}"
            if (public := contents.keys.get(name)) is None:
                continue
            if not os.path.lexists(copy):
                copies[copy] = certificate_text(public)
            elif read_public(copy, setting="--into") != public:
                raise ConfigError(
                    f"--into {shown(copy)}: it is not the key of {name} in {shown(self.path)}: remove it, or give an"
                    " empty folder",
                    setting="--into",
                    value=str(into),
                )
        return copies

    def revoke(self, name: str) -> None:
        """Put a key to those that are never believed again, and its secret, if it is here, beside it.

        It is there before it is gone from here. An interrupted one is completed by a second.

        Raises:
            ConfigError: there is no such key, or the folder cannot be written.
        """
        with self._locked():
            public_file, secret_file = self.public_file(name), self.secret_file(name)
            if not _NAME.fullmatch(name) or not (os.path.lexists(public_file) or os.path.lexists(secret_file)):
                contents = self.contents()
                was = " (it is revoked already)" if name in contents.revoked_names.values() else ""
                raise unknown_key(self, name, contents.keys, "keys revoke", f"has no key of {named(name)}{was}")
            publics = self._to_revoke(name)
            folder = self.path / _REVOKED
            try:
                self._make_revoked(folder)
                place = [self._place_in(folder, name, certificate_text(public)) for public in publics][-1]
                _sync(folder)
                _sync(self.path)
                public_file.unlink(missing_ok=True)
                if os.path.lexists(secret_file):
                    secret = secret_file.rename(folder / f"{place}{SECRET_SUFFIX}")
                    if not secret.is_symlink():
                        secret.chmod(0o600)
                _sync(self.path)
            except OSError as error:
                raise _cannot("write", self.path, error) from error

    def _to_revoke(self, name: str) -> list[bytes]:
        """The public key of its file, and that of its secret where that is another one."""
        publics, problems = list[bytes](), list[str]()
        for path in (self.public_file(name), self.secret_file(name)):
            try:
                public = load_certificate(path).public
            except FileNotFoundError:
                continue
            except (OSError, MalformedCertificateError) as error:
                problems.append(f"{shown(path)}: {_why(error)}")
            else:
                publics += [] if public in publics else [public]
        if not publics:
            raise ConfigError(
                f"keys revoke: {'; '.join(problems)}: nobody is believed for it; remove it",
                setting="keys revoke",
                value=name,
            )
        return publics

    @staticmethod
    def _place_in(folder: Path, name: str, text: bytes) -> str:
        number = 1
        while True:
            place = name if number == 1 else f"{name}.{number}"
            if not os.path.lexists(folder / f"{place}{SECRET_SUFFIX}"):
                with contextlib.suppress(FileExistsError):
                    write_new(folder / f"{place}{PUBLIC_SUFFIX}", text, mode=0o644)
                    return place
            number += 1

    def _make_revoked(self, folder: Path) -> None:
        """Whoever may read the keys has to be able to read this as well: he would believe nobody without it."""
        with contextlib.suppress(FileExistsError):
            folder.mkdir(mode=0o700)
            like = self.path.stat()
            with contextlib.suppress(PermissionError):
                os.chown(folder, like.st_uid, like.st_gid)
            folder.chmod(stat.S_IMODE(like.st_mode))

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        """One change at a time, in all processes."""
        try:
            descriptor = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            raise _cannot("read", self.path, error) from error
        try:
            with contextlib.suppress(OSError):  # some network file systems have no locks; O_EXCL they have
                fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)


def not_revoked(pair: KeyPair, contents: Contents, setting: str) -> KeyPair:
    """The pair.

    Raises:
        ConfigError: it is revoked.
    """
    if pair.public in contents.revoked:
        raise ConfigError(
            f"{setting}: the key {pair.name} is revoked: camfabric keys new NAME makes another",
            setting=setting,
            value=pair.name,
        )
    return pair


def unknown_key(folder: KeyFolder, name: str, known: Iterable[str], setting: str, what: str) -> ConfigError:
    """The error that a folder has not what was asked for: says what it has, the nearest first."""
    names = sorted(known)
    near = difflib.get_close_matches(name, names, n=3, cutoff=0.5) or names[:10]
    there = f"there are {', '.join(near)}{' and more' * (len(near) < len(names))}" if near else "there is none at all"
    hint = "; a file is given with a path, such as ./FILE" if name.endswith((PUBLIC_SUFFIX, SECRET_SUFFIX)) else ""
    return ConfigError(
        f"{setting}: {shown(folder.path)} {what}: {there}{hint}",
        setting=setting,
        value=None if looks_like_key(name) else name,
    )


def named(name: str) -> str:
    """A name for a message."""
    # A key that was given in the place of a name may be a secret.
    return "that name" if looks_like_key(name) else ascii(name)


def _check_name(name: str) -> None:
    if not _NAME.fullmatch(name) or name.endswith((PUBLIC_SUFFIX, SECRET_SUFFIX)):
        raise ConfigError(f"key name {named(name)}: a name is {_NAMES}, and no file's name", setting="keys new")


def _taken(path: Path, name: str, *, into: Path | None) -> ConfigError:
    instead = f"take another name, or camfabric keys revoke {name} first"
    if into is not None and path.parent == into:
        instead = "give an empty folder to --into"
    return ConfigError(f"{shown(path)} is there, and is never overwritten: {instead}", setting="keys new", value=name)


def _cannot(do: str, path: Path, error: OSError) -> ConfigError:
    return ConfigError(
        f"{shown(path)}: cannot {do} it: {error.strerror}: give a folder that this user may {do}",
        setting="--keys",
        value=str(path),
    )


def _make_folder(path: Path, setting: str) -> None:
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(
            f"{setting} {shown(path)}: cannot make it: {error.strerror}: give a folder that this user may make",
            setting=setting,
            value=str(path),
        ) from error


def _remove(path: Path) -> None:
    with contextlib.suppress(OSError):
        path.unlink()


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        with contextlib.suppress(OSError):  # not every file system can
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _stems(folder: Path, suffix: str) -> set[str]:
    with os.scandir(folder) as entries:
        return {entry.name.removesuffix(suffix) for entry in entries if entry.name.endswith(suffix)}


_Facts = tuple[str, int, int, int, int, int]


def _state(folder: Path) -> frozenset[_Facts]:
    """Of the folder and each key file in it, what changes with it; links are followed, as a mounted secret's."""
    found = set[_Facts]()
    try:
        found.add(_facts("", folder.stat()))
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.name.endswith((PUBLIC_SUFFIX, SECRET_SUFFIX)):
                    with contextlib.suppress(FileNotFoundError):
                        found.add(_facts(entry.name, entry.stat()))
    except FileNotFoundError:
        return frozenset(found)
    return frozenset(found)


def _facts(name: str, state: os.stat_result) -> _Facts:
    return (name, state.st_ino, state.st_size, state.st_mode, state.st_mtime_ns, state.st_ctime_ns)


def _why(error: OSError | MalformedCertificateError) -> str:
    return str(error) if isinstance(error, MalformedCertificateError) else error.strerror or "it cannot be read"


def _has_vanished(path: Path, error: Exception) -> bool:
    """Whether a file was removed after it was listed. A link that leads nowhere is a fault."""
    return isinstance(error, FileNotFoundError) and not path.is_symlink()


def _note(problems: list[str], path: Path, error: OSError | MalformedCertificateError) -> None:
    if isinstance(error, OSError) and error.errno in _SHORTAGE:
        raise error
    problems.append(f"{shown(path)}: left out: {_why(error)}")
