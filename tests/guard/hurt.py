"""Runs on a host, as root, with the standard library only: hurt one instance, time its recovery.

    python3 hurt.py FAULT

Prints one JSON object: seconds until the client in flight knew (``detected_s``), until a new
request got a token (``token_s``), what that client was told, and what the unit is then.
"""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

RUN = Path("/run/mlx-hosts")
HANGING = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"
DEADLY = {"top_k": 10**7, "temperature": 1.0}
ASK_ENGINE = (
    "import json,sys,urllib.request as u;"
    "u.urlopen(u.Request('http://127.0.0.1:'+sys.argv[1]+'/v1/chat/completions',"
    "sys.argv[2].encode(),{'Content-Type':'application/json'}),timeout=9)"
)


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


def show(unit: str, field: str) -> str:
    told = subprocess.run(["systemctl", "show", "-P", field, unit], capture_output=True, text=True,
                          check=True)  # fmt: skip
    return told.stdout.strip()


def state() -> dict:
    return json.loads((instance() / "state.json").read_text())


def body(tokens: int) -> str:
    config = json.loads(Path(f"/etc/mlx-hosts/instances/{instance().name}.json").read_text())
    messages = [{"role": "user", "content": "Tell me a long story."}]
    return json.dumps({"model": config["served_name"], "messages": messages, "stream": True,
                       "max_tokens": tokens})  # fmt: skip


def token() -> bool:
    """Whether a new request gets a token."""
    try:
        api = Api(instance() / "api.sock")
        api.request("POST", "/v1/chat/completions", body(1))
        return b'"finish_reason":"length"' in api.getresponse().read()
    except (OSError, http.client.HTTPException, ValueError):
        return False


class InFlight(threading.Thread):
    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.told, self.began, self.ended_at = b"", threading.Event(), 0.0
        self.start()
        if not self.began.wait(120):
            raise SystemExit("no stream began")

    def run(self) -> None:
        try:
            api = Api(instance() / "api.sock")
            api.request("POST", "/v1/chat/completions", body(1500))
            answer = api.getresponse()
            while line := answer.readline():
                self.told = line if line.strip() else self.told
                if b'"content":"' in line:
                    self.began.set()
        except (OSError, http.client.HTTPException) as error:
            self.told = repr(error).encode()
        self.ended_at = time.monotonic()


def behind_the_guards_back(pid: int, more: dict) -> None:
    words = Path(f"/proc/{pid}/cmdline").read_bytes().decode().split("\0")
    port = words[words.index("--port") + 1]
    asked = {"messages": [{"role": "user", "content": "x"}], "max_tokens": 9} | more
    enter = ["nsenter", "-t", str(pid), "-n", "python3", "-c", ASK_ENGINE]
    quiet = subprocess.DEVNULL
    subprocess.Popen([*enter, port, json.dumps(asked)], stdout=quiet, stderr=quiet)


def hurt(fault: str) -> None:
    engine = state()["engine_pid"]
    guard = int(show(f"mlx-model@{instance().name}.service", "MainPID"))
    if fault == "engine killed":
        os.kill(engine, signal.SIGKILL)
    elif fault == "engine stopped":
        os.kill(engine, signal.SIGSTOP)
    elif fault == "guard killed":
        os.kill(guard, signal.SIGKILL)
    elif fault == "guard stopped":
        os.kill(guard, signal.SIGSTOP)
    elif fault == "generation thread killed":
        behind_the_guards_back(engine, DEADLY)
    elif fault == "engine hung":
        behind_the_guards_back(engine, {"chat_template_kwargs": {"chat_template": HANGING}})
    else:
        raise SystemExit(f"unknown fault: {fault}")


def main(fault: str) -> None:
    unit = f"mlx-model@{instance().name}.service"
    subprocess.run(["systemctl", "reset-failed", unit], check=True)
    while not token():
        time.sleep(0.2)
    stream = InFlight()
    before = state()["pid"]
    hurt(fault)
    began = time.monotonic()
    while state().get("pid") == before or not token():
        if time.monotonic() - began > 300:
            raise SystemExit(f"not back: {state()}")
        time.sleep(0.1)
    back = time.monotonic() - began
    stream.join(5)
    print(json.dumps({"fault": fault, "detected_s": round(stream.ended_at - began, 2),
                      "token_s": round(back, 2), "client": stream.told.decode()[:200],
                      "unit": show(unit, "ActiveState")}))  # fmt: skip


if __name__ == "__main__":
    main(sys.argv[1])
