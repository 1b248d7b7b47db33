"""The machine that figures were taken on, and the versions of all that took part. Never a host's or a user's name."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import subprocess
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

__all__ = ["machine", "versions"]

_PACKAGES: Final = (
    "camfabric", "pyzmq", "numpy", "opencv-python", "opencv-python-headless", "av", "imagezmq", "vidgear", "simplejpeg",
    "eclipse-zenoh", "iceoryx2",
)  # fmt: skip


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith(("model name", "Model"))]
    return names[0] if names else platform.machine()


def _commit() -> str:
    try:
        run = subprocess.run(
            ["git", "describe", "--always", "--dirty"],
            cwd=Path(__file__).parent, capture_output=True, text=True, check=True,
        )  # fmt: skip
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return run.stdout.strip()


def machine() -> dict[str, str]:
    """What matters of this machine, by what it is called in the report."""
    memory_mb = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 1e6
    return {
        "CPU": _cpu_model(),
        "cores": str(len(os.sched_getaffinity(0))),
        "memory": f"{memory_mb / 1000:.1f} GB",
        "kernel": f"{platform.system()} {platform.release().partition('-')[0]}",
        "load before": f"{os.getloadavg()[0]:.1f}",
        "date": f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
    }


def versions() -> dict[str, str]:
    """Of Python, of the fabric's commit, and of each package that is installed."""
    import zmq

    found = {"Python": platform.python_version(), "commit": _commit(), "libzmq": zmq.zmq_version()}
    for package in _PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found
