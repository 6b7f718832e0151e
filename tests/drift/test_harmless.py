"""No false alarms: what happens on every host anyway is not drift."""

from __future__ import annotations

import random

import pytest

from lab import Host, Lab
from lab.tree import differences
from tests.drift.checking import drift
from tests.drift.harmless import HARMLESS, READY
from tests.drift.test_catalogue import SEED

pytestmark = pytest.mark.lab

# What a login writes; none of it is the check's own.
LOGINS = ("/var/log", "/run", "/tmp", "/var/lib/systemd/timers", "/home/ops/.cache")
UNTOUCHED_RUNS = 200


def test_none_of_what_happens_anyway_is_found(lab: Lab, kept: Host) -> None:
    """All of it together, then a reboot and a power cut in which the model is still loading."""
    for what, script in HARMLESS.items():
        kept.root_run(f"set -eu\n{script}", timeout_s=60)
        print(what)
    checked = drift(lab, kept.name)
    assert checked.returncode == 0, str(checked)
    kept.reboot()
    checked = drift(lab, kept.name)
    assert checked.returncode == 0, str(checked)
    kept.power_cut()
    checked = drift(lab, kept.name)
    assert checked.returncode == 0, str(checked)


def test_a_check_changes_nothing(lab: Lab, kept: Host) -> None:
    """Files with their times, units and processes are the same before and after."""
    kept.root_run(READY)
    look = "systemctl list-units --all --plain --no-legend 'mlx*' ssh.service | sort"
    drift(lab, kept.name)  # so that what a first login leaves is there
    before, units = kept.tree(), kept.root_run(look).stdout
    assert drift(lab, kept.name).returncode == 0
    assert differences(before, kept.tree(), without=LOGINS, times=True) == []
    assert kept.root_run(look).stdout == units


@pytest.mark.soak
def test_each_of_it_alone_is_not_found(lab: Lab, kept: Host) -> None:
    """One after the other, so that none covers another."""
    wrong = {}
    for what, script in HARMLESS.items():
        kept.root_run(f"set -eu\n{script}", timeout_s=60)
        if (checked := drift(lab, kept.name)).returncode != 0:
            wrong[what] = checked.findings(kept.name)
    assert not wrong, wrong


@pytest.mark.soak
def test_untouched_hosts_never_alarm(lab: Lab, kept: Host) -> None:
    """200 runs with reboots, load and log rotation in between: not one finding."""
    choice = random.Random(SEED)
    wrong = []
    for run in range(UNTOUCHED_RUNS):
        between = choice.random()
        if between < 0.05:
            kept.reboot()
        elif between < 0.1:
            kept.power_cut()
        elif between < 0.4:
            kept.root_run(f"set -eu\n{choice.choice(list(HARMLESS.values()))}", check=False)
        if (checked := drift(lab, kept.name)).returncode != 0:
            wrong.append((run, str(checked)))
    assert not wrong, wrong
