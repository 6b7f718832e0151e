"""The program that captures evidence, on a simulated driver and MLX on the CPU."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from lab.driver.install import LIBRARY, SMI, install
from lab.models import MODELS, TINY
from tests.gpu.capture import anonymous

CAPTURE = Path(__file__).parent / "capture.py"
RUNTIME = Path(sys.prefix)  # with mlx[cpu] and nvidia-ml-py, as the lock of the tests has it


@pytest.mark.gcc
def test_every_part_runs(tmp_path: Path):
    """From `nvidia-smi` to a kernel; what no CPU can show is left out and says so."""
    install(tmp_path, "h200")
    model = MODELS[TINY]()
    environment = {
        "PATH": f"{(tmp_path / SMI).parent}:{os.environ['PATH']}",
        "LD_LIBRARY_PATH": str((tmp_path / LIBRARY).parent),
        "SIMULATED_NVIDIA": str(tmp_path / "etc/simulated-nvidia"),
    }
    done = subprocess.run(
        [sys.executable, CAPTURE, "--runtime", RUNTIME, "--model", model, "--context", "128"],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    evidence = json.loads(done.stdout)
    assert evidence["commands"]["nvidia-smi -L"]["output"] == [
        "GPU 0: NVIDIA H200 (UUID: GPU-00000000-0000-4000-8000-000000000000)"
    ]
    assert evidence["nvml"]["answer"]["driver"] == "580.159.04"
    assert evidence["idle"]["answer"]["held"]["imported"][0]["process"] == 0
    assert evidence["kernel"]["answer"]["kernels"]["4-bit product"]["sum"] > 0
    assert "left out" in evidence["exhaustion"]["answer"]
    assert evidence["generation"]["answer"]["peak by mlx"] > 0
    assert evidence["preflight"]["refusals"]  # this machine has no such driver loaded


@pytest.mark.parametrize(
    ("said", "kept"),
    [
        ("    Serial Number                         : 1650225012345", "1650225012345"),
        ("    GPU PDI                               : 0xabcdef0123456789", "0xabcdef"),
        ("GPU 0: X (UUID: GPU-12345678-1234-1234-1234-123456789abc)", "12345678"),
    ],
)
def test_identities_are_replaced(said: str, kept: str):
    """What would tell one card from all others does not reach the evidence."""
    assert kept not in anonymous(said)


def test_what_is_not_available_stays():
    """`N/A` is a fact about the card."""
    assert anonymous("Serial Number : N/A") == "Serial Number : N/A"
