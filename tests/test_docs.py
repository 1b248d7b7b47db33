"""The docs: their options exist, all options are in the README, and its examples run as they stand."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from camfabric.broker.config import SETTABLE_LIMITS
from camfabric.common.settings import LIMITS

from .conftest import Run

_ROOT = Path(__file__).parent.parent
_README = (_ROOT / "README.md").read_text()
_KEYS = (_ROOT / "docs" / "keys.md").read_text()
_COMPOSE = (_ROOT / "docker-compose.yml").read_text()
_COMMANDS = ("publish", "broker", "subscribe", "view", "ls", "top", "demo", "snapshot", "web", "password")
_KEYS_COMMANDS = ("new", "list", "show", "revoke")
_OTHERS = {"--build", "--log-level", "--help"}
_OPTION = re.compile(r"(?<![\w-])--[a-z][a-z-]+")
_TOML = re.compile(r"```toml\n(.*?)```", re.DOTALL)


@pytest.fixture
def wide(monkeypatch: pytest.MonkeyPatch) -> None:
    """Help whose lines are not broken."""
    monkeypatch.setenv("COLUMNS", "200")


@pytest.mark.usefixtures("wide")
def test_the_readme_has_all_options_and_no_other(run_here: Run) -> None:
    commands = [(command,) for command in _COMMANDS] + [("keys", command) for command in _KEYS_COMMANDS]
    there: set[str] = set()
    for command in commands:
        status, out, _ = run_here(*command, "--help")
        assert status == 0
        there |= set(_OPTION.findall("\n".join(out)))
    in_readme = set(_OPTION.findall(_README))
    assert there - in_readme - {"--help", "--window"} == set()
    assert in_readme - there - _OTHERS == set()


@pytest.mark.usefixtures("wide")
def test_the_readme_has_all_commands_for_keys(run_here: Run) -> None:
    status, out, _ = run_here("keys", "--help")
    assert status == 0
    assert set(re.findall(r"^│ (\w+)  ", "\n".join(out), re.MULTILINE)) == set(_KEYS_COMMANDS)
    assert all(f"keys {command}" in _README for command in _KEYS_COMMANDS)


def _run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a `camfabric` command in a folder to its end."""
    command = [sys.executable, "-m", "camfabric.cli", *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=30, check=False)


def _is_right(folder: Path, config: str | Path, *options: str) -> None:
    """Check that a broker.toml is right, and that each key that it names is there."""
    checked = _run(folder, "broker", "--config", str(config), "--check-config", *options)
    assert (checked.returncode, checked.stderr) == (0, "")
    assert " is right" in checked.stdout


def test_the_readmes_keys_and_broker_toml_go_together(tmp_path: Path) -> None:
    commands = re.findall(r"^    camfabric (keys new .*)$", _README, re.MULTILINE)
    assert len(commands) == 4
    for command in commands:
        made = _run(tmp_path, *shlex.split(command, comments=True))
        assert (made.returncode, made.stderr) == (0, "")
    (example,) = _TOML.findall(_README)
    (tmp_path / "broker.toml").write_text(example)
    _is_right(tmp_path, "broker.toml")
    for folder in ("lobby-keys", "guard-keys", "visitor-keys"):
        name = folder.removesuffix("-keys")
        assert {path.name for path in (tmp_path / folder).iterdir()} == {
            "broker.key",
            f"{name}.key",
            f"{name}.key_secret",
        }


@pytest.mark.parametrize("example", _TOML.findall(_KEYS))
def test_a_broker_toml_of_the_docs_is_right(example: str, tmp_path: Path) -> None:
    names = set(re.findall(r'"([a-z0-9-]+)"', "".join(re.findall(r"^\w*key\w* = (.*)$", example, re.MULTILINE))))
    assert _run(tmp_path, "keys", "new", "broker", *sorted(names - {"keys"})).returncode == 0
    (tmp_path / "broker.toml").write_text(example)
    _is_right(tmp_path, "broker.toml")


def test_the_docs_table_of_limits_is_true() -> None:
    rows = re.findall(r"^\| `(\w+)` \| (\d+) \| (\d+) \| (\d+) \|", _KEYS, re.MULTILINE)
    assert {name: int(default) for name, default, *_ in rows} == {
        name: getattr(LIMITS, name) for name in SETTABLE_LIMITS
    }


def test_the_compose_demos_broker_toml_is_right(tmp_path: Path) -> None:
    (line,) = re.findall(r"^x-names: &names (.+)$", _COMPOSE, re.MULTILINE)
    names = line.split()
    assert _run(tmp_path, "keys", "new", "broker", *names, "health").returncode == 0
    _is_right(tmp_path, _ROOT / "docs" / "compose" / "broker.toml", "--keys", "keys")
    for name in ("broker", *names):
        assert f"      - keys-{name}:/keys/{name}\n" in _COMPOSE
        assert f"  keys-{name}:\n" in _COMPOSE


def test_the_compose_demo_is_open_on_this_machine_alone() -> None:
    ports = re.findall(r"^ +- \"(.*:\d+)\"$", _COMPOSE, re.MULTILINE)
    assert len(ports) == 3
    assert all(port.startswith("127.0.0.1:") for port in ports)
    # Of the page alone, which needs no sign-in on this machine; the cameras' containers are in another network.
    assert re.findall(r"^.*insecure.*$", _COMPOSE, re.MULTILINE | re.IGNORECASE) == [
        '      CAMFABRIC_WEB_INSECURE: "true"'
    ]
    networks = {
        match[1]: match[2]
        for match in re.finditer(r"^  ([a-z-]+):\n(?:    .*\n)*?    networks: (.*)$", _COMPOSE, re.MULTILINE)
    }
    assert networks == {"broker": "[default, viewers]", "web": "[viewers]", "subscriber": "[viewers]"}


@pytest.mark.parametrize("example", re.findall(r"```python\n(.*?)```", _README, re.DOTALL))
def test_an_example_runs(example: str, start: Any, start_broker: Any, feed: Any, eventually: Any) -> None:
    from camfabric.publisher import Publisher

    broker = start_broker()
    code = example.replace("tcp://127.0.0.1:5551", broker.endpoint).replace("tcp://127.0.0.1:5550", broker.to)
    assert code != example
    with Publisher("cctv/lobby", to=broker.to) as publisher:
        feed(publisher)
        process = start(sys.executable, "-u", "-W", "error", "-c", code)
        if "for frame in" in example:
            eventually(lambda: process.said(r"cctv/lobby \(48, 64, 3\) \d+"), within_s=20)
        else:
            assert process.wait() == 0, process.err
