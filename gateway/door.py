"""The door: which requests are let in, by host, origin and sign-in; and the headers that each answer has."""

from __future__ import annotations

import asyncio
import base64
import binascii
import ipaddress
import socket
from collections.abc import Iterable
from dataclasses import replace
from typing import Final
from urllib.parse import urlsplit

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

from camfabric.gateway.address import origin_of
from camfabric.gateway.caller import ANYBODY, Caller, network_of, set_caller
from camfabric.gateway.hub import HUB, Hub
from camfabric.gateway.settings import WEB_TIMES
from camfabric.gateway.sign_in import SESSION_S, Busy, SignIn

__all__ = ["Door", "client_address"]

_OPEN: Final = ("/sign-in", "/sign-out", "/healthz")
_OPEN_BELOW: Final = "/page/"
_SAFE: Final = frozenset({"GET", "HEAD", "OPTIONS"})
_HEADERS: Final = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; media-src 'self' blob:;"
        " connect-src 'self'; worker-src 'self'; manifest-src 'self'; form-action 'self'; base-uri 'none';"
        " frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}
_PICTURES: Final = (".jpg", ".mjpeg")
"""What pages of other origins may show, where that is wanted."""


def client_address(request: web.Request) -> str:
    """Where a request comes from."""
    return request.remote or ""


def _host_of(request: web.Request) -> str:
    """The name under which the gateway was asked for, in small letters, without a port; "" where there is none."""
    try:
        return urlsplit(f"//{request.headers.get('Host', '')}").hostname or ""
    except ValueError:
        return ""


def _netloc_of(origin: str) -> str:
    """The host and port of an origin; "null" for none, which is no host."""
    try:
        return urlsplit(origin).netloc.lower() or "null"
    except ValueError:
        return "null"


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return False
    return True


class Door:
    """Lets requests in.

    A page elsewhere can make a browser ask for anything here, and can give its own name this machine's address (DNS
    rebinding). So a request has to name an address, or a name that is known to be ours; and what changes something, or
    opens the WebSocket, has to come from our own page.
    """

    def __init__(self, sign_in: SignIn, hosts: Iterable[str], *, is_secure: bool, embed: Iterable[str] = ()) -> None:
        self._sign_in = sign_in
        self._is_secure = is_secure
        self._embed = frozenset(embed)
        own = socket.gethostname().lower()
        self._hosts = frozenset({"localhost", own, f"{own}.local", *(host.lower() for host in hosts)})

    async def add_headers(self, request: web.BaseRequest, response: web.StreamResponse) -> None:
        """Put in what every answer has. For `on_response_prepare`."""
        if request.path.endswith(_PICTURES) and self._embeds(request):
            response.headers["Cross-Origin-Resource-Policy"] = "cross-origin"
        for name, value in _HEADERS.items():
            response.headers.setdefault(name, value)
        response.headers["Server"] = "camfabric"

    def middleware(self) -> Middleware:
        """For the application."""

        @web.middleware
        async def door(request: web.Request, handler: Handler) -> web.StreamResponse:
            self._check_host(request)
            self._check_origin(request)
            self._check_embedding(request)
            try:
                caller = await self._caller(request)
            except Busy as error:
                raise _too_many(error) from None
            if caller is not None:
                set_caller(request, replace(caller, address=network_of(client_address(request))))
            elif request.path not in _OPEN and not request.path.startswith(_OPEN_BELOW):
                raise self._refusal(request)
            return await handler(request)

        return door

    def _check_host(self, request: web.Request) -> None:
        host = _host_of(request)
        if not _is_address(host) and host not in self._hosts and not host.endswith(".localhost"):
            raise web.HTTPMisdirectedRequest(
                text=f"this gateway is not known as {host[:100]!r}: start it with --host NAME where that is right\n"
            )

    @staticmethod
    def _check_origin(request: web.Request) -> None:
        is_upgrade = request.headers.get("Upgrade", "").lower() == "websocket"
        if request.method in _SAFE and not is_upgrade:
            return
        origin = request.headers.get("Origin")
        if origin is None:
            if request.headers.get("Sec-Fetch-Site", "none") in ("none", "same-origin"):
                return  # no browser
        elif _netloc_of(origin) == request.headers.get("Host", "").lower():
            return
        raise web.HTTPForbidden(text="the request comes from a page of another origin\n")

    def _embeds(self, request: web.BaseRequest) -> bool:
        """Whether the page that shows what is asked for may do so."""
        return origin_of(request.headers.get("Referer", "")) in self._embed

    def _check_embedding(self, request: web.Request) -> None:
        """A page elsewhere can ask for pictures without seeing them: each would take a viewer's place."""
        if not request.path.endswith(_PICTURES) or self._embeds(request):
            return
        site = request.headers.get("Sec-Fetch-Site")
        if site is None:
            # No browser, or one over HTTP; ours sends no Referer.
            referer = request.headers.get("Referer")
            if referer is None or _netloc_of(referer) == request.headers.get("Host", "").lower():
                return
        elif site in ("none", "same-origin") or request.headers.get("Sec-Fetch-Dest") == "document":
            return  # ours, or somebody who follows a link
        raise web.HTTPForbidden(text="a page of another origin shows this: start the gateway with --embed ORIGIN\n")

    async def _caller(self, request: web.Request) -> Caller | None:
        """Who asks; None where that is not known.

        Raises:
            Busy: too many attempts.
        """
        if not self._sign_in.is_wanted:
            return ANYBODY
        authorization = request.headers.get("Authorization")
        if authorization is None:
            cookie = request.cookies.get(self._cookie(request))
            return None if cookie is None else self._sign_in.by_session(cookie)
        scheme, _, value = authorization.partition(" ")
        if scheme.lower() == "bearer":
            return await self._sign_in.by_password("token", value.strip(), client_address(request))
        if scheme.lower() == "basic":
            name, password = _basic(value)
            return await self._sign_in.by_password(name, password, client_address(request))
        return None

    def _cookie(self, request: web.Request) -> str:
        """The cookie's name: hosts have the cookies of all their ports together."""
        _, port, *_ = request.get_extra_info("sockname")
        return f"{'__Host-' if self._is_secure else ''}camfabric-{port}"

    def _refusal(self, request: web.Request) -> web.HTTPException:
        if request.path == "/":
            return web.HTTPSeeOther("sign-in")
        # Not to a page: its browser would ask for the password itself, in a window of its own.
        is_page = (
            self._cookie(request) in request.cookies or request.headers.get("Sec-Fetch-Mode", "navigate") != "navigate"
        )
        challenge = {} if is_page or request.path == "/api/cameras" else {"WWW-Authenticate": 'Basic realm="camfabric"'}
        return web.HTTPUnauthorized(text="sign in first\n", headers=challenge)

    async def sign_in(self, request: web.Request) -> web.StreamResponse:
        """`POST /sign-in`: a form with `name` and `password`. Leads to the page, with the session's cookie."""
        try:
            async with asyncio.timeout(WEB_TIMES.request_s):
                form = await request.post()
        except TimeoutError:
            raise web.HTTPRequestTimeout(text="the form did not come\n") from None
        name, password = form.get("name"), form.get("password")
        if not isinstance(name, str) or not isinstance(password, str):
            raise web.HTTPBadRequest(text="a name and a password are wanted\n")
        if not self._sign_in.is_wanted:
            raise web.HTTPSeeOther("./")
        try:
            caller = await self._sign_in.by_password(name, password, client_address(request))
        except Busy as error:
            raise _too_many(error) from None
        if caller is None:
            raise web.HTTPForbidden(text="the name or the password is wrong\n")
        answer = web.Response(status=303, headers={"Location": "./", "Cache-Control": "no-store"})
        answer.set_cookie(
            self._cookie(request),
            self._sign_in.begin(caller),
            max_age=int(SESSION_S),
            path="/",
            httponly=True,
            samesite="Strict",
            secure=self._is_secure,
        )
        return answer

    async def sign_out(self, request: web.Request) -> web.StreamResponse:
        """`POST /sign-out`: ends the session, and what it has open."""
        cookie = request.cookies.get(self._cookie(request))
        caller = None if cookie is None else self._sign_in.end(cookie)
        if caller is not None:
            request.app[HUB].end(lambda other: other.session == caller.session)
        answer = web.Response(status=303, headers={"Location": "sign-in", "Cache-Control": "no-store"})
        answer.del_cookie(self._cookie(request), path="/", httponly=True, samesite="Strict", secure=self._is_secure)
        return answer

    def recheck(self, hub: Hub) -> None:
        """End what those have open who may not come in any more."""
        hub.end(lambda caller: not self._sign_in.may_stay(caller))


def _basic(value: str) -> tuple[str, str]:
    """(name, password) of an Authorization header; empty where it is none."""
    try:
        name, _, password = base64.b64decode(value.strip(), validate=True).decode().partition(":")
    except (binascii.Error, ValueError):
        return "", ""
    return name, password


def _too_many(error: Busy) -> web.HTTPException:
    return web.HTTPTooManyRequests(text=f"{error}\n", headers={"Retry-After": str(int(error.wait_s) + 1)})
