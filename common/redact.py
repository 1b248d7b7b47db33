"""Addresses without their credentials, for whatever is printed, logged or published."""

from __future__ import annotations

import re
from typing import Final
from urllib.parse import urlsplit

__all__ = ["has_credentials", "redact"]

# scheme://user:password@host: up to the last @ before the path, because passwords with an unescaped @ are common.
_USERINFO: Final = re.compile(r"(?P<scheme>[a-zA-Z][a-zA-Z0-9+.-]*://)(?P<userinfo>[^/\s]*)@")
_SECRET_KEY: Final = re.compile(
    r"(?P<key>[?&;](?:[\w-]*(?:pass|pwd|token|secret|auth|key|user|sig)[\w-]*)=)[^&;\s]*", re.IGNORECASE
)


def redact(text: str) -> str:
    """`text` with the user information and the secret-looking query values of every address in it masked.

    >>> redact("rtsp://admin:12@34@10.0.0.5/live?token=abc failed")
    'rtsp://***@10.0.0.5/live?token=*** failed'
    """
    return _SECRET_KEY.sub(r"\g<key>***", _USERINFO.sub(r"\g<scheme>***@", text))


def has_credentials(address: str) -> bool:
    """Whether an address carries something that `redact` would mask.

    >>> has_credentials("rtsp://admin:x@cam/1"), has_credentials("rtsp://cam/1")
    (True, False)
    """
    return redact(address) != address and bool(urlsplit(address).scheme)
