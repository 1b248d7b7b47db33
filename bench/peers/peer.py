"""What a peer is to the benchmarks: how it sends and takes pictures, its settings, and whether it is installed."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, TypeAlias

from pictures import Content

__all__ = ["Link", "Peer", "Send", "Take"]


@dataclass(frozen=True)
class Link:
    """Where the two ends meet, and what travels."""

    send_to: str
    """The endpoint of the sender ..."""
    take_from: str
    """... and of the receivers: the same, unless there is a relay between them."""
    content: Content = "pixels"
    size: tuple[int, int] = (1920, 1080)
    """(width, height) in px."""
    relayed: bool = False


Send: TypeAlias = Callable[[Any], object]
"""Gives a picture on its way: an array (H, W, 3) uint8 BGR, or JPEG bytes, as the link's content says."""
Take: TypeAlias = Callable[[], Any]
"""Waits for the next picture."""


@dataclass(frozen=True)
class Peer:
    """One way to bring pictures from a process to another one."""

    name: str
    settings: str
    """Where they differ from the default, as the report shows them."""
    sender: Callable[[Link], AbstractContextManager[Send]]
    receiver: Callable[[Link], AbstractContextManager[Take]]
    package: str = ""
    """That has to be installed."""

    @property
    def missing(self) -> str:
        """Why it cannot run here; "" if it can."""
        try:
            importlib.metadata.version(self.package or "camfabric")
        except importlib.metadata.PackageNotFoundError:
            return f"{self.package} is not installed"
        return ""
