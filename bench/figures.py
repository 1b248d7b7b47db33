"""The statistics of the benchmarks: medians with their spread, percentiles, and ratios of what ran side by side."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["Spread", "percentile", "ratio", "spread"]


@dataclass(frozen=True, slots=True)
class Spread:
    """A median of several rounds, and how far they were apart."""

    median: float
    low: float
    high: float
    count: int


def spread(values: Sequence[float]) -> Spread | None:
    """The median, smallest and largest of what is a number; None where nothing is."""
    known = [value for value in values if math.isfinite(value)]
    if not known:
        return None
    return Spread(statistics.median(known), min(known), max(known), len(known))


def percentile(values: Sequence[float], percent: float) -> float:
    """The smallest value that so many percent of all do not exceed (nearest rank).

    Raises:
        ValueError: there are no values, or `percent` is not above 0 and up to 100.
    """
    if not values:
        raise ValueError("no values")
    if not 0 < percent <= 100:
        raise ValueError(f"{percent} %: it is above 0, and at most 100")
    return sorted(values)[math.ceil(len(values) * percent / 100) - 1]


def ratio(ours: Sequence[float], theirs: Sequence[float]) -> Spread | None:
    """The ratio of two that ran side by side, round by round: the machine's mood cancels out.

    Rounds in which one of them has no figure are left out.
    """
    pairs = zip(ours, theirs, strict=False)
    return spread([our / their for our, their in pairs if math.isfinite(our) and math.isfinite(their) and their])
