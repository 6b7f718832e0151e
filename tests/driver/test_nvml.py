"""The simulated libnvidia-ml.so.1 answers the real nvidia-ml-py."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from lab.driver.install import LIBRARY, install

pytestmark = pytest.mark.gcc

ASK = """
import json, pynvml as n
n.nvmlInit()
def gpu(h):
    return {
        "name": n.nvmlDeviceGetName(h), "uuid": n.nvmlDeviceGetUUID(h),
        "pci": n.nvmlDeviceGetPciInfo(h).busId, "index": n.nvmlDeviceGetIndex(h),
        "total": n.nvmlDeviceGetMemoryInfo(h).total,
        "used": n.nvmlDeviceGetMemoryInfo(h, n.nvmlMemory_v2).used,
        "capability": n.nvmlDeviceGetCudaComputeCapability(h),
        "mode": n.nvmlDeviceGetComputeMode(h), "limit": n.nvmlDeviceGetPowerManagementLimit(h),
        "processes": [(p.pid, p.usedGpuMemory) for p in n.nvmlDeviceGetComputeRunningProcesses(h)],
    }
handles = [n.nvmlDeviceGetHandleByIndex(i) for i in range(n.nvmlDeviceGetCount())]
again = [n.nvmlDeviceGetHandleByUUID(n.nvmlDeviceGetUUID(h)) for h in handles]
print(json.dumps({
    "driver": n.nvmlSystemGetDriverVersion(), "cuda": n.nvmlSystemGetCudaDriverVersion(),
    "gpus": [gpu(h) for h in again],
}))
"""


def nvml(root: Path, program: str = ASK) -> subprocess.CompletedProcess[str]:
    """Run a program that uses nvidia-ml-py, with the library of an installed tree."""
    return subprocess.run(
        [sys.executable, "-c", program],
        env={
            **os.environ,
            "LD_LIBRARY_PATH": str((root / LIBRARY).parent),
            "SIMULATED_NVIDIA": str(root / "etc/simulated-nvidia"),
            "SIMULATED_NVIDIA_PROCESSES": str(root / "processes"),
        },
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )


def answer(root: Path) -> dict[str, Any]:
    """Give all that the program above asks for."""
    done = nvml(root)
    assert done.returncode == 0, done.stderr
    answered: dict[str, Any] = json.loads(done.stdout)
    return answered


def test_gpus_are_what_the_profile_says(tmp_path: Path):
    """By index and by UUID, in bytes and milliwatts."""
    install(tmp_path, "exclusive")
    told = answer(tmp_path)
    assert (told["driver"], told["cuda"]) == ("580.95.05", 13000)
    (gpu,) = told["gpus"]
    assert gpu["name"] == "NVIDIA H200"
    assert gpu["pci"] == "00000000:03:00.0"
    assert gpu["total"] == 143771 * 1024**2
    assert gpu["capability"] == [9, 0]
    assert gpu["mode"] == 3  # NVML_COMPUTEMODE_EXCLUSIVE_PROCESS
    assert gpu["limit"] == 700_000


def test_processes_hold_memory(tmp_path: Path):
    """The profile's, and those that a test adds while it runs."""
    install(tmp_path, "busy_gpu")
    (tmp_path / "processes").write_text("1 4711 2048 python\n")
    first, second = answer(tmp_path)["gpus"]
    assert first["processes"] == [[424242, 41216 * 1024**2]]
    assert first["used"] == (41216 + 2) * 1024**2
    assert second["processes"] == [[4711, 2048 * 1024**2]]


@pytest.mark.parametrize(
    ("profile", "error"),
    [
        ("mismatch", "LibRmVersionMismatch"),
        ("nouveau", "DriverNotLoaded"),
        ("lost_gpu", "GpuIsLost"),
    ],
)
def test_a_broken_driver_raises_nvmls_own_error(tmp_path: Path, profile: str, error: str):
    """nvidia-ml-py knows them by number."""
    install(tmp_path, profile)
    done = nvml(tmp_path)
    assert done.returncode == 1
    assert f"NVMLError_{error}" in done.stderr
