"""The exceptions of the fabric.

    FabricError
    ├── ConfigError      a setting, name, endpoint or option is wrong: found before anything starts
    ├── EndpointError    an address cannot be bound or connected
    ├── WireError        bytes that arrived are not what docs/wire.md says
    ├── CodecError       a picture cannot be encoded or decoded
    ├── SourceError      a camera, file or stream cannot be opened or read
    └── AuthError        a peer or this process may not do what was asked

Every message is one line that says what is wrong and what would be right. A source's address never appears in one
with its credentials: see `camfabric.common.redact`.
"""

from __future__ import annotations

__all__ = ["AuthError", "CodecError", "ConfigError", "EndpointError", "FabricError", "SourceError", "WireError"]


class FabricError(Exception):
    """Base of all errors of the fabric. `str(error)` is one line for a person."""


class ConfigError(FabricError):
    """A setting is wrong.

    Fields: `setting`, what was set ("camera", "endpoint", "--size"), and `value`, as it was given.
    """

    def __init__(self, message: str, *, setting: str, value: object = None) -> None:
        super().__init__(message)
        self.setting = setting
        self.value = value


class EndpointError(FabricError):
    """An endpoint cannot be bound or connected: taken, not an address of this machine, no permission.

    Field: `endpoint`.
    """

    def __init__(self, message: str, *, endpoint: str) -> None:
        super().__init__(message)
        self.endpoint = endpoint


class WireError(FabricError):
    """What arrived is not a message of the fabric.

    Field: `reason`, one stable word to count by: "parts", "size", "magic", "version", "header", "topic", "picture",
    "status", "replay", "clock", "announcement", "hops", "memory".
    """

    def __init__(self, message: str, *, reason: str) -> None:
        super().__init__(message)
        self.reason = reason


class CodecError(FabricError):
    """A picture cannot be encoded or decoded. Field: `codec`, its name."""

    def __init__(self, message: str, *, codec: str) -> None:
        super().__init__(message)
        self.codec = codec


class SourceError(FabricError):
    """A source cannot be opened or read. Field: `source`, its address without credentials."""

    def __init__(self, message: str, *, source: str) -> None:
        super().__init__(message)
        self.source = source


class AuthError(FabricError):
    """Something is not allowed. Field: `subject`, who or what was refused."""

    def __init__(self, message: str, *, subject: str) -> None:
        super().__init__(message)
        self.subject = subject
