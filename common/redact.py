"""Addresses without their credentials, for whatever is printed, logged or published."""

from __future__ import annotations

import re
from typing import Final

__all__ = ["has_credentials", "redact"]

# Up to the last @ of what has no space in it: passwords with an unescaped @ or / are common. It may hide a path that
# has an @; it never shows half a password.
_USERINFO: Final = re.compile(r"(?P<scheme>[a-zA-Z][a-zA-Z0-9+.-]*://)\S*@")
_SECRET: Final = re.compile(
    r"(?P<key>[?&;#/_][\w-]*?(?:pas|pw|token|secret|auth|key|user|sig|streamid)[\w-]*=)[^&;#\s]*", re.IGNORECASE
)


def redact(text: str) -> str:
    """`text` with the user information and the secret-looking query values of every address in it masked.

    >>> redact("rtsp://admin:12@34@10.0.0.5/live?token=abc failed")
    'rtsp://***@10.0.0.5/live?token=*** failed'
    """
    return _SECRET.sub(r"\g<key>***", _USERINFO.sub(r"\g<scheme>***@", text))


def has_credentials(address: str) -> bool:
    """Whether an address carries something that `redact` would mask.

    >>> has_credentials("rtsp://admin:x@cam/1"), has_credentials("rtsp://cam/1")
    (True, False)
    """
    return redact(address) != address
