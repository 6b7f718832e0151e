"""Whatever one host does while it is looked at, the verdict on it is right, and on the others."""

from __future__ import annotations

import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from lab import Host, Lab
from tests.deploying import ROOT
from tests.drift.checking import INVENTORY, Checked, deploy, drift

pytestmark = pytest.mark.lab

PATIENCE_S = 20
NOISE = r"""printf '\377\376 hello \200\n'; printf '\303\050\n' >&2
"""


@pytest.fixture(scope="module")
def broken(lab: Lab, nonsense: list[Path]) -> Iterator[Host]:
    """The host that misbehaves, beside `kept`, which does not."""
    host = lab.boot("broken", layers=nonsense)
    yield host
    host.destroy()


def look(lab: Lab) -> Checked:
    """Check the two, and nobody else's."""
    arguments = ("--json", "--seconds", str(PATIENCE_S))
    return drift(lab, "kept-faults", "broken", arguments=arguments, timeout=90)


def wait_until_ready(host: Host) -> None:
    state = "/run/mlx-hosts/nonsense.0/state.json"
    host.root_run(f'until grep -q \'"state": "ready"\' {state}; do sleep 0.2; done')


def assert_unknown(checked: Checked, host: str, why: str, *, other: str) -> None:
    """Exit status 1, the reason told, and the other host judged as ever."""
    assert checked.returncode == 1, str(checked)
    assert checked.host(host)["verdict"] == "cannot tell"
    assert why in " ".join(checked.host(host)["troubles"]), str(checked)
    assert checked.host(other)["verdict"] == "as declared", str(checked)


def test_a_host_that_cannot_be_reached(lab: Lab, kept: Host, broken: Host) -> None:
    """Its cable is pulled."""
    broken.cut_network()
    try:
        checked = look(lab)
    finally:
        broken.restore_network()
    assert_unknown(checked, broken.name, "connect", other=kept.name)


@contextmanager
def server(behave: Callable[[socket.socket], None]) -> Iterator[int]:
    """Listen on loopback, and do to each who connects what the test says."""
    listener = socket.create_server(("127.0.0.1", 0))
    held: list[socket.socket] = []

    def serve() -> None:
        while True:
            try:
                one, _ = listener.accept()
            except OSError:
                return
            held.append(one)
            behave(one)

    threading.Thread(target=serve, daemon=True).start()
    try:
        yield listener.getsockname()[1]
    finally:
        listener.close()
        for one in held:
            one.close()


@pytest.mark.parametrize("greeting", [b"", b"SSH-2.0-OpenSSH_9.2\r\n", b"220 smtp\r\n"])
def test_a_host_that_hangs_before_or_after_its_banner(
    lab: Lab, kept: Host, greeting: bytes
) -> None:
    """Something accepts the connection and says nothing more."""
    began = time.monotonic()
    with server(lambda one: one.sendall(greeting)) as port:
        where = {**kept.ssh_data, "ssh_hostname": "127.0.0.1", "ssh_port": port}
        checked = drift(
            lab,
            kept.name,
            "hanging",
            arguments=("--json", "--seconds", "8"),
            more_hosts={"hanging": where},
        )
    assert_unknown(checked, "hanging", "connect", other=kept.name)
    assert time.monotonic() - began < 60


def test_a_host_whose_sudo_asks(lab: Lab, kept: Host, broken: Host) -> None:
    """No prompt, no hang: the reason."""
    rules = "/etc/sudoers.d"
    broken.root_run(f"cp -a {rules} /root/rules; sed -i s/NOPASSWD:// {rules}/*")
    try:
        checked = look(lab)
    finally:
        broken.root_run(f"rm -r {rules}; mv /root/rules {rules}")
    assert_unknown(checked, broken.name, "password", other=kept.name)


@pytest.mark.usefixtures("kept")
def test_a_host_that_prints_what_is_not_utf_8(lab: Lab, broken: Host) -> None:
    """A profile's noise on both outputs changes nothing."""
    wait_until_ready(broken)
    noise = r"printf '\377\376 hello \200\n'; printf '\303\050\n' >&2"
    broken.root_run(f"cp /home/ops/.bashrc /root/kept 2>/dev/null || :; echo {noise!r} >/root/n")
    broken.root_run("{ cat /root/n | sed \"s/^'//; s/'$//\"; } >/home/ops/.bashrc")
    try:
        checked = look(lab)
    finally:
        broken.root_run(
            "rm -f /home/ops/.bashrc; mv /root/kept /home/ops/.bashrc || :", check=False
        )
    assert checked.returncode == 0, str(checked)


def test_a_connection_that_is_killed(lab: Lab, kept: Host, broken: Host) -> None:
    """The session ends while the probe runs: no part of an answer is taken for the whole."""
    broken.root_run("mv /usr/bin/python3 /usr/bin/python3.real")
    broken.root_run(
        "printf '#!/bin/sh\\nkill -9 $(ps -o ppid= -p $PPID) $PPID\\nsleep 9\\n' >/usr/bin/python3;"
        " chmod +x /usr/bin/python3"
    )
    try:
        checked = look(lab)
    finally:
        broken.root_run("mv /usr/bin/python3.real /usr/bin/python3")
    assert checked.returncode == 1, str(checked)
    assert checked.host(broken.name)["troubles"], str(checked)
    assert checked.host(kept.name)["verdict"] == "as declared"


def test_a_host_that_never_answers(lab: Lab, kept: Host, broken: Host) -> None:
    """A probe that hangs is given up in time, and its host alone is unknown."""
    broken.root_run("mv /usr/bin/python3 /usr/bin/python3.real")
    broken.root_run(
        "printf '#!/bin/sh\\nexec sleep 600\\n' >/usr/bin/python3; chmod +x /usr/bin/python3"
    )
    began = time.monotonic()
    try:
        checked = look(lab)
    finally:
        broken.root_run("mv /usr/bin/python3.real /usr/bin/python3")
    assert_unknown(checked, broken.name, "did not answer within", other=kept.name)
    assert time.monotonic() - began < PATIENCE_S + 30


def test_a_host_without_python(lab: Lab, kept: Host, broken: Host) -> None:
    """What its shell says is told."""
    broken.root_run("mv /usr/bin/python3 /usr/bin/python3.real")
    try:
        checked = look(lab)
    finally:
        broken.root_run("mv /usr/bin/python3.real /usr/bin/python3")
    assert_unknown(checked, broken.name, "python3", other=kept.name)


def test_a_full_disk_hides_nothing(lab: Lab, nonsense: list[Path]) -> None:
    """The probe writes nothing, so a disk on which nothing fits any more is as good as another."""
    host = lab.boot("full", layers=nonsense, durable=True)
    try:
        wait_until_ready(host)
        host.root_run("head -c 65536 /dev/zero >/spare")
        # At once what can be had at once; the file system's own share of it is not known.
        host.root_run("fallocate -l $(($(df --output=avail -B1 / | tail -1) - (64 << 20))) /fill")
        host.root_run("cat /dev/zero >/fill2 || :", check=False, timeout_s=120)
        assert int(host.root_run("df --output=avail / | tail -1").stdout) < 1024  # KiB
        checked = drift(lab, host.name)
        assert checked.returncode == 0, str(checked)
        host.root_run("rm /spare && chmod 0600 /etc/mlx-hosts/instances/nonsense.0.json")
        assert drift(lab, host.name).returncode == 2
    finally:
        host.destroy()


@pytest.mark.parametrize(
    ("stamp", "verdict", "cause"),
    [
        (None, "drift", "missing"),
        ("", "drift", "changed by hand"),
        ('{"version": 1, "applied"', "drift", "changed by hand"),
        ('{"version": 99}', "cannot tell", None),
        ("[]", "drift", "changed by hand"),
        (
            '{"version": 1, "run": {}, "applied": [{"kind": "unheard of"}]}',
            "drift",
            "changed by hand",
        ),
    ],
)
def test_a_stamp_that_is_not_one(
    lab: Lab, broken: Host, stamp: str | None, verdict: str, cause: str | None
) -> None:
    """Missing, torn, of another version: never taken for a host as declared."""
    place = "/etc/mlx-hosts/stamp.json"
    broken.root_run(f"mv {place} /root/stamp")
    try:
        if stamp is not None:
            broken.root_run(f"cat >{place}", input=stamp)
        checked = drift(lab, broken.name)
    finally:
        broken.root_run(f"mv /root/stamp {place}")
    host = checked.host(broken.name)
    assert host["verdict"] == verdict, str(checked)
    assert checked.returncode == {"drift": 2, "cannot tell": 1}[verdict]
    assert [one["class"] for one in host["findings"]] == ([cause] if cause else [])


def test_a_directory_in_the_stamps_place_is_drift_and_goes(lab: Lab, broken: Host) -> None:
    """Whatever stands there, the host is looked at, and the next run puts the stamp back."""
    broken.root_run("rm /etc/mlx-hosts/stamp.json; mkdir /etc/mlx-hosts/stamp.json")
    checked = drift(lab, broken.name)
    assert checked.host(broken.name)["verdict"] == "drift", str(checked)
    deploy(lab, broken.name)
    assert drift(lab, broken.name).returncode == 0


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "drift.py", *arguments],
        cwd=ROOT, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip


@pytest.mark.usefixtures("kept")
def test_a_check_of_nothing_is_no_verdict(lab: Lab, tmp_path: Path) -> None:
    """No such inventory, none with hosts, a limit that matches none: exit status 1, and why."""
    empty = tmp_path / "empty.py"
    empty.write_text("lab = []\n")
    wrong = tmp_path / "wrong.py"
    wrong.write_text('lab = ([("h", {"modles": []})], {})\n')
    for inventory, why in (
        (tmp_path / "absent.py", "no such"),
        (empty, "no hosts"),
        (wrong, "modles"),
    ):
        done = run(str(inventory))
        assert (done.returncode, why in done.stdout) == (1, True), done.stdout + done.stderr
    checked = drift(lab, "nobody")
    assert checked.returncode == 1
    assert "matches no host" in checked.json["trouble"]
    assert Path(ROOT / INVENTORY).is_file()
