"""What stands under everything else: user, directories, packages, mounts; and no open port."""

from __future__ import annotations

import pytest
from testinfra.host import Host

from tests.host.declared import ROOT, Declared

# Every directory of ours that a deploy makes; all are root's, for all to read.
DIRECTORIES = (
    "/opt/mlx-hosts",
    "/opt/mlx-hosts/records",
    "/opt/mlx-hosts/runtimes",
    "/opt/mlx-hosts/guards",
    "/opt/mlx-hosts/tools",
    "/opt/mlx-hosts/check",
    "/opt/mlx-hosts/check/manifest",
    "/etc/mlx-hosts",
    "/etc/mlx-hosts/instances",
    "/var/lib/mlx-hosts",
    "/var/lib/mlx-hosts/hub",
    "/var/cache/mlx-hosts",
    "/etc/needrestart",
    "/etc/needrestart/conf.d",
)
# What is in those that hold nothing else.
INSIDE = {
    "/opt/mlx-hosts": {"check", "guards", "records", "runtimes", "tools"},
    "/etc/mlx-hosts": {"instances", "stamp.json", "tolerated.json"},
}
LISTENING = """
import pwd, socket, sys
fabric = socket.inet_aton(sys.argv[1])[::-1].hex().upper() if sys.argv[1] else ""
uid = pwd.getpwnam("mlx").pw_uid
for table in ("/proc/net/tcp", "/proc/net/tcp6"):
    for line in open(table).read().splitlines()[1:]:
        fields = line.split()
        address = fields[1].rpartition(":")[0]
        if fields[3] == "0A" and int(fields[7]) == uid and address != fabric:
            print(int(fields[1].rpartition(":")[2], 16))
"""


def test_the_user_serves_and_can_do_nothing_else(host: Host) -> None:
    """`mlx` is a system user without a shell, a password, or any group but its own."""
    user = host.user("mlx")
    assert user.exists
    assert 0 < user.uid < 1000
    assert (user.home, user.shell) == ("/var/lib/mlx-hosts", "/usr/sbin/nologin")
    assert user.groups == ["mlx"]
    assert user.password.startswith(("!", "*"))


@pytest.mark.parametrize("path", DIRECTORIES)
def test_a_directory_is_roots_and_for_all_to_read(host: Host, path: str) -> None:
    """It is a directory itself (no link to one), root's, mode 0755."""
    assert host.check_output("stat -c '%%F %%a %%U %%G' %s", path) == "directory 755 root root"


@pytest.mark.parametrize("path", INSIDE)
def test_nothing_is_in_our_directories_besides(host: Host, path: str) -> None:
    """A file put there by hand is seen."""
    assert set(host.check_output("ls -A %s", path).split()) == INSIDE[path]


@pytest.mark.parametrize("name", ["ca-certificates", "python3-venv"])
def test_a_package_is_installed(host: Host, name: str) -> None:
    """What builds and downloads need is there, and whole."""
    assert host.package(name).is_installed


def test_an_upgrade_does_not_restart_models(host: Host) -> None:
    """needrestart is told to leave our units alone, in the checkout's own words."""
    path = "/etc/needrestart/conf.d/mlx-hosts.conf"
    assert host.check_output("stat -c '%%F %%a %%U %%G' %s", path) == "regular file 644 root root"
    expected = (ROOT / "templates/needrestart.conf.j2").read_text(encoding="utf-8")
    assert host.run("cat %s", path).stdout == expected


def test_nothing_of_ours_listens_on_the_network(host: Host, declared: Declared) -> None:
    """No process of `mlx` listens in the host's own network, but on the fabric for its ranks."""
    fabric = str(declared.data.get("fabric") or "")
    assert host.check_output("python3 -I -c %s %s", LISTENING, fabric) == ""


def test_declared_mounts_are_mounted(host: Host, declared: Declared) -> None:
    """What the weights may stand on is a mount point, and not a directory of the disk below."""
    mounts = declared.data.get("mounts") or ()
    if not mounts:
        pytest.skip("the inventory declares no mounts for this host")
    for mount in mounts:
        assert host.mount_point(mount).exists, mount


def test_nvidias_driver_is_held(host: Host, declared: Declared) -> None:
    """No unattended upgrade can put in another driver than the one that is loaded."""
    if not declared.gpu:
        pytest.skip("a CPU host")
    listed = host.check_output("dpkg-query -W -f '${db:Status-Abbrev} ${binary:Package}\\n'")
    driver = [
        line.split()
        for line in listed.splitlines()
        if line.split()[1].startswith(("nvidia-", "libnvidia-", "libcuda1", "cuda-drivers"))
        and "container" not in line
    ]
    unheld = [name for status, name in driver if status == "ii"]
    assert unheld == []
