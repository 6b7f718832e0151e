"""Commands on a host, and their failures."""

import subprocess
from typing import Any

from lab.machine import LabError

Done = subprocess.CompletedProcess[str]


class HostError(LabError):
    """A command on a host failed; `done` holds what it said."""

    def __init__(self, host: str, command: str, done: Done) -> None:
        """Tell which command on which host."""
        self.done = done
        said = (done.stderr.strip() or done.stdout.strip())[-2000:]
        super().__init__(f"{host}: `{command}` exited with {done.returncode}: {said}")


def finish(
    host: str, argv: list[str], command: str, *, check: bool, timeout_s: float, text: str | None
) -> Done:
    """Run a command on a host by the program that leads there, `text` on its standard input."""
    feed: dict[str, Any] = {"stdin": subprocess.DEVNULL} if text is None else {"input": text}
    try:
        done = subprocess.run(
            argv, capture_output=True, text=True, timeout=timeout_s, check=False, **feed
        )
    except subprocess.TimeoutExpired:
        raise LabError(f"{host}: `{command}` took longer than {timeout_s:g} s") from None
    if check and done.returncode:
        raise HostError(host, command, done)
    return done
