"""Values of a `broker.toml`: its tables, texts, names and filters, each checked, or refused in one line."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from difflib import get_close_matches
from pathlib import Path
from typing import Final, TypeGuard

from camfabric.common.endpoint import Endpoint
from camfabric.common.errors import ConfigError
from camfabric.common.redact import redact
from camfabric.common.topics import check_filter

__all__ = [
    "CAMERAS",
    "EVERY",
    "NAME_RULE",
    "are_tables",
    "camera_filter",
    "check_known",
    "is_name",
    "key_name",
    "key_or_file",
    "kind_of",
    "load",
    "names_of",
    "nearest",
    "one_address",
    "path_text",
    "plain",
    "quoted",
    "tables_of",
    "text_of",
    "texts_of",
    "within",
]

EVERY: Final = "*"
"""Every key in the folder; in the file also every camera, which is the filter "" here."""

_FILE_BYTES: Final = 1_000_000
_SHOWN: Final = 64
_NAME: Final = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,63}")
NAME_RULE: Final = "a name is ASCII letters, digits, '-', '_' and '.', 64 at most, no '.' first, such as"
_KEY_FILES: Final = (".key", ".key_secret")
_Z85: Final = re.compile(r"[0-9A-Za-z.:+=^!/*?&<>()\[\]{}@%$#-]{40}")
CAMERAS: Final = '["cctv/lobby", "drone"], or ["*"] for every camera'


# What TOML gives


def load(path: Path) -> dict[str, object]:
    """What a TOML file holds.

    Raises:
        ConfigError: it cannot be read, or is no TOML of at most 1 MB.
    """
    try:
        with path.open("rb") as file:
            data = file.read(_FILE_BYTES + 1)
    except (OSError, ValueError) as error:
        why = (error.strerror if isinstance(error, OSError) else None) or "no such path"
        raise ConfigError(f"it cannot be read: {why}", setting="config") from error
    if len(data) > _FILE_BYTES:
        raise ConfigError("it has more than 1 MB: it is no broker.toml", setting="config")
    try:
        return tomllib.loads(data.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ConfigError(f"it is not UTF-8 (at line {line})", setting="config") from error
    except RecursionError as error:
        raise ConfigError("it is nested too deeply", setting="config") from error
    except ValueError as error:
        raise ConfigError(f"it is not TOML: {plain(str(error))}", setting="config") from error


def tables_of(content: Mapping[str, object], section: str, identity: str) -> Iterator[tuple[dict[str, object], str]]:
    """The tables of a section, each with its place for a person, in which its text `identity` is.

    Raises:
        ConfigError: it is no list of tables.
    """
    tables = content.get(section, [])
    if not are_tables(tables):
        raise ConfigError(f"{section} is not written as [[{section}]], once for each", setting=section)
    for number, table in enumerate(tables, 1):
        name = table.get(identity)
        yield table, f"{section} {quoted(redact(name)) if isinstance(name, str) and name else number}"


def are_tables(value: object) -> TypeGuard[list[dict[str, object]]]:
    """Whether it is a list of tables and nothing else."""
    return isinstance(value, list) and all(isinstance(table, dict) for table in value)


def check_known(table: Mapping[str, object], place: str, known: tuple[str, ...]) -> None:
    """See that a table has no other names than those.

    Raises:
        ConfigError: it has; says the nearest that is known.
    """
    for name in table:
        if name not in known:
            where = f" in {place}" if place else ""
            near = nearest(name, known) or f": there is {', '.join(known)}"
            raise ConfigError(f"unknown {quoted(name)}{where}{near}", setting=name)


def text_of(table: Mapping[str, object], name: str, example: str) -> str:
    """The text of that name, which is there, and not empty.

    Raises:
        ConfigError: it is not, or it is a key itself; says what is right, by `example`.
    """
    if name not in table:
        raise ConfigError(f"{name} is missing: it has to be such as {example}", setting=name)
    value = table[name]
    if not isinstance(value, str) or not value:
        kind = "empty" if value == "" else kind_of(value)
        raise ConfigError(f"{name} is {kind}: it has to be a text such as {example}", setting=name)
    _check_no_key(value, name, example)
    return value


def texts_of(table: Mapping[str, object], name: str, example: str) -> list[str]:
    """The list of texts of that name, which is there.

    Raises:
        ConfigError: it is not; says what is right, by `example`.
    """
    if name not in table:
        raise ConfigError(f"{name} is missing: it has to be such as {example}", setting=name)
    values = table[name]
    if not isinstance(values, list):
        raise ConfigError(f"{name} is {kind_of(values)}: it has to be a list such as {example}", setting=name)
    for value in values:
        if not isinstance(value, str):
            meant = " (did you mean [[publisher]]?)" if name == "publishers" and isinstance(value, dict) else ""
            raise ConfigError(
                f"{name} has {kind_of(value)} in it{meant}: it has to be a list of texts such as {example}",
                setting=name,
            )
        _check_no_key(value, name, example)
    return values


def _check_no_key(text: str, name: str, example: str) -> None:
    # Nearly every refusal shows what was given; a key, which may be a secret one, is not to be shown.
    if _is_key(text):
        raise ConfigError(f"{name} has {quoted(text)}: it has to be such as {example}", setting=name)


def names_of(table: Mapping[str, object], name: str, example: str) -> list[str]:
    """A list of names, or "*" by itself.

    Raises:
        ConfigError: it is none, or empty.
    """
    names = texts_of(table, name, example)
    if not names:
        raise ConfigError(f"{name} is empty: it has to be such as {example}", setting=name)
    if EVERY in names and len(names) > 1:
        raise ConfigError(f'{name} has "*" and others: "*" stands by itself, ["*"]', setting=name)
    return names


def kind_of(value: object) -> str:
    """What a value is, for a person."""
    kinds = {bool: "true or false", int: "a number", float: "a number", str: "a text", list: "a list", dict: "a table"}
    return kinds.get(type(value), "a date")


# What the values are


def camera_filter(text: str) -> str:
    """A filter of cameras, in NFC and without a slash at its end.

    Raises:
        ConfigError: it is none, or empty.
    """
    if not text:
        raise ConfigError(f"cameras has an empty text: it has to be such as {CAMERAS}", setting="cameras", value=text)
    try:
        return check_filter(text)
    except ConfigError as error:
        # There an empty filter is every camera; here that has to be said.
        why = str(error).replace("none gives all", '"*" by itself gives all')
        raise ConfigError(f"cameras: {why}", setting="cameras", value=text) from error


def is_name(text: str) -> bool:
    """Whether a text can be the name of a key or an outlet."""
    return _NAME.fullmatch(text) is not None


def key_name(text: str, setting: str) -> str:
    """A key's name.

    Raises:
        ConfigError: it is none.
    """
    if text.endswith(_KEY_FILES):
        raise ConfigError(
            f"{setting}: {quoted(text)} is a file: give the name of a key in the folder, such as"
            f" {quoted(Path(text).name.rpartition('.')[0])}",
            setting=setting,
        )
    if not is_name(text):
        raise ConfigError(f'{setting}: {quoted(text)} is no name of a key: {NAME_RULE} "lobby"', setting=setting)
    return text


def key_or_file(text: str, folder: Path, setting: str) -> str:
    """A key's name, or the absolute path of a key's file: what has a slash, or ends as such files do.

    Raises:
        ConfigError: it is neither.
    """
    if _is_key(text) or not ("/" in text or text.endswith(_KEY_FILES)):
        return key_name(text, setting)
    return str(folder / path_text(text, setting))


def path_text(text: str, setting: str) -> str:
    """A path as it was written.

    Raises:
        ConfigError: it has control characters.
    """
    if any(character < " " for character in text):
        raise ConfigError(f"{setting}: {quoted(text)} is no path", setting=setting)
    return text


def one_address(endpoint: Endpoint) -> str:
    """The endpoint, written in one way."""
    return endpoint.text if endpoint.scheme != "tcp" else f"tcp://{endpoint.host.lower()}:{endpoint.port or EVERY}"


# What a person reads


@contextmanager
def within(place: str) -> Iterator[None]:
    """Say where it is that something is wrong."""
    try:
        yield
    except ConfigError as error:
        raise ConfigError(f"{place}: {error}", setting=error.setting, value=error.value) from error


def nearest(name: str, known: Collection[str]) -> str:
    """The end of a sentence that asks whether one of those was meant; "" where none is near."""
    # Its cost grows with the square of what may be a megabyte.
    near = get_close_matches(name[:_SHOWN], sorted(known), n=1)
    return f": did you mean {quoted(near[0])}?" if near else ""


def _is_key(text: str) -> bool:
    """Whether it looks like a key itself, which is nothing to be shown."""
    text = text.strip()
    return _Z85.fullmatch(text) is not None and any(not (letter.isalnum() or letter in "-./") for letter in text)


def quoted(text: str) -> str:
    """A text as it was given, in one line and not endless; a key is not shown."""
    if _is_key(text):
        return "(a key itself, not shown)"
    text = text if len(text) <= _SHOWN else text[:_SHOWN] + "…"
    return '"' + plain(text) + '"'


def plain(text: str) -> str:
    """The text in one line."""
    return "".join(letter if letter.isprintable() else letter.encode("unicode_escape").decode() for letter in text)
