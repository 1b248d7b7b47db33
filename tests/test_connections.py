"""What the kernel is told of a connection."""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import Any, Final

from camfabric.common import connections
from camfabric.common.frame import Codec
from camfabric.publisher import Publisher
from camfabric.subscriber import Subscriber

ANY: Final = "tcp://127.0.0.1:*"


def _send_buffer(descriptor: int) -> int:
    with socket.socket(fileno=os.dup(descriptor)) as own:
        return own.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF)


def test_on_one_host_the_kernel_holds_no_more_than_the_caches_do(eventually: Any) -> None:
    most = int(Path("/proc/sys/net/core/wmem_max").read_text())
    with Publisher("a", bind=ANY, codec="copy") as publisher, Subscriber(publisher.endpoint, decode=False) as reader:

        def buffer_after(size: int) -> int:
            publisher.send_packet(bytes(size), codec=Codec.H264, size=(64, 48), keyframe=True)
            reader.read(timeout=10)
            (peer,) = publisher._sender._audience.peers
            return _send_buffer(peer.descriptor)

        # Linux takes twice of what it is told, and no more than is allowed.
        wanted = 2 * min(connections._SEND_BUFFER_BYTES, most)
        assert buffer_after(30_000) != wanted
        eventually(lambda: buffer_after(3_000_000) == wanted)


def test_what_goes_to_another_address_is_left_to_the_kernel() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server, socket.socket() as client:
        client.bind(("127.0.0.2", 0))
        client.connect(server.getsockname())
        connection, _ = server.accept()
        with connection:
            before = _send_buffer(connection.fileno())
            connections.bound_within_host(connection.fileno(), os.fstat(connection.fileno()).st_ino)
            assert _send_buffer(connection.fileno()) == before
    first, second = socket.socketpair()
    with first, second:
        before = _send_buffer(first.fileno())
        connections.bound_within_host(first.fileno(), os.fstat(first.fileno()).st_ino)
        assert _send_buffer(first.fileno()) == before


def test_what_is_told_of_a_connection() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()) as client:
        connection, _ = server.accept()
        with connection:
            before = connections.acknowledged_bytes(client.fileno())
            assert before is not None
            client.sendall(bytes(1000))
            assert len(connection.recv(1000, socket.MSG_WAITALL)) == 1000
            assert connections.acknowledged_bytes(client.fileno()) == before + 1000
            assert connections.received_bytes(connection.fileno()) == 1000
            assert 0 < connections.round_trip_s(client.fileno()) < 1
    first, second = socket.socketpair()
    with first, second:
        assert connections.acknowledged_bytes(first.fileno()) is None
        assert connections.received_bytes(first.fileno()) is None
        assert connections.round_trip_s(first.fileno()) == 0
