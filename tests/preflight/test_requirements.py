"""The floors, against the locks and packages that they are floors of."""

import re
from importlib.metadata import metadata
from pathlib import Path

import pytest

from planner.requirements import (
    DRIVER,
    GLIBC,
    PYTHON,
    RUNTIME_BYTES,
    SYSTEMD,
    flavour,
    version,
)

LOCKS = Path(__file__).parents[2] / "locks"


@pytest.mark.parametrize(
    ("driver", "runs"),
    [
        ("610.57.04", "cuda13"),
        ("580.95.05", "cuda13"),
        ("580.65.06", "cuda13"),
        ("575.64.03", "cuda12"),
        ("550.54.15", "cuda12"),
        ("550.54.14", "cuda12"),
        ("550.40.07", None),
        ("535.216.01", None),
        ("470.256.02", None),
    ],
)
def test_the_drivers_branch_decides(driver: str, runs: str | None):
    """Whatever CUDA the driver's header names."""
    assert flavour(driver) == runs


def test_versions_are_compared_as_numbers():
    """2.9 is older than 2.35, and a release candidate is read up to its letters."""
    assert version("2.9") < version("2.35")
    assert version("3.14.0rc2") == (3, 14, 0)
    assert version("") == ()


def test_pythons_floor_is_mlx_lms():
    """The locked mlx-lm says so itself."""
    assert metadata("mlx-lm")["Requires-Python"] == f">={'.'.join(map(str, PYTHON))}"


def test_glibcs_floor_is_the_wheels_tag():
    """MLX's wheel for Linux names it."""
    files = metadata("mlx")
    assert files["Name"] == "mlx"
    wheel = next(Path(p) for p in _wheel_files("mlx") if p.name == "WHEEL").read_text()
    tags = re.findall(r"manylinux_(\d+)_(\d+)_", wheel)
    assert {(int(a), int(b)) for a, b in tags} == {GLIBC}


def _wheel_files(name: str) -> list[Path]:
    from importlib.metadata import files

    return [Path(str(path.locate())) for path in files(name) or []]


# systemd.unit(5) and its neighbours, "Added in version": settings that a unit of ours could use.
NEWER = {
    250: "ExitType LoadCredentialEncrypted SetCredentialEncrypted RestrictFileSystems "
    "RestrictNetworkInterfaces StartupAllowedCPUs StartupAllowedMemoryNodes",
    252: "StartupMemoryMax MemoryZSwapMax",
    253: "OpenFile LogFilterPatterns",
    254: "RestartSteps RestartMaxDelaySec RestartMode RootEphemeral DelegateSubgroup "
    "ImportCredential MemoryPressureWatch MemoryPressureThresholdSec UpheldBy",
    255: "SurviveFinalKillSignal NFTSet CoredumpReceive PollLimitBurst",
    257: "PrivatePIDs BindLogSockets ManagedOOMMemoryPressureDurationSec",
}


def test_units_use_nothing_newer_than_the_systemd_asked_for():
    """A setting that the host's systemd does not know is ignored there, with a line in its log."""
    templates = Path(__file__).parents[2] / "templates"
    used = {
        (path.name, line.partition("=")[0])
        for path in templates.glob("*.j2")
        for line in path.read_text().splitlines()
        if "=" in line
    }
    newer = {word for since, words in NEWER.items() if since > SYSTEMD for word in words.split()}
    assert [one for one in sorted(used) if one[1] in newer] == []
    texts = [path.read_text() for path in templates.glob("*.j2")]
    assert not any("%d/" in text for text in texts), "the credentials' specifier came with 250"


def test_every_flavour_has_a_lock_and_a_size():
    """What can be chosen can be built and has room reserved."""
    assert {"cpu", *DRIVER} == set(RUNTIME_BYTES)
    assert all((LOCKS / f"{name}.txt").exists() for name in RUNTIME_BYTES)
