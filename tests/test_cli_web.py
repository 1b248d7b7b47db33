"""`camfabric web` and `camfabric password`: as processes, and what they say where something is wrong."""

from __future__ import annotations

import importlib.util
import io
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from camfabric.cli.main import main
from camfabric.gateway.accounts import parse_accounts, verify
from camfabric.publisher import Publisher

from .conftest import Eventually, StartBroker, StartProcess


def _get(url: str, **headers: str) -> tuple[int, bytes]:
    request = urllib.request.Request(url, headers=headers)  # noqa: S310  (http, of this machine)
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:  # noqa: S310
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()


def test_the_page_of_a_fabric_is_served_until_it_is_ended(
    start_broker: StartBroker, camfabric: StartProcess, feed: Callable[..., Any], eventually: Eventually
) -> None:
    broker = start_broker()
    process = camfabric("web", env={"CAMFABRIC_FROM": broker.endpoint, "CAMFABRIC_WEB_LISTEN": "127.0.0.1:0"})
    url = eventually(lambda: process.said(r"the page is at (http://127.0.0.1:\d+)/"))[1]
    with Publisher("lobby", to=broker.to) as publisher:
        feed(publisher)
        eventually(lambda: b"lobby" in _get(f"{url}/api/cameras")[1])
        assert b"<html" in _get(url)[1]
        eventually(lambda: _get(f"{url}/api/cameras/lobby/snapshot.jpg")[0] == 200)
    assert process.end() == 0
    assert not process.said("Traceback")


def test_it_ends_at_once_also_with_pages_open(
    start_broker: StartBroker, camfabric: StartProcess, feed: Callable[..., Any], eventually: Eventually
) -> None:
    broker = start_broker()
    process = camfabric("web", "--from", broker.endpoint, "--listen", "127.0.0.1:0")
    url = eventually(lambda: process.said(r"the page is at (http://127.0.0.1:\d+)/"))[1]
    with Publisher("lobby", to=broker.to) as publisher:
        feed(publisher)
        eventually(lambda: b"lobby" in _get(f"{url}/api/cameras")[1])
        with urllib.request.urlopen(f"{url}/api/cameras/lobby/stream.mjpeg", timeout=10) as stream:  # noqa: S310
            assert stream.read(1000)
            assert process.end() == 0
    assert not process.said("Traceback")


def test_accounts_are_read_again_at_a_hangup(
    start_broker: StartBroker, camfabric: StartProcess, tmp_path: Path, eventually: Eventually
) -> None:
    token = tmp_path / "token"
    token.touch(0o600)
    token.write_text("0123456789abcdef")
    broker = start_broker()
    process = camfabric(
        "web", "--from", broker.endpoint, "--listen", "127.0.0.1:0", env={"CAMFABRIC_WEB_TOKEN_FILE": str(token)}
    )
    url = eventually(lambda: process.said(r"the page is at (http://127.0.0.1:\d+)/"))[1]
    assert _get(f"{url}/api/cameras")[0] == 401
    assert _get(f"{url}/api/cameras", Authorization="Bearer 0123456789abcdef")[0] == 200
    token.write_text("fedcba9876543210")
    eventually(lambda: _get(f"{url}/api/cameras", Authorization="Bearer fedcba9876543210")[0] == 200, every_s=0.5)
    assert process.end() == 0


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (["--listen", "nonsense"], "--listen 'nonsense': it is HOST:PORT"),
        (["--listen", "*:8080"], "beyond loopback"),
        (["--cert", "nothing.pem"], "--cert and --cert-key go together"),
        (["--password-file", "nothing"], "No such file"),
        (["--token-file", "nothing"], "No such file"),
        (["--from", "tcp://192.0.2.1:5551"], "beyond loopback"),
        (["--from", "nonsense"], "endpoint"),
        (["--host", ""], "--host '': it is a name alone"),
        (["--embed", "home.example"], "--embed 'home.example': it is the origin of a page"),
        (["--wrong"], "No such option"),
    ],
)
def test_a_mistake_is_one_line_and_status_2(arguments: list[str], why: str, refused: Callable[..., str]) -> None:
    assert why in refused("web", *arguments)


def test_an_address_that_is_taken_is_status_1(camfabric: StartProcess, eventually: Eventually) -> None:
    first = camfabric("web", "--listen", "127.0.0.1:0")
    listen = eventually(lambda: first.said(r"http://(127.0.0.1:\d+)/"))[1]
    second = camfabric("web", "--listen", listen)
    assert second.wait() == 1
    assert second.said(f"camfabric: cannot listen at {listen}")
    assert first.end() == 0


@pytest.mark.parametrize("missing", ["aiohttp", "prometheus_client"])
def test_without_the_extra_it_says_how_to_get_it(
    missing: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == missing else found(name))
    for command in (["web"], ["password", "anna"]):
        assert main(command) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert "pip install 'camfabric[web]'" in line


def test_nothing_else_needs_the_extra() -> None:
    program = "import sys, camfabric.cli.main; sys.exit('aiohttp' in sys.modules or 'prometheus_client' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


def _password(*arguments: str, typed: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "camfabric.cli", "password", *arguments],
        input=typed, capture_output=True, text=True, check=False, timeout=30,
    )  # fmt: skip


def test_a_password_becomes_a_line_for_the_file() -> None:
    made = _password("anna", "--cameras", "cctv/lobby, drone", typed="correct horse\n")
    assert (made.returncode, made.stderr) == (0, "")
    accounts, problems = parse_accounts(made.stdout)
    assert problems == []
    assert verify(accounts["anna"], "correct horse")
    assert accounts["anna"].filters == ("cctv/lobby", "drone")
    assert "horse" not in made.stdout


@pytest.mark.parametrize(
    ("arguments", "typed", "why"),
    [
        (["an:na"], "x\n", "user 'an:na'"),
        (["token"], "x\n", "--token-file"),
        (["anna"], "\n", "empty"),
        (["anna"], "", "empty"),
        (["anna", "--cameras", "a//b"], "x\n", "filter"),
        (["anna", "--cameras", ""], "x\n", "--cameras ''"),
        (["anna", "--cameras", " ,"], "x\n", "--cameras ' ,'"),
    ],
)
def test_a_password_that_cannot_be_is_one_line(
    arguments: list[str], typed: str, why: str, refused: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO(typed))
    assert why in refused("password", *arguments)


def test_the_page_is_in_the_package() -> None:
    """What `pyproject.toml` ships is all that the page's folder has."""
    import tomllib

    root = Path(__file__).parent.parent
    with (root / "pyproject.toml").open("rb") as file:
        patterns = tomllib.load(file)["tool"]["setuptools"]["package-data"]["camfabric.gateway"]
    shipped = {path for pattern in patterns for path in (root / "gateway").glob(pattern)}
    assert {path for path in (root / "gateway" / "page").rglob("*") if path.is_file()} <= shipped
