"""`camfabric ls`: the cameras that there are."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from camfabric.cli.listing import list_cameras
from camfabric.cli.options import Access, Filters, From, Insecure, Json, Key, Keys, ServerKeys, from_default, positive
from camfabric.cli.output import rate_text, write_line
from camfabric.common.errors import FabricError

if TYPE_CHECKING:
    from camfabric.common.status import Status

__all__ = ["ls"]


def ls(
    filters: Filters = None,
    from_: From = None,
    wait: Annotated[float, typer.Option(help="Seconds to wait for an answer.")] = 2.0,
    json_: Json = False,
    require_live: Annotated[
        bool, typer.Option("--require-live", help="Fail unless there is a camera, and each one is live.")
    ] = False,
    key: Key = None,
    server_key: ServerKeys = None,
    keys: Keys = None,
    insecure: Insecure = False,
) -> None:
    """List the cameras, with their state."""
    positive(wait, "--wait")
    from camfabric.common.status import LIVE

    endpoints = from_default(from_)
    access = Access(key=key, server_key=server_key, keys=keys, insecure=insecure)
    listing = list_cameras(endpoints, filters=filters or (), wait_s=wait, access=access)
    cameras = listing.cameras
    if not cameras and not listing.has_broker:
        if listing.troubles:
            raise FabricError("; ".join(listing.troubles))
        raise FabricError(f"no camera and no broker answers at {', '.join(endpoints)}")
    for status in cameras if json_ else ():
        write_line(json.dumps(asdict(status), ensure_ascii=False))
    if not json_:
        write_line(_table(cameras) if cameras else "no cameras")
    bad = [status.camera for status in cameras if status.state != LIVE]
    if require_live and (bad or not cameras):
        raise FabricError(f"not live: {', '.join(bad)}" if bad else "no such camera")


def _table(cameras: list[Status]) -> str:
    from rich.cells import cell_len  # a Chinese letter is two columns wide

    rows = [("CAMERA", "STATE", "FPS", "SIZE", "CODEC", "SOURCE", "WATCHED", "REASON")]
    for status in cameras:
        size = f"{status.width}x{status.height}" if status.width else "-"
        reason = status.reason or ("another publisher claims this name" if status.rivals else "")
        if status.insecure:
            reason = f"{reason}; without keys" if reason else "without keys"
        watched = "yes" if status.watched else "no"
        rows.append(
            (status.camera, status.state, rate_text(status.fps_in), size, status.codec, status.source, watched, reason)
        )
    widths = [max(cell_len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = [
        "  ".join(cell + " " * (width - cell_len(cell)) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]
    return "\n".join(lines)
