"""What the benchmarks share: processes of the fabric, free ports, and memory from the kernel's own accounting."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

__all__ = ["cpu_percent", "cpu_s", "free_endpoint", "pss_mb", "rss_mb", "running", "start"]


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


def cpu_s(pid: int) -> float:
    """The time that a process has had a CPU, in user and kernel mode, in seconds, by the kernel's own accounting."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def cpu_percent(pids: dict[str, int], seconds: float) -> dict[str, float]:
    """What each process takes of one core over a time, in percent."""
    before = {name: cpu_s(pid) for name, pid in pids.items()}
    begun = time.monotonic()
    time.sleep(seconds)
    elapsed_s = time.monotonic() - begun
    return {name: 100 * (cpu_s(pid) - before[name]) / elapsed_s for name, pid in pids.items()}
