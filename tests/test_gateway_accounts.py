"""Accounts, passwords and sessions: what a file may say, who is let in, and who is not any more."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest

from camfabric.common.errors import ConfigError
from camfabric.gateway.accounts import make_line, parse_accounts, read_private, read_token, verify
from camfabric.gateway.caller import Caller, network_of
from camfabric.gateway.sign_in import SESSION_S, Busy, SignIn

ANNA = "anna:scrypt$ln=15,r=8,p=1$G6uZkNnb/Rmf9t7Hq9B4BA$jEldLZbnot4nAQSGn92hTKM0LqkPSDMyBattBYeauok:"
"""A line as it was made once, of "correct horse": such lines are to stay good."""
BORIS = make_line("boris", "battery", ["cctv/lobby", "drone"])


class Clock:
    """A clock that is set by hand."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def private(tmp_path: Path) -> Callable[..., Path]:
    """Write a file that nobody else may read."""

    def write(*lines: str, name: str = "accounts", mode: int = 0o600) -> Path:
        path = tmp_path / name
        path.write_text("".join(f"{line}\n" for line in lines))
        path.chmod(mode)
        return path

    return write


@pytest.fixture
def opened() -> Iterator[list[SignIn]]:
    """Sign-ins that are closed at the end."""
    them: list[SignIn] = []
    yield them
    for sign_in in them:
        sign_in.close()


def _wait(work: Coroutine[Any, Any, Any]) -> Any:
    return asyncio.run(work)


# The file


def test_a_line_has_no_password_and_no_two_are_alike() -> None:
    assert "correct" not in ANNA
    assert make_line("anna", "correct horse") != ANNA
    accounts, problems = parse_accounts(f"# people\n\n{ANNA}\n{BORIS}\n")
    assert problems == []
    assert accounts["anna"].filters == ("",)
    assert accounts["boris"].filters == ("cctv/lobby", "drone")
    assert "scrypt" not in repr(accounts)


@pytest.mark.parametrize("password", ["correct horse", "", "Correct horse", "correct horse\0", "x" * 100_000, "\ud800"])
def test_a_password_is_right_or_not(password: str) -> None:
    accounts, _ = parse_accounts(ANNA)
    assert verify(accounts["anna"], password) == (password == "correct horse")
    assert not verify(None, password)


@pytest.mark.parametrize(
    "line",
    [
        "anna",
        "anna:secret",
        "anna:secret:cctv",
        ANNA.replace("anna", "an na"),
        ANNA.replace("anna", "token"),
        ANNA.replace("anna", ""),
        ANNA.replace("ln=15", "ln=31"),
        ANNA.replace("ln=15", "ln=1"),
        ANNA.replace("r=8", "r=99"),
        ANNA[:-12] + ":",
        ANNA + "no//filter",
        ANNA + "cctv,..",
        ANNA + ",",
    ],
)
def test_a_line_that_is_wrong_is_named_and_its_hash_is_not(line: str) -> None:
    accounts, problems = parse_accounts(f"{BORIS}\n{line}\n")
    assert list(accounts) == ["boris"]
    (problem,) = problems
    assert problem.startswith("line 2: ")
    assert "\n" not in problem
    assert ANNA.split("$")[3][:10] not in problem


def test_a_name_that_is_there_twice_is_told() -> None:
    accounts, problems = parse_accounts(f"{ANNA}\n{make_line('anna', 'other')}\n")
    assert verify(accounts["anna"], "correct horse")
    assert problems == ["line 2: user 'anna' is there already"]


@pytest.mark.parametrize(("name", "password"), [("an:na", "x"), ("a" * 65, "x"), ("anna", ""), ("anna", "x" * 2000)])
def test_a_line_that_cannot_be_is_not_made(name: str, password: str) -> None:
    with pytest.raises(ConfigError):
        make_line(name, password)


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o644, 0o666])
def test_a_file_that_others_may_read_is_refused(private: Callable[..., Path], mode: int) -> None:
    with pytest.raises(ConfigError, match="chmod 600"):
        SignIn(private(ANNA, mode=mode), None)


def test_files_that_cannot_be_used_are_refused_in_one_line(private: Callable[..., Path], tmp_path: Path) -> None:
    binary = tmp_path / "binary"
    binary.write_bytes(b"\xff\xfe")
    binary.chmod(0o600)
    for make, why in (
        (lambda: SignIn(tmp_path / "none", None), "No such file"),
        (lambda: SignIn(tmp_path, None), "directory"),
        (lambda: SignIn(private(), None), "nobody is in it"),
        (lambda: SignIn(private("anna:x"), None), "line 1"),
        (lambda: SignIn(binary, None), "UTF-8"),
        (lambda: read_private(private("x" * 2_000_000), "--password-file"), "more than"),
        (lambda: read_token(private("short")), "at least 16"),
        (lambda: read_token(private("long enough but with spaces")), "at least 16"),
        (lambda: SignIn(None, private("tschüß-tschüß-tschüß")), "at least 16"),
    ):
        with pytest.raises(ConfigError, match=why) as caught:
            make()
        assert "\n" not in str(caught.value)


# Who it is


def test_who_it_is_by_password(private: Callable[..., Path], opened: list[SignIn]) -> None:
    opened.append(sign_in := SignIn(private(ANNA, BORIS), None))
    anna = _wait(sign_in.by_password("anna", "correct horse", "a"))
    assert (anna.user, anna.filters) == ("anna", ("",))
    boris = _wait(sign_in.by_password("boris", "battery", "a"))
    assert boris.sees("drone/1")
    assert boris.sees("cctv/lobby")
    assert not boris.sees("cctv")
    assert not boris.sees("cctv/lobby2")
    for name, password in (("anna", "battery"), ("nobody", "correct horse"), ("", ""), ("token", ""), ("token", "x")):
        assert _wait(sign_in.by_password(name, password, "b")) is None


def test_who_it_is_by_token(private: Callable[..., Path], opened: list[SignIn]) -> None:
    opened.append(sign_in := SignIn(None, private("0123456789abcdef", name="token")))
    caller = _wait(sign_in.by_password("token", "0123456789abcdef", "a"))
    assert caller is not None
    assert caller.sees("anything")
    assert _wait(sign_in.by_password("token", "0123456789abcdef", "a")) == caller
    for wrong in ("", "0123456789abcde", "0123456789abcdef0", "\ud800"):
        assert _wait(sign_in.by_password("token", wrong, "b")) is None


def test_a_throttled_address_learns_nothing_and_others_go_on(
    private: Callable[..., Path], opened: list[SignIn], caplog: pytest.LogCaptureFixture
) -> None:
    clock = Clock()
    opened.append(sign_in := SignIn(private(ANNA, BORIS), private("0123456789abcdef", name="token"), clock))
    for address in ("bad", "good"):
        assert _wait(sign_in.by_password("anna", "correct horse", address)) is not None
    for place in range(5):
        assert _wait(sign_in.by_password(("anna", "nobody", "token")[place % 3], f"wrong{place}", "bad")) is None
    # Wrong or right, and right a moment ago: the answer is the same.
    for name, password in (
        ("anna", "wrong"), ("anna", "correct horse"), ("boris", "battery"), ("token", "x"),
        ("token", "0123456789abcdef"),
    ):  # fmt: skip
        with pytest.raises(Busy) as caught:
            _wait(sign_in.by_password(name, password, "bad"))
        assert 0 < caught.value.wait_s <= 10
    assert caplog.text.count("tries too many passwords") == 1
    # Another address goes on.
    assert _wait(sign_in.by_password("anna", "correct horse", "good")) is not None
    assert _wait(sign_in.by_password("token", "0123456789abcdef", "good")) is not None
    assert _wait(sign_in.by_password("anna", "wrong", "good")) is None
    clock.now += 10
    assert _wait(sign_in.by_password("anna", "wrong", "bad")) is None


def test_an_account_of_ones_own_does_not_pay_for_guesses(private: Callable[..., Path], opened: list[SignIn]) -> None:
    opened.append(sign_in := SignIn(private(ANNA, BORIS), None, Clock()))
    for place in range(4):
        assert _wait(sign_in.by_password("anna", f"wrong{place}", "a")) is None
    assert _wait(sign_in.by_password("boris", "battery", "a")) is not None
    assert _wait(sign_in.by_password("anna", "wrong", "a")) is None
    with pytest.raises(Busy):
        _wait(sign_in.by_password("anna", "wrong", "a"))


def test_who_is_right_is_not_slowed(private: Callable[..., Path], opened: list[SignIn]) -> None:
    clock = Clock()
    opened.append(sign_in := SignIn(private(ANNA), private("0123456789abcdef", name="token"), clock))
    for _ in range(20):
        assert _wait(sign_in.by_password("anna", "correct horse", "a")) is not None
        assert _wait(sign_in.by_password("token", "0123456789abcdef", "a")) is not None


def test_the_addresses_of_one_network_of_ipv6_are_one(private: Callable[..., Path], opened: list[SignIn]) -> None:
    opened.append(sign_in := SignIn(private(ANNA), None, Clock()))
    for place in range(5):
        assert _wait(sign_in.by_password("token", "x", f"2001:db8:0:1::{place}")) is None
    with pytest.raises(Busy):
        _wait(sign_in.by_password("token", "x", "2001:db8:0:1:f::1"))
    assert _wait(sign_in.by_password("token", "x", "2001:db8:0:2::1")) is None
    assert _wait(sign_in.by_password("token", "x", "fe80::1%eth0")) is None


def test_many_attempts_at_once_are_not_taken_for_few(private: Callable[..., Path], opened: list[SignIn]) -> None:
    opened.append(sign_in := SignIn(private(ANNA), None))

    async def many() -> list[Any]:
        attempts = (sign_in.by_password("anna", f"wrong{number}", "a") for number in range(50))
        return await asyncio.gather(*attempts, return_exceptions=True)

    outcomes = _wait(many())
    assert outcomes.count(None) == 5
    assert sum(isinstance(outcome, Busy) for outcome in outcomes) == 45


def test_a_session_lasts_while_it_is_used(private: Callable[..., Path], opened: list[SignIn]) -> None:
    clock = Clock()
    opened.append(sign_in := SignIn(private(BORIS), None, clock))
    boris = _wait(sign_in.by_password("boris", "battery", "a"))
    one, two = sign_in.begin(boris), sign_in.begin(boris)
    assert len(one) >= 43
    assert one != two
    for _ in range(3):
        clock.now += SESSION_S * 0.9
        found = sign_in.by_session(one)
        assert found is not None
        assert (found.user, found.filters) == ("boris", boris.filters)
        used = found
    assert sign_in.by_session(two) is None
    clock.now += SESSION_S * 0.9
    sign_in.touch(used)
    clock.now += SESSION_S * 0.9
    assert sign_in.by_session(one) is not None
    assert sign_in.end(one) is not None
    assert sign_in.by_session(one) is None
    assert sign_in.end(one) is None
    for wrong in ("", "x", one[:-1], "\ud800"):
        assert sign_in.by_session(wrong) is None


def test_sessions_are_bounded_and_each_user_has_a_share(private: Callable[..., Path], opened: list[SignIn]) -> None:
    opened.append(sign_in := SignIn(private(ANNA), None))
    first, second = (sign_in.begin(Caller("anna")) for _ in range(2))
    used = sign_in.by_session(second)
    assert used is not None
    others = [sign_in.begin(Caller("anna")) for _ in range(48)]
    sign_in.touch(used)
    newest = [sign_in.begin(Caller("anna")) for _ in range(2)]
    kept = [sign_in.by_session(cookie) is not None for cookie in (first, second, *others[:2], *newest)]
    assert kept == [False, True, False, True, True, True]
    for number in range(1000):
        sign_in.begin(Caller(f"user{number}"))
    assert sign_in.by_session(second) is None


def test_whose_share_is_used_up() -> None:
    holders = [Caller("anna", address=address).holder for address in ("127.0.0.1", "192.0.2.1")]
    assert holders[0] == holders[1] != Caller("boris").holder
    assert Caller(address=network_of("192.0.2.1")).holder == "192.0.2.1"
    assert Caller(address=network_of("::ffff:192.0.2.1")).holder == "192.0.2.1"
    assert Caller(address=network_of("2001:db8::1")).holder == Caller(address=network_of("2001:db8::2")).holder != ""
    for address in ("127.0.0.1", "127.8.8.8", "::1", "::ffff:127.0.0.1", ""):
        assert Caller(address=network_of(address)).holder == ""
    assert network_of("::1") == "::1"
    assert Caller(address=network_of("::2")).holder != ""


# Changes


def test_who_is_taken_out_or_has_another_password_has_no_session(
    private: Callable[..., Path], opened: list[SignIn]
) -> None:
    path = private(ANNA, BORIS)
    opened.append(sign_in := SignIn(path, None))
    callers = [_wait(sign_in.by_password(*who, "a")) for who in (("anna", "correct horse"), ("boris", "battery"))]
    cookies = [sign_in.begin(caller) for caller in callers]
    assert not sign_in.reload()
    assert all(sign_in.may_stay(caller) for caller in callers)
    private(ANNA, make_line("boris", "new", ["cctv/lobby", "drone"]))
    assert sign_in.reload()
    assert [sign_in.by_session(cookie) is not None for cookie in cookies] == [True, False]
    assert [sign_in.may_stay(caller) for caller in callers] == [True, False]
    # What was right a moment ago is not remembered.
    assert _wait(sign_in.by_password("boris", "battery", "b")) is None
    private(BORIS)
    assert sign_in.reload()
    assert [sign_in.may_stay(caller) for caller in callers] == [False, True]


def test_other_cameras_are_another_right(private: Callable[..., Path], opened: list[SignIn]) -> None:
    opened.append(sign_in := SignIn(private(ANNA), None))
    anna = _wait(sign_in.by_password("anna", "correct horse", "a"))
    private(ANNA + "cctv")
    assert sign_in.reload()
    assert not sign_in.may_stay(anna)


def test_a_bad_change_takes_out_what_is_wrong_and_nothing_else(
    private: Callable[..., Path], opened: list[SignIn], caplog: pytest.LogCaptureFixture
) -> None:
    path = private(ANNA, BORIS)
    opened.append(sign_in := SignIn(path, None))
    anna = _wait(sign_in.by_password("anna", "correct horse", "a"))
    boris = _wait(sign_in.by_password("boris", "battery", "a"))
    private(ANNA, "boris:scrypt$damaged")
    assert sign_in.reload()
    assert (sign_in.may_stay(anna), sign_in.may_stay(boris)) == (True, False)
    assert "line 2" in caplog.text
    path.unlink()
    assert not sign_in.reload()
    assert sign_in.may_stay(anna)
    assert "all stays as it was" in caplog.text


def test_another_token_ends_what_the_old_one_opened(private: Callable[..., Path], opened: list[SignIn]) -> None:
    opened.append(sign_in := SignIn(None, private("0123456789abcdef", name="token")))
    caller = _wait(sign_in.by_password("token", "0123456789abcdef", "a"))
    assert caller is not None
    assert sign_in.may_stay(caller)
    private("fedcba9876543210fedcba", name="token")
    assert sign_in.reload()
    assert not sign_in.may_stay(caller)
    assert _wait(sign_in.by_password("token", "0123456789abcdef", "a")) is None
