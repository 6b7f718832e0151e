"""Runs on a host, as root, with the standard library only: hurt one instance, time its recovery.

    python3 hurt.py FAULT      # with a client in flight
    python3 hurt.py            # wait only: the host itself has been hurt
    python3 hurt.py --stream   # be the client in flight only: somebody else hurts and waits

Prints one JSON object: seconds until the client in flight knew (``detected_s``), until a new
request got a token (``token_s``), what that client was told, and what the unit is then.  Ends with
words and status 1 where the unit says ``active`` and a request gets no token, where a client is
told what it cannot read, or where nothing comes back.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import resource
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

RUN = Path("/run/mlx-hosts")
PATIENCE_S = 300
HANGING = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"
DEADLY = {"top_k": 10**7, "temperature": 1.0}
STORY = "Tell me a long story."
ENDLESS = {"0": -100, "2": -100, "256": -100}
"""No model ends by itself: these are the end tokens of the lab's and of the tests' own."""
BEGAN = Path("/run/stream-began")
LONG = "word " * 1500
FULL = "full-disk"
HEADROOM = 16 << 20
"""Bytes that an engine short of memory may still take: a long prompt takes more."""


class Api(http.client.HTTPConnection):
    def __init__(self, path: Path) -> None:
        super().__init__("guard", timeout=120)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


def instance() -> Path:
    return next(iter(sorted(RUN.glob("*.*"))))


def unit() -> str:
    told = subprocess.run(
        ["systemctl", "list-units", "--all", "--plain", "--no-legend", "mlx-model@*"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    return told.stdout.split()[0]


def show(field: str) -> str:
    told = subprocess.run(["systemctl", "show", "-P", field, unit()], capture_output=True,
                          text=True, check=True)  # fmt: skip
    return told.stdout.strip()


def state() -> dict:
    """What the guard tells of itself; empty before it has said anything."""
    try:
        return json.loads((instance() / "state.json").read_text())
    except (OSError, StopIteration):
        return {}


def body(tokens: int, text: str = STORY) -> str:
    config = json.loads(Path(f"/etc/mlx-hosts/instances/{instance().name}.json").read_text())
    return json.dumps({"model": config["served_name"], "stream": True, "max_tokens": tokens,
                       "logit_bias": ENDLESS,
                       "messages": [{"role": "user", "content": text}]})  # fmt: skip


def ask() -> str:
    """A new request's outcome: ``token``, ``refused``, or ``nobody`` there to answer."""
    try:
        api = Api(instance() / "api.sock")
        api.request("POST", "/v1/chat/completions", body(1))
        answer = api.getresponse()
        said = answer.read()
    except (OSError, http.client.HTTPException, StopIteration) as error:
        return f"nobody: {error!r}"
    if answer.status == 200 and b'"finish_reason":"length"' in said:
        return "token"
    if b'{"error": {"message": ' not in said:
        raise SystemExit(f"a client cannot read this: {answer.status} {said[:300]!r}")
    return f"refused: {answer.status}"


def recover(before: int | None) -> None:
    """Until a new request gets a token of another guard than the one before."""
    deadline = time.monotonic() + PATIENCE_S
    while True:
        new = state().get("pid") not in {None, before}
        active = new and show("ActiveState") == "active"
        outcome = ask()
        if outcome == "token" and state().get("pid") != before:
            return
        if active:
            raise SystemExit(f"the unit is active, and a request was told: {outcome}")
        if time.monotonic() > deadline:
            raise SystemExit(f"not back: {outcome}, {show('ActiveState')}, {state()}")
        time.sleep(0.1)


class InFlight(threading.Thread):
    def __init__(self, tokens: int = 1500) -> None:
        super().__init__(daemon=True)
        self.tokens = tokens
        self.told, self.began, self.ended_at = b"", threading.Event(), 0.0
        self.start()
        if not self.began.wait(120):
            raise SystemExit("no stream began")

    def run(self) -> None:
        try:
            api = Api(instance() / "api.sock")
            api.request("POST", "/v1/chat/completions", body(self.tokens))
            answer = api.getresponse()
            while line := answer.readline():
                self.told = line if line.strip() else self.told
                if b'"content":"' in line:
                    self.began.set()
        except (OSError, http.client.HTTPException) as error:
            self.told = repr(error).encode()
        self.ended_at = time.monotonic()

    @property
    def last_words(self) -> str:
        """What the client was told at the end: a whole line, or that there was no word."""
        told = self.told.decode()
        if told.startswith("data: {") and '"error": {"message": ' not in told:
            return "nothing: the connection broke off"
        return told.strip()


@dataclass
class Victim:
    engine: int
    guard: int
    stream: InFlight
    hurt_at: float

    def behind_the_guards_back(self, more: dict) -> None:
        words = Path(f"/proc/{self.engine}/cmdline").read_bytes().decode().split("\0")
        engine = Path(words[words.index("--guard-socket") + 1])
        asked = {"messages": [{"role": "user", "content": "x"}], "max_tokens": 9} | more

        def ask() -> None:
            api = Api(engine)
            with contextlib.suppress(OSError, http.client.HTTPException):
                api.request("POST", "/v1/chat/completions", json.dumps(asked))
                api.getresponse().read()

        threading.Thread(target=ask, daemon=True).start()

    def ask_for_memory(self) -> None:
        """A long prompt, by the front door, from a client that nobody waits for."""

        def work() -> None:
            api = Api(instance() / "api.sock")
            api.request("POST", "/v1/chat/completions", body(1, LONG))
            api.getresponse().read()

        threading.Thread(target=work, daemon=True).start()


def cache_full(victim: Victim) -> None:
    """The disk below the cache is full: the stream goes on; a start (of a killed engine) works."""
    place = Path("/var/cache/mlx-hosts", instance().name)
    owner = place.stat()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", FULL, place], check=True)
    os.chown(place, owner.st_uid, owner.st_gid)
    place.chmod(0o700)
    try:
        (place / "filling").write_bytes(b"x" * (1 << 20))
    except OSError as error:
        print(error, file=sys.stderr)  # No space left on device
    if os.statvfs(f"/proc/{victim.engine}/root{place}").f_bavail:
        raise SystemExit("the engine's cache is not full")
    time.sleep(2)
    if not victim.stream.is_alive():
        raise SystemExit(f"a full disk ended a stream: {victim.stream.told!r}")
    victim.hurt_at = time.monotonic()
    os.kill(victim.engine, signal.SIGKILL)


def out_of_memory(victim: Victim) -> None:
    """The kernel's OOM killer takes the engine: a group of its own, with what it has and no more.

    By hand and not by MemoryMax=: where the machine below has the memory controller on cgroup v1,
    systemd in here does not enforce that.
    """
    place = Path("/run/memory-controller")
    place.mkdir(exist_ok=True)
    if not place.is_mount():
        subprocess.run(["mount", "-t", "cgroup", "-o", "memory", "none", place], check=True)
    group = place / f"short-{victim.engine}"
    group.mkdir()
    (group / "memory.limit_in_bytes").write_text(str(HEADROOM))
    (group / "cgroup.procs").write_text(str(victim.engine))
    victim.ask_for_memory()
    victim.stream.join(60)
    killed = (group / "memory.oom_control").read_text()
    if "oom_kill 0" in killed:
        raise SystemExit(f"the kernel killed nobody: {killed}")
    while group.exists():  # busy until the engine is reaped
        with contextlib.suppress(OSError):
            group.rmdir()
        time.sleep(0.01)


def memory_refused(victim: Victim) -> None:
    """The engine is given no more memory: its allocation fails, and nobody kills it."""
    status = Path(f"/proc/{victim.engine}/status").read_text()
    now = int(status.split("VmSize:")[1].split()[0]) << 10
    limit = now + HEADROOM
    resource.prlimit(victim.engine, resource.RLIMIT_AS, (limit, limit))
    victim.ask_for_memory()


FAULTS: dict[str, Callable[[Victim], object]] = {
    "engine killed": lambda victim: os.kill(victim.engine, signal.SIGKILL),
    "engine stopped": lambda victim: os.kill(victim.engine, signal.SIGSTOP),
    "guard killed": lambda victim: os.kill(victim.guard, signal.SIGKILL),
    "guard stopped": lambda victim: os.kill(victim.guard, signal.SIGSTOP),
    "generation thread killed": lambda victim: victim.behind_the_guards_back(DEADLY),
    "engine hung": lambda victim: victim.behind_the_guards_back(
        {"chat_template_kwargs": {"chat_template": HANGING}}
    ),
    "out of memory": out_of_memory,
    "memory refused": memory_refused,
    "cache disk full": cache_full,
}


def hurt(fault: str) -> dict:
    subprocess.run(["systemctl", "reset-failed", unit()], check=True)
    while ask() != "token":
        time.sleep(0.2)
    stream = InFlight()
    before = int(show("MainPID"))
    victim = Victim(state()["engine_pid"], before, stream, time.monotonic())
    FAULTS[fault](victim)
    recover(before)
    back = time.monotonic()
    stream.join(5)
    if FULL in Path("/proc/self/mounts").read_text():
        subprocess.run(["umount", "--lazy", FULL], check=True)
    return {
        "detected_s": round(stream.ended_at - victim.hurt_at, 2),
        "token_s": round(back - victim.hurt_at, 2),
        "client": stream.last_words,
    }


def stream() -> dict:
    """What a client is told that has a stream while something happens, and when."""
    client = InFlight(tokens=7000)
    BEGAN.touch()
    client.join(PATIENCE_S)
    return {"client": client.last_words, "told_at": time.time()}


def main(arguments: list[str]) -> None:
    began = time.monotonic()
    if arguments == ["--stream"]:
        print(json.dumps(stream()))
        return
    if arguments:
        told = hurt(arguments[0])
    else:
        recover(None)
        told = {"token_s": round(time.monotonic() - began, 2)}
    print(json.dumps(told | {"unit": show("ActiveState")}))


if __name__ == "__main__":
    main(sys.argv[1:])
