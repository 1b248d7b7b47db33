"""The page's files: read once at the start, so that no path of a request ever reaches the file system."""

from __future__ import annotations

import gzip
import hashlib
from dataclasses import dataclass
from importlib.resources import files
from typing import Final

from aiohttp import web

from camfabric.common.errors import FabricError

__all__ = ["Pages"]

_TYPES: Final = {
    "css": "text/css",
    "html": "text/html",
    "js": "text/javascript",
    "svg": "image/svg+xml",
}
_INDEX: Final = "index.html"
_SIGN_IN: Final = "sign-in.html"


@dataclass(frozen=True, slots=True)
class _File:
    content: bytes
    packed: bytes
    """The same by gzip."""
    content_type: str
    etag: str


class Pages:
    """Serves the files of the package's folder `page`, by their names.

    Raises:
        FabricError: they are not there: the installation is damaged.
    """

    def __init__(self) -> None:
        self._files: dict[str, _File] = {}
        folder = files("camfabric.gateway").joinpath("page")
        for entry in folder.iterdir() if folder.is_dir() else ():
            content_type = _TYPES.get(entry.name.rpartition(".")[2])
            if content_type is not None and entry.is_file():
                content = entry.read_bytes()
                self._files[entry.name] = _File(
                    content, gzip.compress(content, mtime=0), content_type, hashlib.sha256(content).hexdigest()[:32]
                )
        if _INDEX not in self._files:
            raise FabricError("the page's files are missing: install camfabric[web] anew")

    async def index(self, request: web.Request) -> web.Response:
        """`GET /`."""
        return self._answer(request, _INDEX)

    async def sign_in(self, request: web.Request) -> web.Response:
        """`GET /sign-in`."""
        return self._answer(request, _SIGN_IN)

    async def file(self, request: web.Request) -> web.Response:
        """`GET /page/{name}`."""
        return self._answer(request, request.match_info["name"])

    def _answer(self, request: web.Request, name: str) -> web.Response:
        file = self._files.get(name)
        if file is None:
            raise web.HTTPNotFound(text="there is no such page\n")
        headers = {"ETag": f'"{file.etag}"', "Cache-Control": "no-cache", "Vary": "Accept-Encoding"}
        wanted = request.if_none_match
        if wanted and any(tag.value in (file.etag, "*") for tag in wanted):
            return web.Response(status=304, headers=headers)
        content = file.content
        if "gzip" in request.headers.get("Accept-Encoding", ""):
            content, headers["Content-Encoding"] = file.packed, "gzip"
        return web.Response(body=content, content_type=file.content_type, charset="utf-8", headers=headers)
