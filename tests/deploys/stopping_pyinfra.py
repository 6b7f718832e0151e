"""pyinfra that writes down every command it sends, and stops still at one of them.

Run as a program, with pyinfra's own arguments. ``TRACE`` names the file to write, a JSON object a
command. ``STOP`` is ``before:N`` or ``within:N``, commands counted from 1: it sends itself SIGSTOP
before the command is sent, or when half of the command's standard input is; whoever started it
sees that, and decides what happens next.
"""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pyinfra.connectors.ssh import SSHConnector
from pyinfra_cli.main import main

_send = SSHConnector.run_shell_command
_place, _, _number = os.environ.get("STOP", "never:0").partition(":")
_sent = 0


class Halved(list[str]):
    """Lines that are handed out as asked for, but for a stop in the middle."""

    def __iter__(self) -> Iterator[str]:
        for index, line in enumerate(super().__iter__()):
            if index == len(self) // 2:
                stop()
            yield line


def stop() -> None:
    os.kill(os.getpid(), signal.SIGSTOP)


def send(self: SSHConnector, command: Any, *args: Any, **kwargs: Any) -> Any:
    global _sent  # noqa: PLW0603 - one process, one count
    _sent += 1
    given = str(kwargs.get("_stdin") or "")
    operation = (
        self.state.get_op_meta(self.host.current_op_hash) if self.host.current_op_hash else None
    )
    told = {
        "operation": ", ".join(sorted(operation.names)) if operation else "Preflight",
        "command": str(command),
        "lines": len(given.splitlines()),
        "looks": str(command) == "python3 -I -" and "main(json.loads(" in given,
    }
    with Path(os.environ["TRACE"]).open("a", encoding="utf-8") as trace:
        trace.write(json.dumps(told) + "\n")
    if _sent == int(_number):
        if _place == "within":
            kwargs["_stdin"] = Halved(given.splitlines(keepends=True))
        else:
            stop()
    return _send(self, command, *args, **kwargs)


SSHConnector.run_shell_command = send  # type: ignore[method-assign,assignment]
main()
