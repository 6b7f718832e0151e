"""The lab is what it says: real hosts, apart from each other, gone without a trace."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from lab import Host, Lab, prerequisites
from lab import lab as lab_module
from lab.__main__ import main
from lab.lab import sweep
from lab.layers import cached
from lab.machine import LabError, boot_id, run
from lab.network import Network, free_subnet, stop_forwarding
from lab.processes import Process
from lab.tree import differences
from tests.lab.traces import traces

PROJECT = Path(__file__).parents[2]


@pytest.mark.lab
class TestAHost:
    """A host is a machine under systemd."""

    def test_runs_systemd_and_nothing_failed(self, host: Host) -> None:
        """PID 1 is systemd, it is done starting, no unit failed."""
        assert host.root_run("cat /proc/1/comm").stdout.strip() == "systemd"
        assert host.root_run("systemctl is-system-running").stdout.strip() == "running"

    def test_has_an_unprivileged_user_with_sudo(self, host: Host) -> None:
        """SSH logs in as `ops`, who becomes root without a password, and at once."""
        assert host.run("id -un").stdout.strip() == "ops"
        began = time.monotonic()
        assert host.run("sudo id -u").stdout.strip() == "0"
        assert time.monotonic() - began < 2
        assert host.run(f"getent hosts {host.name}").stdout.split()[0] == host.address

    def test_lacks_what_provisioning_must_install(self, host: Host) -> None:
        """It is as bare as a cloud image: no pip, no venv."""
        assert host.run("python3 -m ensurepip --version", check=False).returncode != 0

    def test_another_host_key_is_refused(self, lab: Lab, host: Host) -> None:
        """The first connection is checked: under a forged known_hosts there is none."""
        true_keys = lab.known_hosts.read_text()
        key = "AAAAC3NzaC1lZDI1NTE5AAAAIGfDbX2cFJ3pcxTKGnbOMIE2yXqyU4Kqb0qaSYPRMEpI"
        lab.known_hosts.write_text(f"{host.address},{host.name} ssh-ed25519 {key}\n")
        try:
            refused = host.run("true", check=False)
        finally:
            lab.known_hosts.write_text(true_keys)
        assert refused.returncode == 255
        assert "Host key verification failed" in refused.stderr
        assert host.run("true").returncode == 0

    def test_enforces_what_systemd_does_by_bpf(self, host: Host) -> None:
        """IPAddressDeny and DevicePolicy hold: each is tried against what it forbids."""
        machine = host.lab.network.machine
        connect = f"import socket; socket.create_connection(('{machine}', 22), 1)"
        unit = "systemd-run --quiet --wait --pipe"
        denied = host.root_run(f'{unit} -p IPAddressDeny=any python3 -c "{connect}"', check=False)
        assert "timed out" in denied.stderr
        allowed = host.root_run(f'{unit} python3 -c "{connect}"', check=False)
        assert "timed out" not in allowed.stderr
        read = "od -N1 /dev/urandom"
        denied = host.root_run(f"{unit} -p DevicePolicy=strict {read}", check=False)
        assert "Operation not permitted" in denied.stderr
        assert host.root_run(f"{unit} {read}", check=False).returncode == 0

    def test_cannot_change_this_machine(self, host: Host) -> None:
        """Its root may neither load a kernel module nor set the clock nor write sysctls."""
        for forbidden in ("date -s @0", "sysctl -w kernel.panic=7", "modprobe dummy"):
            assert host.root_run(forbidden, check=False).returncode != 0

    def test_downloads_as_this_machine_does(self, host: Host) -> None:
        """It resolves and verifies with this machine's resolver and certificate authorities."""
        assert host.root_run("cat /etc/resolv.conf").stdout == Path("/etc/resolv.conf").read_text()
        done = host.run("sudo apt-get update --error-on=any", timeout_s=120)
        assert done.returncode == 0


@pytest.mark.lab
class TestPower:
    """A host can be rebooted, and lose its power."""

    def test_a_reboot_keeps_the_disk(self, host: Host) -> None:
        """After a reboot it is another boot on the same disk."""
        host.root_run("echo kept > /root/kept")
        before = host.root_run("journalctl --list-boots | wc -l").stdout
        host.reboot()
        assert host.run("sudo cat /root/kept").stdout == "kept\n"
        assert int(host.root_run("journalctl --list-boots | wc -l").stdout) == int(before) + 1

    def test_a_start_that_takes_too_long_says_what_it_waits_for(self, host: Host) -> None:
        """A unit that does not come up is named, not only waited for."""
        unit = "[Service]\nType=oneshot\nExecStart=sleep 60\n[Install]\nWantedBy=multi-user.target"
        host.root_run(f"printf '{unit}' > /etc/systemd/system/slow.service; systemctl enable slow")
        host.kill()
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(host, "wait_until_up", lambda: None)
            host.start()
        with pytest.raises(LabError, match=r"still starting after 3 s:\n(.*\n)*.*slow.service"):
            host.wait_until_up(timeout_s=3)

    def test_a_power_cut_loses_what_was_not_synced(self, lab: Lab) -> None:
        """On a durable disk what was synced is there afterwards, and what was not is gone."""
        host = lab.boot("durable", durable=True)
        host.root_run("echo 1 > /root/synced; sync /root/synced /root; echo 2 > /root/unsynced")
        host.power_cut()
        assert host.root_run("cat /root/synced").stdout == "1\n"
        assert host.root_run("cat /root/unsynced", check=False).stdout == ""
        host.root_run("echo 3 > /root/later; sync")
        host.power_cut()
        assert host.root_run("cat /root/later").stdout == "3\n"
        host.destroy()

    def test_a_power_cut_is_one_though_a_stranger_holds_the_disk(self, lab: Lab) -> None:
        """Another mount namespace keeps the old file system alive: the host gets a copy of it."""
        host = lab.boot("held", durable=True)
        host.root_run("echo 1 > /root/synced; sync /root/synced /root; echo 2 > /root/unsynced")
        with subprocess.Popen(["unshare", "--mount", "sleep", "60"]) as stranger:
            time.sleep(0.2)
            host.power_cut()
            stranger.kill()
        assert host.root_run("cat /root/synced").stdout == "1\n"
        assert host.root_run("cat /root/unsynced", check=False).stdout == ""
        host.root_run("echo 3 > /root/later; sync")
        host.destroy()

    def test_a_power_cut_ends_every_process_at_once(self, host: Host) -> None:
        """Nothing gets the time to clean up, and without a durable disk nothing is lost."""
        host.root_run("systemd-run --quiet sh -c 'trap \"touch /root/warned\" TERM; sleep 60'")
        host.kill()
        assert not host.running()
        host.start()
        assert host.root_run("ls /root").stdout == ""

    def test_killing_a_host_that_is_off_harms_nothing(self, lab: Lab) -> None:
        """A second power cut has no file system to shut down, this machine's least of all."""
        host = lab.boot("off", durable=True)
        host.kill()
        host.kill()
        probe = host.directory / "still-writable"
        probe.write_text("yes")
        host.destroy()


@pytest.mark.lab
class TestTheNetwork:
    """Hosts reach each other, until a cable is pulled."""

    def test_a_cut_host_does_not_answer(self, host: Host) -> None:
        """With its port down a connection hangs; with it up again it works."""
        host.cut_network()
        with pytest.raises(LabError, match="took longer than 1 s"):
            host.run("true", timeout_s=1)
        assert host.root_run("true").returncode == 0
        host.restore_network()
        assert host.run("true").returncode == 0

    def test_two_hosts_are_apart(self, lab: Lab, host: Host) -> None:
        """Each has its own processes, units and address, and can reach the other's."""
        other = lab.boot("other")
        host.root_run("systemd-run --quiet --unit=mine sleep 1000")
        assert other.root_run("systemctl is-active mine", check=False).stdout == "inactive\n"
        assert "sleep 1000" not in other.root_run("ps ax").stdout
        hello = f"timeout 2 bash -c 'head -c4 < /dev/tcp/{host.address}/22'"
        assert other.run(hello).stdout == "SSH-"
        other.destroy()
        assert host.root_run("systemctl is-active mine").stdout == "active\n"


@pytest.mark.lab
@pytest.mark.parametrize(
    ("release", "name", "glibc"),
    [
        ("bookworm", "Debian GNU/Linux 12 (bookworm)", "2.36"),
        ("trixie", "Debian GNU/Linux 13 (trixie)", "2.41"),
        ("bullseye", "Debian GNU/Linux 11 (bullseye)", "2.31"),
    ],
)
def test_each_release_boots(lab: Lab, release: str, name: str, glibc: str) -> None:
    """Debian 11, 12 and 13 come up and answer SSH, each with its own C library."""
    host = lab.boot(f"of-{release}", release=release)
    assert f'PRETTY_NAME="{name}"' in host.run("cat /etc/os-release").stdout
    assert host.run("ldd --version | head -1").stdout.split()[-1] == glibc
    assert host.run("systemctl is-system-running").stdout == "running\n"
    host.destroy()


@pytest.mark.lab
class TestRebuilding:
    """Hosts can be made again, from scratch or from where another one stands."""

    def test_a_new_identity_is_another_host(self, host: Host) -> None:
        """Rebuilt under its name it has another machine id, address and key, and an empty disk."""
        host.root_run("touch /root/old")
        before = (host.address, host.public_key, host.run("cat /etc/machine-id").stdout)
        after = host.new_identity()
        now = (after.address, after.public_key, after.run("cat /etc/machine-id").stdout)
        assert not set(before) & set(now)
        assert after.root_run("ls /root").stdout == ""
        host.destroy()  # gone already: it is not the one that has its name now
        assert after.running()

    def test_a_snapshot_is_where_another_host_starts(self, lab: Lab, host: Host) -> None:
        """A host over a snapshot has the state, deletions included, and its own identity."""
        host.root_run(
            "echo 1 > /srv/made; rm /etc/motd; rm -r /usr/share/doc; mkdir /usr/share/doc"
        )
        layers = host.snapshot()
        other = lab.boot("over-the-snapshot", layers=layers)
        assert other.root_run("cat /srv/made").stdout == "1\n"
        assert other.root_run("ls /etc/motd", check=False).returncode != 0
        assert other.root_run("ls /usr/share/doc").stdout == ""
        own = ["/etc/hostname", "/etc/hosts", "/etc/machine-id", "/etc/ssh/ssh_host_ed25519_key*"]
        own += ["/etc/systemd/network/10-lab.network", "/var/log/journal", "/var/log/wtmp"]
        own += ["/var/tmp/systemd-private-*"]
        found = differences(host.tree(), other.tree())
        assert differences(host.tree(), other.tree(), without=own) == []
        assert any("/etc/machine-id" in line for line in found)
        other.destroy()

    def test_a_cached_layer_is_made_once(
        self, lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The second who asks gets what the first one made; old ones go, if no host is on them."""
        monkeypatch.setattr("lab.layers.cache", lambda: tmp_path)
        made: list[str] = []

        def make() -> Host:
            made.append("once")
            host = lab.boot("for-the-layer")
            host.root_run("echo prepared > /srv/prepared")
            return host

        layers = cached("name", "1", make)
        assert cached("name", "1", make) == layers
        assert made == ["once"]
        host = lab.boot("on-the-layer", layers=layers)
        os.utime(layers[0].parent, (1, 1))
        for digest in "2345":
            copy = shutil.copytree(layers[0].parent, tmp_path / f"layers/name.{digest}")
            os.utime(copy, (int(digest), int(digest)))
        cached("name", "5", make)
        kept = {path.name for path in (tmp_path / "layers").glob("name.*")}
        assert kept == {"name.1", "name.3", "name.4", "name.5"}
        assert host.run("cat /srv/prepared").stdout == "prepared\n"
        host.destroy()

    def test_a_listing_shows_every_difference(self, host: Host) -> None:
        """Content, mode, owner, link, addition and removal are each told, time if asked for."""
        host.root_run("cd /srv; echo aa > f; touch m o gone; ln -s f l; touch -d @1 t")
        before = host.tree()
        host.root_run(
            "cd /srv; echo bb > f; chmod 7 m; chown 7 o; rm gone; ln -sf m l; touch t; :> n"
        )
        found = differences(before, host.tree(), without=["/var/log/journal"])
        told = [line.split(" ->")[0] for line in found]
        assert [line.split(":")[0] for line in told] == [
            "changed /srv/f", "removed /srv/gone", "changed /srv/l", "changed /srv/m",
            "added /srv/n", "changed /srv/o",
        ]  # fmt: skip
        assert "written /srv/t" in differences(before, host.tree(), times=True)


@pytest.mark.lab
class TestGoing:
    """A lab leaves nothing behind, whatever happens."""

    def test_a_lab_leaves_no_trace(self) -> None:
        """When its block ends, by an error too, nothing on the machine carries its id."""
        ids = []

        def fail() -> None:
            with Lab() as lab:
                lab.boot("passing", durable=True)
                ids.append(lab.id)
                assert len(traces(lab.id)) > 5
                raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            fail()
        assert traces(ids[0]) == []

    def test_what_a_killed_run_leaves_behind_is_swept(self) -> None:
        """A process is killed with its lab up: the next sweep removes all of it."""
        program = (
            "import os, signal; from lab import Lab; lab = Lab().__enter__(); lab.boot('orphan');"
            "print(lab.id, flush=True); os.kill(os.getpid(), signal.SIGKILL)"
        )
        killed = subprocess.run(
            [sys.executable, "-c", program],
            cwd=PROJECT, capture_output=True, text=True, check=False, timeout=120,
        )  # fmt: skip
        assert killed.returncode == -signal.SIGKILL
        lab_id = killed.stdout.strip()
        deadline = time.monotonic() + 10
        while traces(lab_id) and time.monotonic() < deadline:
            sweep()  # or another test process's did it
        assert traces(lab_id) == []

    def test_sweeping_leaves_living_labs_alone(self, lab: Lab, host: Host) -> None:
        """A lab whose owner lives is not swept."""
        assert lab.id not in sweep()
        assert host.run("true").returncode == 0

    def test_two_labs_at_once_do_not_meet(self, lab: Lab) -> None:
        """Each has its own bridge and subnet."""
        with Lab() as other:
            assert other.network.bridge != lab.network.bridge
            assert not other.network.subnet.overlaps(lab.network.subnet)

    def test_who_comes_and_goes_cuts_nobody_off(self) -> None:
        """The bridge keeps its link-layer address, which every host has learnt."""
        with Lab() as other:
            learnt = Path(f"/sys/class/net/{other.network.bridge}/address")
            before = learnt.read_text()
            passing = [other.boot("first"), other.boot("second")]
            assert learnt.read_text() == before
            for host in passing:
                host.destroy()
            assert learnt.read_text() == before

    def test_what_a_killed_run_still_removes_is_no_error(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Its last `ip` or `iptables` goes on after it, and is done before the sweeper's own."""
        network = Network(lab="race", subnet=free_subnet([]))
        network.make(tmp_path / "forwarding")

        def second(*command: str) -> str:
            if {"delete", "-D"} & set(command):
                run(*command)
            return run(*command)

        monkeypatch.setattr("lab.network.run", second)
        network.remove()
        monkeypatch.undo()
        stop_forwarding(tmp_path / "forwarding")
        assert "mlxlab-race" not in run("ip", "-o", "link") + run("iptables-save")

    def test_forwarding_is_put_back(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """The last lab to go sets ip_forward to what the first one found."""
        forward = tmp_path / "ip_forward"
        forward.write_text("0\n")
        monkeypatch.setattr("lab.network.FORWARD", forward)
        rooms = tmp_path / "rooms"
        monkeypatch.setattr(lab_module, "ROOMS", rooms)
        monkeypatch.setattr(lab_module, "_FORWARDING", rooms / "forwarding.json")
        with Lab():
            with Lab():
                assert forward.read_text() == "1"
            assert forward.read_text() == "1"
        assert forward.read_text() == "0"


@pytest.mark.lab
def test_a_name_that_is_none_is_refused(lab: Lab) -> None:
    """What cannot name a host, or names one already, is refused before anything is made."""
    for wrong in ("", "a_b", "-a", "a" * 64, "../a"):
        with pytest.raises(LabError, match="is not a host's name"):
            lab.boot(wrong)
    host = lab.boot("named", address=lab.network.addresses[100])
    with pytest.raises(LabError, match="there is a host `named`"):
        lab.boot("named")
    with pytest.raises(LabError, match="is not a free address"):
        lab.boot("another", address=host.address)
    with pytest.raises(LabError, match="no release `sid`"):
        lab.boot("another", release="sid")
    assert "another" not in [one.name for one in lab.hosts()]
    host.destroy()


@pytest.mark.lab
def test_the_command_line_has_hosts_that_stay(tmp_path: Path) -> None:
    """`lab up` leaves hosts running, as told in inventory.json, until `lab down`."""
    environment = {**os.environ, "MLX_HOSTS_LAB_STATE": str(tmp_path / "state")}

    def lab(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "lab", *words],
            cwd=PROJECT, env=environment, capture_output=True, text=True, check=False, timeout=300,
        )  # fmt: skip

    try:
        up = lab("up", "2", "--no-hub")
        assert up.returncode == 0, up.stderr
        assert lab("up", "2", "--no-hub").returncode == 0
        told = json.loads((tmp_path / "state/inventory.json").read_text())
        assert list(told["hosts"]) == ["lab-1", "lab-2"]
        assert told["hosts"]["lab-1"]["ssh_strict_host_key_checking"] == "yes"
        assert told["hub"] is None
        assert lab("ssh", "lab-2", "hostname").stdout == "lab-2\n"
        assert lab("ssh", "lab-2", "exit 7").returncode == 7
        assert "no host `lab-3`" in lab("ssh", "lab-3").stderr
        assert lab("status").stdout.count("up") == 2
    finally:
        down = lab("down")
    assert down.returncode == 0, down.stderr
    assert traces(told["lab"]) == []
    assert not (tmp_path / "state").exists()
    assert "there is no lab here" in lab("status").stderr


@pytest.mark.lab
def test_a_machine_without_namespaces_is_told() -> None:
    """Root without the right to make namespaces, as in most containers, is told what to use."""
    found = subprocess.run(
        ["setpriv", "--bounding-set=-sys_admin", "--inh-caps=-sys_admin", sys.executable, "-c",
         "import lab; print(*lab.missing(), sep='\\n')"],
        cwd=PROJECT, capture_output=True, text=True, check=True, timeout=30,
    )  # fmt: skip
    assert found.stdout.startswith("namespaces cannot be made: use a machine (or a privileged")


def test_the_readme_tells_what_there_is() -> None:
    """Each command that the lab's README shows exists, and each that exists is in it."""
    told = (PROJECT / "lab/README.md").read_text()
    shown = set(re.findall(r"python -m lab ([a-z]+)", told))
    assert shown == set(main.commands)
    shell = subprocess.run(
        [sys.executable, "-m", "lab", "--help"],
        cwd=PROJECT, capture_output=True, text=True, check=True, timeout=30,
    )  # fmt: skip
    assert all(name in shell.stdout for name in main.commands)


def test_what_is_missing_is_said_with_the_way_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without root and without programs each complaint says what to do."""
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    monkeypatch.setattr(prerequisites, "SEARCHED", "/nowhere")
    root, packages = prerequisites.missing()
    assert root == "root is needed to boot hosts: run it with sudo or as root"
    assert "systemd-container" in packages
    assert "make lab-prerequisites" in packages
    with pytest.raises(LabError, match="install these packages first, as root: debootstrap"):
        prerequisites.install_prerequisites()


def test_only_the_very_process_is_killed() -> None:
    """A recorded process whose number was given to another one is left alone."""
    with subprocess.Popen(["sleep", "60"]) as child:
        real = Process.of(child.pid)
        for other in (
            Process(pid=child.pid, started=real.started - 1, boot=real.boot),
            Process(pid=child.pid, started=real.started, boot="another boot"),
        ):
            assert not other.alive()
            other.kill()
        time.sleep(0.05)
        assert child.poll() is None
        assert real.boot == boot_id()
        real.kill()
        assert child.wait(timeout=5) == -signal.SIGKILL
        assert not real.alive()
