"""Run the tracing program: children with limits, that leave nothing behind."""

from __future__ import annotations

import contextlib
import ctypes
import json
import math
import os
import resource
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from functools import reduce
from pathlib import Path
from typing import Any

from hub.checkpoint import write_hollow
from planner.traced import SIZES, Processor, Traced, joined

ROOT = Path(__file__).parents[1]
TIME_LIMIT = 600.0  # seconds; a trace takes a few, one with a part for each token ten
MEMORY_LIMIT = 8 * 2**30  # bytes of address space; a trace touches about 100 MB of it
PROCESSES = 2  # that share a trace
PR_SET_PDEATHSIG = 1  # linux/prctl.h
ENDS = (signal.SIGINT, signal.SIGTERM)
LIBC = ctypes.CDLL(None)


class TraceError(RuntimeError):
    """The tracing program died or ran out of time or memory."""


def trace(
    texts: Mapping[str, bytes],
    headers: Mapping[str, Mapping[str, Any]],
    processor: Processor,
    *,
    sizes: Sequence[int] = SIZES,
    seconds: float = TIME_LIMIT,
    memory_bytes: int = MEMORY_LIMIT,
    python: str = sys.executable,
) -> Traced | str:
    """What mlx-lm on ``processor`` says of a checkpoint with these configuration files and headers.

    A sentence where mlx-lm cannot load or run it. Raises TraceError where the program itself
    failed: that is no verdict on the model.
    """
    children: list[subprocess.Popen[str]] = []
    with tempfile.TemporaryDirectory(prefix="mlx-hosts-hollow-") as name:
        directory = Path(name)
        for file, content in texts.items():
            (directory / file).write_bytes(content)
        for file, header in headers.items():
            write_hollow(directory / file, header)
        deadline = time.monotonic() + seconds
        asked = (str(directory), processor, ",".join(map(str, sizes)))
        with contextlib.ExitStack() as started:
            for _ in range(PROCESSES):
                with _uninterrupted():
                    child = _start(python, directory, asked, seconds, memory_bytes)
                    started.enter_context(child)
                    started.callback(_kill, child)
                    children.append(child)
            answers = [_answer(child, deadline, seconds) for child in children]
    # Each takes the next part that no other has begun, in the same order: what the first part that
    # is refused is refused for is always among these.
    if refused := [answer for answer in answers if "refused" in answer]:
        return str(min(refused, key=lambda answer: int(answer["at"]))["refused"])
    programs = reduce(joined, (answer["programs"] for answer in answers))
    whole = {key: value for answer in answers for key, value in answer.items()}
    return Traced.from_json({**whole, "programs": dict(sorted(programs.items()))})


@contextlib.contextmanager
def _uninterrupted() -> Iterator[None]:
    """Let Ctrl-C and SIGTERM wait: amid a start they leave a child behind, or are lost.

    What they raise in a function that Python runs at a fork (``os.register_at_fork``) is printed
    and forgotten. Blocking them would not do: another thread takes them, for the first one.
    """
    came: list[int] = []
    if threading.current_thread() is not threading.main_thread():  # which they never reach
        yield
        return
    before = {one: signal.signal(one, lambda number, _: came.append(number)) for one in ENDS}
    try:
        yield
    finally:
        for one, handler in before.items():
            signal.signal(one, handler)
        for number in came:
            signal.raise_signal(number)


def _start(
    python: str, directory: Path, asked: Sequence[str], seconds: float, memory_bytes: int
) -> subprocess.Popen[str]:
    """The tracing program, which ends with this one."""
    parent, most = os.getpid(), math.ceil(seconds)

    def limit() -> None:
        LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # it died before that
            os._exit(1)
        resource.setrlimit(resource.RLIMIT_CPU, (most, most))
        resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))

    environment = {
        "PATH": os.environ.get("PATH", os.defpath),
        "HOME": str(directory),
        "PYTHONPATH": str(ROOT),
        "HF_HUB_OFFLINE": "1",
        "TRANSFORMERS_VERBOSITY": "error",
        "OPENBLAS_NUM_THREADS": "1",  # numpy has little to do, and its threads wait busily
    }
    return subprocess.Popen(
        [python, "-P", "-m", "planner.hollow", *asked],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment,
        cwd=directory,
        preexec_fn=limit,  # noqa: PLW1509 -- other threads (the status line) hold nothing that it needs
        start_new_session=True,
        text=True,
    )


def _kill(child: subprocess.Popen[str]) -> None:
    if child.returncode is None:  # else its number may be somebody else's by now
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)


def _answer(child: subprocess.Popen[str], deadline: float, seconds: float) -> dict[str, Any]:
    try:
        out, err = child.communicate(timeout=max(0, deadline - time.monotonic()))
    except subprocess.TimeoutExpired:
        raise TraceError(f"tracing took more than {seconds:.0f} s") from None
    last = out.strip().rpartition("\n")[2]
    if child.returncode != 0 or not last.startswith("{"):
        said = err.strip().rpartition("\n")[2] or f"exit status {child.returncode}"
        raise TraceError(f"the tracing program failed: {said}")
    answer: dict[str, Any] = json.loads(last)
    return answer
