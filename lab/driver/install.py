"""Put a simulated driver into a lab host's tree, and take it out again."""

from __future__ import annotations

import json
import platform
import subprocess
import tempfile
from dataclasses import asdict
from functools import cache
from pathlib import Path

from lab.driver.profile import Profile

HERE = Path(__file__).parent
HOME = "etc/simulated-nvidia"
SMI = "usr/bin/nvidia-smi"
PROGRAM = "usr/local/lib/simulated-nvidia-driver"
UNIT = "etc/systemd/system/simulated-nvidia-driver.service"
WANTS = "etc/systemd/system/sysinit.target.wants/simulated-nvidia-driver.service"
FABRIC_MANAGER = "etc/systemd/system/nvidia-fabricmanager.service"
FABRIC_MANAGER_WANTS = "etc/systemd/system/multi-user.target.wants/nvidia-fabricmanager.service"
LIBRARY = f"usr/lib/{platform.machine()}-linux-gnu/libnvidia-ml.so.1"
# What to run in a host that is up: the one after `install`, the other before `remove`.
ACTIVATE = """\
systemctl stop nvidia-fabricmanager.service 2>/dev/null
systemctl daemon-reload && systemctl restart simulated-nvidia-driver.service || exit
[ ! -e /etc/systemd/system/nvidia-fabricmanager.service ] || systemctl start nvidia-fabricmanager
"""
DEACTIVATE = "systemctl stop nvidia-fabricmanager.service simulated-nvidia-driver.service"

SERVICE = f"""\
# SIMULATED: the traces of a driver in /proc, /sys and /dev of this lab host.
[Unit]
Description=Simulated NVIDIA driver (lab)
DefaultDependencies=no
After=local-fs.target
Before=sysinit.target
ConditionPathExists=/{HOME}/profile.json

[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/{PROGRAM} up
ExecStop=/{PROGRAM} down
"""
FABRIC_MANAGER_SERVICE = """\
# SIMULATED: the lab's stand-in for NVIDIA's fabric manager; active, and nothing else.
[Unit]
Description=NVIDIA fabric manager service (simulated)
After=simulated-nvidia-driver.service

[Service]
ExecStart=/bin/sleep infinity

[Install]
WantedBy=multi-user.target
"""


def install(root: Path, profile: Profile | str) -> Profile:
    """Make the tree under ``root`` that of a host with the profile's driver, and nothing else's.

    ``root`` is a host's tree as seen from outside, running or not; a running one needs ``ACTIVATE``
    then, a stopped one comes up with it. Raises ``subprocess.CalledProcessError`` where the library
    cannot be compiled.
    """
    profile = Profile.load(profile) if isinstance(profile, str) else profile
    remove(root)
    secure_boot = b"" if profile.secure_boot is None else bytes([6, 0, 0, 0, profile.secure_boot])
    texts = {
        "profile.json": json.dumps(asdict(profile)),
        "nvml": _lines(profile.flat()),
        "pci": _lines(profile.pci()),
        "modules": _lines(profile.modules),
        "module_version": _lines([profile.loaded_version] if profile.loaded_version else []),
        "nodes": _lines(profile.nodes()),
        "proc_version": _lines([profile.nvrm] if profile.nvrm else []),
    }
    for name, text in texts.items():
        _write(root / HOME / name, text.encode())
    _write(root / HOME / "secure_boot", secure_boot)
    _write(root / PROGRAM, (HERE / "up.sh").read_bytes(), mode=0o755)
    _write(root / UNIT, SERVICE.encode())
    _link(root / WANTS, f"/{UNIT}")
    if profile.driver:
        _write(root / SMI, (HERE / "nvidia_smi.py").read_bytes(), mode=0o755)
        _write(root / LIBRARY, library(), mode=0o644)
    if profile.fabric_manager:
        _write(root / FABRIC_MANAGER, FABRIC_MANAGER_SERVICE.encode())
        _link(root / FABRIC_MANAGER_WANTS, f"/{FABRIC_MANAGER}")
    return profile


def remove(root: Path) -> None:
    """Take every file of a simulated driver out of the tree under ``root``."""
    for name in (PROGRAM, UNIT, WANTS, FABRIC_MANAGER, FABRIC_MANAGER_WANTS, SMI, LIBRARY):
        (root / name).unlink(missing_ok=True)
    if (root / HOME).is_dir():
        for path in (root / HOME).iterdir():
            path.unlink()
        (root / HOME).rmdir()


@cache
def library() -> bytes:
    """Compile the simulated libnvidia-ml.so.1, for this machine's architecture."""
    with tempfile.TemporaryDirectory() as made:
        target = Path(made) / "libnvidia-ml.so.1"
        # -std=c99: newer C libraries would otherwise ask for functions that older hosts lack.
        subprocess.run(
            ["gcc", "-std=c99", "-shared", "-fPIC", "-O1", "-o", str(target), HERE / "nvml.c"],
            check=True,
        )
        return target.read_bytes()


def _lines(lines: list[str] | tuple[str, ...]) -> str:
    return "".join(f"{line}\n" for line in lines)


def _link(path: Path, target: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.symlink_to(target)


def _write(path: Path, content: bytes, *, mode: int = 0o644) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    path.chmod(mode)
