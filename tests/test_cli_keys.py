"""`camfabric keys`: what it makes, prints and refuses."""

from __future__ import annotations

import json
import logging
import stat
from pathlib import Path
from typing import Any

import pytest

from camfabric.common.keys import KeyFolder, client_keys, server_keys

from .conftest import Run


def test_a_fabrics_keys_from_first_to_last(run_here: Run, tmp_path: Path) -> None:
    status, out, err = run_here("keys", "new", "broker")
    assert (status, err) == (0, [])
    assert out[0] == "made broker: keys/broker.key, and its secret keys/broker.key_secret"
    assert "camfabric broker --keys keys" in out[1]
    status, out, err = run_here("keys", "new", "cam", "--into", "for cam")
    assert (status, err) == (0, [])
    assert out[0] == "made cam: keys/cam.key, and its secret 'for cam/cam.key_secret'"
    assert "move 'for cam' to the machine of cam" in out[1]
    client, server = client_keys(keys=tmp_path / "for cam"), server_keys(keys=tmp_path / "keys")
    assert client is not None
    assert server is not None
    assert client.server(0) == server.pair.public
    assert server.folder.contents().name_of(client.pair.public) == "cam"
    assert run_here("keys", "new", "guard", "visitor")[0] == 0
    _, out, err = run_here("keys", "list")
    assert err == []
    assert [line.split()[0] for line in out] == ["NAME", "broker", "cam", "guard", "visitor"]
    assert [line.split()[2] for line in out[1:]] == ["here", "-", "here", "here"]
    status, out, err = run_here("keys", "revoke", "cam")
    assert (status, err) == (0, [])
    assert "never believed again" in out[0]
    _, out, _ = run_here("keys", "list", "--json")
    entries = [json.loads(line) for line in out]
    assert [entry["name"] for entry in entries] == ["broker", "guard", "visitor", "cam"]
    assert entries[-1] == {
        "name": "cam",
        "public": client.pair.public.decode(),
        "secret_here": False,
        "revoked": True,
    }


def test_no_command_shows_a_secret(run_here: Run, tmp_path: Path) -> None:
    shown = [*run_here("keys", "new", "a", "b")[1]]
    folder = KeyFolder(tmp_path / "keys")
    secrets = [folder.pair(name).secret.decode() for name in "ab"]
    for command in (
        ["show", "a"],
        ["list"],
        ["list", "--json"],
        ["revoke", "a"],
        ["new", "a"],
        ["show", "a"],
        ["list"],
    ):
        status, out, err = run_here("keys", *command)
        assert (status, err) == (0, [])
        shown += out
    assert all(secret not in "\n".join(shown) for secret in secrets)


def test_show(run_here: Run) -> None:
    run_here("keys", "new", "alice")
    run_here("keys", "new", "bob", "--into", "out")
    status, out, _ = run_here("keys", "show", "alice")
    assert status == 0
    fields = dict(line.split(None, 1) for line in out if not line.startswith("public"))
    assert fields == {
        "name": "alice",
        "file": "keys/alice.key",
        "secret": "keys/alice.key_secret",
        "state": "believed",
    }
    assert "secret      not here" in run_here("keys", "show", "bob")[1]
    for _ in range(2):
        run_here("keys", "revoke", "bob")
        run_here("keys", "new", "bob")
    run_here("keys", "revoke", "bob")
    _, out, _ = run_here("keys", "show", "bob")
    assert [line.split()[-1] for line in out if not line.startswith("public")] == [
        each for name in ("bob", "bob.2", "bob.3") for each in (name, "revoked")
    ]


def test_missing_makes_only_what_is_not_there(run_here: Run, tmp_path: Path, caplog: Any) -> None:
    command = ("keys", "new", "broker", "guard", "--missing")
    assert len(run_here(*command)[1]) == 4
    before = {path: path.read_bytes() for path in (tmp_path / "keys").iterdir()}
    assert run_here(*command) == (0, [], [])
    assert {path: path.read_bytes() for path in (tmp_path / "keys").iterdir()} == before
    run_here("keys", "revoke", "guard")
    with caplog.at_level(logging.WARNING):
        assert run_here(*command) == (0, [], [])
        assert "guard was revoked" in caplog.messages[-1]
        assert run_here("keys", "new", "broker", "--missing", "--into", "out") == (0, [], [])
        assert "its secret is not in out" in caplog.messages[-1]
    (tmp_path / "keys" / "broker.key").write_text("rubbish")
    status, _, err = run_here(*command)
    assert (status, len(err)) == (2, 1)


@pytest.mark.parametrize(
    ("command", "says"),
    [
        ([], "give a command: keys new, keys list, keys show, keys revoke"),
        (["frobnicate"], "frobnicate"),
        (["new"], "NAME"),
        (["new", "a/b"], "64 ASCII letters"),
        (["new", "there"], "never overwritten"),
        (["new", "x", "--into", "keys"], "--keys itself"),
        (["new", "x", "--into", "file"], "--into file"),
        (["new", "x", "--keys", "file"], "--keys file"),
        (["list", "--keys", "nowhere"], "no such folder"),
        (["show", "ther"], "there are there"),
        (["show", "../there"], "64 ASCII letters"),
        (["show", "broken"], "broken.key"),
        (["revoke", "ther"], "there are there"),
        (["revoke"], "NAME"),
        (["list", "--jsn"], "--json"),
    ],
)
def test_wrong_usage_is_one_line_and_status_2(run_here: Run, tmp_path: Path, command: list[str], says: str) -> None:
    run_here("keys", "new", "there")
    (tmp_path / "file").touch()
    (tmp_path / "keys" / "broken.key").write_text("rubbish")
    status, out, err = run_here("keys", *command)
    assert (status, out, len(err)) == (2, [], 1)
    assert err[0].startswith("camfabric: ")
    assert says in err[0]


def test_the_other_commands_are_still_named(run_here: Run) -> None:
    status, _, err = run_here()
    assert status == 2
    assert "publish, broker, subscribe" in err[0]
    assert "keys" in err[0]


def test_a_problem_is_a_warning_and_the_others_are_listed(run_here: Run, tmp_path: Path, caplog: Any) -> None:
    run_here("keys", "new", "good")
    (tmp_path / "keys" / "bad.key").write_text("rubbish")
    status, out, _ = run_here("keys", "list")
    assert (status, len(out)) == (0, 2)
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "bad.key: left out" in caplog.messages[0]


def test_the_environment_names_the_folder(run_here: Run, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setenv("CAMFABRIC_KEYS", "other")
    assert run_here("keys", "list")[0] == 2
    monkeypatch.setenv("CAMFABRIC_KEYS_NEW_INTO", "out")
    assert run_here("keys", "new", "a")[0] == 0
    assert (tmp_path / "other" / "a.key").exists()
    assert (tmp_path / "out" / "a.key_secret").exists()
    assert run_here("keys", "list", "--keys", "out")[1][1].split()[2] == "here"
    (tmp_path / "empty").mkdir()
    assert run_here("keys", "list", "--keys", "empty")[1] == ["no keys"]


def test_as_a_process(camfabric: Any, tmp_path: Path) -> None:
    env = {"CAMFABRIC_KEYS": str(tmp_path / "keys")}
    made = camfabric("keys", "new", "broker", env=env)
    assert (made.wait(), made.err) == (0, [])
    secret = tmp_path / "keys" / "broker.key_secret"
    assert stat.S_IMODE(secret.stat().st_mode) == 0o600
    (tmp_path / "keys" / "bad.key").touch()
    alone, again, listed = (
        camfabric("keys"),
        camfabric("keys", "new", "broker", env=env),
        camfabric("keys", "list", env=env),
    )
    assert (alone.wait(), len(alone.err)) == (2, 1)
    assert (again.wait(), len(again.err), again.out) == (2, 1, [])
    assert (listed.wait(), len(listed.err), len(listed.out)) == (0, 1, 2)
    assert "WARNING" in listed.err[0]
