"""The report: a table in the terminal, JSON, and a page of Markdown with plots, all from the same results."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from case import CAMFABRIC, Bar, Case, Metric, Plan, Result
from figures import Spread
from plots import Bars, Line, bars, lines, short
from rich.console import Console
from rich.table import Table
from rich.text import Text

__all__ = ["Measured", "Report", "as_json", "print_bars", "print_case", "write_page"]


@dataclass(frozen=True)
class Measured:
    """A case with its results."""

    case: Case
    plan: Plan
    result: Result


@dataclass(frozen=True)
class Report:
    """All that was measured in one run."""

    machine: dict[str, str]
    versions: dict[str, str]
    measured: Sequence[Measured]
    is_quick: bool
    took_s: float


def _groups(result: Result) -> list[str]:
    return list(dict.fromkeys(variant.group for variant in result.variants))


def _cell(spread: Spread | None) -> str:
    if spread is None:
        return "-"
    if spread.count == 1:
        return short(spread.median)
    return f"{short(spread.median)} ({short(spread.low)} to {short(spread.high)})"


def _ratio(result: Result, group: str, who: str, key: str) -> str:
    """The fabric's figure over a peer's."""
    share = None if who == CAMFABRIC else result.ratio(group, key, who)
    return "" if share is None else f"\N{MULTIPLICATION SIGN}{short(share.median)}"


def _columns(metrics: Sequence[Metric], result: Result, group: str) -> list[Metric]:
    """The metrics that somebody in the group has."""
    rows = [variant for variant in result.variants if variant.group == group]
    return [
        metric
        for metric in metrics
        if any(result.spread(group, variant.who, metric.key) is not None for variant in rows)
    ]


def _title(metric: Metric) -> str:
    return f"{metric.title}{f', {metric.unit}' if metric.unit and metric.unit not in metric.title else ''}"


def _table(one: Measured, group: str) -> tuple[list[str], list[list[str]]]:
    """A group's table: its head and its rows."""
    metrics = _columns(one.case.metrics, one.result, group)
    rows = []
    for variant in one.result.variants:
        if variant.group == group and variant.key in one.result.rounds:
            row = [variant.who]
            for metric in metrics:
                figure = _cell(one.result.spread(group, variant.who, metric.key))
                row.append(f"{figure} {_ratio(one.result, group, variant.who, metric.key)}".strip())
            rows.append(row)
    return ["", *(_title(metric) for metric in metrics)], rows


def _absent(result: Result) -> list[str]:
    """Rows that have no figures, or fewer, and why."""
    return [f"{group}: {who}: {why}" for (group, who), why in result.failed.items()]


def _judged(one: Measured) -> list[tuple[Bar, float | None]]:
    return [(bar, bar.value(one.result)) for bar in one.case.bars]


def _worth_saying(one: Measured, report: Report) -> list[tuple[Bar, float | None]]:
    """All bars; of a quick run, which leaves out rows, those that it has measured."""
    return [(bar, value) for bar, value in _judged(one) if value is not None or not report.is_quick]


def _verdict(bar: Bar, value: float | None) -> tuple[str, str, str]:
    """(the bar, what was measured, met or missed) as texts."""
    side = "≥" if bar.side == "at least" else "≤"
    unit = f" {bar.unit}" if bar.unit else ""
    if value is None or not math.isfinite(value):
        return f"{side} {short(bar.bound)}{unit}", "-", "not measured"
    return f"{side} {short(bar.bound)}{unit}", short(value) + unit, "met" if bar.is_met(value) else "missed"


# Terminal


def print_case(console: Console, one: Measured) -> None:
    """A case's tables, settings left out."""
    console.print(Text(f"\n{one.case.title}", style="bold"))
    for group in _groups(one.result):
        head, rows = _table(one, group)
        if not rows:
            continue
        table = Table(title=group, title_justify="left", title_style="italic", box=None, pad_edge=False)
        for place, text in enumerate(head):
            table.add_column(text, justify="left" if not place else "right", overflow="fold")
        for row in rows:
            table.add_row(*row, style="bold" if row[0] == CAMFABRIC else "")
        console.print(table)
    for line in _absent(one.result):
        console.print(Text(f"  not there: {line}", style="yellow"))


def print_bars(console: Console, report: Report) -> None:
    """What was to be reached, and whether it was."""
    table = Table(title="Bars", title_justify="left", box=None, pad_edge=False)
    for place, head in enumerate(("what", "bar", "measured", "")):
        table.add_column(head, justify="right" if place in (1, 2) else "left")
    colours = {"met": "green", "missed": "red"}
    for one in report.measured:
        for bar, value in _worth_saying(one, report):
            texts = _verdict(bar, value)
            table.add_row(bar.what, *texts, style=colours.get(texts[2], "yellow"))
    if table.row_count:
        console.print()
        console.print(table)


# JSON


def _clean(value: Any) -> Any:
    """The same without what JSON has no word for."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _clean(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_clean(inner) for inner in value]
    return value


def as_json(report: Report) -> str:
    """All figures of all rounds, with medians, spreads, ratios and bars."""
    cases = []
    for one in report.measured:
        rows = []
        for variant in one.result.variants:
            rounds = one.result.rounds.get(variant.key, [])
            metrics = {}
            for metric in one.case.metrics:
                spread = one.result.spread(*variant.key, metric.key)
                if spread is not None:
                    share = None
                    if variant.who != CAMFABRIC:
                        share = one.result.ratio(variant.group, metric.key, variant.who)
                    metrics[metric.key] = {
                        **asdict(spread), "unit": metric.unit, "better": metric.better,
                        "camfabric_over_this": None if share is None else asdict(share),
                    }  # fmt: skip
            rows.append({
                "group": variant.group, "who": variant.who, "settings": variant.settings, "metrics": metrics,
                "rounds": rounds, "trouble": one.result.failed.get(variant.key, ""),
            })  # fmt: skip
        judged = [
            {"what": bar.what, "side": bar.side, "bound": bar.bound, "unit": bar.unit, "value": value,
             "verdict": _verdict(bar, value)[2]}
            for bar, value in _judged(one)
        ]  # fmt: skip
        cases.append({
            "name": one.case.name, "title": one.case.title, "about": one.case.about, "rows": rows, "bars": judged,
            "rounds": one.plan.rounds, "seconds": one.plan.seconds,
        })  # fmt: skip
    whole = {
        "machine": report.machine, "versions": report.versions, "quick": report.is_quick,
        "took_s": round(report.took_s, 1), "cases": cases,
    }  # fmt: skip
    return json.dumps(_clean(whole), indent=1, ensure_ascii=False) + "\n"


# Markdown


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _markdown_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    sides = ["---"] + ["---:"] * (len(head) - 1)
    bold = [[f"**{cell}**" if cell and row[0] == CAMFABRIC else cell for cell in row] for row in rows]
    return [_row(head), _row(sides), *(_row(row) for row in bold), ""]


def _plots(one: Measured, folder: Path) -> list[str]:
    """Write a case's plots. Returns the lines that show them."""
    shown = []
    by_key = {metric.key: metric for metric in one.case.metrics}
    for key in one.case.plotted:
        groups = []
        for group in _groups(one.result):
            rows = [
                (variant.who, spread)
                for variant in one.result.variants
                if variant.group == group and (spread := one.result.spread(group, variant.who, key)) is not None
            ]
            if rows:
                groups.append(Bars(group, rows))
        if groups:
            metric = by_key[key]
            unit = "" if metric.unit == "/s" else metric.unit
            name = f"{one.case.name}-{key.replace('_', '-')}.svg"
            (folder / name).write_text(bars(metric.title, unit, groups, ours=CAMFABRIC), encoding="utf-8")
            shown.append(f"![{one.case.title}: {metric.title}]({folder.name}/{name})")
    for metric in one.case.lines:
        drawn = [
            Line(who, points)
            for (_, who), rounds in one.result.rounds.items()
            if (points := next((each[metric.key] for each in rounds if each.get(metric.key)), None))
        ]
        if drawn:
            name = f"{one.case.name}-{metric.key.replace('_', '-')}.svg"
            (folder / name).write_text(lines(metric.title, metric.unit, drawn), encoding="utf-8")
            shown.append(f"![{one.case.title}: {metric.title}]({folder.name}/{name})")
    return [line for plot in shown for line in (plot, "")]


def _section(one: Measured, folder: Path) -> list[str]:
    text = [f"## {one.case.title}", "", one.case.about, ""]
    plan = one.plan
    text += [f"{plan.rounds} round{'s' if plan.rounds > 1 else ''}, windows of {short(plan.seconds)} s.", ""]
    text += _plots(one, folder)
    for group in _groups(one.result):
        head, rows = _table(one, group)
        if rows:
            text += [f"**{group}**", "", *_markdown_table(head, rows)]
    if absent := _absent(one.result):
        text += ["Not there:", "", *(f"- {line}" for line in absent), ""]
    settings = dict.fromkeys((variant.who, variant.settings) for variant in one.result.variants)
    text += ["<details><summary>Settings</summary>", "", *(f"- {who}: {what}" for who, what in settings), ""]
    return [*text, "</details>", ""]


def write_page(report: Report, page: Path) -> None:
    """Write the page, and its plots into a folder beside it that has its name."""
    folder = page.with_suffix("")
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob("*.svg"):
        old.unlink()
    text = [
        "# Benchmarks", "",
        "Made by `scripts/bench`; `scripts/bench --quick` takes two minutes. Every case runs the fabric and "
        "the peers side by side, alternating, each part a process of its own, all on one machine. A figure is "
        "the median of the rounds, with the smallest and the largest; \N{MULTIPLICATION SIGN} is the fabric's figure "
        "over that of the row, the median of the ratios round by round. Each peer has the settings that are best for "
        "the case; they are listed under it.",
        "",
    ]  # fmt: skip
    if report.is_quick:
        text += ["**A quick run: one short round. Figures for a first look alone.**", ""]
    text += [f"- {name}: {value}" for name, value in (*report.machine.items(), *report.versions.items())]
    text += [f"- took: {report.took_s / 60:.0f} min", ""]
    judged = [(bar.what, *_verdict(bar, value)) for one in report.measured for bar, value in _worth_saying(one, report)]
    if judged:
        text += ["## Bars", "", "What this project has set itself, and whether it is there.", ""]
        text += _markdown_table(("what", "bar", "measured", ""), judged)
    for one in report.measured:
        text += _section(one, folder)
    page.write_text("\n".join(text).rstrip() + "\n", encoding="utf-8")
