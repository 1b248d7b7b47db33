"""Whether an extra that a command needs is installed."""

from __future__ import annotations

import importlib.util
from typing import Final

from camfabric.common.errors import ConfigError

__all__ = ["has_web", "require_web"]

_WEB: Final = ("aiohttp", "prometheus_client")
"""What `camfabric.gateway` imports."""


def has_web() -> bool:
    """Whether the extra `web` is installed; nothing of it is loaded."""
    return all(importlib.util.find_spec(module) is not None for module in _WEB)


def require_web(command: str) -> None:
    """Check that the extra `web` is installed, for `camfabric COMMAND`.

    Raises:
        ConfigError: it is not; says how to get it.
    """
    if not has_web():
        raise ConfigError(f"camfabric {command} needs the extra 'web': pip install 'camfabric[web]'", setting="web")
