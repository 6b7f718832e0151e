"""What the lab needs of the machine, said at once and installed on request."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

from lab.machine import LabError, run

PROGRAMS = {
    "systemd-nspawn": "systemd-container",
    "debootstrap": "debootstrap",
    "ip": "iproute2",
    "iptables": "iptables",
    "ssh-keygen": "openssh-client",
    "nsenter": "util-linux",
    "mkfs.ext4": "e2fsprogs",
    "gcc": "gcc",  # for the simulated driver's library
}
"""Each program the lab runs, and the Debian or Ubuntu package that has it."""

FILES = {
    "/usr/share/keyrings/debian-archive-keyring.gpg": "debian-archive-keyring",
    "/usr/include/stdio.h": "libc6-dev",
}
"""Each file besides, and the package that has it."""

SEARCHED = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def missing() -> list[str]:
    """List what keeps a host from being booted here, each with the way out; empty if nothing."""
    complaints = []
    if sys.platform != "linux":
        return [f"the lab needs Linux: this is {sys.platform}"]
    if os.geteuid() != 0:
        complaints.append("root is needed to boot hosts: run it with sudo or as root")
    packages = sorted(_missing_packages())
    if packages:
        complaints.append(
            f"packages are missing: run `make lab-prerequisites`, or install {' '.join(packages)}"
        )
    if os.geteuid() == 0:
        complaints += _missing_of_the_kernel()
    return complaints


def install_prerequisites() -> None:
    """Install the missing packages with apt-get, and say which; do nothing if none is missing.

    Raises LabError where there is no apt-get, where this is not root, or where apt-get fails.
    """
    packages = sorted(_missing_packages())
    if not packages:
        return
    if os.geteuid() != 0 or not shutil.which("apt-get", path=SEARCHED):
        raise LabError(f"install these packages first, as root: {' '.join(packages)}")
    print(f"installing for the lab: {' '.join(packages)}", file=sys.stderr, flush=True)
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    run("apt-get", "update", "-q", timeout_s=300, env=environment)
    run(
        "apt-get",
        "install",
        "-q",
        "-y",
        "--no-install-recommends",
        *packages,
        timeout_s=600,
        env=environment,
    )


def _missing_packages() -> set[str]:
    wanted = {
        package for program, package in PROGRAMS.items() if not shutil.which(program, path=SEARCHED)
    }
    return wanted | {package for path, package in FILES.items() if not Path(path).exists()}


def _missing_of_the_kernel() -> list[str]:
    complaints = []
    if "\toverlay\n" not in Path("/proc/filesystems").read_text() and not _modprobe("overlay"):
        complaints.append("the kernel has no overlayfs: load the module `overlay`")
    if (
        not Path("/sys/fs/cgroup/cgroup.controllers").exists()
        and not Path("/sys/fs/cgroup/unified/cgroup.controllers").exists()
    ):
        complaints.append("cgroup v2 is not mounted below /sys/fs/cgroup")
    trial = subprocess.run(
        ["unshare", "--mount", "--pid", "--net", "--uts", "--ipc", "--fork", "true"],
        capture_output=True,
        text=True,
        check=False,
        timeout=10,
    )
    if trial.returncode:
        complaints.append(
            "namespaces cannot be made: use a machine (or a privileged container) that allows "
            f"them ({trial.stderr.strip()})"
        )
    return complaints


def _modprobe(module: str) -> bool:
    program = shutil.which("modprobe", path=SEARCHED)
    if not program:
        return False
    return subprocess.run([program, module], capture_output=True, check=False).returncode == 0
