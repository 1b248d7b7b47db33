"""The README: its options exist, all options are in it, and its Python examples run as they stand."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import pytest

_README = (Path(__file__).parent.parent / "README.md").read_text()
_COMMANDS = ("publish", "broker", "subscribe", "view", "ls", "top", "demo")
_OTHERS = {"--build", "--log-level", "--help"}
_OPTION = re.compile(r"(?<![\w-])--[a-z][a-z-]+")


def test_the_readme_has_all_options_and_no_other(camfabric: Any) -> None:
    there: set[str] = set()
    for process in [camfabric(command, "--help", env={"COLUMNS": "200"}) for command in _COMMANDS]:
        assert process.wait() == 0
        there |= set(_OPTION.findall("\n".join(process.out)))
    in_readme = set(_OPTION.findall(_README))
    assert there - in_readme - {"--help", "--window"} == set()
    assert in_readme - there - _OTHERS == set()


@pytest.mark.parametrize("example", re.findall(r"```python\n(.*?)```", _README, re.DOTALL))
def test_an_example_runs(example: str, start: Any, start_broker: Any, feed: Any, eventually: Any) -> None:
    from camfabric.publisher import Publisher

    broker = start_broker()
    code = example.replace("tcp://127.0.0.1:5551", broker.endpoint).replace("tcp://127.0.0.1:5550", broker.to)
    assert code != example
    with Publisher("cctv/lobby", to=broker.to) as publisher:
        feed(publisher)
        process = start(sys.executable, "-u", "-W", "error", "-c", code)
        if "for frame in" in example:
            eventually(lambda: process.said(r"cctv/lobby \(48, 64, 3\) \d+"), within_s=20)
        else:
            assert process.wait() == 0, process.err
