"""The benchmark suite's own arithmetic, its report and its plots; no figure of speed is asserted."""

from __future__ import annotations

import importlib
import json
import math
import sys
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import numpy as np
import pytest

_BENCH: Final = str(Path(__file__).parent.parent / "bench")
_SVG: Final = "{http://www.w3.org/2000/svg}"


@pytest.fixture(scope="module")
def bench() -> Iterator[Any]:
    """Imports a module of the suite, which is no package of the project."""
    before = set(sys.modules)
    sys.path.insert(0, _BENCH)
    try:
        yield importlib.import_module
    finally:
        sys.path.remove(_BENCH)
        for name in set(sys.modules) - before:
            if str(getattr(sys.modules[name], "__file__", "")).startswith(_BENCH):
                del sys.modules[name]


# Statistics


def test_a_spread_is_the_median_and_both_ends_of_what_is_a_number(bench: Any) -> None:
    figures = bench("figures")
    assert figures.spread([3.0, math.nan, 1.0, 2.0, 10.0]) == figures.Spread(2.5, 1.0, 10.0, 4)
    assert figures.spread([math.nan, math.inf]) is None
    assert figures.spread([]) is None


@pytest.mark.parametrize(("percent", "expected"), [(50, 50), (99, 99), (100, 100), (1, 1), (0.5, 1)])
def test_a_percentile_is_a_value_that_was_measured(bench: Any, percent: float, expected: float) -> None:
    assert bench("figures").percentile([float(value) for value in range(100, 0, -1)], percent) == expected


@pytest.mark.parametrize(("values", "percent"), [([], 50), ([1.0], 0), ([1.0], 101)])
def test_a_percentile_of_nothing_is_refused(bench: Any, values: list[float], percent: float) -> None:
    with pytest.raises(ValueError, match=r"values|above 0"):
        bench("figures").percentile(values, percent)


def test_a_ratio_is_taken_round_by_round(bench: Any) -> None:
    """A machine that is slow in one round is slow for both: the ratio of the medians would be 10 / 3."""
    figures = bench("figures")
    assert figures.ratio([10.0, 1.0, 20.0], [5.0, 0.5, 3.0]).median == 2
    assert figures.ratio([10.0, 1.0], [math.nan, 0.5]) == figures.Spread(2, 2, 2, 1)
    assert figures.ratio([1.0], [0.0]) is None


# Cases


def _case(bench: Any, *, broken: str = "", missing: str = "") -> Any:
    case = bench("case")
    failed = bench("stage").Failed
    calls: list[str] = []

    def measure(who: str, figure: float) -> Any:
        def measured(seconds: float) -> dict[str, float]:
            calls.append(who)
            if who == broken:
                raise failed("it broke")
            return {"rate": figure * calls.count(who)}

        return measured

    variants = [
        case.Variant("a | group", "camfabric", "ours", measure("camfabric", 200.0)),
        case.Variant("a | group", "other", "<theirs>", measure("other", 100.0), missing),
    ]
    made = case.Case(
        name="made",
        title="A made one",
        about="It says what it is.",
        metrics=(case.Metric("rate", "frames/s", "/s", "more"), case.Metric("none", "never there", "ms", "less")),
        variants=lambda plan: variants,
        full=case.Plan(3, 1.0, False),
        quick=case.Plan(1, 0.1, True),
        bars=(
            case.Bar(
                "over the other", "at least", 2, lambda result: _median(result.ratio("a | group", "rate", "other"))
            ),
            case.Bar(
                "rate", "at most", 10, lambda result: _median(result.spread("a | group", "camfabric", "rate")), "/s"
            ),
            case.Bar("nothing", "at least", 1, lambda result: None),
        ),
        plotted=("rate", "none"),
    )
    return made, calls


def _median(spread: Any) -> float | None:
    return None if spread is None else float(spread.median)


def _measured(bench: Any, **how: str) -> tuple[Any, list[str], list[str]]:
    case, calls = _case(bench, **how)
    steps: list[str] = []
    result = bench("case").run(case, case.full, steps.append)
    return bench("report").Measured(case, case.full, result), calls, steps


def test_rounds_alternate_between_the_fabric_and_its_peers(bench: Any) -> None:
    one, calls, steps = _measured(bench)
    assert calls == ["camfabric", "other"] * 3
    assert len(steps) == 6
    assert one.result.values("a | group", "camfabric", "rate") == [200, 400, 600]
    assert one.result.ratio("a | group", "rate", "other").median == 2


def test_what_is_not_installed_is_said_and_not_run(bench: Any) -> None:
    one, calls, steps = _measured(bench, missing="other is not installed")
    assert calls == ["camfabric"] * 3
    assert len(steps) == 6
    assert one.result.failed == {("a | group", "other"): "other is not installed"}


def test_what_fails_twice_running_is_left_out_and_said(bench: Any) -> None:
    one, calls, _ = _measured(bench, broken="other")
    assert calls.count("other") == 2
    assert "it broke" in one.result.failed["a | group", "other"]
    assert one.result.others("a | group") == []


# Report


def _report(bench: Any, **how: str) -> Any:
    one, _, _ = _measured(bench, **how)
    return bench("report").Report({"CPU": "a model"}, {"Python": "3"}, [one], False, 61.0)


def test_the_json_has_every_round_the_ratios_and_the_bars(bench: Any) -> None:
    whole = json.loads(bench("report").as_json(_report(bench)))
    ours, theirs = whole["cases"][0]["rows"]
    assert ours["rounds"] == [{"rate": 200.0}, {"rate": 400.0}, {"rate": 600.0}]
    assert ours["metrics"]["rate"]["camfabric_over_this"] is None
    assert theirs["metrics"]["rate"]["camfabric_over_this"]["median"] == 2
    assert "none" not in ours["metrics"]
    assert [bar["verdict"] for bar in whole["cases"][0]["bars"]] == ["met", "missed", "not measured"]


def test_json_has_no_number_that_is_none(bench: Any) -> None:
    report = _report(bench)
    report.measured[0].result.rounds["a | group", "other"][0]["rate"] = math.nan
    assert "NaN" not in bench("report").as_json(report)


def test_the_page_shows_tables_bars_settings_and_what_is_not_there(bench: Any, tmp_path: Path) -> None:
    page = tmp_path / "benchmarks.md"
    bench("report").write_page(_report(bench, missing="other is not installed"), page)
    text = page.read_text(encoding="utf-8")
    assert "| **camfabric** | **400 (200 to 600)** |" in text
    assert "- a | group: other: other is not installed" in text
    assert "| rate | ≤ 10 /s | 400 /s | missed |" in text
    assert "- camfabric: ours" in text
    assert "never there" not in text
    for line in text.splitlines():
        if line.startswith("!["):
            assert (tmp_path / line.partition("](")[2].rstrip(")")).is_file()


def test_a_plot_that_is_not_made_any_more_is_taken_away(bench: Any, tmp_path: Path) -> None:
    old = tmp_path / "benchmarks" / "old.svg"
    old.parent.mkdir()
    old.write_text("<svg/>")
    bench("report").write_page(_report(bench), tmp_path / "benchmarks.md")
    assert [path.name for path in old.parent.iterdir()] == ["made-rate.svg"]


# Plots


def test_bars_are_as_long_as_their_figures(bench: Any) -> None:
    plots, figures = bench("plots"), bench("figures")
    rows = [("camfabric", figures.Spread(50.0, 40.0, 60.0, 3)), ("a < b & c", figures.Spread(25.0, 25.0, 25.0, 3))]
    root = ET.fromstring(plots.bars("Rate", "ms", [plots.Bars("a & b", rows)], ours="camfabric"))  # noqa: S314
    ours, theirs = root.iter(f"{_SVG}rect")
    assert float(ours.attrib["width"]) == pytest.approx(2 * float(theirs.attrib["width"]), rel=0.01)
    assert (ours.attrib["class"], theirs.attrib["class"]) == ("ours", "theirs")
    assert "a < b & c" in {text.text for text in root.iter(f"{_SVG}text")}


@pytest.mark.parametrize("values", [[1.0, 2.0], [1.0, 5000.0], [0.0, 3.0], []])
def test_lines_stay_on_the_paper(bench: Any, values: list[float]) -> None:
    plots = bench("plots")
    line = plots.Line("a", [(float(at), value) for at, value in enumerate(values)])
    root = ET.fromstring(plots.lines("Age", "ms", [line]))  # noqa: S314
    width, height = (float(root.attrib[side]) for side in ("width", "height"))
    for path in root.iter(f"{_SVG}path"):
        if path.attrib["class"].startswith("line c0") and "h" not in path.attrib["d"]:
            for point in path.attrib["d"].removeprefix("M").split("L"):
                x, y = map(float, point.split())
                assert 0 <= x <= width
                assert 0 <= y <= height


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (0.04123, "0.0412"), (1.5, "1.5"), (30, "30"), (1926.7, "1 927"), (0.999, "0.999"), (math.nan, "-")],
)
def test_numbers_have_three_digits(bench: Any, value: float, text: str) -> None:
    assert bench("plots").short(value) == text


# What the suite measures with


@pytest.mark.parametrize("content", ["pixels", "coded", "bytes"])
def test_the_time_in_a_picture_is_read_back_from_what_arrives(bench: Any, content: str) -> None:
    pictures = bench("pictures")
    time_ns = 0x0123_4567_89AB_CDEF
    image = pictures.make_pictures(pictures.HD, 1)[0]
    picture = pictures.encoded(image) if content == "bytes" else image
    picture = pictures.stamped(picture, content, time_ns)
    if content == "coded":
        picture = pictures.decoded(pictures.encoded(picture))
    if content == "bytes":
        assert np.array_equal(pictures.decoded(picture), pictures.decoded(pictures.encoded(image)))
    assert pictures.read_stamp(picture, content) == time_ns


def test_a_stream_is_measured_across_processes(bench: Any) -> None:
    stage, fabric, pictures = bench("stage"), bench("peers.fabric"), bench("pictures")
    link = stage.free_link(content="bytes", size=pictures.HD)
    figures = stage.stream(fabric.FABRIC, link, stage.Load(fps=30.0), stage.Window(0.3, warm_up_s=0))
    assert figures["fps"] > 0
    assert figures["sender_cpu_ms"] > 0
    assert figures["p50_ms"] > 0


def test_a_part_that_fails_is_a_reason_and_not_a_hang(bench: Any) -> None:
    stage, fabric = bench("stage"), bench("peers.fabric")
    nowhere = bench("peers.peer").Link("tcp://127.0.0.1:not-a-port", "tcp://127.0.0.1:not-a-port")
    with pytest.raises(stage.Failed, match="not-a-port"):
        stage.stream(fabric.FABRIC, nowhere, stage.Load(fps=30.0), stage.Window(0.1))
