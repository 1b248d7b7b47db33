"""Waiting for sockets: nothing that comes is missed, whatever was done to a socket before, and nothing is made up."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
import zmq

from camfabric.common.sockets import Watch, receive


@pytest.fixture
def pair() -> Iterator[tuple[Any, Any]]:
    """Two ends of a connection."""
    context: zmq.Context[Any] = zmq.Context()
    here, there = context.socket(zmq.PAIR), context.socket(zmq.PAIR)
    here.bind("inproc://here")
    there.connect("inproc://here")
    yield here, there
    context.destroy(0)


@pytest.mark.parametrize("quiet", [False, True])
def test_the_first_message_is_noticed_and_each_one_after_it(pair: tuple[Any, Any], quiet: bool) -> None:
    here, there = pair
    watch = Watch()
    watch.register(here, quiet=quiet)
    for number in range(50):
        assert watch.wait(0) == set()
        there.send(b"%d" % number)
        assert watch.wait(5) == {here}
        assert here.recv() == b"%d" % number


@pytest.mark.parametrize("quiet", [False, True])
def test_what_was_left_is_noticed_at_once(pair: tuple[Any, Any], quiet: bool) -> None:
    here, there = pair
    watch = Watch()
    watch.register(here, quiet=quiet)
    assert watch.wait(0) == set()
    for _ in range(3):
        there.send(b"")
    for _ in range(3):
        assert watch.wait(5) == {here}
        here.recv()
    assert watch.wait(0) == set()


def test_what_came_while_a_socket_was_used_is_noticed(pair: tuple[Any, Any]) -> None:
    """To send, or to ask what it can do, takes the sign that something has come."""
    here, there = pair
    watch = Watch()
    watch.register(here)
    assert watch.wait(0) == set()
    for _ in range(20):
        there.send(b"")
        here.send(b"")
        here.getsockopt(zmq.EVENTS)
        assert watch.wait(5) == {here}
        assert receive(here) is not None


def test_a_message_ends_the_wait(pair: tuple[Any, Any]) -> None:
    here, there = pair
    watch = Watch()
    watch.register(here, quiet=True)
    begun = time.monotonic()
    sender = threading.Timer(0.05, there.send, [b""])
    sender.start()
    assert watch.wait(30) == {here}
    assert time.monotonic() - begun < 20
    sender.join()


def test_descriptors_and_the_end_of_the_time() -> None:
    read, write = os.pipe()
    watch = Watch()
    watch.register(read)
    assert watch.wait(0.01) == set()
    os.write(write, b"x")
    assert watch.wait(5) == {read}
    assert watch.wait(5) == {read}
    os.close(read)
    os.close(write)


def test_what_is_not_registered_any_more_is_not_told(pair: tuple[Any, Any]) -> None:
    here, there = pair
    watch = Watch()
    watch.register(here, quiet=True)
    there.send(b"")
    assert watch.wait(5) == {here}
    watch.unregister(here)
    assert watch.wait(0) == set()
