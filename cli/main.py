"""`camfabric`: the commands together, logging, and how errors become one line and an exit status."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from importlib.metadata import version
from typing import Annotated, Final

import typer
from typer.exceptions import TyperException

from camfabric.cli import broker, demo, keys, ls, password, publish, snapshot, subscribe, top, view, web
from camfabric.cli.output import OutputClosed, write_line
from camfabric.cli.signals import watch_signals
from camfabric.common.errors import ConfigError, FabricError
from camfabric.common.redact import redact

__all__ = ["app", "main"]

EXIT_DONE: Final = 0
EXIT_FAILED: Final = 1
EXIT_USAGE: Final = 2

app = typer.Typer(
    name="camfabric",
    help="A ZeroMQ pub/sub camera fabric. Each option has an environment variable as well.",
    add_completion=False,
    pretty_exceptions_enable=False,
)
_COMMANDS: Final[dict[str, Callable[..., None]]] = {
    "publish": publish.publish,
    "broker": broker.broker,
    "subscribe": subscribe.subscribe,
    "snapshot": snapshot.snapshot,
    "view": view.view,
    "web": web.web,
    "password": password.password,
    "ls": ls.ls,
    "top": top.top,
    "demo": demo.demo,
}
for _name, _command in _COMMANDS.items():
    app.command(_name)(_command)
app.add_typer(keys.app, name="keys")

_LEVELS: Final = ("debug", "info", "warning", "error")


def _print_version(wanted: bool) -> None:
    if wanted:
        write_line(f"camfabric {version('camfabric')}")
        raise typer.Exit


@app.callback()
def _configure(
    log_level: Annotated[str, typer.Option(help="debug, info, warning or error, to standard error.")] = "info",
    _version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version and end.")
    ] = False,
) -> None:
    if log_level.lower() not in _LEVELS:
        raise ConfigError(
            f"log level {log_level!r}: it is one of {', '.join(_LEVELS)}", setting="--log-level", value=log_level
        )
    logging.basicConfig(level=log_level.upper(), format="%(asctime)s %(levelname)s %(message)s", stream=sys.stderr)


def main(arguments: list[str] | None = None) -> int:
    """Run the command line. Returns the exit status: 0 done, 1 failed while running, 2 wrong usage."""
    watch_signals()
    command = typer.main.get_command(app)
    try:
        status = command.main(arguments, prog_name="camfabric", standalone_mode=False, auto_envvar_prefix="CAMFABRIC")
    except TyperException as error:
        message = error.format_message()
        if message == "Missing command.":
            message = f"give a command: {', '.join([*_COMMANDS, 'keys'])}; camfabric --help tells more"
        return _say(message, EXIT_USAGE)
    except ConfigError as error:
        return _say(str(error), EXIT_USAGE)
    except (FabricError, OSError) as error:
        return _say(str(error), EXIT_FAILED)
    except (OutputClosed, KeyboardInterrupt, typer.Abort):
        return EXIT_DONE
    return status if isinstance(status, int) else EXIT_DONE


def _say(message: str, status: int) -> int:
    line = " ".join(redact(message).split())
    sys.stderr.write(f"camfabric: {line}\n")
    return status


if __name__ == "__main__":
    sys.exit(main())
