"""`camfabric keys`: make, show and revoke the keys that links are secured with."""

from __future__ import annotations

import json
import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final, TypeAlias

import typer

from camfabric.cli.options import Json
from camfabric.cli.output import write_line
from camfabric.common.errors import ConfigError

if TYPE_CHECKING:
    from camfabric.common.key_folder import Contents, KeyFolder

__all__ = ["app"]

logger = logging.getLogger(__name__)

_COMMANDS: Final = ("new", "list", "show", "revoke")

Keys: TypeAlias = Annotated[
    Path, typer.Option("--keys", help="The folder of keys.", envvar="CAMFABRIC_KEYS", metavar="DIR")
]
Name: TypeAlias = Annotated[str, typer.Argument(metavar="NAME", help="Whose key.")]

app = typer.Typer(help="Make, show and revoke keys: pairs of plain files in one folder.", invoke_without_command=True)


@app.callback()
def _require_command(context: typer.Context) -> None:
    if context.invoked_subcommand is None:
        raise ConfigError(
            f"give a command: {', '.join(f'keys {name}' for name in _COMMANDS)}; camfabric keys --help tells more",
            setting="keys",
        )


@app.command("new")
def _new(
    names: Annotated[list[str], typer.Argument(metavar="NAME...", help="Who gets one: `broker`, a camera, a viewer.")],
    keys: Keys = Path("keys"),
    into: Annotated[
        Path | None,
        typer.Option(
            help="A folder for another machine, to be given there as --keys: the secret goes there and never here,"
            " and the broker's public key with it.",
            metavar="DIR",
        ),
    ] = None,
    missing: Annotated[
        bool, typer.Option("--missing", help="Make only those that are not there yet, and were never revoked.")
    ] = False,
) -> None:
    """Make key pairs. Nothing is ever overwritten."""
    from camfabric.common.certificates import shown
    from camfabric.common.key_folder import KeyFolder
    from camfabric.common.keys import BROKER

    folder, made = KeyFolder.make(keys), list[str]()
    for name in names:
        if missing and _is_there(folder, name, into):
            continue
        try:
            folder.new(name, into=into)
        except ConfigError:
            if missing and _is_there(folder, name, into):  # made by another one at this moment
                continue
            raise
        made.append(name)
        secret = (into or folder.path) / folder.secret_file(name).name
        write_line(f"made {name}: {shown(folder.public_file(name))}, and its secret {shown(secret)}")
    if not made:
        return
    here = f"--keys {shown(folder.path)}"
    if into is not None:
        write_line(f"next: move {shown(into)} to the machine of {', '.join(made)}, and give it there as --keys DIR")
        if BROKER not in folder.secrets():
            logger.warning(
                "no broker's key went with it: next time make that first: camfabric keys new broker %s", here
            )
    elif BROKER in made:
        write_line(f"next: camfabric broker {here}; its secret stays here")
        write_line(f"      camfabric keys new NAME --into DIR {here}, for each camera and viewer on another machine")
    else:
        write_line(f"next: on this machine, give {here} --key NAME; a secret is not for copying: for another machine")
        write_line(f"      camfabric keys new NAME --into DIR {here}")


def _is_there(folder: KeyFolder, name: str, into: Path | None) -> bool:
    from camfabric.common.certificates import read_public, shown

    if not folder.has(name):
        if name in folder.contents().revoked_names.values():
            logger.warning("%s was revoked, and is not made again: camfabric keys new %s does", name, name)
            return True
        return False
    read_public(folder.public_file(name), setting="--keys")
    if into is not None and not os.path.lexists(into / folder.secret_file(name).name):
        logger.warning("the key %s is there already; its secret is not in %s", name, shown(into))
    return True


@app.command("list")
def _list(keys: Keys = Path("keys"), json_: Json = False) -> None:
    """List the keys: who is believed, whose secret is here, and who is revoked."""
    folder, contents = _opened(keys)
    secrets = set(folder.secrets())
    entries = [(name, public, name in secrets, False) for name, public in sorted(contents.keys.items())]
    entries += [
        (name, public, False, True) for public, name in sorted(contents.revoked_names.items(), key=lambda item: item[1])
    ]
    if json_:
        for name, public, is_here, revoked in entries:
            fields = {"name": name, "public": public.decode(), "secret_here": is_here, "revoked": revoked}
            write_line(json.dumps(fields))
        return
    if not entries:
        write_line("no keys")
        return
    width = max(len("NAME"), *(len(name) for name, *_ in entries))
    write_line(f"{'NAME':<{width}}  {'PUBLIC KEY':<40}  SECRET  STATE")
    for name, public, is_here, revoked in entries:
        state = "revoked" if revoked else "believed"
        write_line(f"{name:<{width}}  {public.decode()}  {'here' if is_here else '-':<6}  {state}")


@app.command("show")
def _show(name: Name, keys: Keys = Path("keys")) -> None:
    """Show one key: its public half, its files, and whether it is revoked. Never the secret."""
    from camfabric.common.certificates import read_public, shown
    from camfabric.common.key_folder import named, unknown_key

    folder, contents = _opened(keys)
    # One name can have been revoked several times: NAME, NAME.2, ...
    revoked = [
        (was, public)
        for public, was in contents.revoked_names.items()
        if was == name or (was.startswith(f"{name}.") and was.removeprefix(f"{name}.").isdigit())
    ]
    if folder.has(name):
        public = contents.keys.get(name) or read_public(folder.public_file(name), setting="keys show")
        secret = folder.secret_file(name)
        write_line(f"name        {name}")
        write_line(f"public key  {public.decode()}")
        write_line(f"file        {shown(folder.public_file(name))}")
        write_line(f"secret      {shown(secret) if os.path.lexists(secret) else 'not here'}")
        write_line(f"state       {'believed' if name in contents.keys else 'not believed'}")
    elif not revoked:
        raise unknown_key(folder, name, contents.keys, "keys show", f"has no key of {named(name)}")
    for was, public in revoked:
        write_line(f"name        {was}")
        write_line(f"public key  {public.decode()}")
        write_line("state       revoked")


@app.command("revoke")
def _revoke(name: Name, keys: Keys = Path("keys")) -> None:
    """Revoke a key: it is never believed again. A running broker drops its connections."""
    from camfabric.common.certificates import shown
    from camfabric.common.key_folder import KeyFolder

    folder = KeyFolder(keys)
    folder.revoke(name)
    write_line(f"revoked {name}: its key is in {shown(folder.path / 'revoked')}, and is never believed again")
    write_line(f"next: camfabric keys new {name} makes another one, where it is to go on")


def _opened(keys: Path) -> tuple[KeyFolder, Contents]:
    from camfabric.common.key_folder import KeyFolder

    folder = KeyFolder(keys)
    contents = folder.contents()
    for problem in contents.problems:
        logger.warning("%s", problem)
    return folder, contents
