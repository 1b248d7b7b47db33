"""`camfabric password`: a line for the file that says who may sign in at `camfabric web`."""

from __future__ import annotations

import getpass
import sys
from typing import Annotated

import typer

from camfabric.cli.extras import require_web
from camfabric.cli.output import write_line
from camfabric.common.errors import ConfigError

__all__ = ["password"]


def password(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Who signs in.")],
    cameras: Annotated[
        str | None,
        typer.Option(help="What he may see: filters with commas between; without it, all.", metavar="FILTER,FILTER"),
    ] = None,
) -> None:
    """Ask for a password, or read it from standard input, and print a line for --password-file."""
    require_web("password")
    from camfabric.gateway.accounts import check_name, make_line

    check_name(name)
    filters = [text.strip() for text in (cameras or "").split(",") if text.strip()]
    if cameras is not None and not filters:
        raise ConfigError(
            f"--cameras {cameras!r}: name what {name} may see, or leave --cameras out for all",
            setting="--cameras",
            value=cameras,
        )
    write_line(make_line(name, _asked(name), filters))


def _asked(name: str) -> str:
    """The password, from the terminal twice, or the first line of standard input.

    Raises:
        ConfigError: the two differ.
    """
    if not sys.stdin.isatty():
        return sys.stdin.readline().rstrip("\r\n")
    first = getpass.getpass(f"password of {name}: ")
    if getpass.getpass("once more: ") != first:
        raise ConfigError("the two passwords differ", setting="password")
    return first
