"""What state the instance is in, told wherever anybody looks: systemd, /run, the API."""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

from guard.config import Config
from guard.metrics import Metrics
from guard.notify import Notifier

# Of its configuration: what a deploy compares what runs with.
MADE_OF = {"inputs", "gpu_uuids", "planned_bytes"}


class State:
    """starting, loading, warming, ready, draining or failed, and why."""

    def __init__(self, config: Config, notifier: Notifier, metrics: Metrics) -> None:
        self._config = config
        self._notifier = notifier
        self._metrics = metrics
        self._run_dir = Path(config.run_dir)
        self.now = "starting"
        self.reason = ""
        self.since = time.time()
        self.engine_pid: int | None = None
        self._history = self._read_history()
        self._history["starts"] = int(self._history.get("starts", 0)) + 1
        metrics.starts.set(self._history["starts"])
        _replace(self._run_dir / "history.json", json.dumps(self._history))
        _replace(self._run_dir / "inputs", config.inputs)
        self._tell()

    def move(self, state: str, reason: str = "") -> None:
        self.now, self.reason, self.since = state, reason, time.time()
        if state == "failed":
            self._history["last_failure"] = {"reason": reason, "at": self.since}
            _replace(self._run_dir / "history.json", json.dumps(self._history))
        self._tell()

    def progress(self, words: str, *, extend_s: float | None = None) -> None:
        """More of the same state; ``extend_s`` asks systemd for that much more patience."""
        self.reason = words
        if extend_s is None:
            self._notifier.status(self.words)
        else:
            self._notifier.extend_start(extend_s, self.words)
        self._write()

    @property
    def words(self) -> str:
        return f"{self.now}: {self.reason}" if self.reason else self.now

    def report(self) -> dict[str, Any]:
        return {
            "status": "ok" if self.now == "ready" else self.now,
            "state": self.now,
            "reason": self.reason,
            "since": self.since,
            "instance": self._config.instance,
            "model": self._config.served_name,
            "starts": self._history["starts"],
            "last_failure": self._history.get("last_failure"),
        }

    def _tell(self) -> None:
        self._metrics.state(self.now)
        self._notifier.status(self.words)
        self._write()

    def _write(self) -> None:
        processes = {"pid": os.getpid(), "engine_pid": self.engine_pid}
        state = self.report() | processes | self._config.model_dump(include=MADE_OF, mode="json")
        _replace(self._run_dir / "state.json", json.dumps(state))

    def _read_history(self) -> dict[str, Any]:
        try:
            return dict(json.loads((self._run_dir / "history.json").read_text(encoding="utf-8")))
        except (OSError, ValueError):
            return {}


def _replace(path: Path, text: str) -> None:
    """A full /run costs what stands there, not the service: systemd and the API still tell."""
    new = path.with_name(path.name + ".new")
    try:
        new.write_text(text + "\n", encoding="utf-8")
        new.replace(path)
    except OSError as error:
        print(f"guard: {path.name} is not written: {error}", file=sys.stderr, flush=True)
