"""The slow link delays, and changes nothing else."""

import socket
import threading
import time

from lab.proxy import slow_link


def echo_once(server: socket.socket) -> None:
    """Send back what one connection sends."""
    connection, _ = server.accept()
    with connection:
        while piece := connection.recv(1 << 16):
            connection.sendall(piece)


def test_a_round_trip_takes_as_long_as_asked() -> None:
    """Connecting and one exchange take a round trip each; a megabyte more comes whole, and soon."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        address, port = server.getsockname()
        threading.Thread(target=echo_once, args=(server,), daemon=True).start()
        with slow_link(address, port, round_trip_ms=100) as (near, near_port):
            began = time.monotonic()
            with socket.create_connection((near, near_port), timeout=10) as connection:
                connection.sendall(b"x")
                assert connection.recv(1) == b"x"
                first = time.monotonic() - began
                began = time.monotonic()
                threading.Thread(target=connection.sendall, args=(b"y" * (1 << 20),)).start()
                left = 1 << 20
                while left:
                    left -= len(connection.recv(left))
                bulk = time.monotonic() - began
    assert 0.19 < first < 0.5
    assert 0.09 < bulk < 1.0
