"""Three hosts at once, one of which must be refused: the others go on, it stays as it was."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from facts import bare_host
from lab import Host, Lab
from lab.driver import ACTIVATE, install
from lab.tree import differences
from tests.deploying import PYINFRA, ROOT, environment_of

pytestmark = pytest.mark.lab
# What a login leaves on any host, looked at or not.
LOGINS = ["/var/log/journal", "/var/log/wtmp", "/var/log/lastlog"]
REASONS = [
    "needs Debian 12 or newer, or Ubuntu 22.04 or newer; found Debian GNU/Linux 11 (bullseye)",
    "needs glibc 2.35 or newer, which MLX's wheels are built for; found glibc 2.31",
    "needs systemd 249 or newer as process 1; found `systemd` as process 1, systemd 247",
    "needs Python 3.11 or newer, below 3.16; found `python3` is 3.9.2",
    "needs NVIDIA driver 550.54.14 or newer; found driver 535.216.01",
]
INVENTORY = """\
import json, os
_hosts = json.load(open(os.environ["MLX_HOSTS_LAB_STATE"] + "/inventory.json"))["hosts"]
lab = [
    (name, {
        **{key: value for key, value in _hosts[name].items() if key.startswith("ssh_")},
        "flavour": None if name == "refused" else "cpu",
    })
    for name in ("one", "refused", "other") if name in _hosts
]
"""
# The real preflight; what stands for the rest of a deploy is one file that it would write.
DEPLOY = """\
from pyinfra.operations import files
from tasks.declared import declared
from tasks.preflight import preflight

if preflight(declared()):
    files.file(name="Go on", path="/root/gone-on")
"""


@pytest.fixture(scope="module")
def three(lab: Lab) -> Iterator[list[Host]]:
    """Two good hosts, and one of another release with a driver too old."""
    hosts = [lab.boot("one"), lab.boot("refused", release="bullseye"), lab.boot("other")]
    install(hosts[1].root, "driver_535")
    hosts[1].root_run(ACTIVATE)
    hosts[1].run("sudo true")  # a first login makes a few files of its own
    yield hosts
    for host in hosts:
        host.destroy()


def run(lab: Lab, place: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the real pyinfra over the hosts above that are there, without a terminal."""
    (place / "hosts.py").write_text(INVENTORY)
    (place / "deploy.py").write_text(DEPLOY)
    return subprocess.run(
        [PYINFRA, place / "hosts.py", place / "deploy.py", *arguments],
        cwd=ROOT,
        env={**os.environ, **environment_of(lab)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.mark.parametrize("arguments", ["--dry", "--json", "", "-y --json", "-y"])
def test_the_refused_host_is_told_every_reason_and_left_alone(
    lab: Lab, three: list[Host], tmp_path: Path, arguments: str
):
    """In every kind of run, without a terminal: message, exit status, tree, and the others."""
    good, refused = [three[0], three[2]], three[1]
    for host in good:
        host.root_run("rm -f /root/gone-on")
    before = refused.tree()
    done = run(lab, tmp_path, *arguments.split())
    assert done.returncode == 1, done.stderr
    assert "refused is refused" in done.stderr
    assert [reason for reason in REASONS if reason not in done.stderr] == []
    assert differences(before, refused.tree(), without=LOGINS) == []
    went_on = [(host.root / "root/gone-on").exists() for host in good]
    assert went_on == [arguments.startswith("-y")] * 2
    if "--json" in arguments:
        (plan,) = json.loads(done.stdout)["plan"]
        if "-y" not in arguments:
            assert plan["hosts_with_change"] == ["one", "other"]


def test_a_driver_that_hangs_is_a_refusal_within_seconds(
    lab: Lab, three: list[Host], tmp_path: Path
):
    """Over SSH and sudo; it is deaf to signals, and a child of it holds its output."""
    one, refused, other = three
    install(refused.root, "hangs")
    refused.root_run(ACTIVATE)
    began = time.monotonic()
    done = run(lab, tmp_path, "-y")
    took = time.monotonic() - began
    assert "needs an answer from `nvidia-smi`; found it hung and was given up" in done.stderr
    assert "glibc 2.31" in done.stderr, "the rest is told all the same"
    assert done.returncode == 1
    assert [(host.root / "root/gone-on").exists() for host in (one, other)] == [True, True]
    assert bare_host.SECONDS <= took < bare_host.SECONDS + 25
