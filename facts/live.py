"""A host's live state, in one round trip over a connection of its own.

For whoever looks at many hosts and must get a verdict of each, whatever the host does: pyinfra's
own facts stop at a byte that is not UTF-8, wait for ever on a host that hangs, and take part of an
answer for the whole.
"""

from __future__ import annotations

import base64
import json
import time
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import gevent
from pyinfra.api import Host, QuoteString, State, StringCommand
from pyinfra.api.arguments import pop_global_arguments
from pyinfra.api.exceptions import ConnectError, FactProcessError
from pyinfra.connectors.util import extract_control_arguments, make_unix_command_for_host

from facts.probe import PROGRAM, Answer, parse
from manifest.resources import Resource

# Compressed, question and program fit into the first packets of a connection: no second trip.
_BOOT = (
    "import sys,zlib,base64;exec(zlib.decompress(base64.b64decode(sys.stdin.buffer.readline())))"
)
# Whatever a host's profile prints before and after it, this line is found.
_MARK = b"mlx-hosts-answer "
_REPLY = """
import base64, signal, zlib
signal.alarm({seconds})
answer = json.dumps(Probe(json.loads({question!r})).answer()).encode()
print("\\nmlx-hosts-answer " + base64.b64encode(zlib.compress(answer, 1)).decode())
"""


class SilentHostError(Exception):
    """A host of which nothing can be told; the message says why, in a clause."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """What a host answered, and how long that took."""

    answer: Answer
    connect_s: float
    ask_s: float


def see(
    state: State,
    host: Host,
    expected: Iterable[Resource],
    *,
    seconds: float,
    deep: bool = False,
    ask: bool = False,
) -> Seen:
    """Connect to a host, look at all that its stamp names and at ``expected``, and disconnect.

    Raises ``SilentHostError`` where no whole answer came within ``seconds``.
    """
    question = {
        "resources": [one.to_json() for one in expected],
        "stamp": True,
        "deep": deep,
        "ask": ask,
        "seconds": seconds / 2,  # to read files again in; what is left over is said to be unread
    }
    began = time.monotonic()
    stage = "connect"
    try:
        with gevent.Timeout(seconds):
            _connect(host)
            connected = time.monotonic()
            stage = "answer"
            output = _run(state, host, _program(question, seconds))
            answer = _read(*output)
    except gevent.Timeout:
        raise SilentHostError(f"did not {stage} within {seconds:g} s") from None
    finally:
        _leave(host)
    return Seen(answer=answer, connect_s=connected - began, ask_s=time.monotonic() - connected)


def _program(question: dict[str, Any], seconds: float) -> str:
    reply = _REPLY.format(question=json.dumps(question), seconds=int(seconds) + 1)
    return base64.b64encode(zlib.compress(f"{PROGRAM}\n{reply}".encode())).decode()


def _connect(host: Host) -> None:
    try:
        host.connect(show_errors=False, raise_exceptions=True)
    except ConnectError as error:
        raise SilentHostError(f"cannot be connected to: {error}") from None
    except Exception as error:  # noqa: BLE001 - paramiko lets anything through, and one host is one
        raise SilentHostError(f"cannot be connected to: {error!r}") from None


def _run(state: State, host: Host, program: str) -> tuple[int, bytes, str]:
    """Run the program; give its exit status, its output and the last line of its complaints."""
    arguments, _ = pop_global_arguments(state, host, {})
    connector = {key: value for key, value in arguments.items() if key in _CONNECTOR_KEYS}
    command = StringCommand("exec python3 -IS -c", QuoteString(_BOOT))
    client = getattr(host.connector, "client", None)
    if client is None or connector.get("_sudo_password"):
        # Not SSH, or sudo with a password, whose ways pyinfra knows.
        done, said = host.run_shell_command(command, _stdin=program, **connector)
        return 0 if done else 1, said.stdout.encode(), _last(said.stderr)
    extract_control_arguments(connector)  # type: ignore[arg-type]
    whole = make_unix_command_for_host(state, host, command, **connector)
    try:
        channel = client.get_transport().open_session()
        channel.exec_command(whole.get_raw_value())
        channel.sendall(program.encode() + b"\n")
        channel.shutdown_write()
        output = b"".join(iter(lambda: channel.recv(1 << 20), b""))
        errors = b"".join(iter(lambda: channel.recv_stderr(1 << 20), b""))
        status = channel.recv_exit_status()
    except Exception as error:  # noqa: BLE001 - paramiko lets anything through, and one host is one
        raise SilentHostError(f"the connection broke: {error!r}") from None
    return status, output, _last(errors.decode("utf-8", "replace"))


_CONNECTOR_KEYS = frozenset({
    "_sudo", "_sudo_user", "_use_sudo_login", "_sudo_password", "_preserve_sudo_env",
    "_su_user", "_use_su_login", "_su_shell", "_preserve_su_env", "_su_password",
    "_doas", "_doas_user", "_dzdo", "_dzdo_user", "_shell_executable",
})  # fmt: skip


def _read(status: int, output: bytes, complaint: str) -> Answer:
    marked = [line for line in output.splitlines() if line.startswith(_MARK)]
    if not marked:
        if status < 0:
            raise SilentHostError("the connection broke before the answer was whole")
        why = complaint or f"it printed {output[-200:]!r}"
        raise SilentHostError(f"the probe did not answer (exit status {status}): {why}")
    try:
        text = zlib.decompress(base64.b64decode(marked[-1].removeprefix(_MARK), validate=True))
        return parse(text.decode())
    except (ValueError, zlib.error, FactProcessError) as error:
        raise SilentHostError(f"the probe's answer cannot be read: {error}") from None


def _last(text: str) -> str:
    lines = [line for line in text.splitlines() if line.strip()]
    return lines[-1][:300] if lines else ""


def _leave(host: Host) -> None:
    """Close the connection without waiting for the other side."""
    client = getattr(host.connector, "client", None)
    if client is not None:
        client.close()
