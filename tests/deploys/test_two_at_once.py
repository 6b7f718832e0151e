"""One deploy at a time on a host, and no lock that outlives its deploy.

What a controller does that vanishes without a word is in `tests/operations/test_lock.py`.
"""

from __future__ import annotations

import signal

import pytest

from lab import Lab
from tests.deploys.interrupting import halted
from tests.deploys.states import States, deploy_tiny

pytestmark = pytest.mark.lab

UNDER_WAY = "before:6"  # the lock is taken before the second command


def test_the_second_is_refused_with_the_name_of_the_first(lab: Lab, states: States) -> None:
    """It says who is at it and since when, and changes nothing; the first comes to its end."""
    host = lab.boot("two-at-once", layers=states["serving"])
    with halted(lab, host.name, UNDER_WAY) as (first, _):
        host.root_run("rm /etc/needrestart/conf.d/mlx-hosts.conf")
        second = deploy_tiny(lab, "--limit", host.name)
        assert second.returncode == 1
        said = "another deploy is running on this host: "
        assert said in second.stderr
        name = second.stderr.partition(said)[2].splitlines()[0]
        assert f"pid {first.pid}, since 20" in name
        assert "@" in name
        assert host.root_run("ls /etc/needrestart/conf.d").stdout == ""
        first.send_signal(signal.SIGCONT)
        assert first.wait(timeout=120) == 0
    third = deploy_tiny(lab, "--limit", host.name)
    assert third.returncode == 0, str(third)
    host.destroy()


# Whoever has the lock's file open: the process that holds it.
END_THE_LOCK = """
for process in /proc/[0-9]*; do
  readlink $process/fd/* | grep -qx /run/mlx-hosts-deploy.lock || continue
  kill -KILL ${process#/proc/} && exit
done
exit 1
"""


def test_a_deploy_that_lost_its_lock_changes_nothing_more(lab: Lab, states: States) -> None:
    """As after a sleep: another may have begun meanwhile. It ends there, and says so."""
    host = lab.boot("lost-lock", layers=states["serving"])
    with halted(lab, host.name, UNDER_WAY) as (first, said):
        host.root_run(END_THE_LOCK)
        host.root_run("rm /etc/needrestart/conf.d/mlx-hosts.conf")
        first.send_signal(signal.SIGCONT)
        assert first.wait(timeout=120) == 1
        assert "the deploy lock is lost" in said.read_text()
    assert host.root_run("ls /etc/needrestart/conf.d").stdout == ""
    host.destroy()


@pytest.mark.parametrize("power", [False, True], ids=["pyinfra killed", "power cut"])
def test_a_lock_goes_with_its_deploy(lab: Lab, states: States, *, power: bool) -> None:
    """After a crash on either side the next deploy is not refused, however soon it comes."""
    host = lab.boot("lock", layers=states["serving"])
    with halted(lab, host.name, UNDER_WAY) as (first, _):
        if power:
            host.power_cut()
        first.kill()
        first.wait(timeout=10)
        run = deploy_tiny(lab, "--limit", host.name)
    assert run.returncode == 0, str(run)
    host.destroy()
