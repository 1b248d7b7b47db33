"""Signing in: passwords, the token and sessions; who is behind a request; and who is not any more after a change."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import logging
import secrets
import time
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from camfabric.common.budget import Budget
from camfabric.common.errors import AuthError, ConfigError, WireError
from camfabric.common.stats import Complaints, Standing
from camfabric.gateway.accounts import TOKEN_USER, Account, parse_accounts, read_private, read_token, verify
from camfabric.gateway.caller import Caller, network_of

__all__ = ["SESSION_S", "Busy", "SignIn"]

logger = logging.getLogger(__name__)

SESSION_S: Final = 7 * 24 * 3600.0
"""A session that is not used for so long is over."""
_MAX_SESSIONS: Final = 1000
_MAX_SESSIONS_OF_ONE: Final = 50
"""Of one user; the one that was not used for longest goes."""
_MAX_PROVED: Final = 1000
_PROVED_S: Final = 300.0
"""How long a password that came with a request and was right need not be hashed again."""
_THREADS: Final = 2
_MAX_WAITING: Final = 32
_FAILURES: Final = 5
_FAILURES_S: Final = 0.1
"""Of one address: so many failures at once, and so many a second."""
_MAX_ADDRESSES: Final = 10_000
_THROTTLED: Final = WireError("it tries too many passwords", reason="throttled")


class Busy(AuthError):
    """Too many passwords are being tried. Field: `wait_s`, when to come again."""

    def __init__(self, wait_s: float) -> None:
        super().__init__("too many attempts to sign in: wait a little", subject="sign-in")
        self.wait_s = wait_s


@dataclass(slots=True)
class _Session:
    caller: Caller
    used_at: float


class SignIn:
    """Who may come in. Used on the event loop; scrypt runs in threads of its own.

    Raises:
        ConfigError: a file cannot be read, can be read by others, or has a line that is wrong.
    """

    def __init__(
        self, password_file: Path | None, token_file: Path | None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._clock = clock
        self._password_file = password_file
        self._token_file = token_file
        self._accounts: dict[str, Account] = {}
        self._token = ""
        self._stamps: object = None
        self._standing = Standing(logger)
        self._sessions: OrderedDict[bytes, _Session] = OrderedDict()
        self._proved: OrderedDict[bytes, tuple[Caller, float]] = OrderedDict()
        self._secret = secrets.token_bytes(32)
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="passwords")
        self._waiting = 0
        self._failures: OrderedDict[str, Budget] = OrderedDict()
        self._complaints = Complaints(logger, clock)
        self._stamps = self._stamp()
        if token_file is not None:
            self._token = read_token(token_file)
        if password_file is not None:
            self._accounts, problems = parse_accounts(read_private(password_file, "--password-file"))
            if problems:
                raise ConfigError(
                    f"--password-file {password_file}: {problems[0]}", setting="--password-file", value=password_file
                )
            if not self._accounts:
                raise ConfigError(
                    f"--password-file {password_file}: nobody is in it: camfabric password NAME >> {password_file}",
                    setting="--password-file",
                    value=password_file,
                )

    @property
    def is_wanted(self) -> bool:
        """Whether anybody has to sign in."""
        return self._password_file is not None or self._token_file is not None

    # Who it is

    def by_session(self, cookie: str) -> Caller | None:
        """Whose session it is. It lasts on."""
        key = _key_of(cookie)
        session = self._sessions.get(key)
        if session is None:
            return None
        now = self._clock()
        if now - session.used_at > SESSION_S:
            del self._sessions[key]
            return None
        session.used_at = now
        self._sessions.move_to_end(key)
        return session.caller

    async def by_password(self, name: str, password: str, address: str) -> Caller | None:
        """Who has this password, or, by the name `token`, the token. One that was right here a moment ago is known.

        Raises:
            Busy: too many are being tried, or too many were wrong from this address: then it is not looked at, for
                the answer would tell whether it is right.
        """
        address = network_of(address)
        budget = self._budget(address)
        if (wait_s := budget.wait_s()) > 0:
            self._complaints.note(address, _THROTTLED, what="an attempt to sign in")
            raise Busy(wait_s)
        if name != TOKEN_USER and (known := self._known(proof := self._proof(name, password, address))) is not None:
            return known
        if self._waiting >= _MAX_WAITING:
            raise Busy(1.0)
        # Before it is known, so that many at once are not tried for one; so none has more than its share waiting.
        budget.spend()
        if name == TOKEN_USER:
            caller = self._by_token(password)
        else:
            caller = await self._by_hash(name, password)
        if caller is None:
            logger.warning("sign-in of %s from %s refused", name[:64] if name.isprintable() else "?", address)
            return None
        budget.give_back()
        if name != TOKEN_USER:
            self._proved[proof] = caller, self._clock()
            if len(self._proved) > _MAX_PROVED:
                self._proved.popitem(last=False)
        return caller

    def _by_token(self, token: str) -> Caller | None:
        if self._token and hmac.compare_digest(token.encode("utf-8", "surrogatepass"), self._token.encode()):
            return Caller(TOKEN_USER, proof=_key_of(token))
        return None

    async def _by_hash(self, name: str, password: str) -> Caller | None:
        account = self._accounts.get(name)
        self._waiting += 1
        try:
            is_right = await asyncio.get_running_loop().run_in_executor(self._threads, verify, account, password)
        finally:
            self._waiting -= 1
        # The file may have changed meanwhile.
        if not is_right or account is None or self._accounts.get(name) != account:
            return None
        return Caller(account.name, account.filters, account.hash.digest)

    def _proof(self, name: str, password: str, address: str) -> bytes:
        text = f"{address}\0{name}\0{password}"
        return hmac.digest(self._secret, text.encode("utf-8", "surrogatepass"), "sha256")

    def _known(self, proof: bytes) -> Caller | None:
        """Who has proved this a moment ago."""
        known = self._proved.get(proof)
        return known[0] if known is not None and self._clock() - known[1] < _PROVED_S else None

    def _budget(self, address: str) -> Budget:
        budget = self._failures.get(address)
        if budget is None:
            budget = self._failures[address] = Budget(_FAILURES, _FAILURES_S, self._clock)
            if len(self._failures) > _MAX_ADDRESSES:
                self._failures.popitem(last=False)
        self._failures.move_to_end(address)
        return budget

    # Sessions

    def begin(self, caller: Caller) -> str:
        """A new session. Returns what its cookie has."""
        cookie = secrets.token_urlsafe(32)
        key = _key_of(cookie)
        own = [other for other, session in self._sessions.items() if session.caller.user == caller.user]
        if len(own) >= _MAX_SESSIONS_OF_ONE:
            del self._sessions[own[0]]
        self._sessions[key] = _Session(replace(caller, session=key), self._clock())
        if len(self._sessions) > _MAX_SESSIONS:
            self._sessions.popitem(last=False)
        return cookie

    def end(self, cookie: str) -> Caller | None:
        """End a session. Returns whose it was."""
        session = self._sessions.pop(_key_of(cookie), None)
        return None if session is None else session.caller

    # Changes

    def may_stay(self, caller: Caller) -> bool:
        """Whether what a caller was let in for still holds."""
        if not self.is_wanted:
            return True
        if caller.user == TOKEN_USER:
            return caller.proof == _key_of(self._token)
        account = self._accounts.get(caller.user or "")
        return account is not None and (account.filters, account.hash.digest) == (caller.filters, caller.proof)

    def touch(self, caller: Caller) -> None:
        """A session is still used: a page is open."""
        if (session := self._sessions.get(caller.session)) is not None:
            session.used_at = self._clock()
            self._sessions.move_to_end(caller.session)

    def _stamp(self) -> object:
        stamps = []
        for path in (self._password_file, self._token_file):
            try:
                stat = None if path is None else path.stat()
            except OSError:
                stat = None
            stamps.append(stat and (stat.st_mtime_ns, stat.st_size, stat.st_ino))
        return stamps

    def reload(self, *, asked: bool = False) -> bool:
        """Read the files again where they have changed, or it was `asked` for. Returns whether something is new.

        A line that is wrong has no account; where a whole file cannot be read, all stays as it was. Whoever is not
        there any more, or has another password, has no session any more.
        """
        stamps = self._stamp()
        if stamps == self._stamps and not asked:
            return False
        self._stamps = stamps
        before = (dict(self._accounts), self._token)
        problems: list[str] = []
        try:
            if self._token_file is not None:
                self._token = read_token(self._token_file)
            if self._password_file is not None:
                text = read_private(self._password_file, "--password-file")
                self._accounts, wrong = parse_accounts(text)
                problems += [f"--password-file {self._password_file}: {problem}" for problem in wrong]
        except ConfigError as error:
            problems.append(f"{error}: all stays as it was")
        self._standing.say(problems)
        if before == (self._accounts, self._token):
            return False
        logger.info("the accounts are read again: %d users", len(self._accounts))
        self._proved.clear()
        for key in [key for key, session in self._sessions.items() if not self.may_stay(session.caller)]:
            del self._sessions[key]
        return True

    def close(self) -> None:
        """End the threads."""
        self._threads.shutdown(wait=True, cancel_futures=True)


def _key_of(cookie: str) -> bytes:
    """What a session is found by: not its secret, so that the time of a look-up tells nothing."""
    return hashlib.sha256(cookie.encode("utf-8", "surrogatepass")).digest()
