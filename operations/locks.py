"""One deploy at a time on a host."""

from __future__ import annotations

import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gevent
from pyinfra import host, logger, state
from pyinfra.api import FunctionCommand, Host, QuoteString, State, StringCommand, operation
from pyinfra.api.exceptions import PyinfraError
from pyinfra.api.state import BaseStateCallback, StateStage
from pyinfra.connectors.util import extract_control_arguments, make_unix_command_for_host
from typing_extensions import override

from manifest import layout
from operations.convergence import Commands, refuse

PROGRAM = (Path(__file__).parent / "lock_program.py").read_text(encoding="utf-8")
HEARTBEAT = 15  # seconds
SILENCE = 4 * HEARTBEAT  # seconds after which the host gives up; lock_program.py has the same
ANSWER = 20  # seconds to wait for the host's word
LOST = (
    "the deploy lock is lost: the host ended it, or heard nothing for a minute, and another deploy"
    " may have begun: run this one again"
)


@operation()
def held(by: str) -> Commands:
    """
    Ensure that no other deploy changes the host while this one runs.

    + by: who runs this one, for whoever is refused meanwhile

    It is taken when the run executes, and counts as no change: nothing of it stays on the host.
    """
    client = getattr(host.connector, "client", None)
    if state.current_stage == StateStage.Execute and client is not None:
        if other := _take(client, by):
            message = f"another deploy is running on this host: {other}; run this one again later"
            yield FunctionCommand(refuse, (message,), {})
        return
    host.noop("the lock is taken when the run executes, over SSH")


def _now() -> float:
    """Give seconds that go on while this machine sleeps: on Linux the monotonic clock's do not."""
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))


@dataclass(slots=True)
class Lock:
    """The lock of one host: it lasts as long as its channel is open, and is beaten upon."""

    channel: Any  # paramiko's
    beaten: float = field(default_factory=_now)

    def beat(self) -> None:
        """Let the host hear of us; raises ``OSError`` where the channel is closed."""
        self.channel.sendall(b"\n")
        self.beaten = _now()

    def lost(self) -> bool:
        """Tell whether the host has ended it, or must have given us up."""
        ended: bool = self.channel.exit_status_ready()
        return ended or _now() - self.beaten > SILENCE


_locks: dict[str, Lock] = {}  # by host


class Watch(BaseStateCallback):
    """Looks at a host's lock before each operation there."""

    @override
    @staticmethod
    def operation_host_start(state: State, host: Host, op_hash: str) -> None:
        """End the host's run before the operation where the lock is lost."""
        del state, op_hash
        lock = _locks.get(host.name)
        if lock and lock.lost():
            lose(host)


def lose(real: Host) -> None:
    """Fail a host whose lock is lost, and let no further command of this run reach it."""
    del _locks[real.name]
    real.log_styled(LOST, fg="red", log_func=logger.error)
    # What is under way, and whatever comes after it, fails: the lock's own channel is part of it.
    real.connector.client.get_transport().close()  # type: ignore[attr-defined]  # SSH's
    with suppress(PyinfraError):  # that no host is left: the run finds it out by itself
        real.state.fail_hosts({real})  # type: ignore[no-untyped-call]


def keep(real: Host) -> None:
    """Let a host hear of us until the run is over, or the lock lost."""
    lock = _locks[real.name]
    while not lock.channel.status_event.wait(HEARTBEAT) and not lock.lost():
        with suppress(OSError):  # closed at this very moment, as the next look at it tells
            lock.beat()
    if real.state.current_stage == StateStage.Execute and _locks.get(real.name) is lock:
        lose(real)


def _take(client: Any, by: str) -> str | None:  # noqa: ANN401 - paramiko's client
    """Take the lock; give the name of its holder where there is one."""
    real: Host = state.inventory.get_host(host.name)
    arguments = dict(host.current_op_global_arguments or {})
    connector = {key: value for key, value in arguments.items() if key in _CONNECTOR_KEYS}
    extract_control_arguments(connector)  # type: ignore[arg-type]
    words = map(QuoteString, ["-c", PROGRAM, layout.LOCK, by])
    command = make_unix_command_for_host(
        state, real, StringCommand("exec python3 -I", *words), **connector
    )
    channel = client.get_transport().open_session()
    channel.settimeout(ANSWER)
    channel.exec_command(command.get_raw_value())
    answer = channel.makefile("r").readline().strip()
    if answer != "held":
        return answer.removeprefix("refused").strip() or "it did not say whose"
    channel.settimeout(None)
    _locks[real.name] = Lock(channel)
    if not any(isinstance(one, Watch) for one in state.callback_handlers):
        state.add_callback_handler(Watch())  # type: ignore[no-untyped-call]
    gevent.spawn(keep, real)
    return None


_CONNECTOR_KEYS = frozenset({
    "_sudo", "_sudo_user", "_use_sudo_login", "_sudo_password", "_preserve_sudo_env",
    "_su_user", "_use_su_login", "_su_shell", "_preserve_su_env", "_su_password",
    "_doas", "_doas_user", "_dzdo", "_dzdo_user", "_shell_executable",
})  # fmt: skip
