"""A case of the suite: what is compared with what, in rounds that alternate, and the bars that it has to reach."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final, Literal

from figures import Spread, ratio, spread
from stage import Failed, Figures

__all__ = ["CAMFABRIC", "Bar", "Case", "Metric", "Plan", "Result", "Variant", "run"]

CAMFABRIC: Final = "camfabric"


@dataclass(frozen=True)
class Plan:
    """How thoroughly it is measured."""

    rounds: int
    seconds: float
    """Of each window of time."""
    is_quick: bool


@dataclass(frozen=True)
class Metric:
    """One column of a case's table."""

    key: str
    title: str
    unit: str
    better: Literal["more", "less"]


@dataclass(frozen=True)
class Variant:
    """One row of a case's table."""

    group: str
    """Rows of one group are compared with each other."""
    who: str
    settings: str
    measure: Callable[[float], Figures]
    """Takes the seconds of its window."""
    missing: str = ""
    """Why it cannot run here."""

    @property
    def key(self) -> tuple[str, str]:
        """What it is called among the results."""
        return self.group, self.who


@dataclass
class Result:
    """What came of a case: for each row its figures, one set a round."""

    variants: list[Variant]
    rounds: dict[tuple[str, str], list[Figures]] = field(default_factory=dict)
    failed: dict[tuple[str, str], str] = field(default_factory=dict)
    """Why a row has no figures, or fewer."""

    def values(self, group: str, who: str, key: str) -> list[float]:
        """One figure, a number for each round; not a number where there is none."""
        return [float(figures.get(key, math.nan)) for figures in self.rounds.get((group, who), [])]

    def spread(self, group: str, who: str, key: str) -> Spread | None:
        """The median of one figure with its spread."""
        return spread(self.values(group, who, key))

    def ratio(self, group: str, key: str, against: str, *, who: str = CAMFABRIC) -> Spread | None:
        """One figure of the fabric over a peer's."""
        return ratio(self.values(group, who, key), self.values(group, against, key))

    def others(self, group: str) -> list[str]:
        """Who else is in a group and has figures."""
        return [who for one, who in self.rounds if one == group and who != CAMFABRIC]


@dataclass(frozen=True)
class Bar:
    """Something that has to be reached."""

    what: str
    side: Literal["at least", "at most"]
    bound: float
    value: Callable[[Result], float | None]
    """None where it could not be measured."""
    unit: str = ""

    def is_met(self, value: float) -> bool:
        """Whether a value reaches it."""
        return value >= self.bound if self.side == "at least" else value <= self.bound


@dataclass(frozen=True)
class Case:
    """One question, with all that is needed to answer it."""

    name: str
    title: str
    about: str
    metrics: Sequence[Metric]
    variants: Callable[[Plan], list[Variant]]
    full: Plan
    quick: Plan
    bars: Sequence[Bar] = ()
    plotted: Sequence[str] = ()
    """The metrics that the report shows as bars."""
    lines: Sequence[Metric] = ()
    """Figures over time that the report shows as lines."""


def run(case: Case, plan: Plan, step: Callable[[str], None]) -> Result:
    """Measure all rows of a case, one after the other, round by round. `step` is told before each.

    A row that fails twice running is left out of the other rounds.
    """
    result = Result(case.variants(plan))
    troubles: dict[tuple[str, str], int] = {}
    for variant in result.variants:
        if variant.missing:
            result.failed[variant.key] = variant.missing
    for number in range(plan.rounds):
        for variant in result.variants:
            step(f"{case.name} {number + 1}/{plan.rounds}  {variant.group}: {variant.who}")
            if variant.missing or troubles.get(variant.key, 0) > 1:
                continue
            try:
                figures = variant.measure(plan.seconds)
            except Failed as error:
                troubles[variant.key] = troubles.get(variant.key, 0) + 1
                result.failed[variant.key] = f"failed in round {number + 1}: {error}"
                figures = {}
            else:
                troubles[variant.key] = 0
            result.rounds.setdefault(variant.key, []).append(figures)
    result.rounds = {key: figures for key, figures in result.rounds.items() if any(figures)}
    return result
