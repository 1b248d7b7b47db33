"""The cases of the suite, one module each."""

from __future__ import annotations

from case import Case

from cases.fan_out import FAN_OUT
from cases.idle_cameras import IDLE
from cases.joining import JOINING
from cases.latency import LATENCY
from cases.memory import MEMORY
from cases.passing_on import PASSING_ON
from cases.relay import RELAY
from cases.slow import SLOW
from cases.start_up import START_UP
from cases.throughput import JPEG, RAW

__all__ = ["CASES"]

CASES: tuple[Case, ...] = (RAW, JPEG, LATENCY, FAN_OUT, SLOW, JOINING, RELAY, IDLE, START_UP, PASSING_ON, MEMORY)
