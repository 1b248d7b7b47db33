"""What the benchmarks share: processes of the fabric, free ports, and memory from the kernel's own accounting."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

__all__ = ["free_endpoint", "pss_mb", "rss_mb", "running", "start"]


def free_endpoint() -> str:
    """A TCP endpoint on loopback whose port was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"tcp://127.0.0.1:{probe.getsockname()[1]}"


def start(*arguments: str) -> subprocess.Popen[bytes]:
    """Start a `camfabric` command, quiet."""
    return subprocess.Popen([sys.executable, "-m", "camfabric.cli", "--log-level", "error", *arguments])


@contextlib.contextmanager
def running(*commands: tuple[str, ...]) -> Iterator[list[subprocess.Popen[bytes]]]:
    """Run several `camfabric` commands, and end them."""
    processes = [start(*command) for command in commands]
    try:
        yield processes
    finally:
        for process in processes:
            process.terminate()
        for process in processes:
            try:
                process.wait(5)
            except subprocess.TimeoutExpired:
                process.kill()


def rss_mb(pid: int | str = "self", field: str = "VmRSS") -> float:
    """A process's resident memory in MB; `VmHWM` is its peak."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) / 1000
    raise ValueError(f"no {field} of process {pid}")


def pss_mb(pid: int) -> float:
    """A process's proportional share of memory in MB: what several share is counted once in the sum of theirs."""
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) / 1000
    raise ValueError(f"no figure of process {pid}")
