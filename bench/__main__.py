"""The benchmark suite: the fabric and its peers, side by side.

scripts/bench [--quick] [--case NAME]... [--json FILE] [--page docs/benchmarks.md]
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path
from typing import Final

# One thread for NumPy: before it is loaded, and for all processes.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

from case import run
from cases import CASES
from machine import machine, versions
from report import Measured, Report, as_json, print_bars, print_case, write_page
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

_WIDTH: Final = 140
"""Of tables that go to a file."""


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="scripts/bench", description="The fabric and its peers, side by side.")
    names = [case.name for case in CASES]
    parser.add_argument("--quick", action="store_true", help="one short round of fewer rows: under two minutes")
    parser.add_argument("--case", action="append", choices=names, metavar="NAME", help=f"only this: {', '.join(names)}")
    parser.add_argument("--rounds", type=int, help="rounds of each case, at most")
    parser.add_argument("--seconds", type=float, help="of each window of time")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures of all rounds")
    parser.add_argument("--page", type=Path, metavar="FILE", help="write a page of Markdown with plots beside it")
    arguments = parser.parse_args()
    if (arguments.rounds is not None and arguments.rounds < 1) or (
        arguments.seconds is not None and arguments.seconds <= 0
    ):
        parser.error("--rounds and --seconds are more than 0")
    for file in (arguments.json, arguments.page):
        if file is not None and not file.resolve().parent.is_dir():
            parser.error(f"{file}: there is no such folder")
    return arguments


def main() -> int:
    """Run it. Returns the exit status: 1 where nothing at all could be measured."""
    arguments = _arguments()
    console = Console()
    if not console.is_terminal:
        console.width = _WIDTH
    if sys.platform != "linux":
        console.print("the benchmarks read the kernel's accounts under /proc: they run on Linux alone")
        return 2
    about, begun = machine(), time.monotonic()
    chosen = [case for case in CASES if not arguments.case or case.name in arguments.case]
    plans = []
    for case in chosen:
        plan = case.quick if arguments.quick else case.full
        rounds = min(arguments.rounds or plan.rounds, plan.rounds)
        seconds = arguments.seconds or plan.seconds
        plans.append(type(plan)(rounds=rounds, seconds=seconds, is_quick=plan.is_quick))
    steps = sum(len(case.variants(plan)) * plan.rounds for case, plan in zip(chosen, plans, strict=True))
    measured = []
    columns = (
        TextColumn("{task.completed}/{task.total}"),
        BarColumn(20),
        TimeElapsedColumn(),
        TextColumn("{task.description}"),
    )
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task("", total=steps)
        done = -1

        def step(what: str) -> None:
            nonlocal done
            done += 1
            progress.update(task, description=what, completed=done)
            if not console.is_terminal:
                print(f"{done + 1}/{steps} {what}", file=sys.stderr, flush=True)

        for case, plan in zip(chosen, plans, strict=True):
            measured.append(Measured(case, plan, run(case, plan, step)))
            print_case(progress.console, measured[-1])
    report = Report(about, versions(), measured, arguments.quick, time.monotonic() - begun)
    print_bars(console, report)
    if arguments.json is not None:
        arguments.json.write_text(as_json(report), encoding="utf-8")
        console.print(f"saved {arguments.json}")
    if arguments.page is not None:
        write_page(report, arguments.page)
        console.print(f"saved {arguments.page}")
    console.print(
        "\N{MULTIPLICATION SIGN} is the fabric's figure over that of the row, the median of the rounds' ratios"
    )
    console.print(f"took {report.took_s:.0f} s")
    return 0 if any(one.result.rounds for one in measured) else 1


if __name__ == "__main__":
    sys.exit(main())
