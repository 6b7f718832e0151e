"""One host is refused, the others are served: in every kind of run alike."""

from __future__ import annotations

import os
import pty
import subprocess
from collections.abc import Iterator

import pytest

from lab import Host, Lab
from lab.tree import differences
from tests.deploying import PYINFRA, ROOT, environment_of, pyinfra
from tests.deploys.looking import serves
from tests.deploys.states import States, serving_tiny

pytestmark = pytest.mark.lab

# That somebody logged in by SSH is written down by the host itself.
LOGIN = ("/var/log/journal", "/var/log/wtmp", "/var/log/lastlog")
# Debian 11 is too old in each of these, and each is said.
REASONS = ("needs Debian 12 ", "needs glibc 2.35 ", "needs systemd 249 ", "needs Python 3.11 ")


@pytest.fixture(scope="module")
def good(lab: Lab, states: States) -> Iterator[list[Host]]:
    """Two hosts that have to be deployed to."""
    hosts = [lab.boot(f"good-{name}", layers=states["unprepared"]) for name in "ab"]
    yield hosts
    for host in hosts:
        host.destroy()


@pytest.fixture(scope="module")
def old(lab: Lab) -> Iterator[Host]:
    """A host that nothing of ours can run on."""
    host = lab.boot("old", release="bullseye")
    host.run("sudo true")  # what a first login leaves behind
    yield host
    host.destroy()


def three(lab: Lab, good: list[Host], old: Host) -> list[str]:
    limits = [word for host in (*good, old) for word in ("--limit", host.name)]
    return [*serving_tiny(lab), *limits]


def says_why(said: str) -> bool:
    """Whether the host's name and every reason stand together."""
    refusal = said.partition("preflight: old is refused\n")[2]
    return all(f"\n  - {reason}" in f"\n{refusal}" for reason in REASONS)


def without_a_terminal(lab: Lab, arguments: list[str]) -> tuple[int, str]:
    run = pyinfra(lab, *arguments)
    return run.returncode, run.stdout + run.stderr


def on_a_terminal(lab: Lab, arguments: list[str]) -> tuple[int, str]:
    """Run on a terminal, where pyinfra asks whether to go on, and press enter."""
    controller, terminal = pty.openpty()
    process = subprocess.Popen(
        [PYINFRA, "inventories/lab.py", "deploy.py", *arguments],
        cwd=ROOT,
        env={**os.environ, **environment_of(lab)},
        stdin=terminal,
        stdout=terminal,
        stderr=terminal,
        close_fds=True,
    )
    os.close(terminal)
    said, answered = b"", False
    with process:
        while True:
            try:
                said += os.read(controller, 1 << 16)
            except OSError:  # the other end is closed
                break
            if b"Press enter" in said and not answered:
                os.write(controller, b"\n")
                answered = True
    os.close(controller)
    return process.returncode, said.decode().replace("\r\n", "\n")


def test_two_serve_and_the_third_is_untouched(lab: Lab, good: list[Host], old: Host) -> None:
    """Its whole tree is as before, the message names it and every reason, the exit status is 1."""
    before = old.tree()
    run = pyinfra(lab, *three(lab, good, old), "-y", "--json")
    assert run.returncode == 1
    assert says_why(run.stderr)
    assert differences(before, old.tree(), without=LOGIN, times=True) == []
    assert {serves(host) for host in good} == {True}
    succeeded = {host for one in run.json["results"]["operations"] for host in one["success"]}
    assert succeeded == {host.name for host in good}

    for how, arguments in ((without_a_terminal, ["-y"]), (on_a_terminal, [])):
        for host in good:
            host.root_run("rm /etc/needrestart/conf.d/mlx-hosts.conf")
        status, said = how(lab, [*three(lab, good, old), *arguments])
        assert status == 1, said
        assert says_why(said)
        assert differences(before, old.tree(), without=LOGIN, times=True) == []
        for host in good:
            host.root_run("test -e /etc/needrestart/conf.d/mlx-hosts.conf")


def test_where_nobody_can_be_asked_nothing_is_changed(
    lab: Lab, good: list[Host], old: Host
) -> None:
    """Without ``-y`` and without a terminal it ends plainly, the refusal told too."""
    for host in good:
        host.root_run("rm -f /etc/needrestart/conf.d/mlx-hosts.conf")
    status, said = without_a_terminal(lab, three(lab, good, old))
    assert status == 1
    assert says_why(said)
    assert "nothing was changed: there is nobody to ask" in said
    assert "Traceback" not in said
    for host in good:
        assert host.root_run("ls /etc/needrestart/conf.d", check=False).stdout == ""


def test_a_host_without_room_for_the_weights_is_untouched(lab: Lab, states: States) -> None:
    """How much they take is known once the plan is made, whatever a lock knew before."""
    host = lab.boot("full", layers=states["unprepared"])
    try:
        hub = "/var/lib/mlx-hosts/hub"
        host.root_run(f"mkdir -p {hub} && mount -t tmpfs -o size=64k tmpfs {hub}")
        before = host.tree()
        run = pyinfra(lab, *serving_tiny(lab), "--limit", host.name, "-y")
        assert run.returncode == 1
        refusal = run.stderr.partition("preflight: full is refused\n")[2]
        assert f" GiB free for `{hub}`" in refusal
        assert f" on `{hub}`; make room" in refusal
        assert differences(before, host.tree(), without=LOGIN, times=True) == []

        host.root_run(f"umount {hub}")
        assert pyinfra(lab, *serving_tiny(lab), "--limit", host.name, "-y").returncode == 0
        assert serves(host)
    finally:
        host.destroy()
