"""The roster, by a clock that the test turns: who owns a name, who is silent, who claims what is not his."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from camfabric.common.roster import Conflict, Roster
from camfabric.common.settings import LIMITS, TIMES
from camfabric.common.status import IDLE, LIVE, OFFLINE, STALLED, Status

_SOME = settings(max_examples=150, deadline=None)


class _Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class _Publisher:
    """Speaks for a camera, as one that started at a time of the clock does."""

    def __init__(
        self, roster: Roster, clock: _Clock, epoch: int, *, age_s: float = 0.0, camera: str = "cctv/1"
    ) -> None:
        self.roster, self.clock, self.epoch, self.camera = roster, clock, epoch, camera
        self.started = clock.now - age_s

    def says(self, state: str = LIVE, *, reason: str = "", late_s: float = 0.0) -> bool:
        """A status; `late_s` is how long it was under way."""
        uptime_ms = int((self.clock.now - late_s - self.started) * 1000)
        status = Status(
            camera=self.camera, epoch=self.epoch, state=state, reason=reason, uptime_ms=uptime_ms, fps_in=25.0
        )
        return self.roster.heard(status)

    def sends(self) -> bool:
        return self.roster.accepts(self.camera, self.epoch)


@pytest.fixture
def clock() -> _Clock:
    return _Clock()


@pytest.fixture
def roster(clock: _Clock) -> Roster:
    return Roster(clock)


def _owner(roster: Roster, camera: str = "cctv/1") -> int:
    return roster.statuses()[camera].epoch


# Ownership


def test_who_comes_first_owns_the_name(roster: Roster, clock: _Clock) -> None:
    publisher = _Publisher(roster, clock, 1)
    assert publisher.sends()
    assert roster.statuses() == {}
    assert publisher.says()
    assert publisher.sends()
    assert _owner(roster) == 1
    assert roster.conflicts() == []


def test_a_newer_publisher_takes_the_name(roster: Roster, clock: _Clock) -> None:
    old = _Publisher(roster, clock, 1, age_s=3600)
    assert old.says()
    assert old.sends()
    new = _Publisher(roster, clock, 2)
    assert not new.sends(), "frames alone do not say who is newer"
    assert new.says()
    assert new.sends()
    assert not old.sends()
    assert not old.says()
    assert _owner(roster) == 2


def test_an_older_publisher_does_not_take_the_name(roster: Roster, clock: _Clock) -> None:
    new = _Publisher(roster, clock, 2)
    assert new.says()
    old = _Publisher(roster, clock, 1, age_s=3600)
    assert not old.says()
    assert not old.sends()
    assert new.sends()
    assert roster.rivals("cctv/1") == 1
    assert roster.conflicts() == [Conflict("cctv/1", winner=2, loser=1)]


def test_two_that_go_on_are_not_interleaved(roster: Roster, clock: _Clock) -> None:
    old = _Publisher(roster, clock, 1, age_s=10)
    new = _Publisher(roster, clock, 2)
    old.says()
    new.says()
    for second in range(60):
        clock.now += 1
        # Whatever delay each word had, the owner stays.
        assert not old.says(late_s=second % 3 * 0.4)
        assert new.says(late_s=(second + 1) % 3 * 0.4)
        assert not old.sends()
        assert new.sends()
        assert list(roster.expire()) == []


def test_two_that_started_at_the_same_time_are_not_interleaved(roster: Roster, clock: _Clock) -> None:
    one, two = _Publisher(roster, clock, 1), _Publisher(roster, clock, 2)
    owners = []
    for second in range(30):
        clock.now += 1
        one.says(late_s=second * 7 % 5 / 10)
        two.says(late_s=second * 3 % 5 / 10)
        owners.append(_owner(roster))
        assert one.sends() != two.sends()
    assert sum(before != after for before, after in pairwise(owners)) <= 1


@pytest.mark.parametrize("frame_first", [1, 2])
@pytest.mark.parametrize("status_first", [1, 2])
def test_the_newer_wins_in_whatever_order_they_are_heard(
    roster: Roster, clock: _Clock, frame_first: int, status_first: int
) -> None:
    publishers = {1: _Publisher(roster, clock, 1, age_s=3600), 2: _Publisher(roster, clock, 2, age_s=10)}
    publishers[frame_first].sends()
    for epoch in (status_first, 3 - status_first):
        clock.now += 0.1
        publishers[epoch].says()
    clock.now += 1
    for epoch in (status_first, 3 - status_first):
        publishers[epoch].says()
    assert _owner(roster) == 2
    assert publishers[2].sends()
    assert not publishers[1].sends()


def test_a_standby_with_a_dead_source_does_not_take_turns(roster: Roster, clock: _Clock) -> None:
    old, new = _Publisher(roster, clock, 1, age_s=3600), _Publisher(roster, clock, 2, age_s=10)
    owners = []
    for _ in range(20):
        clock.now += 0.5
        new.says(OFFLINE, reason="the camera does not answer")
        owners.append(_owner(roster))
        clock.now += 0.5
        old.says()
        old.sends()
        owners.append(_owner(roster))
    assert owners[-4:] == [1] * 4, "the one that has pictures is shown"
    assert sum(before != after for before, after in pairwise(owners)) <= 1
    assert len(roster.conflicts()) <= 1
    new.says()
    assert _owner(roster) == 2, "it has pictures again, and it is the newer one"


def test_a_newcomer_without_a_picture_takes_no_live_cameras_name(roster: Roster, clock: _Clock) -> None:
    old, new = _Publisher(roster, clock, 1, age_s=3600), _Publisher(roster, clock, 2, age_s=1)
    for _ in range(20):
        clock.now += 0.5
        old.says()
        assert old.sends()
        assert not new.says("stalled", reason="no picture yet")
    assert roster.conflicts() == [], "it interleaves nothing"
    assert new.says()
    assert not old.sends()


def test_two_with_dead_sources_do_not_take_turns(roster: Roster, clock: _Clock) -> None:
    old, new = _Publisher(roster, clock, 1, age_s=3600), _Publisher(roster, clock, 2, age_s=10)
    owners = []
    for _ in range(20):
        clock.now += 0.5
        new.says(OFFLINE, reason="no route to host")
        owners.append(_owner(roster))
        clock.now += 0.5
        old.says(OFFLINE, reason="refused")
        owners.append(_owner(roster))
    assert sum(before != after for before, after in pairwise(owners)) <= 1


def test_names_do_not_get_mixed_up(roster: Roster, clock: _Clock) -> None:
    one, two = _Publisher(roster, clock, 1, camera="a"), _Publisher(roster, clock, 2, camera="b")
    assert one.says()
    assert two.says()
    assert one.sends()
    assert two.sends()
    assert roster.rivals("a") == roster.rivals("b") == roster.rivals("nobody") == 0
    assert list(roster.statuses()) == ["a", "b"]


# Restarts


def test_a_restart_within_the_silence_is_no_conflict(roster: Roster, clock: _Clock) -> None:
    old = _Publisher(roster, clock, 1, age_s=100)
    old.says()
    clock.now += 0.7  # killed, and started anew by its supervisor
    new = _Publisher(roster, clock, 2)
    assert new.says()
    assert new.sends()
    # The old one's last frame and word were still under way.
    clock.now += 0.2
    assert not old.sends()
    assert not old.says(late_s=0.9)
    for _ in range(5):
        clock.now += 1
        assert new.says()
        assert list(roster.expire()) == []
    assert roster.conflicts() == []
    assert roster.rivals("cctv/1") == 0


def test_a_restart_after_a_goodbye_is_no_conflict(roster: Roster, clock: _Clock) -> None:
    old = _Publisher(roster, clock, 1, age_s=100)
    old.says()
    assert old.says(OFFLINE, reason="its publisher ended")
    new = _Publisher(roster, clock, 2)
    assert new.sends(), "who said goodbye has no claim"
    assert new.says()
    assert roster.conflicts() == []


def test_a_goodbye_that_comes_late_changes_nothing(roster: Roster, clock: _Clock) -> None:
    old = _Publisher(roster, clock, 1, age_s=100)
    old.says()
    new = _Publisher(roster, clock, 2)
    new.says()
    assert not old.says(OFFLINE)
    assert roster.statuses()["cctv/1"].state == LIVE


def test_who_is_silent_loses_the_name_even_to_an_older_one(roster: Roster, clock: _Clock) -> None:
    new, old = _Publisher(roster, clock, 2), _Publisher(roster, clock, 1, age_s=1000)
    new.says()
    clock.now += TIMES.offline_s + 0.1
    assert old.sends()
    assert old.says()
    assert _owner(roster) == 1
    assert roster.conflicts() == []


def test_many_restarts_are_no_conflict(roster: Roster, clock: _Clock) -> None:
    for epoch in range(1, 50):
        publisher = _Publisher(roster, clock, epoch)
        assert publisher.says()
        assert publisher.sends()
        clock.now += 1
        assert publisher.says()
        list(roster.expire())
    assert roster.conflicts() == []
    assert roster.rivals("cctv/1") == 0


# Reports


def test_a_conflict_is_reported_once_an_episode(roster: Roster, clock: _Clock) -> None:
    old, new = _Publisher(roster, clock, 1, age_s=10), _Publisher(roster, clock, 2)

    def both(seconds: int) -> list[Conflict]:
        for _ in range(seconds):
            clock.now += 1
            new.says()
            new.sends()
            old.says()
            old.sends()
            list(roster.expire())
        return roster.conflicts()

    old.says()
    new.says()
    assert both(10) == [Conflict("cctv/1", winner=2, loser=1)]
    assert both(60) == []
    assert roster.rivals("cctv/1") == 1
    for _ in range(10):  # the loser goes away
        clock.now += 1
        new.says()
        list(roster.expire())
    assert roster.rivals("cctv/1") == 0
    assert both(3) == [Conflict("cctv/1", winner=2, loser=1)]


def test_rivals_are_counted(roster: Roster, clock: _Clock) -> None:
    new = _Publisher(roster, clock, 9)
    new.says()
    for epoch in range(1, 4):
        _Publisher(roster, clock, epoch, age_s=100 * epoch).says()
    assert roster.rivals("cctv/1") == 3
    assert len(roster.conflicts()) == 1


# Silence


@pytest.mark.parametrize("state", [LIVE, IDLE, STALLED, "dreaming"])
def test_who_falls_silent_is_offline(roster: Roster, clock: _Clock, state: str) -> None:
    publisher = _Publisher(roster, clock, 1)
    publisher.says(state)
    clock.now += TIMES.offline_s - 0.1
    assert list(roster.expire()) == []
    clock.now += 0.2
    made_up = list(roster.expire())
    assert [(status.camera, status.state, status.fps_in) for status in made_up] == [("cctv/1", OFFLINE, 0.0)]
    assert made_up[0].reason
    assert roster.statuses()["cctv/1"] == made_up[0]
    assert list(roster.expire()) == []
    assert publisher.says()
    assert roster.statuses()["cctv/1"].state == LIVE


def test_frames_are_words_too(roster: Roster, clock: _Clock) -> None:
    publisher = _Publisher(roster, clock, 1)
    publisher.says()
    for _ in range(10):
        clock.now += 1
        assert publisher.sends()
        assert list(roster.expire()) == []


def test_a_rival_does_not_keep_a_dead_owner_alive(roster: Roster, clock: _Clock) -> None:
    owner, rival = _Publisher(roster, clock, 2), _Publisher(roster, clock, 1, age_s=100)
    owner.says()
    taken = []
    for _ in range(4):
        clock.now += 1
        taken.append(rival.says())
    assert taken == [False, False, True, True]


def test_who_said_goodbye_is_not_made_up_again(roster: Roster, clock: _Clock) -> None:
    _Publisher(roster, clock, 1).says(OFFLINE, reason="its publisher ended")
    clock.now += 100
    assert list(roster.expire()) == []
    assert roster.statuses()["cctv/1"].reason == "its publisher ended"


def test_who_is_long_gone_is_forgotten(roster: Roster, clock: _Clock) -> None:
    _Publisher(roster, clock, 1).says()
    clock.now += 3
    list(roster.expire())
    clock.now += TIMES.forget_s
    assert list(roster.expire()) == []
    assert roster.statuses() == {}


def test_a_full_roster_forgets_who_is_offline_before_it_refuses(roster: Roster, clock: _Clock) -> None:
    for number in range(LIMITS.cameras):
        _Publisher(roster, clock, number, camera=f"c/{number}").says(OFFLINE if number == 5 else LIVE)
    assert _Publisher(roster, clock, 1, camera="one/more").says()
    assert "c/5" not in roster.statuses()
    assert not _Publisher(roster, clock, 1, camera="two/more").says()
    assert not _Publisher(roster, clock, 1, camera="two/more").sends()
    assert _Publisher(roster, clock, 7, camera="c/7").says()
    assert len(roster.statuses()) == LIMITS.cameras


# Whatever happens

_EVENTS = st.lists(
    st.tuples(
        st.sampled_from([1, 2, 3]), st.sampled_from(["live", "offline", "frame", "wait", "expire"]), st.floats(0, 2)
    ),
    max_size=60,
)


@_SOME
@given(_EVENTS)
def test_a_name_has_one_owner_whatever_happens(events: list[tuple[int, str, float]]) -> None:
    clock = _Clock()
    roster = Roster(clock)
    publishers = {epoch: _Publisher(roster, clock, epoch, age_s=100 / epoch) for epoch in (1, 2, 3)}
    for epoch, what, seconds in events:
        if what == "wait":
            clock.now += seconds
        elif what == "expire":
            assert all(status.state == OFFLINE for status in roster.expire())
        elif what == "frame":
            if publishers[epoch].sends():
                assert publishers[epoch].sends()
        elif publishers[epoch].says(what):
            assert _owner(roster) == epoch
            assert roster.statuses()["cctv/1"].state == what
        assert 0 <= roster.rivals("cctv/1") <= 2
