"""The simulated `nvidia-smi` prints what the real one does, as far as it was published."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from lab.driver import Profile, names
from lab.driver.install import HERE, install
from lab.driver.profile import PROFILES

pytestmark = pytest.mark.gcc

SMI = HERE / "nvidia_smi.py"


def smi(home: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the simulated program against an installed tree."""
    return subprocess.run(
        [sys.executable, SMI, *arguments],
        env={**os.environ, "SIMULATED_NVIDIA": str(home / "etc/simulated-nvidia")},
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )


@pytest.mark.parametrize(
    ("profile", "real"),
    [
        # https://github.com/geerlingguy/raspberry-pi-pcie-devices/issues/790
        (
            "two_rtx_pro_6000",
            """\
+-----------------------------------------------------------------------------------------+
| NVIDIA-SMI 580.95.05              Driver Version: 580.95.05      CUDA Version: 13.0     |
+-----------------------------------------+------------------------+----------------------+
| GPU  Name                 Persistence-M | Bus-Id          Disp.A | Volatile Uncorr. ECC |
| Fan  Temp   Perf          Pwr:Usage/Cap |           Memory-Usage | GPU-Util  Compute M. |
|                                         |                        |               MIG M. |
|=========================================+========================+======================|
""",
        ),
        # https://github.com/DataDog/datadog-agent/pull/33120
        (
            "driver_535",
            """\
+---------------------------------------------------------------------------------------+
| NVIDIA-SMI 535.216.01             Driver Version: 535.216.01   CUDA Version: 12.2     |
|-----------------------------------------+----------------------+----------------------+
| GPU  Name                 Persistence-M | Bus-Id        Disp.A | Volatile Uncorr. ECC |
| Fan  Temp   Perf          Pwr:Usage/Cap |         Memory-Usage | GPU-Util  Compute M. |
|                                         |                      |               MIG M. |
""",
        ),
        # https://github.com/noonghunna/club-3090/issues/1229
        (
            "driver_610",
            """\
+-----------------------------------------------------------------------------------------+
| NVIDIA-SMI 610.57.04              KMD Version: 610.57.04     CUDA UMD Version: 13.3     |
+-----------------------------------------+------------------------+----------------------+
""",
        ),
    ],
)
def test_the_table_begins_as_the_real_one(tmp_path: Path, profile: str, real: str):
    """Line by line, of the same driver, as somebody published it."""
    install(tmp_path, profile)
    _, *lines = smi(tmp_path).stdout.splitlines(keepends=True)
    assert "".join(lines).startswith(real)


def test_a_gpus_row_is_as_the_real_one(tmp_path: Path):
    """https://github.com/NVIDIA/nvtrust/issues/109, with an RTX 5090's values in its columns."""
    install(tmp_path, "driver_610")
    out = smi(tmp_path).stdout
    assert "|   0  NVIDIA GeForce RTX 5090        On  |   00000000:01:00.0 Off |" in out
    assert "|  No running processes found                                              " in out


def test_queries_are_comma_separated_with_units_or_without(tmp_path: Path):
    """https://docs.nvidia.com/deploy/nvidia-smi/, `--format`."""
    install(tmp_path, "h200")
    query = "--query-gpu=index,name,memory.total"
    with_units = smi(tmp_path, query, "--format=csv")
    assert with_units.stdout == "index, name, memory.total [MiB]\n0, NVIDIA H200, 143771 MiB\n"
    bare = smi(tmp_path, query, "--format=csv,noheader,nounits")
    assert bare.stdout == "0, NVIDIA H200, 143771\n"


def test_an_unknown_field_is_refused(tmp_path: Path):
    """With NVIDIA's words, and status 2."""
    install(tmp_path, "h200")
    done = smi(tmp_path, "--query-gpu=index,nonsense", "--format=csv")
    assert (done.returncode, done.stdout.strip()) == (
        2,
        'Field "nonsense" is not a valid field to query.',
    )


def test_what_is_not_simulated_says_so(tmp_path: Path):
    """It never answers a question that it does not know with something plausible."""
    install(tmp_path, "h200")
    done = smi(tmp_path, "-q", "-x")
    assert done.returncode == 64
    assert "SIMULATED" in done.stderr


def test_a_lost_gpu_is_reported_beside_the_others(tmp_path: Path):
    """One row of values, the message, one row of errors; status 15 (NVML_ERROR_GPU_IS_LOST)."""
    install(tmp_path, "lost_gpu")
    done = smi(tmp_path, "--query-gpu=index,uuid", "--format=csv,noheader")
    assert done.returncode == 15
    first, message, second = done.stdout.splitlines()
    assert first.startswith("0, GPU-")
    assert message == (
        "Unable to determine the device handle for GPU0000:C1:00.0: GPU is lost.  "
        "Reboot the system to recover this GPU"
    )
    assert second == "[Unknown Error], [Unknown Error]"


@pytest.mark.parametrize("name", names())
def test_every_profile_names_its_sources_and_makes_its_numbers_up(name: str):
    """Formats and figures are followed; identities are nobody's."""
    profile = Profile.load(name)
    assert profile.follows
    assert all(source.startswith("https://") for source in profile.follows)
    assert all(gpu["uuid"].startswith("GPU-51b00") for gpu in profile.gpus)
    assert json.loads((PROFILES / f"{name}.json").read_text())["what"] == profile.what


def test_a_driver_is_taken_out_again_completely(tmp_path: Path):
    """The tree is what it was."""
    from lab.driver import remove

    install(tmp_path, "eight_h100")
    remove(tmp_path)
    assert [path for path in tmp_path.rglob("*") if not path.is_dir()] == []
