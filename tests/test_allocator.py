"""Freed memory: it is kept for the next picture, unless somebody has set how much."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

pytestmark = pytest.mark.skipif("CS_GNU_LIBC_VERSION" not in os.confstr_names, reason="glibc alone has it")

_PROGRAM = """
import resource, sys
import numpy as np
from camfabric.common.allocator import keep_freed_memory
if sys.argv[1] == "keep":
    keep_freed_memory()
def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for turn in range(20):
    if turn == 10:
        before = faults()
    pictures = [np.ones((1080, 1920, 3), np.uint8) for _ in range(3)]
    del pictures
print(faults() - before)
"""
_PAGES = 10 * 3 * 1080 * 1920 * 3 // 4096
"""Of the pictures that are counted."""


def _faults(how: str, **environment: str) -> int:
    clean = {name: value for name, value in os.environ.items() if "MALLOC" not in name and "TUNABLES" not in name}
    done = subprocess.run(
        [sys.executable, "-c", _PROGRAM, how], env={**clean, **environment}, capture_output=True, text=True, check=True
    )
    return int(done.stdout)


def test_the_memory_of_a_picture_is_there_for_the_next_one() -> None:
    assert _faults("keep") < _PAGES / 20


def test_who_has_set_how_much_is_kept_has_it_so() -> None:
    assert _faults("keep", MALLOC_TRIM_THRESHOLD_="131072") > _PAGES / 20
