"""The simulated driver on a booted host: there after a boot, gone when taken out."""

import pytest

from lab import Host
from lab.driver import (
    ACTIVATE,
    DEACTIVATE,
    Profile,
    install,
    install_packages,
    offer_newer,
    remove,
)

pytestmark = pytest.mark.lab


def test_its_traces_survive_a_reboot_and_go_when_told(host: Host):
    """Modules, device nodes and answers come with the host, as with a real driver."""
    install(host.root, "eight_h100")
    host.root_run(ACTIVATE)
    host.reboot()
    assert host.root_run("cat /sys/module/nvidia/version").stdout == "580.95.05\n"
    assert "Open Kernel Module" in host.root_run("cat /proc/driver/nvidia/version").stdout
    assert host.root_run("ls /dev/nvidia[0-9] | wc -l").stdout == "8\n"
    assert host.root_run("nvidia-smi -L | wc -l").stdout == "8\n"
    assert host.root_run("systemctl is-active nvidia-fabricmanager").stdout == "active\n"
    assert host.root_run("systemctl is-system-running").stdout == "running\n"
    host.root_run(DEACTIVATE)
    remove(host.root)
    assert host.root_run("ls /sys/module/nvidia /dev/nvidia0", check=False).returncode
    assert host.root_run("nvidia-smi", check=False).returncode == 127


def test_its_device_nodes_are_the_null_device(host: Host):
    """A lab on a machine with real GPUs must not reach them."""
    install(host.root, "two_rtx_pro_6000")
    host.root_run(ACTIVATE)
    assert set(host.root_run("stat -c '%t:%T' /dev/nvidia*").stdout.split()) == {"1:3"}


def test_its_packages_can_be_held_and_upgraded(host: Host):
    """A newer driver is on offer; one that is held is kept back, the others would go."""
    profile = Profile.load("two_rtx_pro_6000")
    install_packages(host, profile)
    offer_newer(host, profile)
    upgrade = "apt-get -s -o Debug::NoLocking=1 upgrade"
    assert "Inst libnvidia-compute-580 [580.95.05" in host.root_run(upgrade).stdout
    host.root_run("apt-mark hold libnvidia-compute-580")
    upgraded = [line for line in host.root_run(upgrade).stdout.splitlines() if "Inst" in line]
    assert not any("libnvidia-compute-580" in line for line in upgraded)
    assert any("nvidia-driver-580-open" in line for line in upgraded)
