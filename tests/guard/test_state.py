"""What is told to whom, where it cannot be told."""

from __future__ import annotations

import json
import socket
from pathlib import Path

import pytest

from guard.metrics import Metrics
from guard.notify import Notifier
from guard.state import State
from tests.guard.test_kernels import config


def test_a_run_directory_that_takes_nothing_is_no_reason_not_to_start(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As a full /run, for each of the three files: the others stand there, and it goes on."""
    told = config(tmp_path).model_copy(update={"run_dir": str(tmp_path)})
    for name in ("inputs", "state.json", "history.json"):
        (blocked := tmp_path / f"{name}.new").mkdir()
        state = State(told, Notifier(None), Metrics(told))
        state.move("failed", "a reason")
        assert f"guard: {name} is not written: " in capsys.readouterr().err
        blocked.rmdir()
    assert (tmp_path / "inputs").read_text() == "x\n"
    assert json.loads((tmp_path / "state.json").read_text())["reason"] == "a reason"


def test_a_systemd_that_is_not_there_is_said_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its socket comes back with it; meanwhile a beat that fails must not be the last."""
    address = str(tmp_path / "notify")
    notifier = Notifier(address)
    notifier.alive()
    notifier.ready("ready")
    told = capsys.readouterr().err
    assert told.count("\n") == 1
    assert told.startswith("guard: systemd is not told: ")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(address)
        notifier.alive()
        assert systemd.recv(100) == b"WATCHDOG=1"
    notifier.alive()
    assert "systemd is not told" in capsys.readouterr().err
