"""One deploy at a time on a host."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gevent
from pyinfra import host, state
from pyinfra.api import FunctionCommand, Host, QuoteString, StringCommand, operation
from pyinfra.api.state import StateStage
from pyinfra.connectors.util import extract_control_arguments, make_unix_command_for_host

from manifest import layout
from operations.convergence import Commands, refuse

PROGRAM = (Path(__file__).parent / "lock_program.py").read_text(encoding="utf-8")
HEARTBEAT = 15  # seconds; the host gives up after four that did not come
ANSWER = 20  # seconds to wait for the host's word

_held: dict[str, Any] = {}  # the channels, by host: a lock lasts as long as its channel is open


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
    _held[real.name] = channel
    gevent.spawn(_beat, channel)
    return None


_CONNECTOR_KEYS = frozenset({
    "_sudo", "_sudo_user", "_use_sudo_login", "_sudo_password", "_preserve_sudo_env",
    "_su_user", "_use_su_login", "_su_shell", "_preserve_su_env", "_su_password",
    "_doas", "_doas_user", "_dzdo", "_dzdo_user", "_shell_executable",
})  # fmt: skip


def _beat(channel: Any) -> None:  # noqa: ANN401 - paramiko's channel
    while not channel.closed:
        channel.sendall(b"\n")
        gevent.sleep(HEARTBEAT)
