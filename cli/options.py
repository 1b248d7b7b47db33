"""Options that several commands share, and how they are checked."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, TypeAlias, TypedDict

import typer

from camfabric.common.errors import ConfigError
from camfabric.common.settings import BROKER_SUBSCRIBERS

__all__ = [
    "Access",
    "Duration",
    "Filters",
    "From",
    "Insecure",
    "Json",
    "Key",
    "Keys",
    "LocalWay",
    "ServerKey",
    "ServerKeys",
    "from_default",
    "make_folder",
    "positive",
]

Filters: TypeAlias = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[FILTER]...",
        help="Cameras: names or their leading segments, as `cctv` for all under cctv/. None for all.",
        envvar="CAMFABRIC_FILTER",
        show_default=False,
    ),
]
From: TypeAlias = Annotated[
    list[str] | None,
    typer.Option(
        "--from",
        help=f"A broker, or a publisher that binds; several times. Default {BROKER_SUBSCRIBERS}.",
        envvar="CAMFABRIC_FROM",
        show_default=False,
    ),
]
Insecure: TypeAlias = Annotated[
    bool,
    typer.Option(
        "--insecure", help="Allow endpoints beyond loopback without keys: anybody there can see and send pictures."
    ),
]
Keys: TypeAlias = Annotated[
    str | None,
    typer.Option(
        help="A folder of keys, as `camfabric keys` makes it: one's own, and those of the others.",
        metavar="DIR",
        envvar="CAMFABRIC_KEYS",
        show_default=False,
    ),
]
Key: TypeAlias = Annotated[
    str | None,
    typer.Option(
        help="One's own secret key: a file, or a name in --keys. Default: the only one there.",
        metavar="FILE",
        envvar="CAMFABRIC_KEY",
        show_default=False,
    ),
]
_SERVER_KEY_HELP = "The public key of whoever is connected to: a file, or a name in --keys. Default: broker."
ServerKey: TypeAlias = Annotated[
    str | None,
    typer.Option(help=_SERVER_KEY_HELP, metavar="FILE", envvar="CAMFABRIC_SERVER_KEY", show_default=False),
]
ServerKeys: TypeAlias = Annotated[
    list[str] | None,
    typer.Option(
        "--server-key",
        help=f"{_SERVER_KEY_HELP} Several times: one for each endpoint.",
        metavar="FILE",
        envvar="CAMFABRIC_SERVER_KEY",
        show_default=False,
    ),
]
Json: TypeAlias = Annotated[bool, typer.Option("--json", help="One JSON object a line.", envvar="CAMFABRIC_JSON")]
LocalWay: TypeAlias = Literal["auto", "off"]
Duration: TypeAlias = Annotated[float | None, typer.Option(help="End after this many seconds.")]


class Access(TypedDict):
    """With which keys to connect, as `Subscriber` takes it."""

    key: str | None
    server_key: list[str] | None
    keys: str | None
    insecure: bool


def from_default(endpoints: list[str] | None) -> list[str]:
    """The endpoints given, or the broker on this machine."""
    return endpoints or [BROKER_SUBSCRIBERS]


def make_folder(folder: Path) -> None:
    """Make a folder for `--save`, and see that it can be written to.

    Raises:
        ConfigError: it cannot.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / ".camfabric").touch()
        (folder / ".camfabric").unlink()
    except OSError as error:
        raise ConfigError(f"--save {folder}: {error.strerror}", setting="--save", value=str(folder)) from error


def positive(value: float | None, option: str) -> None:
    """Check a number that must be above 0.

    Raises:
        ConfigError: it is not; names the option.
    """
    if value is not None and not 0 < value < float("inf"):
        raise ConfigError(f"{option} {value:g}: it is a number above 0", setting=option, value=value)
