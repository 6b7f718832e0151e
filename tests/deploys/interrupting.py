"""Interrupt a deploy at a point of its course, as a crash or a power cut would."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal

from lab import Host, Lab
from lab.hub import Fault
from lab.models import TINY
from tests.deploying import ROOT, environment_of
from tests.deploys.states import serving_tiny

PROGRAM = Path(__file__).with_name("stopping_pyinfra.py")
SAID = "said"  # the file of its output, beside its trace
PATIENCE_S = 300

Kind = Literal["pyinfra killed", "power cut"]
KINDS: tuple[Kind, ...] = ("pyinfra killed", "power cut")


@dataclass(frozen=True, slots=True)
class Sent:
    """One command of a deploy: the operation that sent it, its text, lines of standard input."""

    operation: str
    command: str
    lines: int
    looks: bool  # it only looks at the host


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """Where a deploy is interrupted, which starts on a host in a state of ``states.States``."""

    state: str
    where: str  # "before:N", "within:N" (half of an upload), or a sign of `SIGNS`
    operation: str
    kind: Kind

    def __str__(self) -> str:
        return f"{self.kind}, {self.where}, in `{self.operation}`, on a host {self.state}"


def points(state: str, trace: list[Sent], kind: Kind) -> list[Point]:
    """List every point of a deploy: between any two commands, and within each upload."""
    changing = [
        number
        for number, sent in enumerate(trace, 1)
        # Between a look and what follows nothing changes: one point for both.
        if not sent.looks
    ]
    made = [(f"before:{number}", trace[number - 1].operation) for number in changing]
    made += [
        (f"within:{number}", trace[number - 1].operation)
        for number in changing
        if trace[number - 1].lines > 1
    ]
    made.append((f"before:{len(trace) + 1}", "nothing: it is over"))
    made += [
        (name, one.operation)
        for name, one in SIGNS.items()
        if any(one.operation == sent.operation and one.part in sent.command for sent in trace)
        and one.state == state
    ]
    return [Point(state=state, where=where, operation=op, kind=kind) for where, op in made]


@dataclass(frozen=True, slots=True, kw_only=True)
class Sign:
    """Something to see on a host's disk while a command runs, by which it is interrupted."""

    state: str
    operation: str
    part: str  # part of the command's text
    seen: Callable[[Path], bool]
    fault: Fault | None = None  # what holds it there


def _some(pattern: str, count: int = 1) -> Callable[[Path], bool]:
    return lambda root: sum(1 for _ in root.glob(pattern)) >= count


_RUNTIME = "opt/mlx-hosts/runtimes/*"
_BUILD = "Runtime | Build the cpu runtime"
SIGNS = {
    "while packages are unpacked": Sign(
        state="unprepared",
        operation="Base | Install packages",
        part="apt-get",
        seen=_some("var/lib/dpkg/info/python3*-venv.list"),
    ),
    "while wheels are downloaded": Sign(
        state="without the runtime",
        operation=_BUILD,
        part="uv pip sync",
        seen=_some(f"{_RUNTIME}.cache/archive-v0/*", 3),
    ),
    "while wheels are installed": Sign(
        state="without the runtime",
        operation=_BUILD,
        part="uv pip sync",
        seen=_some(f"{_RUNTIME}/lib/python3*/site-packages/*.dist-info", 2),
    ),
    "while bytecode is compiled": Sign(
        state="without the runtime",
        operation=_BUILD,
        part="compileall",
        seen=_some(f"{_RUNTIME}/lib/python3*/site-packages/*/__pycache__", 3),
    ),
    "while the model is downloaded": Sign(
        state="unprepared",
        operation=f"Weights | Fetch {TINY}",
        part="bin/python -I -",
        seen=_some("var/lib/mlx-hosts/hub/models--*/blobs/*.incomplete"),
        fault=Fault(kind="hang", path="*/model.safetensors", after_bytes=200_000, times=1),
    ),
    "while the engine starts": Sign(
        state="unprepared",
        operation="Serving | Start mlx-model@tiny.0.service",
        part="journalctl",
        seen=_some("var/cache/mlx-hosts/tiny.0"),
    ),
}


def traced(lab: Lab, host: str) -> list[Sent]:
    """Deploy undisturbed, and give every command that was sent."""
    with _pyinfra(lab, host, stop=None) as (process, trace):
        process.wait(timeout=PATIENCE_S)
        assert process.returncode == 0
        return _read(trace)


def interrupted(lab: Lab, host: Host, point: Point, trace: list[Sent]) -> None:
    """Deploy until a point, and let the interruption happen; the host is up afterwards."""
    sign = SIGNS.get(point.where)
    stop = f"before:{_number(sign, trace)}" if sign else point.where
    if sign and sign.fault:
        lab.hub.afflict(sign.fault)
    with _pyinfra(lab, host.name, stop=stop) as (process, told):
        over = _stopped(process)
        assert over is (point.where == f"before:{len(trace) + 1}")
        if sign:
            process.send_signal(signal.SIGCONT)
            _wait(lambda: sign.seen(host.root), process)
            sent = len(_read(told))
            assert sent == _number(sign, trace), f"{point}: it was over before it was seen"
        if point.kind == "power cut":
            host.kill()
        process.kill()
        process.wait(timeout=10)
    lab.hub.afflict()
    host.start()


@contextmanager
def halted(lab: Lab, host: str, stop: str) -> Iterator[tuple[subprocess.Popen[str], Path]]:
    """Hold a deploy still at a point, ``before:N``; it is killed at the end of the block.

    Gives the process, and the file of what it says.
    """
    with _pyinfra(lab, host, stop=stop) as (process, told):
        assert not _stopped(process)
        yield process, told.with_name(SAID)


def _number(sign: Sign, trace: list[Sent]) -> int:
    (number,) = [
        number
        for number, sent in enumerate(trace, 1)
        if sent.operation == sign.operation and sign.part in sent.command and not sent.looks
    ]
    return number


def _wait(seen: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    while not seen():
        assert process.poll() is None, "it was over before the sign was seen"
        time.sleep(0.001)


def _stopped(process: subprocess.Popen[str]) -> bool:
    """Wait until a process has stopped itself, or ended: then ``True``."""
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        state = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[0]
        if state == "T":
            return False
        if process.poll() is not None:
            return True
        time.sleep(0.01)
    raise TimeoutError("it neither stopped nor ended")


@contextmanager
def _pyinfra(lab: Lab, host: str, stop: str | None) -> Iterator[tuple[subprocess.Popen[str], Path]]:
    with TemporaryDirectory() as directory:
        trace, said = Path(directory, "trace"), Path(directory, SAID)
        with said.open("w") as output:
            process = subprocess.Popen(
                [
                    *(sys.executable, "-P", PROGRAM, "inventories/lab.py", "deploy.py", "-y"),
                    *("--limit", host, *serving_tiny(lab)),
                ],
                cwd=ROOT,
                env={
                    **os.environ,
                    **environment_of(lab),
                    "TRACE": str(trace),
                    **({"STOP": stop} if stop else {}),
                },
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                text=True,
            )
        try:
            yield process, trace
        except BaseException as error:
            error.add_note(said.read_text())
            raise
        finally:
            process.kill()
            process.wait(timeout=10)


def _read(trace: Path) -> list[Sent]:
    return [Sent(**json.loads(line)) for line in trace.read_text().splitlines()]
