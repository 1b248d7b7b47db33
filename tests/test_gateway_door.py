"""Who gets into the gateway: hosts, origins, users who may see only part, HTTPS, and what each answer's headers say."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import dataclasses
import json
import socket
import ssl
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import pytest

from camfabric.common.errors import ConfigError, EndpointError
from camfabric.gateway import Gateway, GatewaySettings
from camfabric.gateway.accounts import make_line
from camfabric.gateway.settings import WEB_LIMITS, WEB_TIMES
from camfabric.publisher import Publisher

from .conftest import Eventually, RunningBroker, StartBroker, StartGateway
from .visitor import run, visit

ANNA = make_line("anna", "correct horse")
BORIS = make_line("boris", "battery", ["cctv"])
TOKEN = "0123456789abcdef"


@pytest.fixture
def broker(start_broker: StartBroker, feed: Callable[..., Any]) -> Iterator[RunningBroker]:
    """A broker with cctv/lobby and vault."""
    broker = start_broker()
    with Publisher("cctv/lobby", to=broker.to) as lobby, Publisher("vault", to=broker.to) as vault:
        feed(lobby)
        feed(vault)
        yield broker


@pytest.fixture
def private(tmp_path: Path) -> Callable[..., Path]:
    """Write a file that nobody else may read."""

    def write(*lines: str, name: str = "accounts") -> Path:
        path = tmp_path / name
        path.touch(0o600)
        path.write_text("".join(f"{line}\n" for line in lines))
        return path

    return write


@pytest.fixture
def guarded(broker: RunningBroker, start_gateway: StartGateway, private: Callable[..., Path]) -> str:
    """The address of a gateway with two users and a token."""
    return start_gateway(
        broker.endpoint, password_file=private(ANNA, BORIS), token_file=private(TOKEN, name="token")
    ).url


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A certificate of 127.0.0.1 that nobody has signed, and its key."""
    folder = tmp_path_factory.mktemp("tls")
    cert, key = folder / "cert.pem", folder / "key.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2",
         "-subj", "/CN=camfabric", "-addext", "subjectAltName=IP:127.0.0.1,DNS:localhost",
         "-keyout", str(key), "-out", str(cert)],
        check=True, capture_output=True,
    )  # fmt: skip
    return cert, key


async def _status(url: str, method: str = "GET", **options: Any) -> int:
    async with (
        aiohttp.ClientSession() as session,
        session.request(method, url, allow_redirects=False, **options) as answer,
    ):
        await answer.read()
        return answer.status


async def _names(url: str, **options: Any) -> set[str]:
    async with aiohttp.ClientSession() as session, session.get(f"{url}/api/cameras", **options) as answer:
        assert answer.status == 200
        return {camera["name"] for camera in json.loads(await answer.text())["cameras"]}


async def _known(url: str, count: int, **options: Any) -> None:
    async with asyncio.timeout(10):
        while len(await _names(url, **options)) < count:
            await asyncio.sleep(0.05)


def _basic(name: str, password: str) -> dict[str, str]:
    return {"Authorization": f"Basic {base64.b64encode(f'{name}:{password}'.encode()).decode()}"}


# Hosts and origins


@pytest.mark.parametrize(
    ("host", "is_ours"),
    [
        ("127.0.0.1", True),
        ("127.0.0.1:1", True),
        ("[::1]:8080", True),
        ("192.168.1.4", True),
        ("localhost", True),
        ("LOCALHOST:9", True),
        ("cameras.example", True),
        ("evil.example", False),
        ("127.0.0.1.evil.example", False),
        ("localhost.evil.example", False),
        ("cameras.example.evil.example", False),
        ("", False),
        ("[::1", False),
        ("a b", False),
    ],
)
def test_only_our_own_names_are_answered(
    broker: RunningBroker, start_gateway: StartGateway, host: str, is_ours: bool
) -> None:
    url = start_gateway(broker.endpoint, hosts=["cameras.example"]).url

    async def work() -> None:
        for path in ("/", "/api/cameras", "/healthz", "/page/nothing"):
            status = await _status(url + path, headers={"Host": host})
            assert (status != 421) == is_ours
        headers = {"Host": host, "Origin": f"http://{host}"}
        if is_ours:
            async with visit(url, headers=headers) as visitor:
                await visitor.text("cameras")
        else:
            with pytest.raises(aiohttp.WSServerHandshakeError):
                async with visit(url, headers=headers):
                    pass

    run(work)


def test_only_our_own_page_opens_the_websocket_or_posts(broker: RunningBroker, start_gateway: StartGateway) -> None:
    url = start_gateway(broker.endpoint).url

    async def work() -> None:
        for origin in ("http://evil.example", "null", "http://127.0.0.1:1", "http://localhost", "file://", "http://["):
            with pytest.raises(aiohttp.WSServerHandshakeError) as caught:
                async with visit(url, headers={"Origin": origin}):
                    pass
            assert caught.value.status == 403
            assert await _status(f"{url}/sign-out", "POST", headers={"Origin": origin}) == 403
        assert await _status(f"{url}/sign-out", "POST", headers={"Sec-Fetch-Site": "cross-site"}) == 403
        for headers in ({"Origin": url}, {}, {"Sec-Fetch-Site": "same-origin"}):
            assert await _status(f"{url}/sign-out", "POST", headers=headers) == 303
        async with visit(url, headers={"Origin": url}) as visitor:
            await visitor.text("cameras")

    run(work)


def test_each_answer_has_the_headers_that_keep_it_in_its_place(guarded: str) -> None:
    async def work() -> None:
        async with aiohttp.ClientSession() as session:
            for path in ("/", "/sign-in", "/page/main.js", "/api/cameras", "/nothing", "/healthz", "/metrics"):
                async with session.get(guarded + path, allow_redirects=False) as answer:
                    assert "frame-ancestors 'none'" in answer.headers["Content-Security-Policy"]
                    assert "unsafe" not in answer.headers["Content-Security-Policy"]
                    assert answer.headers["X-Content-Type-Options"] == "nosniff"
                    assert answer.headers["Referrer-Policy"] == "no-referrer"
                    assert answer.headers["Cross-Origin-Resource-Policy"] == "same-origin"
                    assert answer.headers["Server"] == "camfabric"
                    assert "Access-Control-Allow-Origin" not in answer.headers

    run(work)


def test_only_pages_that_are_named_show_pictures_elsewhere(broker: RunningBroker, start_gateway: StartGateway) -> None:
    url = start_gateway(broker.endpoint, embed=["http://Home.example:80", "https://[::1]:8123/"]).url

    async def work() -> None:
        async with asyncio.timeout(10):
            while await _status(f"{url}/api/cameras/vault/snapshot.jpg") != 200:
                await asyncio.sleep(0.05)
        image = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Dest": "image"}
        async with aiohttp.ClientSession() as session:
            for headers, status, policy in (
                ({}, 200, "same-origin"),
                ({"Sec-Fetch-Site": "same-origin"}, 200, "same-origin"),
                ({"Sec-Fetch-Site": "none"}, 200, "same-origin"),
                ({"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Dest": "document"}, 200, "same-origin"),
                ({"Referer": f"{url}/"}, 200, "same-origin"),
                (image, 403, "same-origin"),
                (image | {"Sec-Fetch-Site": "same-site"}, 403, "same-origin"),
                (image | {"Referer": "http://evil.example/"}, 403, "same-origin"),
                (image | {"Referer": "http://home.example.evil.example/"}, 403, "same-origin"),
                (image | {"Referer": "http://home.example:8080/"}, 403, "same-origin"),
                (image | {"Referer": "https://home.example/"}, 403, "same-origin"),
                ({"Referer": "http://evil.example/"}, 403, "same-origin"),
                (image | {"Referer": "http://home.example/wall?x"}, 200, "cross-origin"),
                (image | {"Referer": "https://[::1]:8123/"}, 200, "cross-origin"),
            ):
                for name in ("snapshot.jpg", "stream.mjpeg"):
                    async with session.get(f"{url}/api/cameras/vault/{name}", headers=headers) as answer:
                        assert (answer.status, answer.headers["Cross-Origin-Resource-Policy"]) == (status, policy)
            async with session.get(f"{url}/api/cameras", headers={"Referer": "http://home.example/"}) as answer:
                assert answer.headers["Cross-Origin-Resource-Policy"] == "same-origin"

    run(work)


def test_the_page_and_its_files_are_there_and_not_sent_twice(
    broker: RunningBroker, start_gateway: StartGateway
) -> None:
    url = start_gateway(broker.endpoint).url

    async def work() -> None:
        async with aiohttp.ClientSession() as session:
            for path, kind in (
                ("/", "text/html"),
                ("/page/main.js", "text/javascript"),
                ("/page/icon.svg", "image/"),
            ):
                async with session.get(url + path) as answer:
                    assert answer.status == 200
                    assert answer.content_type.startswith(kind)
                    tag = answer.headers["ETag"]
                    content = await answer.read()
                async with session.get(url + path, headers={"Accept-Encoding": "identity"}) as answer:
                    assert "Content-Encoding" not in answer.headers
                    assert await answer.read() == content
                async with session.get(url + path, headers={"If-None-Match": tag}) as answer:
                    assert answer.status == 304
                    assert await answer.read() == b""

    run(work)


def test_nobody_holds_a_connection_by_sending_slowly(
    broker: RunningBroker, start_gateway: StartGateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("camfabric.gateway.server.WEB_TIMES", dataclasses.replace(WEB_TIMES, request_s=0.5))
    monkeypatch.setattr("camfabric.gateway.door.WEB_TIMES", dataclasses.replace(WEB_TIMES, request_s=0.5))
    form = b"Content-Type: application/x-www-form-urlencoded\r\nContent-Length: 99\r\n\r\nname="
    with contextlib.ExitStack() as stack:
        url = start_gateway(broker.endpoint).url
        connections = [stack.enter_context(_connect(url)) for _ in range(4)]
        host = b" HTTP/1.1\r\nHost: localhost\r\n"
        begins = (b"", b"GET /" + host + b"X-Slow: ", b"POST /sign-in" + host + form, b"GET /healthz" + host + form)
        for connection, begin in zip(connections, begins, strict=True):
            connection.sendall(begin)
        for connection in connections:
            with contextlib.suppress(ConnectionResetError):
                while connection.recv(1000):
                    pass


def _connect(url: str) -> socket.socket:
    parts = urlsplit(url)
    return socket.create_connection((parts.hostname or "", parts.port or 80), timeout=5)


def test_connections_beyond_the_bound_are_closed_at_once(
    broker: RunningBroker,
    start_gateway: StartGateway,
    certificate: tuple[Path, Path],
    monkeypatch: pytest.MonkeyPatch,
    eventually: Eventually,
) -> None:
    monkeypatch.setattr("camfabric.gateway.server.WEB_LIMITS", dataclasses.replace(WEB_LIMITS, connections=3))
    tls = {"cert": certificate[0], "cert_key": certificate[1]}

    def is_let_in(url: str) -> bool:
        with _connect(url) as connection:
            connection.settimeout(0.2)
            try:
                connection.recv(1)
            except TimeoutError:
                return True
            except ConnectionResetError:
                pass
            return False

    for settings in ({}, tls):
        url = start_gateway(broker.endpoint, **settings).url
        with contextlib.ExitStack() as stack:
            for _ in range(3):
                stack.enter_context(_connect(url))
            assert not is_let_in(url)
        eventually(lambda: is_let_in(url))  # noqa: B023  (called at once)


# Sign-in


def test_without_a_sign_in_nothing_is_shown(guarded: str) -> None:
    async def work() -> None:
        for path, status in (
            ("/", 303), ("/api/cameras", 401), ("/api/cameras/vault/snapshot.jpg", 401), ("/metrics", 401),
            ("/api/cameras/vault/stream.mjpeg", 401), ("/api/cameras/no/snapshot.jpg", 401), ("/nothing", 401),
            ("/sign-in", 200), ("/page/sign-in.js", 200), ("/healthz", 200),
        ):  # fmt: skip
            assert await _status(guarded + path) == status, path
        for headers in (
            {"Authorization": "Basic nonsense"}, {"Authorization": "Bearer "}, {"Authorization": "Digest x"},
            {"Cookie": f"camfabric-{urlsplit(guarded).port}=x"}, {"Authorization": ""},
        ):  # fmt: skip
            assert await _status(f"{guarded}/api/cameras", headers=headers) in (401, 429)
        with pytest.raises(aiohttp.WSServerHandshakeError) as caught:
            async with visit(guarded):
                pass
        assert caught.value.status == 401

    run(work)


def test_programs_are_asked_for_a_password_and_pages_are_not(guarded: str) -> None:
    async def work() -> None:
        async with aiohttp.ClientSession() as session:
            for headers, is_asked in (
                ({}, True),
                ({"Sec-Fetch-Mode": "cors"}, False),
                ({"Cookie": f"camfabric-{urlsplit(guarded).port}=x"}, False),
            ):
                address = f"{guarded}/api/cameras/vault/snapshot.jpg"
                async with session.get(address, headers=headers) as answer:
                    assert answer.status == 401
                    assert ("WWW-Authenticate" in answer.headers) == is_asked

    run(work)


def test_a_user_sees_his_cameras_and_the_others_do_not_exist(guarded: str) -> None:
    boris = _basic("boris", "battery")

    async def work() -> None:
        await _known(guarded, 2, headers={"Authorization": f"Bearer {TOKEN}"})
        assert await _names(guarded, headers=boris) == {"cctv/lobby"}
        assert await _names(guarded, headers=_basic("anna", "correct horse")) == {"cctv/lobby", "vault"}
        assert await _names(guarded, headers=_basic("token", TOKEN)) == {"cctv/lobby", "vault"}
        async with aiohttp.ClientSession(headers=boris) as session:
            answers = []
            for name in ("vault", "no-such-camera"):
                async with session.get(f"{guarded}/api/cameras/{name}/snapshot.jpg") as answer:
                    answers.append((answer.status, await answer.text()))
            assert answers[0] == answers[1]
            assert answers[0][0] == 404
            async with session.get(f"{guarded}/api/cameras/cctv/lobby/snapshot.jpg") as answer:
                assert answer.status == 200
            async with session.get(f"{guarded}/metrics") as answer:
                text = await answer.text()
                assert "cctv/lobby" in text
                assert "vault" not in text
                # Totals would tell of the others.
                assert "camfabric_gateway" not in text
        async with visit(guarded, headers=boris) as visitor:
            await visitor.watch(
                (1, "vault", "cam", "any"), (2, "cctv/lobby", "cam", "any"), (3, "vault", "low", "jpeg")
            )
            assert {picture.stream for picture in [await visitor.picture() for _ in range(40)]} == {2}
            await visitor.text("status")
            assert visitor.texts[0]["user"] == "boris"
            assert "vault" not in json.dumps(visitor.texts)

    run(work)


def test_a_user_has_a_share_and_others_have_the_rest(guarded: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("camfabric.gateway.hub.WEB_LIMITS", dataclasses.replace(WEB_LIMITS, viewers=4))
    monkeypatch.setattr("camfabric.gateway.stills.WEB_LIMITS", dataclasses.replace(WEB_LIMITS, snapshots=3))
    boris, anna = _basic("boris", "battery"), _basic("anna", "correct horse")

    async def work() -> None:
        await _known(guarded, 2, headers=anna)
        picture = f"{guarded}/api/cameras/cctv/lobby/snapshot.jpg"
        assert await _status(picture, headers=boris) == 503  # his share of three is none
        async with visit(guarded, headers=boris) as one, visit(guarded, headers=boris) as two:
            assert (await two.closed()).code == 1013
            async with visit(guarded, headers=anna) as hers:
                await hers.text("cameras")
            await one.text("cameras")

    run(work)


def test_signing_in_and_out_by_the_form(guarded: str) -> None:
    async def work() -> None:
        jar = aiohttp.CookieJar(unsafe=True)
        async with aiohttp.ClientSession(cookie_jar=jar) as session:
            form = {"name": "anna", "password": "wrong"}
            async with session.post(f"{guarded}/sign-in", data=form) as answer:
                assert answer.status == 403
                assert "wrong" in await answer.text()
            form["password"] = "correct horse"
            async with session.post(f"{guarded}/sign-in", data=form, allow_redirects=False) as answer:
                assert answer.status == 303
                cookie = answer.headers["Set-Cookie"]
                assert "HttpOnly" in cookie
                assert "SameSite=Strict" in cookie
                assert "Secure" not in cookie
            async with session.get(f"{guarded}/") as answer:
                assert answer.status == 200
            async with session.ws_connect(f"{guarded}/api/stream") as socket:
                await socket.send_json({"type": "hello", "v": 1})
                assert json.loads((await socket.receive(5)).data)["user"] == "anna"
                async with session.post(f"{guarded}/sign-out", allow_redirects=False) as answer:
                    assert answer.status == 303
                # What the session has open ends with it.
                async with asyncio.timeout(5):
                    while (await socket.receive()).type is aiohttp.WSMsgType.TEXT:
                        pass
            async with session.get(f"{guarded}/api/cameras") as answer:
                assert answer.status == 401
        for body in (b"", b"name=anna", b"x" * 100_000, b"name=%ff&password=%ff"):
            headers = {"Content-Type": "application/x-www-form-urlencoded"}
            assert await _status(f"{guarded}/sign-in", "POST", data=body, headers=headers) in (400, 403, 413)

    run(work)


def test_wrong_passwords_are_slowed(guarded: str) -> None:
    async def work() -> None:
        attempts = [_status(f"{guarded}/api/cameras", headers=_basic("anna", f"wrong{number}")) for number in range(12)]
        statuses = await asyncio.gather(*attempts)
        assert sorted(set(statuses)) == [401, 429]
        assert statuses.count(401) <= 6
        # The token is no password that was tried, and pages go on.
        assert await _status(f"{guarded}/healthz") == 200

    run(work)


def test_who_is_taken_out_loses_what_he_has_open(
    broker: RunningBroker, start_gateway: StartGateway, private: Callable[..., Path]
) -> None:
    url = start_gateway(broker.endpoint, password_file=private(ANNA, BORIS)).url

    async def work() -> None:
        anna, boris = _basic("anna", "correct horse"), _basic("boris", "battery")
        await _known(url, 2, headers=anna)
        async with (
            visit(url, headers=anna) as hers,
            visit(url, headers=boris) as his,
            aiohttp.ClientSession(headers=boris) as session,
            session.get(f"{url}/api/cameras/cctv/lobby/stream.mjpeg") as mjpeg,
        ):
            for visitor in (hers, his):
                await visitor.watch((1, "cctv/lobby", "cam", "any"))
                await visitor.pictures(3)
            private(ANNA)
            await his.closed()
            with pytest.raises(aiohttp.ClientPayloadError):
                await asyncio.wait_for(mjpeg.read(), 5)
            await hers.pictures(30)
        assert await _status(f"{url}/api/cameras", headers=boris) == 401

    run(work)


# HTTPS and where it listens


def test_over_https_the_cookie_is_secure_and_the_certificate_can_be_renewed(
    broker: RunningBroker,
    start_gateway: StartGateway,
    private: Callable[..., Path],
    certificate: tuple[Path, Path],
    tmp_path: Path,
) -> None:
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    cert.write_bytes(certificate[0].read_bytes())
    key.write_bytes(certificate[1].read_bytes())
    gateway = start_gateway(broker.endpoint, password_file=private(ANNA), cert=cert, cert_key=key)
    trusted = ssl.create_default_context(cafile=str(certificate[0]))

    async def work() -> None:
        assert gateway.url.startswith("https://")
        async with aiohttp.ClientSession() as session:
            form = {"name": "anna", "password": "correct horse"}
            async with session.post(f"{gateway.url}/sign-in", data=form, allow_redirects=False, ssl=trusted) as answer:
                assert answer.status == 303
                assert "Secure" in answer.headers["Set-Cookie"]
                assert answer.headers["Set-Cookie"].startswith(f"__Host-camfabric-{urlsplit(gateway.url).port}=")
                # For a proxy to say: whoever changes back to HTTP would be locked out.
                assert "Strict-Transport-Security" not in answer.headers
        async with visit(gateway.url, headers=_basic("anna", "correct horse"), ssl=trusted) as visitor:
            await visitor.watch((1, "vault", "cam", "any"))
            await visitor.pictures(3)
            # A bad one changes nothing.
            cert.write_text("no certificate")
            await asyncio.to_thread(gateway.gateway.reload)
            await visitor.pictures(30)
            assert await _status(f"{gateway.url}/healthz", ssl=trusted) == 200

    run(work)


def _settings(**changed: Any) -> GatewaySettings:
    return GatewaySettings(**({"listen": "0.0.0.0:0"} | changed))


def test_beyond_loopback_it_wants_a_sign_in_and_https(
    private: Callable[..., Path], certificate: tuple[Path, Path], caplog: pytest.LogCaptureFixture
) -> None:
    users = private(ANNA)
    tls = {"cert": certificate[0], "cert_key": certificate[1]}
    for settings, lacks in (
        ({}, "--password-file FILE .* and --cert FILE"),
        ({"password_file": users}, "give --cert FILE"),
        (tls, "give --password-file FILE"),
        ({"listen": "*:8443", **tls}, "give --password-file FILE"),
        ({"listen": "[::]:8443"}, "beyond loopback"),
        ({"listen": "myhost:8443"}, "beyond loopback"),
    ):
        with pytest.raises(ConfigError, match=lacks):
            Gateway(_settings(**settings))
    Gateway(_settings(password_file=users, **tls))
    assert caplog.text == ""
    Gateway(_settings(insecure=True))
    assert "can watch the cameras" in caplog.text
    caplog.clear()
    Gateway(_settings(insecure=True, password_file=users))
    assert "passwords" in caplog.text


@pytest.mark.parametrize("listen", ["", "8080", "127.0.0.1", "127.0.0.1:x", "127.0.0.1:65536", "http://a:1", "a b:1"])
def test_an_address_that_is_none_is_refused(listen: str) -> None:
    with pytest.raises(ConfigError, match="--listen"):
        Gateway(_settings(listen=listen))


@pytest.mark.parametrize("host", ["", " ", "a b/c", "https://x:8443", "x:8443", "x/y", "*", "."])
def test_a_host_that_is_none_is_refused(host: str) -> None:
    with pytest.raises(ConfigError, match=r"--host .*: it is a name alone"):
        Gateway(_settings(listen="127.0.0.1:0", hosts=[host]))


@pytest.mark.parametrize("origin", ["", "null", "*", "home.example", "ftp://x", "http://", "http://x/y", "http://x:y"])
def test_an_origin_that_is_none_is_refused(origin: str) -> None:
    with pytest.raises(ConfigError, match=r"--embed .*: it is the origin"):
        Gateway(_settings(listen="127.0.0.1:0", embed=[origin]))


def test_a_key_with_a_password_is_named(certificate: tuple[Path, Path], tmp_path: Path) -> None:
    locked = tmp_path / "locked.pem"
    subprocess.run(
        ["openssl", "pkey", "-in", str(certificate[1]), "-aes256", "-passout", "pass:secret", "-out", str(locked)],
        check=True, capture_output=True,
    )  # fmt: skip
    with pytest.raises(ConfigError, match="it has a password: take that off by openssl pkey -in"):
        Gateway(_settings(listen="127.0.0.1:0", cert=certificate[0], cert_key=locked))


def test_files_that_are_no_certificate_are_refused(
    certificate: tuple[Path, Path], tmp_path: Path, private: Callable[..., Path]
) -> None:
    cert, key = certificate
    for settings, why in (
        ({"cert": cert}, "go together"),
        ({"cert_key": key}, "go together"),
        ({"cert": tmp_path / "none", "cert_key": key}, "No such file"),
        ({"cert": key, "cert_key": key}, "certificate and its own key"),
        ({"cert": cert, "cert_key": private("nothing")}, "certificate and its own key"),
    ):
        with pytest.raises(ConfigError, match=why) as caught:
            Gateway(_settings(listen="127.0.0.1:0", **settings))
        assert "\n" not in str(caught.value)


def test_an_address_that_is_taken_is_told(broker: RunningBroker, start_gateway: StartGateway) -> None:
    gateway = start_gateway(broker.endpoint)
    with pytest.raises(EndpointError, match="cannot listen at"):
        start_gateway(broker.endpoint, listen=gateway.url.removeprefix("http://"))


def test_a_wrong_endpoint_or_key_ends_it_before_it_listens(start_gateway: StartGateway, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="endpoint"):
        start_gateway("tcp://nowhere")
    with pytest.raises(ConfigError, match="beyond loopback"):
        start_gateway("tcp://192.0.2.1:5551")
    with pytest.raises(ConfigError):
        start_gateway("tcp://127.0.0.1:5551", keys=str(tmp_path / "none"))


def test_basic_credentials_with_colons_and_umlauts_are_taken(
    broker: RunningBroker, start_gateway: StartGateway, private: Callable[..., Path]
) -> None:
    url = start_gateway(broker.endpoint, password_file=private(make_line("zoë", "a:b:ü"))).url

    async def work() -> None:
        assert await _status(f"{url}/api/cameras", headers=_basic("zoë", "a:b:ü")) == 200

    run(work)


def test_the_event_loop_is_free_while_passwords_are_tried(guarded: str, eventually: Eventually) -> None:
    async def work() -> None:
        headers = {"Authorization": f"Bearer {TOKEN}"}
        await _known(guarded, 2, headers=headers)
        async with visit(guarded, headers=headers) as visitor:
            await visitor.watch((1, "vault", "cam", "any"))
            await visitor.pictures(5)
            attempts = asyncio.gather(
                *(_status(f"{guarded}/api/cameras", headers=_basic(f"u{n}", "x")) for n in range(5))
            )
            pictures = 0
            while not attempts.done():
                await visitor.picture()
                pictures += 1
            assert set(attempts.result()) == {401}
            assert pictures >= 3

    run(work)
