"""The whole demo in 512 MB: a cgroup with that limit, all of the demo's processes in it, and whether they live."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from case import CAMFABRIC, Bar, Case, Metric, Plan, Result, Variant
from stage import Failed, Figures

__all__ = ["MEMORY"]

_ROOT: Final = Path("/sys/fs/cgroup")
_LIMIT_MB: Final = 512
_GROUP: Final = "broker, four 720p cameras, page, live table"
_START_S: Final = 4.0


@dataclass(frozen=True)
class _Version:
    """What the files of a version of cgroups are called."""

    folder: Path
    limit: str
    most: str
    failures: str


def _version() -> _Version:
    folder = f"camfabric-bench-{os.getpid()}"
    if (_ROOT / "memory" / "memory.limit_in_bytes").exists():
        return _Version(
            _ROOT / "memory" / folder, "memory.limit_in_bytes", "memory.max_usage_in_bytes", "memory.oom_control"
        )
    return _Version(_ROOT / folder, "memory.max", "memory.peak", "memory.events")


@contextlib.contextmanager
def _limited() -> Iterator[_Version]:
    version = _version()
    version.folder.mkdir()
    try:
        (version.folder / version.limit).write_text(str(_LIMIT_MB * 1_000_000))
        yield version
    finally:
        end = time.monotonic() + 5
        while True:  # its processes are gone only a moment after they have ended
            try:
                version.folder.rmdir()
            except OSError:
                if time.monotonic() > end:
                    raise
                time.sleep(0.05)
            else:
                break


def _missing() -> str:
    try:
        with _limited():
            return ""
    except OSError as error:
        return f"no memory cgroup can be made here ({error.strerror}): run it as root"


def _kills(version: _Version) -> int:
    for line in (version.folder / version.failures).read_text().splitlines():
        name, _, count = line.partition(" ")
        if name == "oom_kill":
            return int(count)
    raise Failed("the kernel does not say whether it killed something")


def _measure(seconds: float) -> Figures:
    command = [sys.executable, "-m", "camfabric.cli", "demo", "--no-window", "--duration", str(seconds + _START_S)]
    enter = 'echo $$ > "$1/cgroup.procs" && shift && exec "$@"'
    with _limited() as version:
        run = subprocess.run(
            ["/bin/sh", "-c", enter, "sh", str(version.folder), *command],
            capture_output=True,
            check=False,
            timeout=seconds + 60,
        )
        kills = _kills(version)
        most = int((version.folder / version.most).read_text()) / 1e6
    if run.returncode and not kills:
        raise Failed(f"the demo ended with status {run.returncode}: {run.stderr.decode()[-160:]}")
    return {"most_mb": most, "kills": kills, "status": run.returncode}


def _variants(plan: Plan) -> list[Variant]:
    return [Variant(_GROUP, CAMFABRIC, f"camfabric demo in a memory cgroup of {_LIMIT_MB} MB", _measure, _missing())]


def _figure(key: str, result: Result) -> float | None:
    spread = result.spread(_GROUP, CAMFABRIC, key)
    return None if spread is None else spread.high


MEMORY: Final = Case(
    name="memory",
    title="The whole demo in 512 MB",
    about="All processes of `camfabric demo` in a cgroup that may have 512 MB, page cache and sockets "
    "included. The kernel would kill one of them where it is too little.",
    metrics=(
        Metric("most_mb", "most memory", "MB", "less"),
        Metric("kills", "processes killed", "", "less"),
        Metric("status", "exit status", "", "less"),
    ),
    variants=_variants,
    full=Plan(rounds=1, seconds=20.0, is_quick=False),
    quick=Plan(rounds=1, seconds=2.0, is_quick=True),
    bars=(
        Bar(
            "whole demo in a cgroup of 512 MB: processes killed", "at most", 0, lambda result: _figure("kills", result)
        ),
        Bar("whole demo, most memory", "at most", _LIMIT_MB, lambda result: _figure("most_mb", result), "MB"),
    ),
)
