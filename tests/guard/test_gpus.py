"""Waiting for GPUs: a driver that answers, one that is late, one that hangs, one that is wrong."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pynvml
import pytest

from guard import gpu, gpu_ready
from tests.guard.instance import Instance

ONE = "GPU-11111111-2222-3333-4444-555555555555"
LISTED = f"GPU 0: NVIDIA RTX PRO 6000 Blackwell Workstation Edition (UUID: {ONE})"


@pytest.fixture
def driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Writes a simulated ``nvidia-smi``; device nodes are files of the test's."""
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    nodes = tuple(str(tmp_path / name) for name in ("nvidiactl", "nvidia-uvm"))
    monkeypatch.setattr(gpu_ready, "NODES", nodes)
    monkeypatch.setattr(gpu_ready, "COMMAND_S", 0.5)
    monkeypatch.setattr(gpu_ready, "PATIENCE_S", 1.0)

    def answers(script: str, *, nodes_there: bool = True) -> None:
        program = tmp_path / "nvidia-smi"
        program.write_text(f"#!/bin/sh\n{script}\n")
        program.chmod(0o755)
        for node in nodes if nodes_there else ():
            Path(node).touch()

    return answers


def test_ready_when_the_driver_lists_them(driver: Any) -> None:
    """The declared GPU is listed and the nodes are there."""
    driver(f'echo "{LISTED}"')
    assert gpu_ready.main([ONE]) == 0
    assert gpu_ready.main([]) == 0


@pytest.mark.parametrize(
    ("script", "nodes", "words"),
    [
        ("exit 9", True, "the driver does not answer"),
        ("trap '' TERM; sleep 30 & wait", True, "did not answer within"),
        (f'echo "{LISTED}"', False, "device nodes: "),
        ('echo "GPU 0: other (UUID: GPU-0)"', True, f"does not list: {ONE}"),
    ],
)
def test_what_is_missing_is_said(
    driver: Any,
    capsys: pytest.CaptureFixture[str],
    script: str,
    nodes: object,
    words: str,
) -> None:
    """Exit 1 with the thing and the way out, in time, whatever nvidia-smi does."""
    driver(script, nodes_there=bool(nodes))
    began = time.monotonic()
    assert gpu_ready.main([ONE]) == 1
    assert words in capsys.readouterr().err
    assert time.monotonic() - began < 5


def test_nodes_that_come_late_are_found(driver: Any, tmp_path: Path) -> None:
    """Missing at boot, there a little later: ready without a hand."""
    driver(f'touch {tmp_path}/nvidiactl; [ -e {tmp_path}/once ] && touch {tmp_path}/nvidia-uvm;'
           f'touch {tmp_path}/once; echo "{LISTED}"', nodes_there=False)  # fmt: skip
    gpu_ready.PATIENCE_S = 5.0
    assert gpu_ready.main([ONE]) == 0


class FakeNvml:
    """NVML's answers for one GPU, as pynvml gives them."""

    def __init__(self, free: int, pids: tuple[int, ...]) -> None:
        self.free, self.pids = free, pids

    def install(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def memory(_: str) -> Any:
            return type("Memory", (), {"free": self.free})

        def processes(_: str) -> list[Any]:
            return [type("Process", (), {"pid": pid}) for pid in self.pids]

        monkeypatch.setattr(pynvml, "nvmlInit", lambda: None)
        monkeypatch.setattr(pynvml, "nvmlShutdown", lambda: None)
        monkeypatch.setattr(pynvml, "nvmlDeviceGetHandleByUUID", lambda uuid: uuid)
        monkeypatch.setattr(pynvml, "nvmlDeviceGetMemoryInfo", memory)
        monkeypatch.setattr(pynvml, "nvmlDeviceGetComputeRunningProcesses", processes)


def test_an_engine_waits_until_the_memory_is_really_free(monkeypatch: pytest.MonkeyPatch) -> None:
    """What an engine that just died has not given back counts, and is named with its holder."""
    FakeNvml(10 << 30, (4711,)).install(monkeypatch)
    why = gpu.busy([ONE], 40 << 30)
    assert why is not None
    assert "4711" in why
    assert "10240 MiB free, 40960 MiB needed" in why
    assert gpu.busy([ONE], 8 << 30) is None
    assert gpu.busy([ONE], None) is not None
    FakeNvml(10 << 30, ()).install(monkeypatch)
    assert gpu.busy([ONE], None) is None


def test_a_driver_that_does_not_answer_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the library there is nothing to start on; on a CPU there is nothing to ask."""

    def missing() -> None:
        raise pynvml.NVMLError(pynvml.NVML_ERROR_LIBRARY_NOT_FOUND)

    monkeypatch.setattr(pynvml, "nvmlInit", missing)
    assert "does not answer" in (gpu.busy([ONE], 1) or "")
    assert gpu.busy([], 1) is None


HANGS = """
import time
class NVMLError(Exception): pass
def nvmlInit(): time.sleep(3600)
"""


def test_a_driver_that_hangs_holds_up_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The watchdog is told, whoever asks is told what is waited for, and the unit's start ends."""
    (tmp_path / "pynvml.py").write_text(HANGS)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setenv("WATCHDOG_USEC", "900000")
    instance = Instance(tmp_path, tmp_path / "model", gpu_uuids=[ONE], start_timeout_s=4)
    instance.start()
    why = "starting: the NVIDIA driver has not answered for "
    instance.until(lambda: f"STATUS={why}2 s" in instance.notified())
    assert instance.client.get("/health").json()["reason"] in f"{why}2 s"
    beats = instance.notified().count("WATCHDOG=1")
    assert instance.process is not None
    assert instance.process.wait(20) == 1
    assert "the NVIDIA driver has not answered for 4 s" in instance.state()["reason"]
    assert instance.notified().count("WATCHDOG=1") > beats > 3
    instance.__exit__()


def test_leaving_does_not_wait_for_a_driver_that_hangs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SIGTERM while it waits ends the guard at once, its question open."""
    (tmp_path / "pynvml.py").write_text(HANGS)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    instance = Instance(tmp_path, tmp_path / "model", gpu_uuids=[ONE])
    instance.start()
    instance.until(lambda: "has not answered" in instance.state()["reason"])
    assert instance.stop(within_s=5) == 0
    instance.__exit__()
