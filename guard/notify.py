"""Tell systemd: sd_notify's protocol, one datagram a message (sd_notify(3))."""

from __future__ import annotations

import os
import socket
import sys


class Notifier:
    """Sends to ``NOTIFY_SOCKET``; without one (not under systemd) it says nothing."""

    def __init__(self, address: str | None) -> None:
        self._address = address.replace("@", "\0", 1) if address else None
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) if address else None
        self._told = True

    @classmethod
    def from_environment(cls) -> Notifier:
        """Take the address and forget it, so that the engine never inherits it."""
        return cls(os.environ.pop("NOTIFY_SOCKET", None))

    def send(self, *, must_arrive: bool = False, **fields: str | int) -> None:
        """A full socket (ten messages, when systemd does not read) holds up what must arrive only:
        words that are late are worth less than an event loop that turns."""
        if self._socket is None or self._address is None:
            return
        message = "\n".join(f"{key}={value}" for key, value in fields.items())
        self._socket.setblocking(must_arrive)
        try:
            self._socket.sendto(message.encode(), self._address)
            self._told = True
        except BlockingIOError:
            pass
        except OSError as error:
            # What systemd does not hear it acts on by itself; we go on, and may be heard again.
            if self._told:
                print(f"guard: systemd is not told: {error}", file=sys.stderr, flush=True)
            self._told = False

    def ready(self, status: str) -> None:
        self.send(must_arrive=True, READY=1, STATUS=status)

    def stopping(self, status: str) -> None:
        self.send(STOPPING=1, STATUS=status)

    def status(self, status: str) -> None:
        self.send(STATUS=status)

    def extend_start(self, seconds: float, status: str) -> None:
        """Ask for this much longer from now on; only told while something moves."""
        self.send(EXTEND_TIMEOUT_USEC=int(seconds * 1e6), STATUS=status)

    def alive(self) -> None:
        self.send(WATCHDOG=1)
