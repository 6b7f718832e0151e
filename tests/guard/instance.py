"""A guard with the real mlx_lm.server behind it, run as the unit runs it but without systemd."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

import httpx2

ROOT = Path(__file__).parents[2]


class Instance:
    """Starts, is asked, is hurt, and stops.  ``config`` overrides the configuration's defaults."""

    def __init__(self, place: Path, model: Path, **config: Any) -> None:
        self.place = place
        self.run_dir, self.cache_dir = place / "run", place / "cache"
        for folder in (self.run_dir, self.cache_dir):
            folder.mkdir(parents=True, exist_ok=True)
        # A unix socket's path has room for 107 bytes; pytest's folders do not fit.
        self._short = tempfile.TemporaryDirectory(prefix="guard-")
        self.socket = Path(self._short.name, "api.sock")
        self.config = {
            "instance": "tiny.0",
            "slug": "tiny",
            "served_name": "tiny",
            "runtime": str(ROOT / ".venv"),
            "model": str(model),
            "context_tokens": 4096,
            "concurrency": 4,
            "prompt_concurrency": 4,
            "decode_concurrency": 4,
            "prompt_cache_entries": 4,
            "socket": str(self.socket),
            "run_dir": str(self.run_dir),
            "cache_dir": str(self.cache_dir),
            "inputs": "digest",
            "start_timeout_s": 60,
            "stop_timeout_s": 20,
            "hang_floor_s": 15,  # a busy machine leaves an engine without a processor for seconds
            "compile_allowance_s": 20,
            "probe_interval_s": 2,
        } | config
        self.process: subprocess.Popen[bytes] | None = None
        self._notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        notify = Path(self._short.name, "notify")
        self._notify.bind(str(notify))
        self._notify.settimeout(0)
        self._told: list[str] = []
        self._environment = os.environ | {"NOTIFY_SOCKET": str(notify), "SECRET_TOKEN": "secret"}
        self.client = httpx2.Client(
            transport=httpx2.HTTPTransport(uds=str(self.socket)),
            base_url="http://guard",
            timeout=120,
        )

    kept = False  # whether somebody starts it again whenever it ends

    def __enter__(self) -> Self:
        self.start()
        self.until(lambda: self.state()["state"] == "ready")
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        self.client.close()
        self._notify.close()
        self._short.cleanup()

    def start(self) -> None:
        (self.run_dir / "state.json").unlink(missing_ok=True)
        config = self.place / "config.json"
        config.write_text(json.dumps(self.config))
        with (self.place / "log").open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "guard", str(config)],
                cwd=ROOT,
                env=self._environment,
                stdout=log,
                stderr=log,
            )

    def stop(self, number: signal.Signals = signal.SIGTERM, *, within_s: float = 40) -> int:
        if self.process is None:
            return 0
        if self.process.poll() is None:
            self.process.send_signal(number)
        try:
            return self.process.wait(within_s)
        finally:
            self.process.kill()

    def until(self, holds: Callable[[], bool], *, within_s: float = 180) -> float:
        """Wait until something holds; the seconds it took."""
        began = time.monotonic()
        while time.monotonic() - began < within_s:
            self.notified()  # as systemd does: ten unread messages fill the socket
            try:
                if holds():
                    return time.monotonic() - began
            except (OSError, ValueError, KeyError, httpx2.HTTPError):
                pass
            ended = self.process is None or self.process.poll() is not None
            if ended and not self.kept and not holds():
                break
            time.sleep(0.02)
        raise AssertionError(f"it did not come to hold; {self.state()}\n{self.log()[-3000:]}")

    def state(self) -> dict[str, Any]:
        try:
            return dict(json.loads((self.run_dir / "state.json").read_text()))
        except FileNotFoundError:
            return {"state": "absent"}

    @property
    def engine_pid(self) -> int:
        return int(self.state()["engine_pid"])

    def prefix_tokens(self) -> list[float]:
        """Prompt tokens that were looked up among those kept, and found there."""
        names = ("queries", "hits")
        told = self.client.get("/metrics").text.splitlines()
        return [
            float(line.split()[-1])
            for name in names
            for line in told
            if line.startswith(f"vllm:prefix_cache_{name}_total")
        ]

    def log(self) -> str:
        return (self.place / "log").read_text(errors="replace")

    def requests_logged(self) -> list[dict[str, Any]]:
        lines = [line for line in self.log().splitlines() if line.startswith('{"event"')]
        return [json.loads(line) for line in lines]

    def notified(self) -> list[str]:
        """What systemd was told so far."""
        while True:
            try:
                self._told += self._notify.recv(65536).decode().split("\n")
            except BlockingIOError:
                return self._told

    def chat(self, text: str = "hi", **body: Any) -> httpx2.Response:
        messages = [{"role": "user", "content": text}]
        asked = {"model": "tiny", "messages": messages, "temperature": 0, "max_tokens": 4} | body
        return self.client.post("/v1/chat/completions", json=asked)

    def complete(self, prompt: object, **body: Any) -> httpx2.Response:
        asked = {"model": "tiny", "prompt": prompt, "temperature": 0, "max_tokens": 4} | body
        return self.client.post("/v1/completions", json=asked)

    def raw(self, body: bytes, path: str = "/v1/chat/completions") -> httpx2.Response:
        headers = {"Content-Type": "application/json"}
        return self.client.post(path, content=body, headers=headers)


def events(text: str) -> list[Any]:
    """The objects of a stream (``[DONE]`` as a string)."""
    found = [block[6:] for block in text.split("\n\n") if block.startswith("data: ")]
    return [block if block == "[DONE]" else json.loads(block) for block in found]
