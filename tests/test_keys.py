"""Keys: the files' format, the folder, what is believed, and which keys a client and a server take."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import zmq
import zmq.auth
from hypothesis import example, given, settings
from hypothesis import strategies as st

from camfabric.common import certificates, key_folder
from camfabric.common.certificates import certificate_text
from camfabric.common.errors import ConfigError
from camfabric.common.keys import (
    BROKER,
    ClientKeys,
    Contents,
    KeyFolder,
    KeyPair,
    client_keys,
    read_pair,
    read_public,
    server_keys,
)

_PUBLIC, _SECRET = zmq.curve_keypair()
_OTHER, _ = zmq.curve_keypair()


@pytest.fixture
def folder(tmp_path: Path) -> KeyFolder:
    """A folder that is empty."""
    return KeyFolder.make(tmp_path / "keys")


@pytest.fixture
def umask() -> Iterator[Callable[[int], object]]:
    """Set the umask until the test ends."""
    before = os.umask(0o022)
    yield os.umask
    os.umask(before)


def _mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def _secret_file(path: Path, text: bytes) -> Path:
    path.write_bytes(text)
    path.chmod(0o600)
    return path


def _refused(call: Callable[[], object], *says: str) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        call()
    text = str(caught.value)
    assert "\n" not in text
    for each in says:
        assert each in text, text
    return caught.value


# The format


def test_zmq_auth_reads_ours(folder: KeyFolder) -> None:
    pair = folder.new("alice")
    assert zmq.auth.load_certificate(folder.public_file("alice")) == (pair.public, None)
    assert zmq.auth.load_certificate(folder.secret_file("alice")) == (pair.public, pair.secret)
    assert zmq.auth.load_certificates(folder.path) == {pair.public: True}


def test_we_read_zmq_auths(folder: KeyFolder) -> None:
    made = zmq.auth.create_certificates(folder.path, "bob", {"owner": "Zoë = curve # 1", "curve-of": "x"})
    Path(made[1]).chmod(0o600)
    public, secret = zmq.auth.load_certificate(made[1])
    assert read_public(made[0]) == public
    assert read_pair(made[1]) == KeyPair("bob", public, secret or b"")
    assert folder.contents().keys == {"bob": public}


_QUOTED = f'"{_PUBLIC.decode()}"'
_MALFORMED = {
    "no public key": "",
    "more than 64 kB": "#" * 65537,
    "line 2 is no public": f'curve\n  public-key = {_QUOTED[:-2]}"\n',
    "line 2 is no": f"curve\n  public-key = {_QUOTED} # mine\n",
    "line 3 is no": f"curve\n  public-key = {_QUOTED}\n  secretkey = {_SECRET.decode()}\n",
    "line 3 has a key that was there": f"curve\n  public-key = {_QUOTED}\n  public-key = {_QUOTED}\n",
    "line 1 has a key outside": f"public-key = {_QUOTED}\n",
    "line 2 has a key outside": f"metadata\n  public-key = {_QUOTED}\ncurve\n  public-key = {_QUOTED}\n",
    "no Z85": 'curve\n  public-key = "' + "#" * 40 + '"\n',
    "all zeros": 'curve\n  public-key = "' + "0" * 40 + '"\n',
    "does not belong": certificate_text(_OTHER, _SECRET).decode(),
}


@pytest.mark.parametrize("says", _MALFORMED)
def test_what_is_malformed_is_refused_in_one_line(tmp_path: Path, says: str) -> None:
    path = tmp_path / "x.key"
    path.write_text(_MALFORMED[says])
    error = _refused(lambda: read_public(path), str(path), says, "camfabric keys new")
    assert error.setting == "--server-key"
    assert _SECRET.decode() not in str(error)


def test_what_is_no_file_is_refused_and_never_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.key")
    (tmp_path / "folder.key").mkdir()
    (tmp_path / "loop.key").symlink_to("loop.key")
    for name, says in (
        ("pipe.key", "regular"),
        ("folder.key", "regular"),
        ("loop.key", "links"),
        ("no.key", "No such"),
        ("\0", "no path"),
        ("\n.key", "No such"),
    ):
        _refused(lambda path=f"{tmp_path}/{name}": read_public(path), says)  # type: ignore[misc]
    _refused(lambda: read_public("/dev/zero"), "regular")


def test_a_secret_that_others_may_read_is_refused_and_its_group_may(folder: KeyFolder) -> None:
    folder.new("alice")
    path = folder.secret_file("alice")
    for mode in (0o604, 0o602, 0o601, 0o644, 0o666):
        path.chmod(mode)
        error = _refused(lambda: read_pair(path), f"chmod 600 {path}")
        assert error.setting == "--key"
    for mode in (0o600, 0o400, 0o640, 0o440):
        path.chmod(mode)
        assert read_pair(path).name == "alice"


def test_a_secret_is_never_shown_nor_taken_for_a_public_key(folder: KeyFolder) -> None:
    pair = folder.new("alice")
    secret = pair.secret.decode()
    keys = ClientKeys(pair, (_OTHER,))
    assert all(
        secret not in text for text in (repr(pair), str(pair), repr(keys), repr(folder), repr(folder.contents()))
    )
    assert secret not in repr(certificates.load_certificate(folder.secret_file("alice")))
    disguised = folder.path / "mallory.key"
    disguised.write_bytes(folder.secret_file("alice").read_bytes())
    for path in (folder.secret_file("alice"), disguised):
        assert secret not in str(_refused(lambda path=path: read_public(path), "secret", "NAME.key"))  # type: ignore[misc]
    _refused(lambda: read_pair(folder.public_file("alice")), "holds no secret key")
    assert "mallory" not in folder.contents().keys


def test_a_secret_given_in_the_place_of_its_file_is_not_shown(folder: KeyFolder) -> None:
    folder.new(BROKER)
    for _ in range(20):
        secret = zmq.curve_keypair()[1].decode()
        for call in (
            lambda: client_keys(key=secret, server_key=folder.public_file(BROKER)),  # noqa: B023
            lambda: client_keys(key=secret, keys=folder.path),  # noqa: B023
            lambda: client_keys(server_key=secret, keys=folder.path),  # noqa: B023
            lambda: folder.revoke(secret),  # noqa: B023
        ):
            error = _refused(call)
            seen = f"{error} {error.value} {error.__cause__!r}"
            assert secret not in seen
    _refused(lambda: folder.new("ab:/" + _SECRET.decode()[:36]), "that name")


_LINES = st.sampled_from(
    [
        b"curve",
        b"metadata",
        b"    public-key = " + _QUOTED.encode(),
        b"public-key='" + _PUBLIC + b"'",
        b"  public-key = " + _OTHER,
        b'    secret-key = "' + _SECRET + b'"',
        b"\tsecret-key\t=\t" + _SECRET + b"\r",
        b"  public-key = \x0b" + _PUBLIC,
        b"# comment\rcurve",
        b"    public-key-of = x",
    ]
)


@settings(max_examples=300, deadline=None)
@given(data=st.one_of(st.binary(max_size=300), st.lists(st.one_of(_LINES, st.binary(max_size=60))).map(b"\n".join)))
@example(data=certificate_text(_PUBLIC, _SECRET))
@example(data=certificate_text(_PUBLIC))
def test_any_bytes_are_an_error_or_what_zmq_auth_reads(data: bytes, tmp_path_factory: Any) -> None:
    path = tmp_path_factory.getbasetemp() / "any"
    _secret_file(path, data)
    for read in (read_public, read_pair):
        try:
            found = read(path)
        except ConfigError as error:
            assert "\n" not in str(error)  # noqa: PT017
            assert _SECRET.decode() not in f"{error!r} {error.__cause__!r}"  # noqa: PT017
        else:
            of_zmq = zmq.auth.load_certificate(path)
            assert of_zmq == ((found.public, found.secret) if isinstance(found, KeyPair) else (found, None))


@settings(max_examples=50, deadline=None)
@given(place=st.integers(0, 300), byte=st.integers(0, 255))
def test_a_damaged_secret_is_an_error_or_the_same_key(place: int, byte: int, tmp_path_factory: Any) -> None:
    data = bytearray(certificate_text(_PUBLIC, _SECRET))
    data[place % len(data)] = byte
    path = _secret_file(tmp_path_factory.getbasetemp() / "damaged.key_secret", bytes(data))
    with contextlib.suppress(ConfigError):
        assert zmq.curve_public(read_pair(path).secret) == _PUBLIC


# Making


@pytest.mark.parametrize("mask", [0, 0o077, 0o177, 0o777])
def test_a_secret_is_its_owners_whatever_the_umask(tmp_path: Path, umask: Any, mask: int) -> None:
    (tmp_path / "keys").mkdir(mode=0o700)
    folder = KeyFolder(tmp_path / "keys")
    umask(mask)
    folder.new("alice")
    assert _mode(folder.secret_file("alice")) == 0o600
    assert _mode(folder.public_file("alice")) & ~0o044 == 0o600
    assert folder.pair("alice").name == "alice"


def test_the_folder_is_made_for_its_owner_alone(tmp_path: Path, umask: Any) -> None:
    _refused(lambda: KeyFolder(tmp_path / "a" / "keys"), "no such folder", "camfabric keys new")
    umask(0)
    assert _mode(KeyFolder.make(tmp_path / "a" / "keys").path) == 0o700
    (tmp_path / "file").touch()
    _refused(lambda: KeyFolder(tmp_path / "file"), "no folder")
    _refused(lambda: KeyFolder.make(tmp_path / "file"), "cannot make it")


@pytest.mark.parametrize("name", ["", ".a", "..", "a/b", "../a", "a b", "a\n", "ä", "a" * 65, "a.key", "a.key_secret"])
def test_a_name_is_checked(folder: KeyFolder, name: str) -> None:
    _refused(lambda: folder.new(name), "64 ASCII letters")
    assert list(folder.path.iterdir()) == []


@pytest.mark.parametrize("name", ["a", "-x_1.y", "a" * 64, "broker.2"])
def test_good_names(folder: KeyFolder, name: str) -> None:
    pair = folder.new(name)
    assert folder.pair(name) == pair
    assert folder.contents().name_of(pair.public) == name


def test_nothing_is_overwritten(folder: KeyFolder) -> None:
    folder.new("alice")
    _secret_file(folder.secret_file("bob"), b"precious")
    before = {path.name: path.read_bytes() for path in folder.path.iterdir()}
    _refused(lambda: folder.new("alice"), "alice.key is there", "keys revoke alice")
    _refused(lambda: folder.new("bob"), "bob.key_secret is there")
    assert {path.name: path.read_bytes() for path in folder.path.iterdir()} == before


def test_what_cannot_be_written_leaves_nothing(folder: KeyFolder, tmp_path: Path, monkeypatch: Any) -> None:
    written: list[Path] = []

    def full(path: Path, data: bytes, *, mode: int) -> None:
        if len(written) == 1:
            raise OSError(errno.ENOSPC, "No space left on device")
        written.append(path)
        certificates.write_new(path, data, mode=mode)

    monkeypatch.setattr(key_folder, "write_new", full)
    _refused(lambda: folder.new("alice"), "No space left", "alice.key:")
    assert list(folder.path.iterdir()) == []
    monkeypatch.undo()
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "alice.key").write_text("older")
    _refused(lambda: folder.new("alice", into=tmp_path / "out"), "out/alice.key is there", "empty folder")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["alice.key"]
    assert list(folder.path.iterdir()) == []


def test_a_file_system_without_links_will_do(folder: KeyFolder, monkeypatch: Any) -> None:
    def no_links(*_: Any, **__: Any) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(Path, "hardlink_to", no_links)
    pair = folder.new("alice")
    assert sorted(path.name for path in folder.path.iterdir()) == ["alice.key", "alice.key_secret"]
    assert _mode(folder.secret_file("alice")) == 0o600
    _refused(lambda: folder.new("alice"), "is there")
    with pytest.raises(FileExistsError):
        certificates.write_new(folder.public_file("alice"), b"x", mode=0o644)
    folder.revoke("alice")
    assert folder.contents().revoked == {pair.public}


def test_a_write_that_fails_leaves_no_half_file(tmp_path: Path, monkeypatch: Any) -> None:
    def broken(_: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "fsync", broken)
    with pytest.raises(OSError, match="Input"):
        certificates.write_new(tmp_path / "x", b"x", mode=0o600)
    assert list(tmp_path.iterdir()) == []


def _race(calls: list[Callable[[], object]]) -> list[bool]:
    start, done = threading.Barrier(len(calls)), list[bool]()

    def run(call: Callable[[], object]) -> None:
        start.wait()
        try:
            call()
        except ConfigError:
            done.append(False)
        else:
            done.append(True)

    threads = [threading.Thread(target=run, args=(call,)) for call in calls]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sorted(done)


@pytest.mark.parametrize("locks", [True, False])
def test_of_two_that_make_one_name_exactly_one_wins(
    folder: KeyFolder, tmp_path: Path, locks: bool, monkeypatch: Any
) -> None:
    def no_locks(*_: Any) -> None:
        raise OSError(errno.ENOTSUP, "no locks here")

    if not locks:
        monkeypatch.setattr("fcntl.flock", no_locks)
    for number in range(20):
        name, into = f"n{number}", tmp_path / f"out{number}"
        second = into if number % 2 else None
        assert _race([lambda: folder.new(name), lambda: folder.new(name, into=second)]) == [False, True]  # noqa: B023
        secrets = [path for path in (folder.secret_file(name), into / f"{name}.key_secret") if path.exists()]
        assert [read_pair(path).public for path in secrets] == [folder.contents().keys[name]]


def test_into_makes_all_that_another_machine_needs(folder: KeyFolder, tmp_path: Path) -> None:
    broker, out = folder.new(BROKER), tmp_path / "out"
    camera = folder.new("cam", into=out)
    assert sorted(path.name for path in folder.path.iterdir()) == ["broker.key", "broker.key_secret", "cam.key"]
    assert sorted(path.name for path in out.iterdir()) == ["broker.key", "cam.key", "cam.key_secret"]
    assert (_mode(out), _mode(out / "cam.key_secret")) == (0o700, 0o600)
    assert client_keys(keys=out) == ClientKeys(camera, (broker.public,))
    folder.new("cam2", into=out)
    _refused(lambda: client_keys(keys=out), "cam, cam2", "--key NAME")
    _refused(lambda: folder.new("x", into=folder.path), "--keys itself")
    folder.revoke(BROKER)
    folder.new(BROKER)
    _refused(lambda: folder.new("cam3", into=out), "is not the key of broker")
    assert not folder.has("cam3")


# Reading


def test_what_is_wrong_is_left_out_and_named(folder: KeyFolder) -> None:
    good = folder.new("good")
    folder.public_file("bad").write_text("rubbish")
    folder.public_file("empty").touch()
    folder.public_file("loop").symlink_to("loop.key")
    folder.public_file("nowhere").symlink_to("gone")
    folder.public_file("dir").mkdir()
    folder.public_file("b\nd").write_bytes(certificate_text(_OTHER))
    for name in ("one", "two"):
        folder.public_file(name).write_bytes(certificate_text(_PUBLIC))
    _secret_file(folder.secret_file("alone"), certificate_text(_PUBLIC, _SECRET))
    (folder.path / "notes.txt").touch()
    contents = folder.contents()
    assert contents.keys == {"good": good.public}
    assert (contents.name_of(good.public), contents.name_of(_PUBLIC)) == ("good", None)
    assert all("\n" not in problem for problem in contents.problems)
    for says in (
        "bad.key: left out",
        "empty.key",
        "loop.key",
        "nowhere.key",
        "dir.key",
        "b\\nd",
        "one.key and ",
        "two.key",
    ):
        assert sum(says in problem for problem in contents.problems) == 1, contents.problems
    assert len(contents.problems) == 7
    with pytest.raises(TypeError):
        contents.keys["mallory"] = _OTHER  # type: ignore[index]


def test_a_file_that_vanishes_while_reading_is_no_problem(folder: KeyFolder, monkeypatch: Any) -> None:
    folder.new("a")
    folder.new("b")

    def vanishing(path: Path) -> Any:
        if path.name == "a.key":
            path.unlink(missing_ok=True)
        return certificates.load_certificate(path)

    monkeypatch.setattr(key_folder, "load_certificate", vanishing)
    contents = folder.contents()
    assert (list(contents.keys), contents.problems) == (["b"], ())


def test_running_out_of_descriptors_removes_nobody(folder: KeyFolder, monkeypatch: Any) -> None:
    folder.new("a")
    before = folder.contents()

    def exhausted(_: Path) -> Any:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(key_folder, "load_certificate", exhausted)
    _refused(folder.contents, "Too many open files")
    monkeypatch.undo()
    assert folder.contents() == before


def test_a_folder_that_is_gone_believes_nobody(folder: KeyFolder) -> None:
    folder.path.rmdir()
    contents = folder.contents()
    assert (contents.keys, len(contents.problems)) == ({}, 1)
    _refused(lambda: folder.new("a"), "cannot read")


def test_the_stamp_tells_each_change(folder: KeyFolder, eventually: Any) -> None:
    def settled() -> tuple[object, ...]:
        # A change of this very moment shows twice: see stamp().
        return eventually(lambda: (stamp := folder.stamp()) == folder.stamp() and stamp)  # type: ignore[no-any-return]

    folder.new("alice")
    text = certificate_text(_PUBLIC)

    def edit_in_place() -> None:
        path = folder.public_file("alice")
        times = path.stat()
        with path.open("r+b") as file:
            file.write(text[: times.st_size])
        os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))

    def replace() -> None:
        (folder.path / "new").write_bytes(certificate_text(_OTHER))
        (folder.path / "new").replace(folder.public_file("alice"))

    for change in (
        lambda: folder.new("bob"),
        edit_in_place,
        replace,
        lambda: folder.public_file("alice").chmod(0o600),
        lambda: folder.revoke("bob"),
        lambda: (folder.path / "revoked" / "bob.key").write_text("other"),
        folder.public_file("alice").unlink,
    ):
        before = settled()
        change()
        assert folder.stamp() != before, change
    contents = folder.contents()
    folder.new("carol")
    assert folder.stamp() != contents.stamp


def test_an_edit_right_after_the_reading_is_not_missed(folder: KeyFolder) -> None:
    path = folder.public_file("alice")
    for public in (_PUBLIC, _OTHER) * 50:
        path.write_bytes(certificate_text(_OTHER if public == _PUBLIC else _PUBLIC))
        contents = folder.contents()
        path.write_bytes(certificate_text(public))
        assert folder.stamp() != contents.stamp
        assert folder.contents().keys == {"alice": public}


# Revoking


def test_a_revoked_key_is_never_believed_again(folder: KeyFolder) -> None:
    old = folder.new("alice")
    text = folder.public_file("alice").read_bytes()
    folder.revoke("alice")
    assert sorted(path.name for path in (folder.path / "revoked").iterdir()) == ["alice.key", "alice.key_secret"]
    assert _mode(folder.path / "revoked" / "alice.key_secret") == 0o600
    contents = folder.contents()
    assert contents.keys == {}
    assert contents.revoked == {old.public}
    assert contents.problems == ()
    assert contents.revoked_names == {old.public: "alice"}
    folder.public_file("bob").write_bytes(text)
    contents = folder.contents()
    assert contents.keys == {}
    assert "revoked" in contents.problems[0]
    folder.public_file("bob").unlink()
    new = folder.new("alice")
    assert folder.contents().keys == {"alice": new.public}
    folder.revoke("alice")
    assert folder.contents().revoked == {old.public, new.public}
    assert (folder.path / "revoked" / "alice.2.key_secret").exists()


def test_an_unknown_name_is_told_the_nearest(folder: KeyFolder) -> None:
    _refused(lambda: folder.revoke("alice"), "none at all")
    for name in ("alice", "bob", "camera1"):
        folder.new(name)
    _refused(lambda: folder.revoke("alcie"), "there are alice")
    _refused(lambda: folder.revoke("../alice"), "no key of")
    folder.revoke("bob")
    _refused(lambda: folder.revoke("bob"), "revoked already")
    folder.public_file("bad").write_text("rubbish")
    _refused(lambda: folder.revoke("bad"), "bad.key", "remove it")


def test_an_interrupted_revocation_is_completed(folder: KeyFolder) -> None:
    pair = folder.new("alice")
    folder.public_file("alice").unlink()
    folder.revoke("alice")
    assert folder.contents().revoked == {pair.public}
    assert not folder.secret_file("alice").exists()
    other = folder.new("alice")
    folder.public_file("alice").write_bytes(certificate_text(_PUBLIC))
    folder.revoke("alice")
    assert folder.contents().revoked == {pair.public, other.public, _PUBLIC}


def test_at_no_moment_a_key_is_neither_here_nor_revoked(folder: KeyFolder) -> None:
    publics = {folder.new(f"n{number}").public for number in range(15)}
    done = threading.Event()

    def revoke() -> None:
        for number in range(15):
            folder.revoke(f"n{number}")
        done.set()

    thread = threading.Thread(target=revoke)
    thread.start()
    gone: set[bytes] = set()
    while not done.is_set():
        contents = folder.contents()
        assert {*contents.keys.values(), *contents.revoked} == publics
        assert gone <= contents.revoked
        gone = set(contents.revoked)
    thread.join()
    assert folder.contents().revoked == publics


def test_revoking_and_making_race_without_harm(folder: KeyFolder) -> None:
    for _ in range(10):
        if not folder.has("a"):
            folder.new("a")
        _race([lambda: folder.revoke("a"), lambda: folder.revoke("a"), lambda: folder.new("a")])
        contents = folder.contents()
        assert contents.problems == ()
        assert folder.has("a") == folder.secret_file("a").exists()
        assert contents.revoked.isdisjoint(contents.keys.values())


def test_an_unclear_revoked_file_takes_its_name_along(folder: KeyFolder) -> None:
    folder.new("alice")
    bob = folder.new("bob")
    (folder.path / "revoked").mkdir()
    (folder.path / "revoked" / "alice.2.key").touch()
    contents = folder.contents()
    assert contents.keys == {"bob": bob.public}
    assert len(contents.problems) == 2
    (folder.path / "revoked" / "alice.2.key").unlink()
    # A secret that somebody has moved there by hand counts.
    folder.secret_file("bob").rename(folder.path / "revoked" / "bob.key_secret")
    assert list(folder.contents().keys) == ["alice"]


def test_nobody_is_believed_while_the_revoked_cannot_be_listed(folder: KeyFolder) -> None:
    folder.new("alice")
    (folder.path / "revoked").touch()
    contents = folder.contents()
    assert contents.keys == {}
    assert len(contents.problems) == 2


def test_who_may_read_the_keys_may_read_the_revoked(folder: KeyFolder, umask: Any) -> None:
    folder.path.chmod(0o755)
    folder.new("alice")
    umask(0o077)
    folder.revoke("alice")
    assert _mode(folder.path / "revoked") == 0o755


# Who takes which


def test_no_keys_are_none() -> None:
    assert client_keys() is None
    assert client_keys(server_key=()) is None
    assert server_keys() is None


def test_one_cannot_go_without_the_other(folder: KeyFolder) -> None:
    folder.new("a")
    key, public = folder.secret_file("a"), folder.public_file("a")
    assert _refused(lambda: client_keys(key=key), "--key cannot go alone", "--server-key").setting == "--key"
    assert _refused(lambda: client_keys(server_key=public), "--server-key cannot go", "--key").setting == "--server-key"
    assert _refused(lambda: server_keys(key=key), "--key cannot go alone", "--keys DIR").setting == "--key"


def test_files_alone(folder: KeyFolder) -> None:
    a, b, c = (folder.new(name) for name in "abc")
    key = folder.secret_file("a")
    of_b, of_c = folder.public_file("b"), str(folder.public_file("c"))
    assert client_keys(key=key, server_key=of_b, endpoints=3) == ClientKeys(a, (b.public,))
    both = client_keys(key=str(key), server_key=[of_b, of_c], endpoints=2)
    assert both == ClientKeys(a, (b.public, c.public))
    assert (both.server(0), both.server(1)) == (b.public, c.public)
    one = client_keys(key=key, server_key=[of_b], endpoints=3)
    assert one is not None
    assert [one.server(place) for place in range(3)] == [b.public] * 3
    _refused(lambda: client_keys(key=key, server_key=[of_b, of_c], endpoints=3), "2 keys for 3 endpoints")
    _refused(lambda: client_keys(key=key, server_key=folder.secret_file("b")), "stays with its owner")
    _refused(lambda: client_keys(key=of_b, server_key=of_b), "holds no secret")


def test_names_in_a_folder(folder: KeyFolder, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    broker, a, b = (folder.new(name) for name in (BROKER, "a", "b"))
    assert client_keys(keys=folder.path, key="a") == ClientKeys(a, (broker.public,))
    assert client_keys(keys=str(folder.path), key="a", server_key="b") == ClientKeys(a, (b.public,))
    assert client_keys(keys=folder.path, key="keys/b.key_secret", server_key="./keys/a.key") == ClientKeys(
        b, (a.public,)
    )
    # A Path is a file, also where it has no separator.
    monkeypatch.chdir(folder.path)
    assert client_keys(keys=".", key=Path("b.key_secret"), server_key=Path("a.key")) == ClientKeys(b, (a.public,))
    _refused(lambda: client_keys(keys=".", key="b.key_secret"), "./FILE")
    _refused(lambda: client_keys(keys=".", key="a", server_key="aa"), "there are a")
    _refused(lambda: client_keys(keys=".", key="aa"), "there are a")
    _refused(lambda: client_keys(keys=""), "no such folder")
    _refused(lambda: client_keys(keys=".", key=""), "no secret of ''")
    server = server_keys(keys=".", key="a")
    assert server is not None
    assert server.pair == a
    assert server.folder.contents().keys == {BROKER: broker.public, "a": a.public, "b": b.public}


def test_a_folder_alone_for_a_client(folder: KeyFolder) -> None:
    _refused(lambda: client_keys(keys=folder.path), "no secret key", "keys new NAME")
    broker = folder.new(BROKER)
    _refused(lambda: client_keys(keys=folder.path), "the broker's own secret alone", "keys new NAME")
    a = folder.new("a")
    assert client_keys(keys=folder.path) == ClientKeys(a, (broker.public,))
    b = folder.new("b")
    _refused(lambda: client_keys(keys=folder.path), "a, b", "--key NAME")
    for each in "ab":
        folder.secret_file(each).unlink()
    _refused(lambda: client_keys(keys=folder.path, key=BROKER), "a, b", "--server-key")
    folder.public_file("b").unlink()
    assert client_keys(keys=folder.path, key=BROKER) == ClientKeys(broker, (a.public,))
    assert b.public not in folder.contents().keys.values()


def test_no_other_client_takes_the_place_of_a_broker_that_is_not_believed(folder: KeyFolder, tmp_path: Path) -> None:
    folder.new(BROKER, into=tmp_path / "broker")
    a = folder.new("a")
    friend = folder.new("friend", into=tmp_path / "friend")
    text = folder.public_file(BROKER).read_bytes()
    folder.public_file(BROKER).write_text("rubbish")
    _refused(lambda: client_keys(keys=folder.path), "broker.key", "get the server's key anew")
    _refused(lambda: client_keys(keys=folder.path, server_key=BROKER), "broker.key", "anew")
    folder.public_file(BROKER).write_bytes(text)
    folder.revoke(BROKER)
    _refused(lambda: client_keys(keys=folder.path), "revoked", "anew")
    _refused(lambda: client_keys(keys=folder.path, server_key=BROKER), "revoked", "anew")
    revoked = folder.path / "revoked" / "broker.key"
    _refused(lambda: client_keys(keys=folder.path, server_key=revoked), "revoked")
    assert client_keys(keys=folder.path, server_key="friend") == ClientKeys(a, (friend.public,))


def test_a_folder_alone_for_a_server(folder: KeyFolder) -> None:
    _refused(lambda: server_keys(keys=folder.path), "no secret key")
    a = folder.new("a")
    keys = server_keys(keys=folder.path)
    assert keys is not None
    assert keys.pair == a
    b = folder.new("b")
    _refused(lambda: server_keys(keys=folder.path), "a, b", "--key NAME")
    broker = folder.new(BROKER)
    keys = server_keys(keys=folder.path)
    assert keys is not None
    assert keys.pair == broker
    keys = server_keys(keys=folder.path, key=folder.secret_file("b"))
    assert keys is not None
    assert keys.pair == b


def test_own_keys_that_are_revoked_or_out_of_date_are_refused(folder: KeyFolder, tmp_path: Path) -> None:
    folder.new("a")
    copy = _secret_file(tmp_path / "a.key_secret", folder.secret_file("a").read_bytes())
    folder.revoke("a")
    _refused(lambda: server_keys(keys=folder.path, key=copy), "key a is revoked")
    _secret_file(folder.secret_file("a"), copy.read_bytes())
    _refused(lambda: server_keys(keys=folder.path), "key a is revoked")
    folder.public_file("a").write_bytes(certificate_text(_OTHER))
    _refused(lambda: server_keys(keys=folder.path, key="a"), "out of date")


def test_contents_stand_alone() -> None:
    source = {"a": _PUBLIC}
    contents = Contents(source)
    source.clear()
    assert contents.name_of(_PUBLIC) == "a"


def test_a_handshake(folder: KeyFolder, tmp_path: Path) -> None:
    folder.new(BROKER)
    folder.new("cam", into=tmp_path / "cam")
    folder.new("liar", into=tmp_path / "liar")
    server, client = server_keys(keys=folder.path), client_keys(keys=tmp_path / "cam")
    assert server is not None
    assert client is not None
    with zmq.Context() as context, context.socket(zmq.PULL) as bound:
        bound.curve_server, bound.curve_secretkey = True, server.pair.secret
        port = bound.bind_to_random_port("tcp://127.0.0.1")
        for server_key, end in (
            (client.server(0), zmq.EVENT_HANDSHAKE_SUCCEEDED),
            (folder.contents().keys["liar"], zmq.EVENT_DISCONNECTED),
        ):
            with context.socket(zmq.PUSH) as socket, socket.get_monitor_socket(end) as monitor:
                socket.linger = 0
                socket.curve_publickey, socket.curve_secretkey = client.pair.public, client.pair.secret
                socket.curve_serverkey = server_key
                socket.connect(f"tcp://127.0.0.1:{port}")
                assert monitor.poll(5000)
                if end == zmq.EVENT_HANDSHAKE_SUCCEEDED:
                    socket.send(b"hello")
                    assert bound.poll(5000)
                    assert bound.recv() == b"hello"
                socket.disable_monitor()
