"""The pulse of a camera: its rate and its state, by a clock that is set."""

from __future__ import annotations

import pytest

from camfabric.cli.output import rate_text
from camfabric.publisher.pulse import Pulse


class _Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.mark.parametrize("interval_s", [0.04, 0.5, 3.0, 7.0, 3600.0])
def test_the_rate_is_that_of_the_pictures_at_any_time_between_them(interval_s: float) -> None:
    clock = _Clock()
    pulse = Pulse(clock)
    clock.now += 10
    for _ in range(60):
        clock.now += interval_s
        pulse.beat()
    for _ in range(10):
        clock.now += interval_s / 20
        assert pulse.per_second() == pytest.approx(1 / interval_s, rel=0.26)
        assert pulse.state() == ("live", "")


@pytest.mark.parametrize(
    ("per_second", "text"), [(29.97, "30.0"), (0.0, "0.0"), (0.14, "0.14"), (0.000278, "0.00028"), (1.0, "1.0")]
)
def test_a_slow_rate_is_not_shown_as_none(per_second: float, text: str) -> None:
    assert rate_text(per_second) == text
