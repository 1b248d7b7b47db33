"""Lines and bytes to standard output, each at once, and a quiet end where nobody reads them any more; whole files."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

__all__ = ["OutputClosed", "rate_text", "write_bytes", "write_file", "write_line"]


class OutputClosed(Exception):
    """Whoever read our output has gone, as `head` does."""


def write_file(path: Path, data: bytes) -> None:
    """Write a file so that whoever looks never sees half of it."""
    part = path.with_name(path.name + ".part")
    part.write_bytes(data)
    part.replace(path)


def write_bytes(data: Any) -> int:
    """Write all of a buffer past what `sys.stdout` keeps, while nobody writes lines. Returns its size.

    Raises:
        OutputClosed: nobody reads any more.
    """
    rest = memoryview(data).cast("B")
    size = len(rest)
    try:
        while rest:
            rest = rest[os.write(sys.stdout.fileno(), rest) :]
    except BrokenPipeError:
        raise OutputClosed from None
    return size


def write_line(line: str) -> None:
    """Write a line.

    Raises:
        OutputClosed: nobody reads any more.
    """
    if sys.stdout is None:
        raise OutputClosed
    try:
        sys.stdout.write(line + "\n")
        sys.stdout.flush()
    except BrokenPipeError:
        # What is still in the buffer must not fail again when the interpreter ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise OutputClosed from None


def rate_text(per_second: float) -> str:
    """A rate for a table; that of a slow camera does not become 0."""
    return f"{per_second:.1f}" if per_second >= 1 or not per_second else f"{per_second:.2g}"
