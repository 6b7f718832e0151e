"""Base images: a Debian for each release, made once by debootstrap and kept."""

import hashlib
import inspect
import os
import sys
import tempfile
from pathlib import Path

from lab.machine import LabError, lock, remove_tree, run

RELEASES = {"bookworm": "Debian 12", "trixie": "Debian 13", "bullseye": "Debian 11"}
DEFAULT_RELEASE = "bookworm"

# What a fresh cloud image of Debian has. Not python3-venv, pip or curl: provisioning has to
# install what it needs.
PACKAGES = (
    "systemd",
    "systemd-sysv",
    "dbus",
    "libpam-systemd",
    "udev",
    "kmod",
    "procps",
    "iproute2",
    "openssh-server",
    "sudo",
    "python3",
    "ca-certificates",
)

# The random hour at which Debian looks for upgrades would fall into somebody's test.
MASKED = ("apt-daily.timer", "apt-daily-upgrade.timer")

USER = "ops"


def cache() -> Path:
    """Return where base images, cached layers and models are kept."""
    usual = Path("/var/cache") if os.geteuid() == 0 else Path.home() / ".cache"
    return Path(os.environ.get("MLX_HOSTS_LAB_CACHE", usual / "mlx-hosts-lab"))


def base(release: str) -> Path:
    """Return the tree of a release's base image, built first if it is not there (a minute).

    Raises LabError for an unknown release, or if debootstrap fails.
    """
    if release not in RELEASES:
        raise LabError(f"no release `{release}`: one of {', '.join(RELEASES)}")
    tree = cache() / "bases" / f"{release}-{_recipe()}"
    if tree.exists():
        return tree
    with lock(cache() / "bases" / f".{release}.lock"):
        if not tree.exists():
            for left_behind in tree.parent.glob(f".{release}.partial-*"):
                remove_tree(left_behind)
            partial = Path(tempfile.mkdtemp(prefix=f".{release}.partial-", dir=tree.parent))
            print(f"building the base image of {RELEASES[release]} once", file=sys.stderr)
            _build(release, partial)
            partial.chmod(0o755)
            partial.rename(tree)
    return tree


def _recipe() -> str:
    """Digest what a base image is made of, so that another recipe makes another image."""
    made_by = inspect.getsource(_build) + inspect.getsource(_forget_who_it_is)
    return hashlib.sha256(f"{PACKAGES} {MASKED} {made_by}".encode()).hexdigest()[:8]


def _build(release: str, tree: Path) -> None:
    mirror = os.environ.get("MLX_HOSTS_LAB_MIRROR")
    run(
        "debootstrap",
        "--variant=minbase",
        f"--include={','.join(PACKAGES)}",
        release,
        tree,
        *([mirror] if mirror else []),
        timeout_s=1200,
    )
    run("chroot", tree, "useradd", "--create-home", "--shell", "/bin/bash", USER)
    sudoers = tree / "etc/sudoers.d" / USER
    sudoers.write_text(f"{USER} ALL=(ALL:ALL) NOPASSWD: ALL\n")
    sudoers.chmod(0o440)
    run("systemctl", f"--root={tree}", "enable", "systemd-networkd.service")
    run("systemctl", f"--root={tree}", "mask", *MASKED)
    _forget_who_it_is(tree)


def _forget_who_it_is(tree: Path) -> None:
    """Take away what must be each host's own."""
    for key in (tree / "etc/ssh").glob("ssh_host_*"):
        key.unlink()
    for journal in (tree / "var/log/journal").glob("*"):
        remove_tree(journal)
    (tree / "etc/machine-id").write_text("")
    for own in ("etc/hostname", "etc/hosts", "etc/resolv.conf", "var/lib/systemd/random-seed"):
        (tree / own).unlink(missing_ok=True)
