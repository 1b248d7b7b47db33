"""Addresses without their credentials, for whatever is printed, logged or published."""

from __future__ import annotations

import re
from typing import Final

__all__ = ["has_credentials", "redact"]

# Each of these looks at every character once: a text may come from a camera, and be long.
_WORD: Final = re.compile(r"\S+")
_SCHEME: Final = re.compile(r"[a-zA-Z][0-9+.-]*://")
_KEY: Final = re.compile(r"(?<![\w-])[\w-]+=")
_SECRET: Final = re.compile(r"pas|pw|token|secret|auth|key|user|sig|streamid", re.IGNORECASE)
_VALUE: Final = re.compile(r"[^&;#\s]*")


def redact(text: str) -> str:
    """`text` with the user information and the secret-looking query values of every address in it masked.

    >>> redact("rtsp://admin:12@34@10.0.0.5/live?token=abc failed")
    'rtsp://***@10.0.0.5/live?token=*** failed'
    """
    return _without_values(_WORD.sub(_without_userinfo, text))


def _without_userinfo(match: re.Match[str]) -> str:
    # Up to the last @ of what has no space in it: passwords with an unescaped @ or / are common. It may hide a path
    # that has an @; it never shows half a password.
    word = match[0]
    scheme = _SCHEME.search(word)
    begin = 0 if scheme is None else scheme.end()
    at = word.rfind("@", begin)
    # Without a scheme it may be an address that was mistyped; a name and a password have a colon between them.
    if at < 0 or (scheme is None and ":" not in word[:at]):
        return word
    return f"{word[:begin]}***{word[at:]}"


def _without_values(text: str) -> str:
    shown, done = [], 0
    while (key := _KEY.search(text, done)) is not None:
        shown.append(text[done : key.end()])
        done = key.end()
        # A secret's name follows a separator, or an underscore within the name.
        begin = key.start() if text[key.start() - 1 : key.start()] in {*"?&;#/"} else text.find("_", *key.span()) + 1
        if begin and _SECRET.search(text, begin, key.end()):
            shown.append("***")
            value = _VALUE.match(text, done)
            done = value.end() if value is not None else done
    return "".join(shown) + text[done:]


def has_credentials(address: str) -> bool:
    """Whether an address carries something that `redact` would mask.

    >>> has_credentials("rtsp://admin:x@cam/1"), has_credentials("rtsp://cam/1")
    (True, False)
    """
    return redact(address) != address
