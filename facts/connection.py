"""SSH connections that do not wait for nothing, and notice when the other side is gone."""

from __future__ import annotations

import socket
from typing import Any

from pyinfra.connectors.sshuserclient import client

KEEPALIVE = 15  # seconds; a host that was powered off would hang the run for ever without it


def quicken() -> None:
    """Turn off Nagle's algorithm, and turn on keepalive, on every SSH connection made after this.

    paramiko leaves Nagle on, and each command then waits about 40 ms for a delayed acknowledgement:
    44 ms where 2.3 do (measured against a host on the same machine).
    """
    connect = client.SSHClient.connect

    def quick_connect(self: client.SSHClient, *args: Any, **kwargs: Any) -> None:  # noqa: ANN401
        connect(self, *args, **kwargs)  # type: ignore[no-untyped-call]
        transport = self.get_transport()
        if transport is None:
            return
        transport.set_keepalive(KEEPALIVE)
        if isinstance(transport.sock, socket.socket):  # not so through a jump host or a command
            transport.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    client.SSHClient.connect = quick_connect  # type: ignore[method-assign]
